"""Everything that is done once for a data set, before the first training."""

from collections.abc import Sequence
import pathlib
import shutil
from typing import NamedTuple

from absl import logging

from alexnet_jax import errors
from alexnet_jax.input_pipeline import shards
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics as statistics_lib
from alexnet_jax.input_pipeline import store
from alexnet_jax.input_pipeline import store_description
from alexnet_jax.input_pipeline import store_writer

# Labels, flags, checksums, statistics and journal, beside the squares.
_BYTES_AN_IMAGE, _BYTES_A_SPLIT = 32, 2**23


class Summary(NamedTuple):
  """What `run` prepared.

  Attributes:
    train: the training source.
    evaluation: the source of the evaluation split.
    statistics: of the training images.
    statistics_file: where they are kept.
  """

  train: sources.Source
  evaluation: sources.Source
  statistics: statistics_lib.Statistics
  statistics_file: pathlib.Path


def run(
  train: sources.Source,
  evaluation: sources.Source,
  image_size: int,
  store_dir: str = '',
) -> Summary:
  """Checks a data set, computes its statistics anew, and writes a store.

  Opening the sources has already checked archives and prepared what had to
  be; see `sources.open_source`.

  Args:
    train: the training source.
    evaluation: the source that errors are measured on.
    image_size: side of the centre square, pixels.
    store_dir: the folder of the prepared store; empty for none.

  Raises:
    errors.UserError: when the sources disagree, nothing can be read, or the
      store's folder does not do.
  """
  sources.check_same_classes(train, evaluation)
  path = statistics_lib.stored_path(train, image_size)
  if store_dir:
    measured = _write_store(train, evaluation, image_size, store_dir)
  else:
    measured = statistics_lib.compute(train, image_size)
  statistics_lib.save(path, measured)
  return Summary(train, evaluation, measured, path)


def _write_store(
  train: sources.Source,
  evaluation: sources.Source,
  image_size: int,
  store_dir: str,
) -> statistics_lib.Statistics:
  """Writes both splits, once where they are the same; measures the first."""
  splits = [train]
  if evaluation.split != train.split:
    splits.append(evaluation)
  _check_space(splits, store_dir, image_size)
  for source in splits:
    store_writer.write(source, store_dir, image_size)
  written = store.open_store(
    store_dir, split=train.split, name=train.name, image_size=image_size
  )
  return statistics_lib.load_or_compute(written, image_size)


def _check_space(
  splits: Sequence[sources.Source], store_dir: str, image_size: int
) -> None:
  """Says how much the store takes, and refuses when the disk has not got it.

  Raises:
    errors.UserError: with both numbers.
  """
  needed = sum(_missing_bytes(split, store_dir, image_size) for split in splits)
  place = pathlib.Path(store_dir).expanduser().absolute()
  while not place.exists():
    place = place.parent
  free = shutil.disk_usage(place).free
  logging.info(
    'The store of %s images of %dx%d needs %s more in %s, which has %s free',
    f'{sum(split.num_examples for split in splits):,}',
    image_size,
    image_size,
    _gigabytes(needed),
    store_dir,
    _gigabytes(free),
  )
  if needed > free:
    raise errors.UserError(
      f'the store needs {_gigabytes(needed)} more but {place} has '
      f'{_gigabytes(free)} free: make room or choose another store_dir'
    )


def _missing_bytes(
  source: sources.Source, store_dir: str, image_size: int
) -> int:
  directory = store.folder(store_dir, source.split)
  if (directory / store_description.COMPLETE).is_file():
    return 0
  files = shards.Shards(
    directory, source.num_examples, image_size, store_writer.SHARD_SIZE
  )
  squares = sum(
    files.num_bytes(shard) for shard in range(len(files)) if files.fault(shard)
  )
  return squares + _BYTES_AN_IMAGE * source.num_examples + _BYTES_A_SPLIT


def _gigabytes(count: int) -> str:
  return f'{count / 1e9:.4g} GB'
