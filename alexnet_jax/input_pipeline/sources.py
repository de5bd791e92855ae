"""Where images come from: random access to a labeled collection."""

import dataclasses
import hashlib
import pathlib
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from alexnet_jax import errors


class Source(Protocol):
  """A labeled collection of images that any index can be read from.

  Attributes:
    name: of the data set, for messages and file names.
    split: of the data set, such as 'train'.
    directory: where the data is; None for data that is not on disk.
    class_names: one per label, in the order of the labels.
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


def open_source(
  kind: str,
  *,
  split: str,
  name: str = '',
  data_dir: str = '',
  manual_dir: str = '',
  class_names: tuple[str, ...] = (),
  num_examples: int = 0,
  num_classes: int = 0,
  image_size: int = 0,
  seed: int = 0,
) -> Source:
  """Opens a collection of images.

  Args:
    kind: 'folder' for data_dir/split/class/files, 'idx' for the files of
      MNIST, 'tfds' for a tensorflow-datasets set, 'synthetic' for made-up
      images.
    split: 'train' and so on; for 'tfds' an expression such as 'train[:90%]'
      is one too; for 'folder' empty when the classes are in data_dir itself.
    name: the tensorflow-datasets name; elsewhere a label for messages.
    data_dir: where the data is; for 'tfds' where it is prepared, empty for
      that library's default.
    manual_dir: 'tfds' only: where archives are that must be fetched by hand.
    class_names: 'idx' only: names of the labels; empty for digits.
    num_examples: 'synthetic' only.
    num_classes: 'synthetic' only.
    image_size: 'synthetic' only: side of the images, pixels.
    seed: 'synthetic' only.

  Raises:
    errors.UserError: when the data is not there or not what it should be.
  """
  # Imported here: tensorflow-datasets alone takes seconds, and a synthetic
  # run must not need it.
  if kind == 'folder':
    from alexnet_jax.input_pipeline import folder

    return folder.open_folder(data_dir, split, name)
  if kind == 'idx':
    from alexnet_jax.input_pipeline import arrays

    return arrays.open_idx(data_dir, split, name, class_names)
  if kind == 'tfds':
    from alexnet_jax.input_pipeline import tfds

    return tfds.open_tfds(name, split, data_dir, manual_dir)
  if kind == 'synthetic':
    from alexnet_jax.input_pipeline import arrays

    return arrays.Synthetic(
      split=split,
      num_examples=num_examples,
      num_classes=num_classes,
      image_size=image_size,
      seed=seed,
    )
  raise errors.UserError(
    f'--config.data.source={kind!r} is unknown: choose folder, idx, tfds or '
    'synthetic'
  )
