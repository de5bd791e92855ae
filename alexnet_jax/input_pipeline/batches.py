"""Batches of numpy arrays, the same from any step on any machine."""

import collections
from concurrent import futures
import itertools
import os
from typing import Callable, Iterator

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import order
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources

steps_per_epoch = order.steps_per_epoch

Batch = dict[str, np.ndarray]
# What a step reads: example indices int64 [N], N <= batch size, their draws.
Plan = Callable[[int], tuple[np.ndarray, preprocessing.Draws]]

_ENDLESS = 2**62
# Finished batches that may wait, beside those being made.
_BATCHES_AHEAD = 2


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

  def plan(step: int) -> tuple[np.ndarray, preprocessing.Draws]:
    epoch, epoch_step = divmod(step, epoch_steps)
    first = epoch_step * batch_size
    places = np.arange(first, min(first + batch_size, num_examples))
    indices = places
    if shuffle:
      indices = order.permutation(seed, epoch, num_examples)[places]
    return indices, preprocessing.random_draws(
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

  steps = range(start_step, _ENDLESS)
  batches = _batches(
    source, plan, steps, batch_size, image_size, crop_size, threads
  )
  for step, batch in zip(steps, batches):
    _, draws = plan(step)
    shift = np.zeros((batch_size, 3), np.float32)
    shift[: len(draws.normals)] = preprocessing.color_shift(
      draws.normals, color_scale, eigenvectors
    )
    yield batch | {'shift': shift}


def eval_batches(
  source: sources.Source,
  *,
  batch_size: int,
  image_size: int,
  threads: int = 0,
) -> Iterator[Batch]:
  """Yields the centre squares of all images once, in the source's order.

  Args:
    source: where the images come from.
    batch_size: images a batch, B.
    image_size: side S of the centre square, pixels.
    threads: batches worked on at once; 0 for one a core.

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

  steps = range(steps_per_epoch(source.num_examples, batch_size))
  batches = _batches(
    source, plan, steps, batch_size, image_size, image_size, threads
  )
  for step, batch in zip(steps, batches):
    indices, _ = plan(step)
    index = np.full(batch_size, -1, np.int32)
    index[: len(indices)] = indices
    yield batch | {'index': index}


def _batches(
  source: sources.Source,
  plan: Plan,
  steps: range,
  batch_size: int,
  image_size: int,
  size: int,
  threads: int,
) -> Iterator[Batch]:
  """Yields the batches of `steps` without what only the caller knows.

  Each thread makes a whole batch; TensorFlow lets go of the interpreter while
  it works, so the threads run side by side. A tf.data pipeline that calls
  back into Python would do the same, but freezes the program when it is
  dropped in the middle: its end waits for calls that wait for the interpreter.
  """
  threads = threads or len(os.sched_getaffinity(0))
  decode = _decoder(source, batch_size, image_size, size)
  reported: set[int] = set()

  def make(step: int) -> Batch:
    indices, draws = plan(step)
    places = np.arange(len(indices), dtype=np.int32)
    record = source.fetch(indices)
    decoded = decode(places, draws.offsets, draws.flips, *record)
    # A view of TensorFlow's memory; `numpy()` would copy.
    places, image, label = (np.asarray(memoryview(x)) for x in decoded)
    batch = _spread(places, image, label, batch_size)
    for place in sorted(set(range(len(indices))) - set(places.tolist())):
      index = int(indices[place])
      _fill_gap(batch, place, source, index, draws, image_size, reported)
    return batch

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


def _decoder(
  source: sources.Source, batch_size: int, image_size: int, size: int
) -> Callable[..., tuple[tf.Tensor, ...]]:
  """Returns a function of a batch's records to (places, images, labels).

  It runs wholly inside TensorFlow, one image after the other. An image that
  the fast path cannot decode is missing from what it returns.
  """
  specs = (
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([2], tf.int32),
    tf.TensorSpec([], tf.bool),
    *source.record_spec,
  )
  empty = (
    np.zeros([0], np.int32),
    np.zeros([0, size, size, 3], np.uint8),
    np.zeros([0], np.int32),
  )

  def example(place, offset, flip, *record):
    image, label = source.read(*record)
    return place, _window(image, offset, flip, image_size, size), label

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

  return decode


def _window(
  image: tf.Tensor,
  offset: tf.Tensor,
  flip: tf.Tensor,
  image_size: int,
  size: int,
) -> tf.Tensor:
  """Returns the mirrored window of an encoded or raw image."""
  if image.dtype == tf.string:
    shape = decoding.native_shape(image)
    where = preprocessing.geometry(shape, offset, image_size, size)
    region = decoding.native_region(image, where.box)
  else:
    where = preprocessing.geometry(
      tf.shape(image)[:2], offset, image_size, size
    )
    region = decoding.region(image, where.box)
  return preprocessing.mirror(
    preprocessing.window(region, where, size), flip
  )


def _spread(
  places: np.ndarray, image: np.ndarray, label: np.ndarray, batch_size: int
) -> Batch:
  """Puts decoded images in their places; zeros where there is none."""
  unreadable = np.zeros(batch_size, np.float32)
  if len(places) == batch_size:
    mask = np.ones(batch_size, np.float32)
    return dict(image=image, label=label, mask=mask, unreadable=unreadable)
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
    record = (tf.constant(array[0]) for array in source.fetch(np.array([index])))
    encoded, label = source.read(*record)
    pixels = decoding.patient_pixels(encoded.numpy())
  except (decoding.UnreadableError, tf.errors.OpError) as error:
    batch['unreadable'][place] = 1
    if index not in reported:
      reported.add(index)
      logging.warning(
        'Unreadable, left out: %s (%s)', source.describe(index), error
      )
    return
  offset, flip = draws.offsets[place], draws.flips[place]
  window = _window(tf.constant(pixels), offset, flip, image_size, size)
  batch['image'][place] = window.numpy()
  batch['label'][place] = int(label)
  batch['mask'][place] = 1
