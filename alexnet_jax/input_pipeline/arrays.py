"""Images that are arrays in memory: MNIST's file format, and synthetic ones."""

import dataclasses
import functools
import gzip
import hashlib
import math
import pathlib
import struct
import zlib

import numpy as np
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax.input_pipeline import sources

_PREFIXES = {'train': 'train', 'test': 't10k'}
# Two zero bytes, 0x08 for unsigned bytes, the number of dimensions.
_MAGICS = {'images-idx3': 0x0803, 'labels-idx1': 0x0801}

_GRID = 4  # patches along a side of a synthetic class's pattern
_NOISE_STARTS = 2**14
_NOISE_STRIDE = 6_700_417  # a prime: neighbors share no noise
_PATTERN, _NOISE = 0, 1  # streams of random numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Idx(sources.Defaults):
  """A source of gray images; see `sources.Source`."""

  name: str
  split: str
  directory: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  images: np.ndarray  # uint8 [num_examples, height, width]
  labels: np.ndarray  # int32 [num_examples]

  @property
  def num_examples(self) -> int:
    return len(self.labels)

  @property
  def array_shape(self) -> tuple[int, int]:
    return self.images.shape[1:]

  @functools.cached_property
  def _tensors(self) -> list[tf.Tensor]:
    return sources.constants(self.images, self.labels)

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    images, labels = self._tensors
    gray = tf.gather(images, key)[..., tf.newaxis]
    return tf.repeat(gray, 3, axis=-1), tf.gather(labels, key)


def open_idx(
  data_dir: str, split: str, name: str = '', class_names: tuple[str, ...] = ()
) -> Idx:
  """Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or gzipped.

  Args:
    data_dir: the folder of the files.
    split: 'train' or 'test'.
    name: for messages; the folder's name when empty.
    class_names: one per label; '0', '1' and so on when empty.

  Raises:
    errors.UserError: when a file is missing, damaged or inconsistent.
  """
  if split not in _PREFIXES:
    raise errors.UserError(
      f'IDX data has no split {split!r}: choose train or test'
    )
  directory = files.user_folder(data_dir, '--config.data.data_dir').absolute()
  names = [f'{_PREFIXES[split]}-{kind}-ubyte' for kind in _MAGICS]
  contents = [_read(directory, name) for name in names]
  images, labels = map(_parse, contents, _MAGICS.values(), names)
  if len(images) != len(labels):
    raise errors.UserError(
      f'{directory} has {len(images)} images but {len(labels)} labels for '
      f'{split!r}: take both files from the same set'
    )
  if not class_names:
    class_names = tuple(str(label) for label in range(int(labels.max()) + 1))
  if labels.max() >= len(class_names):
    raise errors.UserError(
      f'{directory} has label {labels.max()} but only {len(class_names)} class '
      'names are given: name all or none with --config.data.class_names'
    )
  return Idx(
    name=name or directory.name,
    split=split,
    directory=directory,
    class_names=tuple(class_names),
    fingerprint=hashlib.sha256(b''.join(contents)).hexdigest(),
    images=images,
    labels=labels.astype(np.int32),
  )


def _read(directory: pathlib.Path, filename: str) -> bytes:
  plain, zipped = directory / filename, directory / f'{filename}.gz'
  if files.is_file(plain):
    return plain.read_bytes()
  if not files.is_file(zipped):
    raise errors.UserError(
      f'{directory} has neither {plain.name} nor {zipped.name}: set '
      '--config.data.data_dir to the folder of the IDX files'
    )
  try:
    return gzip.decompress(zipped.read_bytes())
  except (OSError, EOFError, zlib.error) as error:
    raise errors.UserError(
      f'{zipped} is damaged ({error}): download it again'
    ) from error


def _parse(content: bytes, magic: int, filename: str) -> np.ndarray:
  """Returns uint8 [n, ...]; the sizes in the header are big-endian."""
  rank = magic & 0xFF
  start = 4 * (1 + rank)
  if len(content) < start:
    raise errors.UserError(
      f'{filename} has {len(content)} bytes, its header alone needs {start}: '
      'download it again'
    )
  found, *shape = struct.unpack(f'>{1 + rank}I', content[:start])
  if found != magic:
    raise errors.UserError(
      f'{filename} begins with {found:#010x}, not with {magic:#010x}: it is '
      'not the IDX file of that name'
    )
  needed = start + math.prod(shape)
  if len(content) != needed:
    raise errors.UserError(
      f'{filename} has {len(content)} bytes, its header {shape} needs '
      f'{needed}: download it again'
    )
  if not all(shape):
    raise errors.UserError(f'{filename} is empty, {shape}: download it again')
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Synthetic(sources.Defaults):
  """A source of generated images that can be learned; see `sources.Source`.

  Half of each pixel is its class's pattern, a grid of random colors, and half
  is noise; labels cycle through the classes. Image and label are functions of
  (seed, split, index), and all splits share the patterns. An image costs no
  more than two copies, so that a speed measurement measures the pipeline.
  """

  split: str
  num_examples: int
  num_classes: int
  image_size: int
  seed: int = 0

  name = 'synthetic'
  directory: pathlib.Path | None = None

  def __post_init__(self) -> None:
    sizes = (self.num_examples, self.num_classes, self.image_size)
    if min(sizes) < 1:
      raise ValueError(f'examples, classes and size {sizes} must be positive')

  @property
  def array_shape(self) -> tuple[int, int]:
    return self.image_size, self.image_size

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(f'class{label}' for label in range(self.num_classes))

  @property
  def fingerprint(self) -> str:
    return hashlib.sha256(repr(self).encode()).hexdigest()

  @functools.cached_property
  def _tensors(self) -> list[tf.Tensor]:
    """Rows of the patterns and of the noise, both below 128.

    uint8 [classes, grid, S * 3] and [starts + S, S * 3]; an image's noise is a
    stretch of rows.
    """
    patterns = _words(self.seed, _PATTERN, (self.num_classes, _GRID, _GRID, 3))
    columns = np.arange(self.image_size) * _GRID // self.image_size
    patterns = patterns[:, :, columns].reshape(self.num_classes, _GRID, -1)
    noise = _words(
      self.seed, _NOISE, (_NOISE_STARTS + self.image_size, self.image_size * 3)
    )
    return sources.constants(patterns, noise)

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    patterns, noise = self._tensors
    label = tf.cast(tf.math.floormod(key, self.num_classes), tf.int32)
    rows = tf.range(self.image_size, dtype=tf.int64)
    digest = hashlib.sha256(self.split.encode()).digest()
    offset = int.from_bytes(digest[:4], 'big')
    start = tf.math.floormod(key * _NOISE_STRIDE + offset, _NOISE_STARTS)
    image = tf.gather(
      tf.gather(patterns, label), rows * _GRID // self.image_size, axis=-2
    ) + tf.gather(noise, start[..., tf.newaxis] + rows)
    shape = [self.image_size, self.image_size, 3]
    return tf.reshape(image, tf.concat([tf.shape(key), shape], 0)), label


def _words(seed: int, stream: int, shape: tuple[int, ...]) -> np.ndarray:
  """Returns uint8 below 128; numpy guarantees Philox's raw words."""
  count = math.prod(shape)
  words = np.random.Philox(key=[seed, stream]).random_raw(-(-count // 8))
  return (words.view(np.uint8)[:count] >> 1).reshape(shape)
