import collections
import csv
import functools
import itertools
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
def place(trained, tmp_path_factory):
  """Holds three runs; c has other crops and means, and one tower."""
  folder = tmp_path_factory.mktemp('ensemble')
  pictures = trained / 'data'
  (folder / 'a').symlink_to(trained / 'run')
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
  batches = list(run.splits.read(run.splits.eval_source, ''))
  images = np.concatenate([batch['image'] for batch in batches])
  images = images[np.concatenate([batch['mask'] for batch in batches]) > 0]
  size = run.transform.crop_size
  network, params = run.setup.network, jax.device_get(run.params)
  forward = jax.jit(functools.partial(model.forward, network, params))
  each = []
  for top, left, mirror in cuts:
    crops = images[:, top : top + size, left : left + size]
    crops = crops[:, :, ::-1] if mirror else crops
    inputs = (crops.astype(np.float32) - run.transform.mean) / np.float32(64)
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
  assert ensemble.run(opened, tmp_path, 'ten_views') == 0
  result = json.loads((tmp_path / 'ensemble.json').read_text())
  labels = np.repeat([0, 1, 2], 4)
  corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
  cuts = [(*c, mirror) for c in corners for mirror in (False, True)]
  each = [_probabilities(run, cuts) for run in opened]
  assert [one['step'] for one in result['networks']] == [3, 5, 5]
  for one, name, probabilities in zip(
    result['networks'], 'abc', each, strict=True
  ):
    assert one['workdir'] == str(place / name)
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
  ensemble.run(opened[:2], tmp_path, 'center_view')
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
  trained, place, opened, tmp_path
):
  for name in ('train', 'test'):
    testing.write_folder(tmp_path / name, 3, 1)
    (tmp_path / name / 'class1').rename(tmp_path / name / 'klass')
  classes = _other(place, tmp_path)
  split = _other(place, trained / 'data', **{'data.eval_split': 'train'})
  for other, words in (
    (classes, ("label 1 is 'class2' and 'class1'",)),
    (split, ("pictures 'train' (15", "'test' (13", 'eval_split')),
  ):
    with pytest.raises(errors.UserError) as caught:
      ensemble.check_comparable(opened[0], other)
    for word in (str(place / 'a'), str(place / 'other'), *words):
      assert word in str(caught.value)
    assert '\n' not in str(caught.value)
  with pytest.raises(errors.UserError, match='two or more'):
    ensemble.run(opened[:1], tmp_path, 'center_view')
  assert not list(tmp_path.glob('ensemble*'))


