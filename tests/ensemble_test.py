import csv
import functools
import json

import jax
import numpy as np
from PIL import Image
import pytest

from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import model
from alexnet_jax import setup
from alexnet_jax import splits
from alexnet_jax.analysis import ensemble
from tests import input_pipeline_testing as testing
from tests import trained_testing


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Holds data/ and three runs; c has other crops and means, and one tower."""
  folder = tmp_path_factory.mktemp('ensemble')
  pictures = trained_testing.write_data(folder / 'data')
  trained_testing.write_run(folder / 'a', pictures)
  trained_testing.write_run(folder / 'b', pictures, 5, seed=1)
  other = {
    'seed': 2, 'input.image_size': 36, 'input.crop_size': 32,
    'input.mean': 'channel', 'network.towers': 1,
  }  # fmt: skip
  trained_testing.write_run(folder / 'c', pictures, 5, **other)
  return folder


@pytest.fixture(scope='module')
def opened(place):
  return [inference.open_run(place / name) for name in 'abc']


def _probabilities(run, cuts):
  """The mean over cuts, for the twelve test images, by numpy and forward."""
  batches = list(run.data.read(run.data.eval_source, ''))
  images = np.concatenate([batch['image'] for batch in batches])
  images = images[np.concatenate([batch['mask'] for batch in batches]) > 0]
  size = run.setup.config.input.crop_size
  network, params = run.setup.network, jax.device_get(run.params)
  forward = jax.jit(functools.partial(model.forward, network, params))
  each = []
  for top, left, mirror in cuts:
    crops = images[:, top : top + size, left : left + size]
    crops = crops[:, :, ::-1] if mirror else crops
    inputs = (crops.astype(np.float32) - run.mean) / np.float32(64)
    exps = np.exp(np.asarray(forward(inputs), np.float64))
    each.append(exps / exps.sum(axis=1, keepdims=True))
  return np.mean(each, axis=0)


def _errors(probabilities, labels):
  own = probabilities[np.arange(12), labels]
  return {
    'top1_error': pytest.approx((probabilities.argmax(1) != labels).mean()),
    'top5_error': 0,
    'nll': pytest.approx(-np.log(own).mean(), rel=1e-4),
  }


def test_three_runs_by_hand(place, opened, tmp_path):
  runs = [str(place / name) for name in 'abc']
  assert ensemble.run(runs, None, tmp_path, 'ten_views') == 0
  result = json.loads((tmp_path / 'ensemble.json').read_text())
  labels = np.repeat([0, 1, 2], 4)
  corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
  cuts = [(*c, mirror) for c in corners for mirror in (False, True)]
  each = [_probabilities(run, cuts) for run in opened]
  assert [one['step'] for one in result['networks']] == [3, 5, 5]
  for one, name, probabilities in zip(
    result['networks'], runs, each, strict=True
  ):
    assert one['workdir'] == name
    for key, value in _errors(probabilities, labels).items():
      assert one[key] == value
  average = _errors(np.mean(each, axis=0), labels)
  assert {key: result['average'][key] for key in average} == average
  pair = _errors((each[0] + each[2]) / 2, labels)
  (found,) = (one for one in result['subsets'] if one['members'] == [0, 2])
  assert {key: found[key] for key in pair} == pair
  assert result['examples'] == 12
  assert sum(result['search']['weights']) == pytest.approx(1)
  assert result['search']['by'] == 'top1_error'
  # The networks do not all say the same.
  assert len({round(one['nll'], 3) for one in result['subsets']}) == 7


def test_files(place, opened, tmp_path):
  runs = [str(place / name) for name in 'ab']
  ensemble.run(runs, None, tmp_path, 'center_view')
  with (tmp_path / 'ensemble.csv').open(newline='') as file:
    rows = list(csv.reader(file))
  assert rows[0] == ['networks', 'top1_error', 'top5_error', 'nll', *runs]
  assert [[row[0], *row[4:]] for row in rows[1:]] == [
    ['1', '1', '0'], ['1', '0', '1'], ['2', '1', '1'],
  ]  # fmt: skip
  result = json.loads((tmp_path / 'ensemble.json').read_text())
  assert float(rows[3][3]) == result['average']['nll']
  own = _probabilities(opened[1], [(2, 2, False)])
  expected = _errors(own, np.repeat([0, 1, 2], 4))
  assert {key: result['networks'][1][key] for key in expected} == expected
  with Image.open(tmp_path / 'ensemble.png') as plot:
    assert plot.width > 1000


def _other(place, folder, **overrides):
  parts = setup.build(trained_testing.config(folder, **overrides))
  identity = splits.Splits(parts).identity()
  return inference.TrainedNetwork(place / 'other', 1, parts, {}, identity)


def test_runs_that_cannot_be_averaged_are_a_mistake_in_one_line(
  place, opened, tmp_path
):
  for name in ('train', 'test'):
    testing.write_folder(tmp_path / name, 3, 1)
    (tmp_path / name / 'class1').rename(tmp_path / name / 'klass')
  classes = _other(place, tmp_path)
  split = _other(place, place / 'data', **{'data.eval_split': 'train'})
  for other, words in (
    (classes, ("label 1 is 'class2' and 'class1'",)),
    (split, ("pictures 'train' (15", "'test' (13", 'eval_split')),
  ):
    with pytest.raises(errors.UserError) as caught:
      ensemble.check_comparable(opened[0], other)
    for word in (str(place / 'a'), str(place / 'other'), *words):
      assert word in str(caught.value)
    assert '\n' not in str(caught.value)
  first = str(place / 'a')
  with pytest.raises(errors.UserError, match='two or more'):
    ensemble.run([first], None, tmp_path, 'center_view')
  with pytest.raises(errors.UserError, match='nowhere holds no checkpoints'):
    ensemble.run([first, str(place / 'nowhere')], None, tmp_path, 'ten_views')
  assert not list(tmp_path.glob('ensemble*'))
