import itertools

import numpy as np
import pytest

from alexnet_jax.analysis import averaging
from alexnet_jax.analysis import subsets


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


def test_two_networks_by_hand():
  probabilities = np.array(
    [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.2, 0.7, 0.1], [0.6, 0.1, 0.3]]],
    np.float32,
  )
  errors = averaging.measure(
    np.log(probabilities), np.array([1, 2]), np.array([[1, 0], [1, 1], [3, 1]])
  )
  # The first alone is wrong of the first image; with half or a quarter of the
  # other, 0.5 against 0.35 or 0.4 against 0.425.
  np.testing.assert_allclose(errors.top1, [0.5, 0, 0.5])
  np.testing.assert_array_equal(errors.top5, 0)
  expected = -np.log([0.3 * 0.8, 0.5 * 0.55, 0.4 * 0.675]) / 2
  np.testing.assert_allclose(errors.nll, expected, rtol=1e-6)


@pytest.mark.parametrize('numbers', [7 * 16 * 12, 2**24])
def test_averages_of_any_weights(monkeypatch, numbers):
  # In blocks of 7 examples, and all 40 at once; 21 averages by 16 at a time.
  monkeypatch.setattr(averaging, '_NUMBERS', numbers)
  log_probs, labels = _log_probs(3, 40, 12)
  weights = np.random.default_rng(1).uniform(0.1, 1, (21, 3))
  weights[:3] = np.eye(3)
  done = []
  errors = averaging.measure(log_probs, labels, weights, done.append)
  assert sum(done) == 40
  expected = np.array([_by_hand(log_probs, labels, w) for w in weights])
  np.testing.assert_allclose(np.transpose(errors), expected, rtol=1e-5)
  assert 0 < errors.top5.min() < errors.top1.min() < errors.top1.max() < 1


def test_likelihoods_too_small_for_float32_are_exact():
  log_probs = np.array([[[0, -300]], [[0, -310]]], np.float32)
  weights = np.array([[1, 0], [0, 1], [1, 1]])
  errors = averaging.measure(log_probs, np.array([1]), weights)
  assert errors.top1.tolist() == [1, 1, 1]
  half = 300 - np.log((1 + np.exp(-10)) / 2)
  np.testing.assert_allclose(errors.nll, [300, 310, half], rtol=1e-6)


@pytest.mark.parametrize('by', ['top1', 'top5'])
def test_the_search_ends_where_no_single_weight_helps(by):
  log_probs, labels = _log_probs(3, 300, 12)
  # The third network knows nothing.
  log_probs[2] = np.random.default_rng(4).permutation(log_probs[2])
  weights = averaging.search_weights(log_probs, labels, by)
  assert weights.sum() == pytest.approx(1)
  assert weights[2] < 0.1
  assert min(weights[:2]) > 0.2

  def judge(candidate):
    errors = averaging.measure(log_probs, labels, candidate[None])
    return float(getattr(errors, by)[0]), float(errors.nll[0])

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
  for network, value in itertools.product(range(3), np.arange(0, 1.01, 0.05)):
    moved = grid.copy()
    moved[network] = value
    if moved.sum() > 0:
      assert judge(moved)[0] >= best[0]


def test_half_of_the_examples_choose_and_the_others_measure():
  log_probs, labels = _log_probs(2, 101, 6)
  # On even examples the first network is useless, on odd ones the second.
  for network, first in ((0, 0), (1, 1)):
    log_probs[network, first::2] = -np.log(6)
  result = averaging.search_and_measure(log_probs, labels, 'top1')
  assert result['by'] == 'top1_error'
  assert result['weights'][1] > 0.9
  assert result['searched_on']['examples'] == 51
  assert result['measured_on']['examples'] == 50
  for name, start in (('searched_on', 0), ('measured_on', 1)):
    half = log_probs[:, start::2], labels[start::2]
    for key, weights in (('equal', [1, 1]), ('weighted', result['weights'])):
      measured = averaging.measure(*half, np.array([weights]))
      assert result[name][key] == averaging.line(measured, 0)
  # Weights that suit one half alone are found out on the other.
  measured = result['measured_on']
  assert measured['weighted']['nll'] > measured['equal']['nll']


def test_all_subsets_of_a_few():
  chosen = subsets.choose(4)
  assert chosen[1] == [(0,), (1,), (2,), (3,)]
  assert chosen[2] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
  assert chosen[4] == [(0, 1, 2, 3)]
  assert sum(map(len, subsets.choose(10).values())) == 2**10 - 1


def test_a_fixed_sample_of_the_subsets_of_many():
  chosen = subsets.choose(14)
  assert {size: len(some) for size, some in chosen.items()} == {
    1: 14, 2: 91, **dict.fromkeys(range(3, 12), 100), 12: 91, 13: 14, 14: 1,
  }  # fmt: skip
  for size, some in chosen.items():
    assert len(set(some)) == len(some)
    for members in some:
      assert list(members) == sorted(set(members))
      assert len(members) == size
      assert 0 <= members[0] <= members[-1] < 14
  assert subsets.choose(14) == chosen


def test_subsets_and_their_summary_by_hand():
  log_probs, labels = _log_probs(3, 30, 7)
  measured = subsets.measure(log_probs, labels)
  members = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
  assert [each['members'] for each in measured] == members
  keys = ('top1_error', 'top5_error', 'nll')
  for each in measured:
    weights = [float(i in each['members']) for i in range(3)]
    expected = _by_hand(log_probs, labels, weights)
    np.testing.assert_allclose([each[k] for k in keys], expected, rtol=1e-5)
  sizes = subsets.summarize(measured, 3)
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
