"""What a network says of test images, kept small, and what follows from it."""

from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scores:
  """What the network says of test images, its five likeliest classes.

  Attributes:
    index: int64 [N], the examples.
    label: int32 [N], their true classes.
    top: int32 [N, 5] (fewer for fewer classes), likeliest first.
    top_probability: float32 [N, 5].
    true_probability: float32 [N], of the true class.
  """

  index: np.ndarray
  label: np.ndarray
  top: np.ndarray
  top_probability: np.ndarray
  true_probability: np.ndarray

  @property
  def wrong(self) -> np.ndarray:
    """Whether the likeliest class is not the true one, bool [N]."""
    return self.top[:, 0] != self.label


def score(
  probabilities: np.ndarray, labels: np.ndarray, indices: np.ndarray
) -> Scores:
  """Keeps of the probabilities [N, classes] what `Scores` has."""
  top = np.argsort(-probabilities, axis=1, kind='stable')[:, :5]
  return Scores(
    index=indices,
    label=labels,
    top=top.astype(np.int32),
    top_probability=np.take_along_axis(probabilities, top, axis=1),
    true_probability=probabilities[np.arange(len(labels)), labels],
  )


def join(parts: Sequence[Scores]) -> Scores:
  """Puts the scores of several batches together."""
  fields = zip(*(dataclasses.astuple(part) for part in parts), strict=True)
  return Scores(*(np.concatenate(field) for field in fields))


def confusion(scores: Scores, num_classes: int) -> np.ndarray:
  """Counts images by true class (row) and likeliest class (column).

  Returns:
    int64 [classes, classes].
  """
  counts = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts, (scores.label, scores.top[:, 0]), 1)
  return counts


def class_errors(counts: np.ndarray) -> np.ndarray:
  """Returns each class's error, float64 [classes]; NaN without images."""
  totals = counts.sum(axis=1)
  wrong = totals - np.diag(counts)
  return np.divide(
    wrong, totals, out=np.full(len(counts), np.nan), where=totals > 0
  )


def confused_pairs(counts: np.ndarray) -> list[tuple[int, int, int]]:
  """Returns (true class, said class, images), the most frequent first."""
  mistakes = counts - np.diag(np.diag(counts))
  order = np.argsort(-mistakes, axis=None, kind='stable')
  order = order[: np.count_nonzero(mistakes)]
  pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
  return [(int(i), int(j), int(mistakes[i, j])) for i, j in pairs]
