"""Where images come from: random access to a labeled collection."""

from collections.abc import Callable
import dataclasses
import hashlib
import pathlib
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from alexnet_jax import errors


class Source(Protocol):
  """A labeled collection of images that any index can be read from.

  Attributes:
    name: of the data set, for messages and file names.
    split: of the data set, such as 'train'.
    directory: where the data is; None for data that is not on disk.
    class_names: one per label, in the order of the labels; empty for images
      without labels.
    num_examples: how many images there are.
    fingerprint: a digest that changes when the data changes.
    array_shape: (height, width) of images that are arrays in memory, which are
      read a batch at a time; None for all others.
    is_fetched: whether Python must fetch the records that `read` turns into
      images, because TensorFlow cannot get at one by its index.
  """

  @property
  def name(self) -> str: ...
  @property
  def split(self) -> str: ...
  @property
  def directory(self) -> pathlib.Path | None: ...
  @property
  def class_names(self) -> tuple[str, ...]: ...
  @property
  def num_examples(self) -> int: ...
  @property
  def fingerprint(self) -> str: ...
  @property
  def array_shape(self) -> tuple[int, int] | None: ...
  @property
  def is_fetched(self) -> bool: ...

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads an image and its label, in a graph.

    Args:
      key: int64 scalar, the index; int64 [N] where there is an `array_shape`;
        a string scalar from `fetch` where `is_fetched`.

    Returns:
      The image, a string scalar (an encoded file) or uint8 [h, w, 3], and the
      label, an int32 scalar; or a batch of both.
    """
    ...

  def fetch(self, indices: np.ndarray) -> list[bytes]:
    """Returns the records of some examples; only where `is_fetched`."""
    ...

  def verify(self, index: int) -> None:
    """Says why an example could not be read, where the source itself knows.

    Raises:
      decoding.UnreadableError: when there never was an image.
      errors.UserError: when a file that this program wrote is damaged.
    """
    ...

  def describe(self, index: int) -> str:
    """Names an example for a person: a file, or 'train[17]'."""
    ...


class Defaults:
  """What most sources have in common."""

  is_fetched = False

  @property
  def array_shape(self) -> tuple[int, int] | None:
    return None

  def fetch(self, indices: np.ndarray) -> list[bytes]:
    raise TypeError(f'{type(self).__name__} is read in the graph')

  def verify(self, index: int) -> None:
    del index

  def describe(self: Source, index: int) -> str:
    return f'{self.name} {self.split}[{index}]'


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
  """Some examples of a source, in any order; see `Source`.

  Attributes:
    source: where they are.
    indices: int64 [N], which they are there; an example may come twice.
  """

  source: Source
  indices: np.ndarray

  def __getattr__(self, attribute: str) -> Any:
    return getattr(self.source, attribute)

  @property
  def num_examples(self) -> int:
    return len(self.indices)

  @property
  def fingerprint(self) -> str:
    digest = hashlib.sha256(self.source.fingerprint.encode())
    digest.update(np.asarray(self.indices, np.int64).tobytes())
    return digest.hexdigest()

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    if not self.source.is_fetched:
      key = tf.gather(tf.constant(self.indices, tf.int64), key)
    return self.source.read(key)

  def fetch(self, indices: np.ndarray) -> list[bytes]:
    return self.source.fetch(self.indices[indices])

  def verify(self, index: int) -> None:
    self.source.verify(int(self.indices[index]))

  def describe(self, index: int) -> str:
    return self.source.describe(int(self.indices[index]))


def constants(*values: Any) -> list[tf.Tensor]:
  """Returns tensors that outlive the graph in whose making they are needed."""
  with tf.init_scope():
    return [tf.constant(value) for value in values]


class Options(NamedTuple):
  """What a config says about a split; each kind of source uses its share.

  Attributes:
    split: 'train' and so on. Of 'tfds' an expression such as 'train[:90%]' is
      one too; of 'folder' it is empty when the classes are in data_dir itself.
    name: the tensorflow-datasets name; elsewhere a label for messages.
    data_dir: where the data is; of 'tfds' where it is prepared, empty for that
      library's default.
    manual_dir: of 'tfds', where archives are that must be fetched by hand.
    class_names: of 'idx', names of the labels; empty for digits.
    num_examples: of 'synthetic'.
    num_classes: of 'synthetic'.
    image_size: of 'synthetic', side of the images, pixels.
    seed: of 'synthetic'.
  """

  split: str
  name: str = ''
  data_dir: str = ''
  manual_dir: str = ''
  class_names: tuple[str, ...] = ()
  num_examples: int = 0
  num_classes: int = 0
  image_size: int = 0
  seed: int = 0


# Each imports its module only when asked: tensorflow-datasets alone takes
# seconds, and a synthetic run must not need it.


def _open_folder(options: Options) -> Source:
  from alexnet_jax.input_pipeline import folder

  return folder.open_folder(options.data_dir, options.split, options.name)


def _open_idx(options: Options) -> Source:
  from alexnet_jax.input_pipeline import arrays

  return arrays.open_idx(
    options.data_dir, options.split, options.name, options.class_names
  )


def _open_synthetic(options: Options) -> Source:
  from alexnet_jax.input_pipeline import arrays

  return arrays.Synthetic(
    split=options.split,
    num_examples=options.num_examples,
    num_classes=options.num_classes,
    image_size=options.image_size,
    seed=options.seed,
  )


def _open_tfds(options: Options) -> Source:
  from alexnet_jax.input_pipeline import tfds

  return tfds.open_tfds(
    options.name, options.split, options.data_dir, options.manual_dir
  )


# By the value of `config.data.source`.
_OPENERS: dict[str, Callable[[Options], Source]] = {
  'folder': _open_folder,
  'idx': _open_idx,
  'synthetic': _open_synthetic,
  'tfds': _open_tfds,
}


def open_source(kind: str, options: Options) -> Source:
  """Opens a collection of images.

  Args:
    kind: a key of `_OPENERS`: class folders, the files of MNIST, made-up
      images or a tensorflow-datasets set.
    options: which split, and where it is.

  Raises:
    errors.UserError: when the data is not there or not what it should be.
  """
  if kind not in _OPENERS:
    raise errors.UserError(
      f'--config.data.source={kind!r} is unknown: choose one of '
      f'{", ".join(_OPENERS)}'
    )
  return _OPENERS[kind](options)
