"""Batches of numpy arrays, the same from any step on any machine."""

from collections.abc import Iterator

import numpy as np

from alexnet_jax.input_pipeline import loading
from alexnet_jax.input_pipeline import order
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources

steps_per_epoch = order.steps_per_epoch

Batch = loading.Batch

_ENDLESS = 2**62


def train_batches(
  source: sources.Source,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  image_size: int,
  crop_size: int,
  random_crop: bool,
  flip: bool,
  crop_chunk: int,
  shuffle: bool,
  color_scale: np.ndarray,
  eigenvectors: np.ndarray,
  threads: int = 0,
) -> Iterator[Batch]:
  """Yields training batches without end (Section 4.1).

  Every epoch holds every example once; its last batch is padded.

  Args:
    source: where the images come from.
    batch_size: images a batch, B.
    seed: of the order and of all draws.
    start_step: the step, counted from 0 at the run's beginning, to start at.
    image_size: side of the square that crops are cut from, pixels.
    crop_size: side C of the crop, pixels.
    random_crop: whether to draw crops; the centre otherwise.
    flip: whether to mirror with probability 1/2.
    crop_chunk: see `preprocessing.random_draws`.
    shuffle: whether each epoch has an order of its own; the source's order
      otherwise, as the 2012 source has it.
    color_scale: [3], from `preprocessing.color_scale`.
    eigenvectors: [3, 3], columns; see `preprocessing.color_shift`.
    threads: batches worked on at once; 0 for one a core.

  Yields:
    'image' uint8 [B, C, C, 3]; 'label' int32 [B]; 'mask' float32 [B], 1 for
    an image and 0 for padding or an unreadable file; 'unreadable' float32
    [B], 1 for such a file; 'shift' float32 [B, 3], in 0..255 units, without
    the magnitude. Arrays may be read-only.
  """
  num_examples = source.num_examples
  epoch_steps = steps_per_epoch(num_examples, batch_size)

  # Filled where batches are made: the training loop shares the interpreter's
  # lock with those threads, and should need it as little as possible.
  shifts: dict[int, np.ndarray] = {}

  def plan(step: int) -> tuple[np.ndarray, preprocessing.Draws]:
    epoch, epoch_step = divmod(step, epoch_steps)
    first = epoch_step * batch_size
    places = np.arange(first, min(first + batch_size, num_examples))
    indices = places
    if shuffle:
      indices = order.permutation(seed, epoch, num_examples)[places]
    draws = preprocessing.random_draws(
      indices,
      places,
      seed=seed,
      epoch=epoch,
      image_size=image_size,
      crop_size=crop_size,
      random_crop=random_crop,
      flip=flip,
      crop_chunk=crop_chunk,
    )
    shifts[step] = np.zeros((batch_size, 3), np.float32)
    shifts[step][: len(indices)] = preprocessing.color_shift(
      draws.normals, color_scale, eigenvectors
    )
    return indices, draws

  steps = range(start_step, _ENDLESS)
  batches = loading.load(
    source, plan, steps, batch_size, image_size, crop_size, threads
  )
  for step, batch in zip(steps, batches, strict=True):
    yield batch | {'shift': shifts.pop(step)}


def eval_batches(
  source: sources.Source,
  *,
  batch_size: int,
  image_size: int,
  threads: int = 0,
  start_step: int = 0,
) -> Iterator[Batch]:
  """Yields the centre squares of all images once, in the source's order.

  Args:
    source: where the images come from.
    batch_size: images a batch, B.
    image_size: side S of the centre square, pixels.
    threads: batches worked on at once; 0 for one a core.
    start_step: how many batches to leave out at the beginning.

  Yields:
    'image' uint8 [B, S, S, 3], 'label', 'mask' and 'unreadable' as in
    `train_batches`, and 'index' int32 [B], the example's, -1 for padding.
  """

  def plan(step: int) -> tuple[np.ndarray, preprocessing.Draws]:
    first = step * batch_size
    indices = np.arange(first, min(first + batch_size, source.num_examples))
    return indices, preprocessing.centre_draws(
      len(indices), image_size, image_size
    )

  steps = range(start_step, steps_per_epoch(source.num_examples, batch_size))
  batches = loading.load(
    source, plan, steps, batch_size, image_size, image_size, threads
  )
  for step, batch in zip(steps, batches, strict=True):
    indices, _ = plan(step)
    index = np.full(batch_size, -1, np.int32)
    index[: len(indices)] = indices
    yield batch | {'index': index}
