"""Making batches: several at once, each by one thread, in order."""

import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import itertools
import os
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import squares

Batch = dict[str, np.ndarray]
# What a step reads: example indices int64 [N], N <= batch size, their draws.
Plan = Callable[[int], tuple[np.ndarray, preprocessing.Draws]]

# Finished batches that may wait, beside those being made.
_BATCHES_AHEAD = 2


def load(
  source: sources.Source,
  plan: Plan,
  steps: range,
  batch_size: int,
  image_size: int,
  size: int,
  threads: int,
) -> Iterator[Batch]:
  """Returns the batches of `steps`, in order.

  Each thread makes a whole batch; TensorFlow lets go of the interpreter while
  it works, so the threads run side by side. A tf.data pipeline that calls
  back into Python would do the same, but freezes the program when it is
  dropped in the middle: its end waits for calls that wait for the interpreter.

  Args:
    source: where the images come from.
    plan: from a step to what it reads.
    steps: which batches to make.
    batch_size: images a batch, B; what the plan leaves free is padding.
    image_size: side of the centre square, pixels.
    size: side S of the windows cut from it, pixels.
    threads: batches worked on at once; 0 for one a core.

  Returns:
    'image' uint8 [B, S, S, 3], 'label' int32 [B], 'mask' and 'unreadable'
    float32 [B]. Arrays may be read-only.
  """
  threads = threads or _num_cores()
  decode = _decoder(source, batch_size, image_size)
  reported: set[int] = set()

  def make(step: int) -> Batch:
    indices, draws = plan(step)
    if isinstance(source, sources.Squares) and source.square_size == image_size:
      return _cut(source, indices, draws, size, batch_size)
    places = np.arange(len(indices), dtype=np.int32)
    record = source.fetch(indices)
    decoded = decode(places, *record)
    # A view of TensorFlow's memory; `numpy()` would copy.
    places, square, label = (np.asarray(memoryview(x)) for x in decoded)
    image = _windows(square, draws, places, size)
    batch = _spread(places, image, label, batch_size)
    for place in sorted(set(range(len(indices))) - set(places.tolist())):
      index = int(indices[place])
      _fill_gap(batch, place, source, index, draws, image_size, reported)
    return batch

  return _in_order(make, steps, threads)


def _in_order(
  make: Callable[[int], Batch], steps: range, threads: int
) -> Iterator[Batch]:
  """Yields what `make` makes of each step, several of them ahead."""
  pool = futures.ThreadPoolExecutor(threads, 'input_pipeline')
  remaining = iter(steps)
  ahead = threads + _BATCHES_AHEAD
  waiting = collections.deque(
    pool.submit(make, step) for step in itertools.islice(remaining, ahead)
  )
  try:
    while waiting:
      batch = waiting.popleft().result()
      for step in itertools.islice(remaining, 1):
        waiting.append(pool.submit(make, step))
      yield batch
  finally:
    # Threads end when the pool is collected. `shutdown` would do no more, and
    # fails when a generator is dropped as late as the interpreter's exit.
    for unwanted in waiting:
      unwanted.cancel()


def _num_cores() -> int:
  if hasattr(os, 'sched_getaffinity'):  # Not on every system.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _decoder(
  source: sources.Source, batch_size: int, image_size: int
) -> Callable[..., tuple[Any, ...]]:
  """Returns a function of a batch's records to (places, squares, labels).

  It runs wholly inside TensorFlow, one image after the other. An image that
  the fast path cannot decode is missing from what it returns.
  """
  specs = (
    tf.TensorSpec([], tf.int32),
    *source.record_spec,
  )
  empty = (
    np.zeros([0], np.int32),
    np.zeros([0, image_size, image_size, 3], np.uint8),
    np.zeros([0], np.int32),
  )

  def example(place, *record):
    image, label = source.read(record)
    return place, _square(image, image_size), label

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in specs
    ],
    autograph=False,
  )
  def decode(*arrays: tf.Tensor) -> tuple[tf.Tensor, ...]:
    images = tf.data.Dataset.from_tensor_slices(arrays).map(example)
    images = images.ignore_errors().batch(batch_size)
    # When nothing could be decoded there is still something to return.
    nothing = tf.data.Dataset.from_tensors(empty)
    return images.concatenate(nothing).take(1).get_single_element()

  # Each source compiles its own; TensorFlow would call that retracing.
  return decode.get_concrete_function()


def _cut(
  source: sources.Squares,
  indices: np.ndarray,
  draws: preprocessing.Draws,
  size: int,
  batch_size: int,
) -> Batch:
  """Makes a batch of a source whose squares need no decoding."""
  image, label, readable = source.cut(indices, draws.offsets, draws.flips, size)
  count = len(indices)
  batch = _spread(np.arange(count), image, label, batch_size)
  batch['mask'][:count] = readable
  batch['unreadable'][:count] = ~readable
  return batch


def _square(image: tf.Tensor, image_size: int) -> tf.Tensor:
  """Returns the resampled central square of an encoded or raw image."""
  if image.dtype == tf.string:
    square = decoding.native_square(image, image_size)
  else:
    square = preprocessing.central_square(image)
    square = preprocessing.reduce(square, image_size)
  return preprocessing.resample(square, image_size)


def _windows(
  square: np.ndarray, draws: preprocessing.Draws, places: np.ndarray, size: int
) -> np.ndarray:
  """Cuts the drawn windows out of the squares of the images at `places`."""
  offsets, flips = draws.offsets[places], draws.flips[places]
  if square.shape[1] == size and not flips.any():
    return square
  tops = offsets[:, 0].tolist()
  bands = (s[top : top + size] for s, top in zip(square, tops, strict=True))
  return squares.cut(bands, offsets[:, 1], flips, size)


def _spread(
  places: np.ndarray, image: np.ndarray, label: np.ndarray, batch_size: int
) -> Batch:
  """Puts decoded images in their places; zeros where there is none."""
  unreadable = np.zeros(batch_size, np.float32)
  if len(places) == batch_size:
    mask = np.ones(batch_size, np.float32)
    return {
      'image': image,
      'label': label,
      'mask': mask,
      'unreadable': unreadable,
    }
  batch = {
    'image': np.zeros((batch_size, *image.shape[1:]), np.uint8),
    'label': np.zeros(batch_size, np.int32),
    'mask': np.zeros(batch_size, np.float32),
    'unreadable': unreadable,
  }
  batch['image'][places] = image
  batch['label'][places] = label
  batch['mask'][places] = 1
  return batch


def _fill_gap(
  batch: Batch,
  place: int,
  source: sources.Source,
  index: int,
  draws: preprocessing.Draws,
  image_size: int,
  reported: set[int],
) -> None:
  """Decodes the example at a gap patiently, or marks it unreadable."""
  size = batch['image'].shape[1]
  try:
    arrays = source.fetch(np.array([index]))
    record = tuple(tf.constant(array[0]) for array in arrays)
    encoded, label = source.read(record)
    pixels = decoding.patient_pixels(bytes(encoded.numpy()))
  except (decoding.UnreadableError, tf.errors.OpError) as error:
    batch['unreadable'][place] = 1
    if index not in reported:
      reported.add(index)
      logging.warning(
        'Unreadable, left out: %s (%s)', source.describe(index), error
      )
    return
  square = _square(tf.constant(pixels), image_size).numpy()
  window = _windows(square[np.newaxis], draws, np.array([place]), size)
  batch['image'][place] = window[0]
  batch['label'][place] = int(label)
  batch['mask'][place] = 1
