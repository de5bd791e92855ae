import numpy as np

from alexnet_jax.analysis.report import predictions
from alexnet_jax.analysis.report import subject


def test_confusion_errors_and_pairs():
  labels = np.array([0, 0, 0, 1, 1, 2, 2])
  predicted = np.array([0, 1, 1, 1, 0, 2, 2])
  scores = subject.Scores(
    np.arange(7), labels, predicted[:, None], np.ones((7, 1), np.float32)
  )
  assert scores.wrong.tolist() == (labels != predicted).tolist()
  counts = predictions.confusion(scores, 4)
  expected = [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
  assert counts.tolist() == expected
  np.testing.assert_allclose(
    predictions.class_errors(counts), [2 / 3, 1 / 2, 0, np.nan]
  )
  assert predictions.confused_pairs(counts) == [(0, 1, 2), (1, 0, 1)]


def test_many_classes_show_the_highest_and_the_lowest_errors():
  counts = np.diag(np.arange(30)) + 1
  figure = predictions.class_chart(counts, [f'class {i}' for i in range(30)])
  titles = [panel.title for panel in figure.panels]
  assert titles == ['Highest errors, %', 'Lowest errors, %']


def test_chosen_examples_repeat_and_rise():
  first = subject.choose(100, 10, seed=3)
  np.testing.assert_array_equal(first, subject.choose(100, 10, seed=3))
  assert len(set(first.tolist())) == 10
  assert (np.diff(first) > 0).all()
  assert subject.choose(5, 10).tolist() == [0, 1, 2, 3, 4]
  assert subject.choose(100, 10, seed=4).tolist() != first.tolist()
