"""Everything that is done once for a data set, before the first training."""

import pathlib
from typing import NamedTuple

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics as statistics_lib
from alexnet_jax.input_pipeline import store


class Summary(NamedTuple):
  """What `run` prepared.

  Attributes:
    statistics: of the training images.
    statistics_file: where they are kept; None for data that are not on disk.
  """

  statistics: statistics_lib.Statistics
  statistics_file: pathlib.Path | None


def run(
  train: sources.Source,
  evaluation: sources.Source,
  decoder: decoding.Options,
  store_dir: str = '',
  threads: int = 0,
) -> Summary:
  """Writes a store if there is to be one, and computes statistics again.

  Opening the sources has already checked archives and prepared what had to
  be; see `sources.open_source`.

  Args:
    train: the training source.
    evaluation: the source that errors are measured on.
    decoder: side of the central square, and how images are decoded.
    store_dir: the folder of the prepared store; empty for none.
    threads: see `pipeline.eval_batches`.

  Raises:
    errors.UserError: when nothing can be read, or the store's folder does not
      do.
  """
  measured: sources.Source = train
  if store_dir:
    splits = {source.split: source for source in (evaluation, train)}
    for source in splits.values():
      store.write(source, store_dir, decoder, threads)
    measured = store.open_store(
      store_dir,
      split=train.split,
      name=train.name,
      image_size=decoder.image_size,
    )
  statistics = statistics_lib.compute(measured, decoder, threads)
  path = statistics_lib.stored_path(measured, decoder)
  if path is not None:
    statistics_lib.save(path, statistics)
  return Summary(statistics, path)
