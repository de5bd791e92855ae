import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import metrics

_jitted_score = jax.jit(metrics.score)


def _score(log_probs, labels, mask=None, unreadable=None):
  rows = len(labels)
  mask = np.ones(rows) if mask is None else mask
  unreadable = np.zeros(rows) if unreadable is None else unreadable
  return _jitted_score(
    np.asarray(log_probs, np.float32),
    np.asarray(labels),
    np.asarray(mask, np.float32),
    np.asarray(unreadable, np.float32),
  )


def _error_over_all_orders(scores, label, k):
  """The share of all ways to break ties in which the label is missed."""
  misses = []
  for tie_break in itertools.permutations(range(len(scores))):
    ranked = sorted(
      range(len(scores)), key=lambda c: (-scores[c], tie_break[c])
    )
    misses.append(label not in ranked[:k])
  return np.mean(misses)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_ties_are_broken_at_random(k):
  rows = np.array([
    [3, 3, 1, 0, 0, -1],
    [3, 3, 3, 3, 3, 3],
    [1, 2, 2, 2, 2, 2],
    [5, 4, 3, 2, 1, 0],
  ])  # fmt: skip
  for label in range(6):
    errors = metrics.top_k_error(
      jnp.asarray(rows, jnp.float32), jnp.full(4, label), k
    )
    expected = [_error_over_all_orders(row, label, k) for row in rows]
    np.testing.assert_allclose(errors, expected, atol=1e-6)


@pytest.mark.parametrize('classes', [6, 10, 1000])
def test_a_dead_network_is_as_wrong_as_a_guess(classes):
  logits = jnp.zeros((4, classes))
  labels = [0, 1, classes - 1, classes // 2]
  means = _score(jax.nn.log_softmax(logits), labels).means()
  assert means == {
    'nll': pytest.approx(np.log(classes), rel=1e-6),
    'top1_error': pytest.approx(1 - 1 / classes, rel=1e-6),
    'top5_error': pytest.approx(1 - 5 / classes, rel=1e-6),
  }


@pytest.mark.parametrize('classes', [1, 3, 5])
def test_five_guesses_among_at_most_five_classes(classes):
  rng = np.random.default_rng(0)
  scores = jnp.asarray(rng.standard_normal((7, classes)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, classes, 7))
  np.testing.assert_array_equal(metrics.top_k_error(scores, labels, 5), 0)
  # All tied is no exception.
  tied = metrics.top_k_error(jnp.zeros((7, classes)), labels, 5)
  np.testing.assert_array_equal(tied, 0)


def test_score_of_real_predictions():
  rng = np.random.default_rng(1)
  logits = 3 * rng.standard_normal((50, 12))
  labels = rng.integers(0, 12, 50)
  exps = np.exp(logits)
  nll = -np.log(exps[np.arange(50), labels] / exps.sum(axis=1))
  ranking = np.argsort(-logits, axis=1)
  top1 = (ranking[:, :1] != labels[:, None]).all(axis=1)
  top5 = (ranking[:, :5] != labels[:, None]).all(axis=1)
  log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
  sums = _score(log_probs, labels)
  assert sums.examples == 50
  assert sums.top1 == np.sum(top1)
  assert sums.top5 == np.sum(top5)
  assert 0 < sums.top5 < sums.top1 < 50
  np.testing.assert_allclose(sums.nll, nll.sum(), rtol=1e-6)


def test_a_row_that_is_not_a_number_is_an_error():
  nan = np.nan
  scores = jnp.array([[nan] * 6, [9, nan, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0]])
  labels = jnp.zeros(3, jnp.int32)
  for k in (1, 5, 6):
    np.testing.assert_array_equal(
      metrics.top_k_error(scores, labels, k), [1, 1, 0]
    )
  assert np.isnan(_score(scores, labels).nll)


def test_masked_rows_count_for_nothing_whatever_they_hold():
  rng = np.random.default_rng(2)
  log_probs = np.asarray(
    jax.nn.log_softmax(rng.standard_normal((6, 8)).astype(np.float32))
  ).copy()
  labels = rng.integers(0, 8, 6)
  real = np.array([1, 0, 1, 1, 0, 0])
  unreadable = np.array([0, 1, 0, 0, 0, 1])
  log_probs[1] = np.nan
  log_probs[4] = -np.inf
  sums = _score(log_probs, labels, real, unreadable)
  alone = _score(log_probs[real == 1], labels[real == 1])
  assert sums.examples == 3
  assert sums.unreadable == 2
  assert np.isfinite(sums.nll)
  np.testing.assert_allclose(sums.nll, alone.nll, rtol=1e-6)
  assert (sums.top1, sums.top5) == (alone.top1, alone.top5)


def test_sums_merge_exactly_however_the_set_is_divided():
  # Scores in eighths have sums without rounding.
  rng = np.random.default_rng(3)
  log_probs = -rng.integers(1, 80, (60, 11)) / 8
  labels = rng.integers(0, 11, 60)
  mask = rng.integers(0, 2, 60)
  # Ties would share a hit in thirds: the label stands alone in its row.
  log_probs[np.arange(60), labels] += 1 / 16
  whole = _score(log_probs, labels, mask, 1 - mask)
  for size in (1, 7):
    parts = [slice(i, i + size) for i in range(0, 60, size)]
    total = metrics.zeros()
    for part in parts:
      total += _score(log_probs[part], labels[part], mask[part], 1 - mask[part])
    assert total == whole
  assert whole.examples == mask.sum()
  assert whole.unreadable == 60 - mask.sum()
  assert whole.means() == {
    'nll': float(whole.nll) / mask.sum(),
    'top1_error': float(whole.top1) / mask.sum(),
    'top5_error': float(whole.top5) / mask.sum(),
  }


def test_means_over_nothing_are_no_numbers():
  assert all(np.isnan(mean) for mean in metrics.zeros().means().values())
