import jax
import numpy as np
import pytest

from alexnet_jax.analysis.report import kernels


def _kernel(rgb):
  """A kernel of 5x5 pixels, [5, 5, 3, 1], that varies along one color."""
  pattern = np.random.default_rng(0).normal(size=(5, 5, 1))
  return (pattern * np.asarray(rgb, np.float64))[..., None]


@pytest.mark.parametrize(
  ('rgb', 'score'),
  [
    ((1, 1, 1), 0),  # gray
    ((-2, -2, -2), 0),
    ((1, -1, 0), 1),  # red against green
    ((1, 1, -2), 1),  # yellow against blue
    ((1, 0, 0), 2 / 3),  # of |(1, 0, 0)|^2 = 1, 1/3 is along gray
    ((2, 1, 0), 1 - 9 / (3 * 5)),
  ],
)
def test_color_score(rgb, score):
  assert kernels.color_scores(_kernel(rgb))[0] == pytest.approx(score)


def test_color_scores_of_towers_and_of_nothing():
  stacked = np.concatenate(
    [_kernel((1, 1, 1)), _kernel((0, 1, -1)), 0 * _kernel((1, 1, 1))], axis=-1
  )
  scores = kernels.color_scores(np.stack([stacked, stacked[..., ::-1]]))
  np.testing.assert_allclose(scores, [[0, 1, 0], [0, 1, 0]], atol=1e-12)


def test_random_kernels_score_two_thirds():
  drawn = jax.random.normal(jax.random.key(0), (5, 5, 3, 4000))
  scores = kernels.color_scores(np.asarray(drawn))
  assert scores.mean() == pytest.approx(2 / 3, abs=0.003)


def test_split_by_hand():
  # Pairs of (0.5, 0.9) and (0.1, 0.9): two higher, one lower, one tie.
  found = kernels.split(np.array([[0.1, 0.9], [0.5, 0.9]]))
  assert (found.colored, found.gray) == (1, 0)
  assert found.superiority == (2 + 0.5) / 4
  assert not found.specialized


def test_split_of_towers_that_specialized():
  random = np.random.default_rng(1)
  gray, colored = random.uniform(0, 0.2, 48), random.uniform(0.5, 1, 48)
  found = kernels.split(np.stack([gray, colored]))
  assert (found.colored, found.gray, found.superiority) == (1, 0, 1)
  assert found.p_value < 1e-10
  assert found.specialized
  text = kernels.finding(np.stack([gray, colored]), is_gray=False)
  assert 'specialized: the median color score is' in text
  assert 'did not' not in text


def test_split_of_equal_towers():
  scores = np.random.default_rng(2).uniform(0, 1, (2, 48))
  found = kernels.split(scores)
  assert 0.5 <= found.superiority < 0.65
  assert found.p_value > 0.05
  assert 'did not specialize' in kernels.finding(scores, is_gray=False)


def test_sentence_of_one_tower_and_of_gray_images():
  scores = np.array([[0.05, 0.2, 0.6, 0.08]])
  assert 'above 0.14, and 50% are gray' in kernels.finding(scores, False)
  assert 'have no color' in kernels.finding(scores, True)
