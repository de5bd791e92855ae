"""Chosen examples of a split, as numpy arrays."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
  """Images that could be read.

  Attributes:
    places: int [N], their places among the indices that were asked for.
    images: uint8 [N, S, S, 3].
    labels: int32 [N].
  """

  places: np.ndarray
  images: np.ndarray
  labels: np.ndarray


def choose(total: int, count: int, seed: int = 0) -> np.ndarray:
  """Draws `count` of `total` examples, the same ones every time.

  Returns:
    Rising indices, int64 [min(count, total)].
  """
  if count >= total:
    return np.arange(total)
  drawn = np.random.default_rng(seed).choice(total, count, replace=False)
  return np.sort(drawn)


def join(parts: Iterable[dict[str, np.ndarray]]) -> Examples:
  """Joins batches, leaving out padding and what could not be read."""
  places, images, labels = [], [], []
  for part in parts:
    kept = part['mask'] > 0
    places.append(part['index'][kept])
    images.append(part['image'][kept])
    labels.append(part['label'][kept])
  return Examples(*map(np.concatenate, (places, images, labels)))
