"""The input pipeline: one tf.data graph from an example's index to a batch.

  order -> read -> decode -> central square -> warp, if there is one -> crop
    -> flip -> lighting -> batch

There is no iterator state. The order of an epoch is a function of (seed,
epoch), and an example's warp, crop, flip and lighting are functions of (seed,
epoch, example): a run can start at any step, on any number of threads or
processes, and sees the same pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import functools
import os
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import record_queue
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import sources

# N of the B images of a batch, all or the rows of one process: 'image' uint8
# [N, C, C, 3], crops of side C, or [N, S, S, 3], squares; 'label' int32 [N];
# 'mask' float32
# [N], 0 for padding and unreadable files; 'unreadable' float32 [N], 1 for such
# files. In training also 'lighting' float32 [N, 3], in 0..255 units without the
# magnitude of 0.1; in evaluation 'index' int64 [N], the example's, -1 for
# padding. Arrays may be read-only.
Batch = dict[str, np.ndarray]
# One example or a batch: 'index' int64, -1 for padding; in training 'seed'
# uint32 [SEED_WORDS] and 'lighting' float32 [3]; 'record' string, if fetched.
Example = dict[str, tf.Tensor]
# From a square [..., S, S, 3] to the pixels that the device gets, uint8.
Augment = Callable[[tf.Tensor, Example], tf.Tensor]
# From an example to an image and a label.
Load = Callable[[Example], tuple[tf.Tensor, tf.Tensor]]

# Without AutoGraph, which would double the time to build the graph.
_as_written = tf.autograph.experimental.do_not_convert
_ENDLESS = 2**62
_ALGORITHM = 'philox'  # The same numbers on every machine and version.
_NO_EXAMPLE = -1
_SMALL = 64


def train_batches(
  source: sources.Source,
  augmentation: preprocessing.Augmentation,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  decoder: decoding.Options,
  shuffle: bool,
  threads: int = 0,
  rows: np.ndarray | None = None,
) -> Iterator[Batch]:
  """Yields training batches without end (Section 4.1).

  Every epoch holds every example once; its last batch is padded.

  Args:
    source: where the images come from.
    augmentation: how they are varied.
    batch_size: images per update, B, in all processes together.
    seed: of the order and of all draws.
    start_step: the step, counted from 0 at the run's beginning, to start at.
    decoder: size of the square that crops are cut from, and the like.
    shuffle: whether each epoch has an order of its own; otherwise all have that
      of the first, as in the 2012 code, whose list was shuffled once.
    threads: that read and decode; 0 for one per core.
    rows: int [N], which of the B places of every batch to make, increasing.
      None for all. Order and draws do not depend on it.

  Yields:
    Batches with 'lighting', see `Batch`.
  """
  steps = _train_steps(
    source.num_examples,
    augmentation,
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
    shuffle=shuffle,
    rows=_rows(batch_size, rows),
  )
  augment = functools.partial(_augment, augmentation)
  for batch in _batches(source, steps, augment, decoder, threads):
    del batch['index'], batch['seed']
    yield batch


def _augment(
  augmentation: preprocessing.Augmentation, image: tf.Tensor, example: Example
) -> tf.Tensor:
  size = augmentation.crop_size
  if augmentation.displacement:
    # Of whole numbers, as those of the store are.
    image = preprocessing.displace(
      preprocessing.rounded(image),
      example['seed'],
      augmentation.displacement,
      augmentation.displacement_sigma,
    )
  if augmentation.random_crop:
    image = preprocessing.random_crop(image, example['seed'], size)
  else:
    image = preprocessing.center_crop(image, size)
  image = preprocessing.rounded(image)
  if augmentation.flip:
    image = preprocessing.random_flip(image, example['seed'])
  return image


@_as_written
def eval_batches(
  source: sources.Source,
  *,
  batch_size: int,
  decoder: decoding.Options,
  threads: int = 0,
  rows: np.ndarray | None = None,
) -> Iterator[Batch]:
  """Yields the central squares of all images once, in the source's order.

  Args:
    source: where the images come from.
    batch_size: images per batch, B, in all processes together.
    decoder: size S of the square, and the like.
    threads: that read and decode; 0 for one per core.
    rows: see `train_batches`.

  Yields:
    Batches with 'index', see `Batch`.
  """
  made = _rows(batch_size, rows)

  def rows_of(step: tf.Tensor) -> Example:
    places = step * batch_size + made
    real = places < source.num_examples
    return {'index': tf.where(real, places, _NO_EXAMPLE)}

  num_steps = steps_per_epoch(source.num_examples, batch_size)
  steps = tf.data.Dataset.range(num_steps).map(rows_of)

  def augment(image: tf.Tensor, example: Example) -> tf.Tensor:
    del example
    return preprocessing.rounded(image)

  return _batches(source, steps, augment, decoder, threads)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Returns the number of batches that cover every example once."""
  return -(-num_examples // batch_size)


def step_indices(
  num_examples: int,
  *,
  batch_size: int,
  seed: int,
  shuffle: bool,
  step: int,
  rows: np.ndarray | None = None,
) -> np.ndarray:
  """Returns which examples a step of `train_batches` reads, without reading.

  Args:
    num_examples: of the source.
    batch_size: see `train_batches`.
    seed: see `train_batches`.
    shuffle: see `train_batches`.
    step: counted from 0 at the run's beginning.
    rows: see `train_batches`.

  Returns:
    int64 [N], in the order of the rows; those of padding are left out.
  """
  epoch, step = divmod(step, steps_per_epoch(num_examples, batch_size))
  places = step * batch_size + _rows(batch_size, rows)
  order = epoch_tables(seed, epoch, num_examples, shuffle)['order'].numpy()
  return order[places[places < num_examples]]


def _rows(batch_size: int, rows: np.ndarray | None) -> np.ndarray:
  """Returns the places of a batch to make, int64 [N]."""
  rows = np.asarray(np.arange(batch_size) if rows is None else rows, np.int64)
  increasing = rows.ndim == 1 and rows.size and (np.diff(rows) > 0).all()
  if not increasing or rows[0] < 0 or rows[-1] >= batch_size:
    raise ValueError(
      f'rows {rows} must be increasing places in a batch of {batch_size}'
    )
  return rows


@_as_written
def _train_steps(
  num_examples: int,
  augmentation: preprocessing.Augmentation,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  shuffle: bool,
  rows: np.ndarray,
) -> tf.data.Dataset:
  """Returns a data set of steps, each an `Example` of vectors."""
  chunk = augmentation.crop_chunk
  epoch_steps = steps_per_epoch(num_examples, batch_size)
  first_epoch, first_step = divmod(start_step, epoch_steps)

  def tables(epoch: tf.Tensor) -> tuple[tf.Tensor, Example]:
    return epoch, epoch_tables(seed, epoch, num_examples, shuffle, chunk)

  def steps(epoch: tf.Tensor, drawn: Example) -> tf.data.Dataset:
    start = tf.where(tf.equal(epoch, first_epoch), first_step, 0)
    numbers = tf.data.Dataset.range(tf.cast(start, tf.int64), epoch_steps)
    return numbers.map(lambda step: rows_of(step, drawn))

  def rows_of(step: tf.Tensor, drawn: Example) -> Example:
    places = step * batch_size + rows
    real = places < num_examples
    places = tf.minimum(places, num_examples - 1)
    index = tf.gather(drawn['order'], places)
    chunks = index if chunk == 1 else places // chunk
    seed = tf.gather(drawn['seeds'], index)
    return {
      'index': tf.where(real, index, _NO_EXAMPLE),
      'seed': tf.gather(drawn['crop_seeds'], chunks),
      'lighting': preprocessing.pca_lighting(
        seed, augmentation.lighting_scale, augmentation.eigenvectors
      ),
    }

  epochs = tf.data.Dataset.range(first_epoch, _ENDLESS).map(tables)
  # The next epoch's tables are computed during this one.
  return epochs.prefetch(1).flat_map(steps)


def epoch_tables(
  seed: int,
  epoch: tf.Tensor | int,
  num_examples: int,
  shuffle: bool = True,
  crop_chunk: int = 1,
) -> Example:
  """Returns the random numbers of an epoch, a function of (seed, epoch).

  Sorting independent 64-bit words gives a uniformly random permutation; equal
  words, one chance in ten million for ImageNet, stay in index order.

  Args:
    seed: the run's.
    epoch: int64 scalar, counted from 0.
    num_examples: N.
    shuffle: whether the order depends on the epoch.
    crop_chunk: see `preprocessing.Augmentation`.

  Returns:
    'order' int64 [N], every index once; 'seeds' uint32 [N, SEED_WORDS], by
    example; 'crop_seeds', the same, or one per chunk of the order.
  """
  epoch = tf.cast(epoch, tf.int64)
  order_key, _, _ = _keys(seed, epoch if shuffle else tf.zeros_like(epoch))
  _, seeds_key, chunks_key = _keys(seed, epoch)
  words = _words(order_key, [num_examples], tf.int64)
  seeds = _words(seeds_key, [num_examples, preprocessing.SEED_WORDS], tf.uint32)
  crop_seeds = seeds
  if crop_chunk > 1:
    num_chunks = steps_per_epoch(num_examples, crop_chunk)
    crop_seeds = _words(
      chunks_key, [num_chunks, preprocessing.SEED_WORDS], tf.uint32
    )
  return {
    'order': tf.cast(tf.argsort(words, stable=True), tf.int64),
    'seeds': seeds,
    'crop_seeds': crop_seeds,
  }


def _keys(seed: int, epoch: tf.Tensor) -> list[tf.Tensor]:
  """Returns three seeds for TensorFlow's stateless generators, [2] each."""
  key = tf.stack([tf.constant(seed, tf.int64), epoch])
  return tf.unstack(tf.random.split(key, 3, alg=_ALGORITHM))


def _words(key: tf.Tensor, shape: list[int], dtype: tf.DType) -> tf.Tensor:
  return tf.random.stateless_uniform(
    shape, key, minval=None, maxval=None, dtype=dtype, alg=_ALGORITHM
  )


def _batches(
  source: sources.Source,
  steps: tf.data.Dataset,
  augment: Augment,
  decoder: decoding.Options,
  threads: int,
) -> Iterator[Batch]:
  threads = threads or _num_cores()
  options = tf.data.Options()
  # See __init__.py: operations spread over more threads would only wait.
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  # There is nothing to tune, and closing an iterator could wait up to a minute
  # for the tuner's thread to wake up.
  options.autotune.enabled = False

  def load(example: Example) -> tuple[tf.Tensor, tf.Tensor]:
    image, label = source.read(example.get('record', example['index']))
    if image.dtype == tf.string:
      square = decoding.native_square(image, decoder)
    elif image.shape.rank == 3:
      square = preprocessing.square(image, decoder.image_size)
    else:
      square = image
    return augment(square, example), label

  if _is_small_array(source, decoder.image_size):
    load_batch = functools.partial(_load_arrays, load)
  else:
    load_batch = functools.partial(_load_images, load)
  fallback = _Fallback(source, augment, decoder, threads)
  with record_queue.feeding(source, steps.with_options(options)) as fed:
    batches = fed.map(
      _as_written(load_batch), num_parallel_calls=threads, deterministic=True
    )
    batches = batches.prefetch(2).with_options(options)
    for batch in batches.as_numpy_iterator():
      yield fallback.fill(batch)


def _num_cores() -> int:
  if hasattr(os, 'sched_getaffinity'):  # Not on every system.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _is_small_array(source: sources.Source, image_size: int) -> bool:
  """Returns whether to crop and flip a whole batch at a time.

  A map over single images costs about as much as the batched operations on
  64x64 pixels.
  """
  size = (image_size, image_size)
  return source.array_shape == size and image_size <= _SMALL


def _load_arrays(load: Load, step: Example) -> dict[str, tf.Tensor]:
  real = step['index'] >= 0
  index = tf.maximum(step['index'], 0)
  image, label = load(step | {'index': index})
  return step | {'image': image, 'label': label, 'loaded': real}


def _load_images(load: Load, step: Example) -> dict[str, tf.Tensor]:
  """Loads a batch image by image; images that cannot be loaded are zeros.

  `ignore_errors` drops elements of this batch alone, and the others carry their
  row numbers.
  """
  num_rows = step['index'].shape[0]
  step, needed = dict(step), dict(step)
  step.pop('record', None)
  needed.pop('lighting', None)
  examples = tf.data.Dataset.from_tensor_slices((tf.range(num_rows), needed))
  real = tf.reduce_sum(tf.cast(step['index'] >= 0, tf.int64))  # The first ones.
  images = examples.take(real).map(lambda row, e: (row, *load(e)))
  # Returned if no image could be loaded.
  nothing = tuple(
    tf.zeros([0, *spec.shape], spec.dtype) for spec in images.element_spec
  )
  images = images.ignore_errors().batch(num_rows)
  images = images.concatenate(tf.data.Dataset.from_tensors(nothing))
  row, image, label = images.take(1).get_single_element()

  def in_place(values: tf.Tensor) -> tf.Tensor:
    return tf.scatter_nd(
      row[:, tf.newaxis], values, [num_rows, *values.shape[1:]]
    )

  image, label, loaded = tf.cond(
    tf.equal(tf.size(row), num_rows),
    lambda: (image, label, tf.ones([num_rows], tf.int32)),
    lambda: (in_place(image), in_place(label), in_place(tf.ones_like(row))),
  )
  return step | {'image': image, 'label': label, 'loaded': loaded > 0}


class _Fallback:
  """Decodes outside the graph the images that the graph could not."""

  def __init__(
    self,
    source: sources.Source,
    augment: Augment,
    decoder: decoding.Options,
    threads: int,
  ):
    self._source, self._augment, self._decoder = source, augment, decoder
    self._pool = futures.ThreadPoolExecutor(threads)
    self._reported: set[int] = set()

  def fill(self, batch: Batch) -> Batch:
    """Replaces 'loaded' with 'mask' and 'unreadable', and fills the gaps."""
    mask = batch.pop('loaded')
    unreadable = np.zeros(len(mask), np.float32)
    if not mask.all():
      # TensorFlow's own memory is read-only.
      batch = {name: np.array(value) for name, value in batch.items()}
      mask = np.array(mask)
      gaps = np.flatnonzero((batch['index'] >= 0) & ~mask)
      examples = [{k: v[gap] for k, v in batch.items()} for gap in gaps]
      for gap, found in zip(gaps, self._load_all(examples), strict=True):
        if found is None:
          unreadable[gap] = 1
        else:
          mask[gap] = True
          batch['image'][gap], batch['label'][gap] = found
      for name in batch.keys() & {'image', 'label', 'lighting'}:
        batch[name][~mask] = 0
    return batch | {'mask': mask.astype(np.float32), 'unreadable': unreadable}

  def _load_all(self, examples: Sequence[dict[str, Any]]) -> list[Any]:
    """Loads images in parallel; see `_load`.

    Waits once for all of them when files cannot be read.
    """
    results: list[Any] = [None] * len(examples)
    left = list(range(len(examples)))

    def attempt() -> list[Any]:
      nonlocal left
      loaded = self._pool.map(self._load, [examples[place] for place in left])
      for place, result in zip(left, loaded, strict=True):
        results[place] = result
      left = [
        place
        for place in left
        if isinstance(results[place], retry.UnavailableError)
      ]
      if left:
        raise results[left[0]]
      return results

    return retry.call(attempt)

  def _load(
    self, example: dict[str, Any]
  ) -> tuple[Any, Any] | retry.UnavailableError | None:
    """Decodes an image with the same draws.

    Returns:
      Pixels and label; None if there is no image; the error if the file cannot
      be read at the moment.
    """
    index = int(example['index'])
    try:
      image, label = self._source.load(index)
      square = self._square(image)
    except retry.UnavailableError as error:
      # For photographs that a user names there is nothing to wait for.
      if self._source.class_names:
        return error
      return self._leave_out(index, error.reason)
    except (decoding.UnreadableError, tf.errors.OpError) as error:
      return self._leave_out(index, getattr(error, 'message', str(error)))
    drawn = {k: tf.constant(v) for k, v in example.items() if k == 'seed'}
    return self._augment(square, drawn).numpy(), label

  def _square(self, image: bytes | np.ndarray) -> tf.Tensor:
    if not isinstance(image, bytes):
      return preprocessing.square(tf.constant(image), self._decoder.image_size)
    try:  # As the graph would have, had it been able to read the file.
      return decoding.native_square(tf.constant(image), self._decoder)
    except tf.errors.OpError:
      return tf.constant(decoding.square(image, self._decoder))

  def _leave_out(self, index: int, reason: str) -> None:
    if index not in self._reported:
      self._reported.add(index)
      file = self._source.describe(index)
      logging.warning('Unreadable, left out: %s (%s)', file, reason)
