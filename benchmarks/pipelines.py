"""Input pipelines on TensorFlow: ours, a naive one, and the floors."""

from concurrent import futures
import pathlib
import time

import numpy as np
import tensorflow as tf

from alexnet_jax import data
from alexnet_jax import experiment
from benchmarks import image_files
from benchmarks import ours
from benchmarks import report
from benchmarks import usage
from configs import imagenet

_SHORTER, _CROP = 256, 224


def _config(batch_size: int):
  """Returns the flagship config for a run on one device of the CPU."""
  config = imagenet.get_config()
  config.devices = 1
  config.batch_size = batch_size
  ours.configure('float32', 'cpu')
  return config


class Ours:
  """This project's batches, from the files or from a prepared store."""

  def __init__(self, data_dir: str, batch_size: int, store_dir: str = ''):
    root = pathlib.Path(data_dir).absolute()
    config = _config(batch_size)
    config.data.source = 'folder'
    config.data.data_dir = str(root.parent)
    config.data.train_split = config.data.eval_split = root.name
    classes = sum(path.is_dir() for path in root.iterdir())
    config.network.fc8.features = classes
    if store_dir:
      config.data.store_dir = store_dir
    parts = experiment.build(config)
    if store_dir:
      data.prepare(parts)
    self._batches = data.Data(parts).train_batches(0)
    self.run(1)

  def run(self, count: int) -> None:
    for _ in range(count):
      next(self._batches)


class MadeUp:
  """Batches of made-up images, of a set of any size."""

  def __init__(self, num_images: int, batch_size: int):
    config = _config(batch_size)
    config.data.source = 'synthetic'
    config.data.num_examples = num_images
    parts = experiment.build(config)
    start = time.perf_counter()
    self._batches = data.Data(parts).train_batches(0)
    next(self._batches)
    self._first = time.perf_counter() - start

  def first(self) -> float:
    """Returns the seconds from opening the set to the first batch."""
    return self._first

  def memory(self) -> int:
    """Returns the most bytes that the process has held."""
    return usage.peak_memory()

  def run(self, count: int) -> None:
    for _ in range(count):
      next(self._batches)


class NaiveTfData:
  """tf.data as one writes it first: decode, resize, crop, flip, batch."""

  def __init__(self, data_dir: str, batch_size: int):
    paths, labels = image_files.listed(data_dir)

    def load(path, label):
      image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
      size = tf.cast(tf.shape(image)[:2], tf.float32)
      scale = _SHORTER / tf.reduce_min(size)
      size = tf.cast(tf.round(size * scale), tf.int32)
      image = tf.image.resize(image, size, antialias=True)
      image = tf.image.resize_with_crop_or_pad(image, _SHORTER, _SHORTER)
      image = tf.image.random_crop(image, (_CROP, _CROP, 3))
      image = tf.image.random_flip_left_right(image)
      return tf.cast(image + 0.5, tf.uint8), label, tf.random.normal([3])

    batches = tf.data.Dataset.from_tensor_slices((paths, labels))
    batches = batches.shuffle(len(paths)).repeat()
    batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    self._batches = batches.as_numpy_iterator()
    self.run(1)

  def run(self, count: int) -> None:
    for _ in range(count):
      next(self._batches)


class Decode:
  """The floor under JPEGs: reads and decodes them whole, and no more.

  A compiled graph a thread, the fastest of several ways tried: eager calls and
  a parallel map take a tenth longer.
  """

  def __init__(self, data_dir: str, batch_size: int):
    self._paths, _ = image_files.listed(data_dir)
    self._batch_size, self._next = batch_size, 0
    self._pool = futures.ThreadPoolExecutor(report.cores())

    def first_value(path):
      image = tf.io.decode_jpeg(
        tf.io.read_file(path), channels=3, dct_method='INTEGER_ACCURATE'
      )
      return image[0, 0, 0]

    @tf.function(
      input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    def decode(paths):
      values = tf.data.Dataset.from_tensor_slices(paths).map(first_value)
      return values.batch(batch_size).get_single_element()

    self._decode = decode
    self.run(1)

  def run(self, count: int) -> None:
    def batch(number):
      start = number * self._batch_size
      places = range(start, start + self._batch_size)
      return self._decode([self._paths[i % len(self._paths)] for i in places])

    list(self._pool.map(batch, range(self._next, self._next + count)))
    self._next += count


class Gather:
  """The floor under a store: random crops out of a memory map, and no more."""

  def __init__(self, file: str, num_images: int, batch_size: int):
    """Makes the map of squares of noise; `file` must not exist."""
    shape = (num_images, _SHORTER, _SHORTER, 3)
    squares = np.lib.format.open_memmap(file, 'w+', np.uint8, shape)
    rng = np.random.default_rng(0)
    for square in squares:
      square[:] = rng.integers(0, 256, square.shape, np.uint8)
    squares.flush()
    self._squares = np.load(file, mmap_mode='r')
    self._batch_size, self._rng = batch_size, rng
    self._pool = futures.ThreadPoolExecutor(report.cores())
    self.run(1)

  def run(self, count: int) -> None:
    choices = [
      (
        self._rng.integers(len(self._squares), size=self._batch_size),
        self._rng.integers(_SHORTER - _CROP + 1, size=(self._batch_size, 2)),
      )
      for _ in range(count)
    ]
    list(self._pool.map(lambda choice: self._batch(*choice), choices))

  def _batch(self, indices, corners):
    batch = np.empty((len(indices), _CROP, _CROP, 3), np.uint8)
    for place, (i, (top, left)) in enumerate(
      zip(indices, corners, strict=True)
    ):
      batch[place] = self._squares[i, top : top + _CROP, left : left + _CROP]
    return batch
