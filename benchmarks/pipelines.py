"""Input pipelines on TensorFlow: this project's, a plain one, and the floors.

All but the floors do the work that `pillow_pipelines.py` describes. This is the
only module of the benchmarks that opens the data of a config.
"""

from collections.abc import Iterator, Sequence
from concurrent import futures
import pathlib
import time
from typing import Any

from ml_collections import config_dict
import numpy as np
import tensorflow as tf

from alexnet_jax import setup as setups
from alexnet_jax import splits
from alexnet_jax import train_step
from alexnet_jax.splits import Splits
from benchmarks import harness
from benchmarks import jax_step
from benchmarks import pillow_pipelines
from configs import imagenet

_SHORTER, _CROP = 256, 224


def _consume(batches: Iterator[Any]) -> harness.Contender:
  """Returns a contender whose unit of work is to take a batch."""
  return harness.Contender(lambda: next(batches))


def _flagship(batch_size: int) -> config_dict.ConfigDict:
  """Returns the flagship config for one device of the CPU."""
  jax_step.configure('float32', 'cpu')
  config = imagenet.get_config()
  config.devices, config.batch_size = 1, batch_size
  # No pass over the images before the first batch.
  config.data.statistics, config.input.mean = 'imagenet', 'channel'
  return config


def _open(config: config_dict.ConfigDict) -> tuple[setups.Setup, Splits]:
  setup = setups.build(config)
  return setup, Splits(setup)


def step_of_run(config: config_dict.ConfigDict) -> jax_step.Step:
  """Returns a run's step alone, on one batch of its images."""
  setup, opened = _open(config)
  mean = setups.input_transform(setup, opened.statistics).mean
  recipe = setups.make_recipe(setup, opened.identity().epochs, mean)
  batch = next(opened.train_batches(0))
  return jax_step.Step(
    train_step.make_train_step(setup.placement, recipe),
    setups.first_state(setup),
    train_step.put_batch(batch, config.accumulation, setup.placement),
  )


def pipeline_of_run(config: config_dict.ConfigDict) -> harness.Contender:
  """Returns a run's pipeline alone: its batches, which are not used."""
  _, opened = _open(config)
  return _consume(opened.train_batches(0))


def from_folder(
  data_dir: str, batch_size: int, store_dir: str = '', upright: bool = False
) -> harness.Contender:
  """Returns this project's pipeline, from JPEGs or from a prepared store."""
  root = pathlib.Path(data_dir).absolute()
  config = _flagship(batch_size)
  config.data.update(
    source='folder', data_dir=str(root.parent), train_split=root.name,
    eval_split=root.name, store_dir=store_dir, upright=upright,
  )  # fmt: skip
  folders = [path for path in root.iterdir() if path.is_dir()]
  config.network.fc8.features = len(folders)
  if store_dir:
    splits.prepare(setups.build(config))
  return pipeline_of_run(config)


class Synthetic(harness.Contender):
  """This project's pipeline from a synthetic set of any size."""

  def __init__(self, num_images: int, batch_size: int):
    """Opens the set and takes the first batch."""
    config = _flagship(batch_size)
    config.data.update(source='synthetic', num_examples=num_images)
    _, opened = _open(config)
    start = time.perf_counter()
    batches = opened.train_batches(0)
    next(batches)
    self._first_batch = time.perf_counter() - start
    super().__init__(lambda: next(batches))

  def seconds_to_first_batch(self) -> float:
    """Returns the seconds from opening the set to the first batch."""
    return self._first_batch


def plain_tf_data(data_dir: str, batch_size: int) -> harness.Contender:
  """Returns tf.data as one writes it first: decode, resize, crop, flip, batch.

  It resizes bilinearly without antialiasing, as ours does unless images are
  large.
  """
  paths, labels = pillow_pipelines.list_images(data_dir)

  def load(path, label):
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    size = tf.round(size * _SHORTER / tf.reduce_min(size))
    image = tf.image.resize(image, tf.cast(size, tf.int32))
    image = tf.image.resize_with_crop_or_pad(image, _SHORTER, _SHORTER)
    image = tf.image.random_crop(image, (_CROP, _CROP, 3))
    image = tf.image.random_flip_left_right(image)
    return tf.cast(image + 0.5, tf.uint8), label, tf.random.normal([3])

  batches = tf.data.Dataset.from_tensor_slices((paths, labels))
  batches = batches.shuffle(len(paths)).repeat()
  batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE)
  batches = batches.batch(batch_size).prefetch(tf.data.AUTOTUNE)
  return _consume(batches.as_numpy_iterator())


class _FileFloor(harness.Contender):
  """Does something to files and nothing else.

  A compiled graph per thread is the fastest of several ways: eager calls and a
  parallel map take a tenth longer.
  """

  def __init__(self, paths: Sequence[str], batch_size: int, function):
    """Takes a function from a file's content to a number, in a graph."""
    self._paths, self._batch_size, self._next = paths, batch_size, 0
    self._pool = futures.ThreadPoolExecutor(harness.cores())

    @tf.function(
      input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    def process(paths):
      values = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: function(tf.io.read_file(path))
      )
      return values.batch(batch_size).get_single_element()

    self._process = process
    super().__init__(lambda: None)

  def run(self, count: int) -> None:
    """Processes `count` batches, several at a time."""

    def batch(number):
      indices = number * self._batch_size + np.arange(self._batch_size)
      self._process([self._paths[i % len(self._paths)] for i in indices])

    list(self._pool.map(batch, range(self._next, self._next + count)))
    self._next += count


def decode_alone(data_dir: str, batch_size: int) -> harness.Contender:
  """Returns the floor of JPEG pipelines, which decodes whole images."""

  def first_value(content):
    image = tf.io.decode_jpeg(
      content, channels=3, dct_method='INTEGER_ACCURATE'
    )
    return image[0, 0, 0]

  return _FileFloor(
    pillow_pipelines.list_images(data_dir)[0], batch_size, first_value
  )


def read_alone(
  data_dir: str, batch_size: int, scratch: str
) -> harness.Contender:
  """Returns the floor of a store, which reads files as large as its squares.

  There are as many files, of noise, as images; `scratch` is their new folder.
  """
  folder = pathlib.Path(scratch)
  folder.mkdir()
  rng = np.random.default_rng(0)
  paths = [
    folder / str(i)
    for i in range(len(pillow_pipelines.list_images(data_dir)[0]))
  ]
  for path in paths:
    path.write_bytes(rng.bytes(_SHORTER**2 * 3))
  return _FileFloor(list(map(str, paths)), batch_size, tf.strings.length)
