"""The file format of MNIST and its followers."""

import dataclasses
import gzip
import hashlib
import pathlib
import struct
import zlib

import numpy as np
import tensorflow as tf

from alexnet_jax import errors

_PREFIXES = {'train': 'train', 'test': 't10k'}
# Two zero bytes, 0x08 for unsigned bytes, the number of dimensions.
_IMAGE_MAGIC, _LABEL_MAGIC = 0x0803, 0x0801


@dataclasses.dataclass(frozen=True, eq=False)
class Idx:
  """A source of grey images held in memory; see `sources.Source`."""

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
  def record_spec(self) -> tuple[tf.TensorSpec, ...]:
    image = tf.TensorSpec(self.images.shape[1:], tf.uint8)
    return image, tf.TensorSpec([], tf.int32)

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    return self.images[indices], self.labels[indices]

  def read(self, record: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    image, label = record
    return tf.image.grayscale_to_rgb(image[:, :, tf.newaxis]), label

  @property
  def square_size(self) -> int:
    height, width = self.images.shape[1:]
    return height if height == width else 0

  def cut(
    self, indices: np.ndarray, offsets: np.ndarray, flips: np.ndarray, size: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Whole batches at a time: a loop would hold the interpreter's lock, which
    # the training loop waits for.
    windows = np.lib.stride_tricks.sliding_window_view(
      self.images, (size, size), axis=(1, 2)
    )
    grey = windows[indices, offsets[:, 0], offsets[:, 1]]
    grey[flips] = grey[flips, :, ::-1]
    images = np.empty((*grey.shape, 3), np.uint8)
    images[:] = grey[..., np.newaxis]
    return images, self.labels[indices], np.ones(len(indices), bool)

  def describe(self, index: int) -> str:
    return f'{self.name} {self.split}[{index}]'


def open_idx(
  data_dir: str, split: str, name: str = '', class_names: tuple[str, ...] = ()
) -> Idx:
  """Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or gzipped.

  Args:
    data_dir: the folder of the files.
    split: 'train' or 'test'.
    name: for messages; the folder's name when empty.
    class_names: one a label; '0', '1' and so on when empty.

  Raises:
    errors.UserError: when a file is missing, damaged or at odds with another.
  """
  if split not in _PREFIXES:
    raise errors.UserError(
      f'IDX data has no split {split!r}: choose train or test'
    )
  directory = pathlib.Path(data_dir).expanduser().absolute()
  prefix = _PREFIXES[split]
  image_bytes = _read(directory, f'{prefix}-images-idx3-ubyte')
  label_bytes = _read(directory, f'{prefix}-labels-idx1-ubyte')
  images = _parse(image_bytes, _IMAGE_MAGIC, f'{prefix}-images-idx3-ubyte')
  labels = _parse(label_bytes, _LABEL_MAGIC, f'{prefix}-labels-idx1-ubyte')
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
      'names are given: name every class, or none'
    )
  digest = hashlib.sha256(image_bytes)
  digest.update(label_bytes)
  return Idx(
    name=name or directory.name,
    split=split,
    directory=directory,
    class_names=tuple(class_names),
    fingerprint=digest.hexdigest(),
    images=images,
    labels=labels.astype(np.int32),
  )


def _read(directory: pathlib.Path, filename: str) -> bytes:
  plain, zipped = directory / filename, directory / f'{filename}.gz'
  if plain.is_file():
    return plain.read_bytes()
  if not zipped.is_file():
    raise errors.UserError(
      f'{directory} has neither {plain.name} nor {zipped.name}: set data_dir '
      'to the folder of the IDX files'
    )
  try:
    return gzip.decompress(zipped.read_bytes())
  except (OSError, EOFError, zlib.error) as error:
    raise errors.UserError(
      f'{zipped} is damaged ({error}): fetch it again'
    ) from error


def _parse(content: bytes, magic: int, filename: str) -> np.ndarray:
  """Returns uint8 [n, ...] from an IDX file with big-endian sizes."""
  rank = magic & 0xFF
  start = 4 * (1 + rank)
  if len(content) < start:
    raise errors.UserError(
      f'{filename} has {len(content)} bytes, its header alone needs {start}: '
      'fetch it again'
    )
  found, *shape = struct.unpack(f'>{1 + rank}I', content[:start])
  if found != magic:
    raise errors.UserError(
      f'{filename} begins with {found:#010x}, not with {magic:#010x}: it is '
      'not the IDX file of that name'
    )
  needed = start + int(np.prod(shape))
  if len(content) != needed:
    raise errors.UserError(
      f'{filename} has {len(content)} bytes, its header {shape} needs '
      f'{needed}: fetch it again'
    )
  if not all(shape):
    raise errors.UserError(f'{filename} is empty, {shape}: fetch it again')
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
