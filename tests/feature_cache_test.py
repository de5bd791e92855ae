import dataclasses
import logging
import os
import shutil

import jax
import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax.analysis import feature_cache
from alexnet_jax.analysis import features
from tests import trained_testing


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('feature_cache')
  data = trained_testing.write_data(folder / 'data')
  trained_testing.write_run(folder / 'run', data)
  return inference.open_run(folder / 'run')


def _load(run, layer='fc7'):
  return feature_cache.load_or_compute(run, run.split('test'), layer)


def _stamp(run, name='fc7-test'):
  path = run.workdir / 'features' / name / 'features.npy'
  return path.stat().st_mtime_ns


@pytest.mark.parametrize(
  ('layer', 'width'), [('fc7', 16), ('conv5', 2 * 2 * 8)]
)
def test_kept_features_are_those_of_the_stream(run, layer, width):
  found = _load(run, layer)
  rows = list(features.stream(run, run.split('test'), layer))
  expected = np.concatenate([part.features for part in rows])
  assert isinstance(found.features, np.memmap)
  assert found.features.shape == (12, width)
  np.testing.assert_array_equal(found.features, expected.reshape(12, width))
  assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
  # The 7th file is no image.
  assert found.indices.tolist() == [0, 1, 2, 3, 4, 5, *range(7, 13)]


def test_features_are_computed_once(run):
  first = np.array(_load(run).features)
  stamp = _stamp(run)
  np.testing.assert_array_equal(_load(run).features, first)
  assert _stamp(run) == stamp


def _changed(run, change):
  """Returns the run after a change, with its data opened anew."""
  if change == 'half':  # Stopped before the end.
    (run.workdir / 'features/fc7-test/origin.json').unlink()
  if change == 'data':
    images = run.workdir.parent / 'data' / 'test'
    shutil.copy(images / 'class0/000.jpg', images / 'class2/003.jpg')
    os.utime(images / 'class2/003.jpg', (1, 1))
  if change == 'step':
    return dataclasses.replace(run, step=9)
  if change == 'parameters':
    params = jax.tree.map(lambda x: 1.1 * x, run.params)
    return dataclasses.replace(run, params=params)
  return dataclasses.replace(run)


@pytest.mark.parametrize('change', ['step', 'parameters', 'half', 'data'])
def test_features_of_something_else_are_computed_anew(run, caplog, change):
  caplog.set_level(logging.INFO, 'absl')
  first = np.array(_load(run).features)
  stamp = _stamp(run)
  caplog.clear()
  second = _load(_changed(run, change)).features
  assert _stamp(run) != stamp
  assert (f'is of other {change}' in caplog.text) == (change != 'half')
  same = np.isclose(first, second, atol=1e-5).all(axis=1)
  wanted = {'parameters': [False] * 12, 'data': [True] * 11 + [False]}
  assert same.tolist() == wanted.get(change, [True] * 12)


def test_no_space_is_a_mistake_in_one_line(run, monkeypatch):
  monkeypatch.setattr(
    feature_cache.shutil, 'disk_usage', lambda path: _Usage(100)
  )
  with pytest.raises(errors.UserError, match='0.0 GB are free'):
    _load(run, 'conv4')


@dataclasses.dataclass
class _Usage:
  free: int
