import numpy as np
import pytest

from alexnet_jax import views
from alexnet_jax.analysis.report import alone
from alexnet_jax.analysis.report import neighbors
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report import scoring
from alexnet_jax.analysis.report import views as section


def _scores(labels, said):
  """Scores of a network that is sure of what it says, of four classes."""
  probabilities = np.full((len(labels), 4), 0.1, np.float32)
  probabilities[np.arange(len(labels)), said] = 0.7
  return scoring.score(
    probabilities, np.asarray(labels, np.int32), np.arange(len(labels))
  )


def test_score_keeps_the_likeliest():
  probabilities = np.array(
    [[0.05, 0.3, 0.1, 0.2, 0.15, 0.2], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]]
  )
  found = scoring.score(probabilities, np.array([4, 0]), np.array([7, 9]))
  # Of equals the first class comes first.
  np.testing.assert_array_equal(found.top[0], [1, 3, 5, 4, 2])
  np.testing.assert_allclose(
    found.top_probability[0], [0.3, 0.2, 0.2, 0.15, 0.1]
  )
  np.testing.assert_allclose(found.true_probability, [0.15, 0.5])
  assert found.wrong.tolist() == [True, False]
  both = scoring.join([found, found])
  assert both.index.tolist() == [7, 9, 7, 9]


def test_confusion_errors_and_pairs():
  scores = _scores([0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2, 2])
  counts = scoring.confusion(scores, 4)
  expected = [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
  assert counts.tolist() == expected
  np.testing.assert_allclose(
    scoring.class_errors(counts), [2 / 3, 1 / 2, 0, np.nan]
  )
  assert scoring.confused_pairs(counts) == [(0, 1, 2), (1, 0, 1)]


def test_chance_of_the_same_class():
  train = np.array([0, 0, 0, 1])
  # 3/4 for the two queries of class 0, 1/4 and 0 for the others.
  queries = np.array([0, 0, 1, 2])
  chance = neighbors.chance_of_same(train, queries, 3)
  assert chance == pytest.approx((0.75 + 0.75 + 0.25 + 0) / 4)


def test_chosen_examples_repeat_and_rise():
  first = samples.choose(100, 10, seed=3)
  np.testing.assert_array_equal(first, samples.choose(100, 10, seed=3))
  assert len(set(first.tolist())) == 10
  assert (np.diff(first) > 0).all()
  assert samples.choose(5, 10).tolist() == [0, 1, 2, 3, 4]
  assert samples.choose(100, 10, seed=4).tolist() != first.tolist()


def test_silences():
  assert alone.silences(1) == {}
  assert alone.silences(2) == {'tower 1 alone': 1, 'tower 2 alone': 0}
  assert alone.silences(4)['without tower 4'] == 3


def test_sets_of_views():
  sets = section.view_sets(256, 224)
  assert [len(some) for some in sets.values()] == [1, 2, 10, 18]
  assert sets['ten views'] == views.ten_views(256, 224)
  ten, grid = list(sets.values())[2:]
  assert set(ten) < set(grid)
  corner = views.View(32, 0, True)
  assert corner in grid
  assert views.View(16, 32, False) in grid


def test_sets_of_views_of_a_crop_that_is_the_image():
  sets = section.view_sets(28, 28)
  assert [len(some) for some in sets.values()] == [1, 2]
