"""Where images come from: random access to a labelled collection."""

import pathlib
from typing import Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from alexnet_jax import errors

# One element of each array that `Source.fetch` returns.
Record = tuple[tf.Tensor, ...]


class Source(Protocol):
  """A labelled collection of images that any index can be read from.

  Reading has two halves, so that no image passes through Python: `fetch`
  looks up a whole batch outside TensorFlow's graph, and `read` finishes one
  element inside it.

  Attributes:
    name: of the data set, for messages and file names.
    split: of the data set, such as 'train'.
    directory: where the data lies; None where it lies nowhere.
    class_names: one a label, in the order of the labels.
    num_examples: how many images there are.
    fingerprint: a digest that changes when the data changes.
    record_spec: shape and dtype of one element of each array of `fetch`.
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
  def record_spec(self) -> tuple[tf.TensorSpec, ...]: ...

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns arrays [N, ...] for indices int64 [N]; called on any thread."""
    ...

  def read(self, record: Record) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns one element of `fetch` into (image, label); TensorFlow only.

    The image is a string scalar, an encoded file, or uint8 [h, w, 3]; the
    label is an int32 scalar.
    """
    ...

  def describe(self, index: int) -> str:
    """Names an example for a person: a file, or 'train[17]'."""
    ...


@runtime_checkable
class Squares(Source, Protocol):
  """A source that has its centre squares as arrays: nothing to decode.

  Where `square_size` is the side that is asked for, `cut` takes the place of
  `fetch` and `read`, and gives the same pixels without TensorFlow.

  Attributes:
    square_size: side S of the squares, pixels; 0 where they are not square.
  """

  @property
  def square_size(self) -> int: ...

  def cut(
    self, indices: np.ndarray, offsets: np.ndarray, flips: np.ndarray, size: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns windows of N images; called on any thread.

    Args:
      indices: int64 [N].
      offsets: int32 [N, 2], row and column of each window's first pixel.
      flips: bool [N], whether to mirror the window left to right.
      size: side of the windows, pixels.

    Returns:
      images uint8 [N, size, size, 3], labels int32 [N], and readable bool
      [N]: false where the original could not be read; image and label are 0.
    """
    ...


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
      is one too; for 'folder' empty when the classes lie in data_dir itself.
    name: the tensorflow-datasets name; elsewhere a label for messages.
    data_dir: where the data lies; for 'tfds' where it is prepared, empty for
      that library's default.
    manual_dir: 'tfds' only: where archives lie that must be fetched by hand.
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
    from alexnet_jax.input_pipeline import idx

    return idx.open_idx(data_dir, split, name, class_names)
  if kind == 'tfds':
    from alexnet_jax.input_pipeline import prepared

    return prepared.open_prepared(name, split, data_dir, manual_dir)
  if kind == 'synthetic':
    from alexnet_jax.input_pipeline import synthetic

    return synthetic.Synthetic(
      split=split,
      num_examples=num_examples,
      num_classes=num_classes,
      image_size=image_size,
      seed=seed,
    )
  raise errors.UserError(
    f'unknown kind of data {kind!r}: choose folder, idx, tfds or synthetic'
  )


def check_same_classes(train: Source, evaluation: Source) -> None:
  """Checks that a label means the same class in both sources.

  Raises:
    errors.UserError: naming what one has and the other has not.
  """
  if train.class_names == evaluation.class_names:
    return
  missing = sorted(set(train.class_names) - set(evaluation.class_names))
  surplus = sorted(set(evaluation.class_names) - set(train.class_names))
  raise errors.UserError(
    f'{evaluation.name} {evaluation.split!r} has '
    f'{len(evaluation.class_names)} classes and {train.name} {train.split!r} '
    f'has {len(train.class_names)}: missing {missing[:3]}, surplus '
    f'{surplus[:3]}; give both splits the same classes in the same order'
  )