def _log_probs(networks, examples, classes, seed=0):
  """Networks that know something: the label's logit is raised for each."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, examples).astype(np.int32)
  logits = rng.standard_normal((networks, examples, classes))
  logits[:, np.arange(examples), labels] += 1.0
  sums = np.log(np.exp(logits).sum(-1, keepdims=True))
  return (logits - sums).astype(np.float32), labels


def _by_hand(log_probs, labels, weights):
  """One example after the other, in float64; there are no ties."""
  probabilities = np.exp(log_probs.astype(np.float64))
  top1 = top5 = nll = 0.0
  for n, label in enumerate(labels):
    mean = sum(
      weight * network[n]
      for weight, network in zip(weights, probabilities, strict=True)
    ) / sum(weights)
    ranking = sorted(range(len(mean)), key=lambda c: -mean[c])
    top1 += ranking[0] != label
    top5 += label not in ranking[:5]
    nll -= np.log(mean[label])
  return np.array([top1, top5, nll]) / len(labels)


def _measure(*given):
  """Returns the errors and nll, each of all averages."""
  keys = ('top1_error', 'top5_error', 'nll')
  measured = ensemble.measure(*given)
  return np.transpose([[each[key] for key in keys] for each in measured])


def test_two_networks_by_hand():
  probabilities = np.array(
    [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.2, 0.7, 0.1], [0.6, 0.1, 0.3]]],
    np.float32,
  )
  top1, top5, nll = _measure(
    np.log(probabilities), np.array([1, 2]), np.array([[1, 0], [1, 1], [3, 1]])
  )
  # The first alone is wrong of the first image; with half or a quarter of the
  # other, 0.5 against 0.35 or 0.4 against 0.425.
  np.testing.assert_allclose(top1, [0.5, 0, 0.5])
  np.testing.assert_array_equal(top5, 0)
  expected = -np.log([0.3 * 0.8, 0.5 * 0.55, 0.4 * 0.675]) / 2
  np.testing.assert_allclose(nll, expected, rtol=1e-6)


@pytest.mark.parametrize('block', [7 * 3 * 12, 2**24])
def test_averages_of_any_weights(monkeypatch, block):
  # In blocks of 7 examples, and all 40 at once.
  monkeypatch.setattr(ensemble, '_BLOCK', block)
  log_probs, labels = _log_probs(3, 40, 12)
  weights = np.random.default_rng(1).uniform(0.1, 1, (21, 3))
  weights[:3] = np.eye(3)
  measured = _measure(log_probs, labels, weights)
  expected = np.array([_by_hand(log_probs, labels, w) for w in weights])
  np.testing.assert_allclose(measured, expected.T, rtol=1e-5)
  top1, top5, _ = measured
  assert 0 < top5.min() < top1.min() < top1.max() < 1


def test_likelihoods_too_small_for_float32_are_exact():
  log_probs = np.array([[[0, -300]], [[0, -310]]], np.float32)
  weights = np.array([[1, 0], [0, 1], [1, 1]])
  top1, _, nll = _measure(log_probs, np.array([1]), weights)
  assert top1.tolist() == [1, 1, 1]
  half = 300 - np.log((1 + np.exp(-10)) / 2)
  np.testing.assert_allclose(nll, [300, 310, half], rtol=1e-6)


@pytest.mark.parametrize('by', ['top1_error', 'top5_error'])
def test_the_search_ends_where_no_single_weight_helps(by):
  log_probs, labels = _log_probs(3, 300, 12)
  # The third network knows nothing.
  log_probs[2] = np.random.default_rng(4).permutation(log_probs[2])
  weights = ensemble.search_weights(log_probs, labels, by)
  assert weights.sum() == pytest.approx(1)
  assert weights[2] < 0.1
  assert min(weights[:2]) > 0.2

  def judge(candidate):
    (measured,) = ensemble.measure(log_probs, labels, candidate[None])
    return measured[by], measured['nll']

  best = judge(weights)
  assert best < judge(np.ones(3))
  # Its own grid, recovered from the scale: one weight is moved at a time.
  scale = next(
    s
    for s in np.arange(0.05, 3.01, 0.05)
    if np.allclose(weights * s * 20, np.round(weights * s * 20), atol=1e-6)
    and max(weights * s) <= 1.0001
    and judge(np.round(weights * s, 2)) == best
  )
  grid = np.round(weights * scale, 2)
  for network, value in itertools.product(range(3), np.arange(0, 1.01, 0.1)):
    moved = grid.copy()
    moved[network] = value
    if moved.sum() > 0:
      assert judge(moved)[0] >= best[0]


def test_half_of_the_examples_choose_and_the_others_measure():
  log_probs, labels = _log_probs(2, 101, 6)
  # On even examples the first network is useless, on odd ones the second.
  for network, first in ((0, 0), (1, 1)):
    log_probs[network, first::2] = -np.log(6)
  result = ensemble.search_and_measure(log_probs, labels, 'top1_error')
  assert result['by'] == 'top1_error'
  assert result['weights'][1] > 0.9
  assert result['searched_on']['examples'] == 51
  assert result['measured_on']['examples'] == 50
  for name, start in (('searched_on', 0), ('measured_on', 1)):
    half = log_probs[:, start::2], labels[start::2]
    for key, weights in (('equal', [1, 1]), ('weighted', result['weights'])):
      (measured,) = ensemble.measure(*half, np.array([weights]))
      assert result[name][key] == measured
  # Weights that suit one half alone are found out on the other.
  measured = result['measured_on']
  assert measured['weighted']['nll'] > measured['equal']['nll']


def test_all_subsets_of_a_few():
  chosen = ensemble.choose_subsets(4)
  assert chosen[:4] == [(0,), (1,), (2,), (3,)]
  assert chosen[4:10] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
  assert chosen[-1] == (0, 1, 2, 3)
  assert len(set(ensemble.choose_subsets(10))) == 2**10 - 1


def test_a_fixed_sample_of_the_subsets_of_many():
  chosen = ensemble.choose_subsets(14)
  assert collections.Counter(map(len, chosen)) == {
    1: 14, 2: 91, **dict.fromkeys(range(3, 12), 100), 12: 91, 13: 14, 14: 1,
  }  # fmt: skip
  assert len(set(chosen)) == len(chosen)
  for members in chosen:
    assert list(members) == sorted(set(members))
    assert 0 <= members[0] <= members[-1] < 14
  assert ensemble.choose_subsets(14) == chosen


def test_subsets_and_their_summary_by_hand():
  log_probs, labels = _log_probs(3, 30, 7)
  measured = ensemble.measure_subsets(log_probs, labels)
  members = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
  assert [each['members'] for each in measured] == members
  keys = ('top1_error', 'top5_error', 'nll')
  for each in measured:
    weights = [float(i in each['members']) for i in range(3)]
    expected = _by_hand(log_probs, labels, weights)
    np.testing.assert_allclose([each[k] for k in keys], expected, rtol=1e-5)
  sizes = ensemble.summarize(measured)
  assert [(s['networks'], s['subsets'], s['of']) for s in sizes] == [
    (1, 3, 3), (2, 3, 3), (3, 1, 1),
  ]  # fmt: skip
  values = [each['top1_error'] for each in measured[3:6]]
  mean = sum(values) / 3
  variance = sum((value - mean) ** 2 for value in values) / 3
  assert sizes[1]['top1_error'] == pytest.approx(
    {
      'mean': mean,
      'standard_deviation': variance**0.5,
      'lowest': min(values),
      'highest': max(values),
    }
  )
