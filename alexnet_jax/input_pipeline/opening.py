"""Opens a split of a data set: the one table of kinds of sources."""

from collections.abc import Callable
from typing import NamedTuple

from alexnet_jax import errors
from alexnet_jax.input_pipeline import arrays
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline.sources import Source


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
    read_only: of 'tfds', whether nothing may be prepared or written.
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
  read_only: bool = False


def _open_folder(options: Options) -> Source:
  return folder.open_folder(options.data_dir, options.split, options.name)


def _open_idx(options: Options) -> Source:
  return arrays.open_idx(
    options.data_dir, options.split, options.name, options.class_names
  )


def _open_synthetic(options: Options) -> Source:
  return arrays.Synthetic(
    split=options.split,
    num_examples=options.num_examples,
    num_classes=options.num_classes,
    image_size=options.image_size,
    seed=options.seed,
  )


def _open_tfds(options: Options) -> Source:
  # Imported here: it takes seconds, and other sources do not need it.
  from alexnet_jax.input_pipeline import tfds

  return tfds.open_tfds(
    options.name,
    options.split,
    options.data_dir,
    options.manual_dir,
    read_only=options.read_only,
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
