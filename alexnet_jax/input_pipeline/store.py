"""The prepared store: the paper's 256x256 squares, ready to be cut.

A split is a folder of numpy files:

  store.json                 what it is, of what data, and checksums
  images-00000-of-00313.npy  uint8 [n, S, S, 3], 4,096 images a shard
  labels.npy                 int32 [N]
  unreadable.npy             bool [N]: the original could not be read
  checksums.npy              uint32 [N]
  statistics-train-256.npz   mean image and colours, see `statistics`

An image's checksum is the CRC-32 of its shard's file from the beginning to
that image's end. Each is the next one's start, so one pass gives a checksum of
every image, and the shard's last one is that of the whole file.

Every image is checked when a process first reads it. That costs 0.09 ms once,
finds a flipped byte however large the store is, and reads nothing that
training would not read; a pass over 252 GB at each start would.
"""

from collections.abc import Sequence
import dataclasses
import io
import os
import pathlib
import weakref
import zlib

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import shards
from alexnet_jax.input_pipeline import squares
from alexnet_jax.input_pipeline import storage
from alexnet_jax.input_pipeline import store_description

# What is kept of every image beside its square.
ARRAYS = {'labels': np.int32, 'unreadable': np.bool, 'checksums': np.uint32}

_MEND = 'run with mode=prepare, which makes damaged shards anew'


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
  """A source of squares on disk; see `sources.Squares`.

  Attributes:
    fingerprint: of the data that the store was made from.
    shards: where the squares lie.
    descriptors: of the shards' open files; none before `open_store`.
    labels: int32 [N].
    unreadable: bool [N].
    checksums: uint32 [N], see above.
    unreadable_names: what a person calls those images, by index.
    verified: bool [N], the images that this process has checked.
  """

  name: str
  split: str
  directory: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  shards: shards.Shards
  descriptors: Sequence[int]
  labels: np.ndarray
  unreadable: np.ndarray
  checksums: np.ndarray
  unreadable_names: dict[int, str]
  verified: np.ndarray

  @property
  def num_examples(self) -> int:
    return self.shards.num_examples

  @property
  def square_size(self) -> int:
    return self.shards.square_size

  @property
  def record_spec(self) -> tuple[tf.TensorSpec, ...]:
    return (
      tf.TensorSpec([self.square_size, self.square_size, 3], tf.uint8),
      tf.TensorSpec([], tf.int32),
      tf.TensorSpec([], tf.bool),
    )

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    corners = np.zeros((len(indices), 2), np.int32)
    flips = np.zeros(len(indices), bool)
    return self.cut(indices, corners, flips, self.square_size)

  def read(self, record: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    image, label, readable = record
    check = tf.debugging.Assert(readable, ['the original could not be read'])
    with tf.control_dependencies([check]):
      return tf.identity(image), label

  def cut(
    self, indices: np.ndarray, offsets: np.ndarray, flips: np.ndarray, size: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # One buffer for all images of a batch stays in the core's cache.
    buffer = np.empty((self.square_size, self.square_size, 3), np.uint8)
    rows = offsets[:, 0].tolist()
    bands = (
      self._band(index, row, size, buffer)
      for index, row in zip(indices.tolist(), rows, strict=True)
    )
    # What could not be read is stored as zeros, as it would be in a batch.
    images = squares.cut(bands, offsets[:, 1], flips, size)
    return images, self.labels[indices], ~self.unreadable[indices]

  def _band(
    self, index: int, row: int, size: int, buffer: np.ndarray
  ) -> np.ndarray:
    """Reads some rows, uint8 [size, S, 3]; at first the whole square."""
    if self.verified[index]:
      band = buffer[:size]
      self.shards.read(self.descriptors, index, row, band)
      return band
    self.shards.read(self.descriptors, index, 0, buffer)
    shard, place = divmod(index, self.shards.shard_size)
    before = int(self.checksums[index - 1])
    if place == 0:
      before = zlib.crc32(self.shards.header(shard))
    found, expected = (
      zlib.crc32(buffer.data, before),
      int(self.checksums[index]),
    )
    if found != expected:
      raise errors.UserError(
        f'{self.shards.path(shard)} is damaged: image {index} gives checksum '
        f'{found:08x}, not {expected:08x}; {_MEND}'
      )
    self.verified[index] = True
    return buffer[row : row + size]

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns what is kept of every image beside its square."""
    return {name: getattr(self, name) for name in ARRAYS}

  def describe(self, index: int) -> str:
    name = f'{self.name} {self.split}[{index}]'
    return self.unreadable_names.get(index, name)


def folder(store_dir: str, split: str) -> pathlib.Path:
  """Returns the folder of one split."""
  root = pathlib.Path(store_dir).expanduser().absolute()
  return root / storage.split_name(split)


def open_store(
  store_dir: str, *, split: str, name: str, image_size: int
) -> Store:
  """Opens one split of a store.

  Args:
    store_dir: the folder that mode=prepare wrote.
    split: such as 'train'.
    name: of the data set that is wanted; empty for any.
    image_size: side of the squares that is wanted, pixels.

  Raises:
    errors.UserError: when the store is missing, unfinished, of other data, or
      visibly damaged.
  """
  directory = folder(store_dir, split)
  if not (directory / store_description.COMPLETE).is_file():
    state = 'holds no store'
    if (directory / store_description.UNFINISHED).is_file():
      state = 'holds an unfinished store'
    raise errors.UserError(
      f'{directory} {state}: run the same command with mode=prepare'
    )
  store = load(directory)
  for what, found, wanted in (
    ('split', store.split, split),
    ('name', store.name, name or store.name),
    ('image_size', store.square_size, image_size),
  ):
    if found != wanted:
      raise errors.UserError(
        f'the store in {directory} has {what} {found!r}, not {wanted!r}: '
        'prepare another one with mode=prepare and another store_dir'
      )
  for shard in range(len(store.shards)):
    if fault := store.shards.fault(shard):
      raise errors.UserError(f'{store.shards.path(shard)} {fault}: {_MEND}')
  _name_unreadable(store)
  store = dataclasses.replace(store, descriptors=store.shards.open())
  # Not at the program's end, when other threads may still be reading.
  closing = weakref.finalize(store, _close, store.descriptors)
  closing.atexit = False  # pyrefly: ignore[missing-attribute]
  return store


def _close(descriptors: Sequence[int]) -> None:
  for descriptor in descriptors:
    os.close(descriptor)


def _name_unreadable(store: Store) -> None:
  indices = np.flatnonzero(store.unreadable)
  if len(indices):
    logging.warning(
      '%d of %d images could not be read when %s was made and are left out: %s',
      len(indices),
      store.num_examples,
      store.directory,
      ', '.join(store.describe(int(index)) for index in indices[:3]),
    )


def load(directory: pathlib.Path) -> Store:
  """Reads everything but the squares of a finished store.

  Raises:
    errors.UserError: when a file is missing, damaged or of another format.
  """
  content = store_description.read(directory)
  files = shards.Shards(
    directory,
    content['num_examples'],
    content['image_size'],
    content['shard_size'],
  )
  return Store(
    name=content['name'],
    split=content['split'],
    directory=directory,
    class_names=tuple(content['class_names']),
    fingerprint=content['fingerprint'],
    shards=files,
    descriptors=(),
    unreadable_names=dict(content['unreadable']),
    verified=np.zeros(files.num_examples, bool),
    **{
      name: _load_array(directory / f'{name}.npy', content['arrays'][name])
      for name in ARRAYS
    },
  )


def _load_array(path: pathlib.Path, checksum: str) -> np.ndarray:
  if not path.is_file():
    raise store_description.damaged(path, 'it is missing')
  content = path.read_bytes()
  found = f'{zlib.crc32(content):08x}'
  if found != checksum:
    raise store_description.damaged(
      path, f'its checksum is {found}, not {checksum}'
    )
  return np.load(io.BytesIO(content), allow_pickle=False)
