import dataclasses
import shutil

import jax
import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax.analysis import features
from tests import trained_testing


def _outputs(run, layer='fc7', split='test'):
  compute = features.extractor(run, layer)
  rows = list(features.stream(run, run.split(split), compute, ''))
  return np.concatenate([part.outputs for part in rows])


_PLACES = (
  (1, 'both'), (4, 'both'), (2, 'towers'), (4, 'data'), (4, 'one_weird_trick'),
)  # fmt: skip


def test_devices_share_batches_that_they_do_not_divide(trained):
  outputs = []
  for devices, parallelism in _PLACES:
    config = trained_testing.config(
      trained / 'data',
      devices=devices,
      parallelism=parallelism,
      **{'evaluate.batch_size': 6},
    )
    run = inference.open_run(trained / 'run', config)
    assert len(run.setup.devices) == devices
    source = run.split('test')
    predict = features.predictor(run, 'center_view')
    rows = list(features.stream(run, source, predict, ''))
    predicted = np.concatenate([part.outputs for part in rows])
    outputs.append((_outputs(run), predicted))
  one, *others = outputs
  assert [found.shape for found in one] == [(12, 16), (12, 3)]
  for other in others:
    for found, expected in zip(other, one, strict=True):
      np.testing.assert_allclose(found, expected, atol=1e-5)


def test_images_are_those_of_the_split_in_any_order(trained_run):
  source = trained_run.split('train')
  compute = features.extractor(trained_run, 'conv1')
  rows = list(features.stream(trained_run, source, compute, ''))
  every = np.concatenate([part.images for part in rows])
  wanted = np.array([14, 0, 14, 7, 3, 2, 1, 5, 6])  # more than one batch
  images = features.read_images(trained_run, source, wanted)
  np.testing.assert_array_equal(images, every[wanted])
  assert features.stem('fc7', source) == 'fc7-train'


def _load(run, folder, layer='fc7'):
  return features.load_or_compute(run, run.split('test'), layer, folder)


@pytest.mark.parametrize(
  ('layer', 'width'), [('fc7', 16), ('conv5', 2 * 2 * 8)]
)
def test_kept_features_are_those_of_the_stream(
  trained_run, tmp_path, layer, width
):
  found = _load(trained_run, tmp_path, layer)
  expected = _outputs(trained_run, layer).reshape(12, width)
  assert isinstance(found, np.memmap)
  np.testing.assert_array_equal(found['features'], expected)
  assert found['label'].tolist() == [0] * 4 + [1] * 4 + [2] * 4
  # The 7th file is no image.
  assert found['index'].tolist() == [0, 1, 2, 3, 4, 5, *range(7, 13)]


def _changed(run, data, change):
  """Returns the run after a change, with its data opened again."""
  if change == 'step':
    return dataclasses.replace(run, step=9)
  if change == 'parameters':
    params = jax.tree.map(lambda x: 1.1 * x, run.params)
    return dataclasses.replace(run, params=params)
  if change == 'data':
    images = data / 'test'
    shutil.copy(images / 'class0/000.jpg', images / 'class2/003.jpg')
  return dataclasses.replace(run)


@pytest.mark.parametrize('change', ['', 'step', 'parameters', 'data'])
def test_features_are_computed_once_for_each_origin(trained, tmp_path, change):
  data = shutil.copytree(trained / 'data', tmp_path / 'data')
  config = trained_testing.config(data)
  run = inference.open_run(trained / 'run', config)
  first = np.array(_load(run, tmp_path)['features'])
  (path,) = (tmp_path / 'fc7-test').iterdir()
  written = path.stat().st_mtime_ns
  second = _load(_changed(run, data, change), tmp_path)['features']
  (same_or_other,) = (tmp_path / 'fc7-test').iterdir()
  assert (same_or_other == path) == (not change)
  assert change or path.stat().st_mtime_ns == written
  equal = np.isclose(first, second, atol=1e-5).all(axis=1)
  wanted = {'parameters': [False] * 12, 'data': [True] * 11 + [False]}
  assert equal.tolist() == wanted.get(change, [True] * 12)


def test_those_of_the_workdir_serve_other_folders(trained, tmp_path):
  shutil.copytree(trained / 'run', tmp_path / 'run')
  run = inference.open_run(tmp_path / 'run')
  _load(run, run.workdir / 'features')
  _load(run, tmp_path / 'output')
  assert not (tmp_path / 'output').exists()


def test_a_folder_that_cannot_be_written_is_a_mistake(trained_run, tmp_path):
  (tmp_path / 'features').touch()  # No folder, for the superuser either.
  with pytest.raises(errors.UserError, match='cannot be written .*--output'):
    _load(trained_run, tmp_path / 'features')


def test_interrupted_work_leaves_nothing(trained_run, tmp_path, monkeypatch):
  def stop(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(features, '_check_space', stop)
  with pytest.raises(KeyboardInterrupt):
    _load(trained_run, tmp_path)
  assert not list((tmp_path / 'fc7-test').iterdir())


def test_no_space_is_a_mistake_in_one_line(trained_run, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(features.shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(errors.UserError, match='0.0 GB are free'):
    _load(trained_run, tmp_path, 'conv2')
