"""Input pipelines on TensorFlow: ours, a naive one, and the floors."""

from collections.abc import Sequence
from concurrent import futures
import pathlib
import time

import numpy as np
import tensorflow as tf

from alexnet_jax import data
from alexnet_jax import setup
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
  # No pass over the images before the first batch.
  config.data.statistics = 'imagenet'
  config.input.mean = 'channel'
  ours.configure('float32', 'cpu')
  return config


class Ours:
  """This project's batches, from the files or from a prepared store."""

  def __init__(
    self,
    data_dir: str,
    batch_size: int,
    store_dir: str = '',
    upright: bool = False,
  ):
    root = pathlib.Path(data_dir).absolute()
    config = _config(batch_size)
    config.data.upright = upright
    config.data.source = 'folder'
    config.data.data_dir = str(root.parent)
    config.data.train_split = config.data.eval_split = root.name
    classes = sum(path.is_dir() for path in root.iterdir())
    config.network.fc8.features = classes
    if store_dir:
      config.data.store_dir = store_dir
    parts = setup.build(config)
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
    parts = setup.build(config)
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


class PlainTfData:
  """tf.data as one writes it first: decode, resize, crop, flip, batch.

  It resizes bilinearly without a filter against aliasing, which is the work
  that ours does for all but large images.
  """

  def __init__(self, data_dir: str, batch_size: int):
    paths, labels = image_files.listed(data_dir)

    def load(path, label):
      image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
      size = tf.cast(tf.shape(image)[:2], tf.float32)
      scale = _SHORTER / tf.reduce_min(size)
      size = tf.cast(tf.round(size * scale), tf.int32)
      image = tf.image.resize(image, size)
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


class _Files:
  """Does something to files, and no more: a floor.

  A compiled graph per thread, the fastest of several ways tried: eager calls
  and a parallel map take a tenth longer.
  """

  def __init__(self, paths: Sequence[str], batch_size: int, function):
    """Takes a function of a file's content to a number, in a graph."""
    self._paths = paths
    self._batch_size, self._next = batch_size, 0
    self._pool = futures.ThreadPoolExecutor(report.cores())

    @tf.function(
      input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    def batch(paths):
      values = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: function(tf.io.read_file(path))
      )
      return values.batch(batch_size).get_single_element()

    self._batch = batch
    self.run(1)

  def run(self, count: int) -> None:
    def batch(number):
      start = number * self._batch_size
      places = range(start, start + self._batch_size)
      return self._batch([self._paths[i % len(self._paths)] for i in places])

    list(self._pool.map(batch, range(self._next, self._next + count)))
    self._next += count


class Decode(_Files):
  """The floor under JPEGs: reads and decodes them whole."""

  def __init__(self, data_dir: str, batch_size: int):
    paths, _ = image_files.listed(data_dir)

    def first_value(content):
      image = tf.io.decode_jpeg(
        content, channels=3, dct_method='INTEGER_ACCURATE'
      )
      return image[0, 0, 0]

    super().__init__(paths, batch_size, first_value)


class Read(_Files):
  """The floor under a store: reads files as large as squares."""

  def __init__(self, folder: str, num_images: int, batch_size: int):
    """Writes the files, of noise, into a folder that must not exist."""
    directory = pathlib.Path(folder)
    directory.mkdir()
    rng = np.random.default_rng(0)
    paths = [str(directory / str(i)) for i in range(num_images)]
    for path in paths:
      pathlib.Path(path).write_bytes(rng.bytes(_SHORTER**2 * 3))
    super().__init__(paths, batch_size, tf.strings.length)
