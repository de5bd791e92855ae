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
    """Returns the records of some examples; only where `is_fetched`.

    Raises:
      retry.UnavailableError: when a file cannot be opened or read.
    """
    ...

  def load(self, index: int) -> tuple[bytes | np.ndarray, Any]:
    """Reads one example outside the graph, after the graph has failed to.

    Returns:
      The image, an encoded file or uint8 [h, w, 3], and the label.

    Raises:
      retry.UnavailableError: when a file cannot be opened or read.
      decoding.UnreadableError: when there never was an image.
      errors.UserError: when a file that this program wrote is damaged.
    """
    ...

  def describe(self, index: int) -> str:
    """Names an example for a person: a file, or 'train[17]'.

    Opens nothing: it is asked while the file system does not answer.
    """
    ...


class Defaults:
  """What most sources have in common."""

  is_fetched = False

  @property
  def array_shape(self) -> tuple[int, int] | None:
    return None

  def fetch(self, indices: np.ndarray) -> list[bytes]:
    raise TypeError(f'{type(self).__name__} is read in the graph')

  def load(self: Source, index: int) -> tuple[bytes | np.ndarray, Any]:
    key = tf.constant(index, tf.int64)
    if self.is_fetched:
      (record,) = self.fetch(np.array([index]))
      key = tf.constant(record)
    image, label = self.read(key)
    return image.numpy(), label.numpy()

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

  def load(self, index: int) -> tuple[bytes | np.ndarray, Any]:
    return self.source.load(int(self.indices[index]))

  def describe(self, index: int) -> str:
    return self.source.describe(int(self.indices[index]))


class Sample(Subset):
  """A random part of a source, which has a split of its own; see `sample`."""

  @property
  def split(self) -> str:
    return f'{self.source.split}[{len(self.indices)} at random]'


def sample(source: Source, count: int) -> Source:
  """Returns some examples of a split, drawn at random, in the split's order.

  They are the first of one permutation, so a smaller sample is part of a larger
  one. It depends on the number of examples of the source alone. Sorting
  independent 64-bit words makes it; NumPy guarantees those of Philox.

  Args:
    source: the whole split.
    count: how many; 0, as their whole number does, returns the source itself.

  Raises:
    errors.UserError: if the source has fewer.
  """
  total = source.num_examples
  if count in (0, total):
    return source
  if count > total:
    raise errors.UserError(
      f'--config.data.num_train={count} is more than the {total} images of'
      f" {source.name} '{source.split}': set --config.data.num_train to at most"
      f' {total}, or to 0 for all'
    )
  words = np.random.Philox(key=0).random_raw(total)
  order = np.argsort(words, kind='stable')
  return Sample(source, np.sort(order[:count]))


def constants(*values: Any) -> list[tf.Tensor]:
  """Returns tensors that outlive the graph in whose making they are needed."""
  with tf.init_scope():
    return [tf.constant(value) for value in values]
