"""Chosen examples of a split, as numpy arrays."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

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


def batches(
  source: Any,
  indices: np.ndarray,
  batch_size: int,
  decoder: Any,
  threads: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the batches of some examples of a source.

  Each is as `input_pipeline.pipeline.eval_batches` has it, but that 'index' is
  the place among `indices`.

  Args:
    source: where the images come from.
    indices: int [N], which examples, in the order wanted.
    batch_size: images a batch.
    decoder: how images are decoded, from `data.Data.decoder`.
    threads: that read and decode; 0 for one per core.
  """
  # TensorFlow comes in here and not before.
  from alexnet_jax.input_pipeline import pipeline
  from alexnet_jax.input_pipeline import sources

  return pipeline.eval_batches(
    sources.Subset(source, np.asarray(indices)),
    batch_size=batch_size,
    decoder=decoder,
    threads=threads,
  )


def read(parts: Iterable[dict[str, np.ndarray]]) -> Examples:
  """Joins batches, leaving out padding and what could not be read."""
  places, images, labels = [], [], []
  for part in parts:
    kept = part['mask'] > 0
    places.append(part['index'][kept])
    images.append(part['image'][kept])
    labels.append(part['label'][kept])
  return Examples(*map(np.concatenate, (places, images, labels)))
