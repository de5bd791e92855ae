"""The work that is done once for a data set, before the first training."""

import pathlib
from typing import NamedTuple

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics as statistics_lib
from alexnet_jax.input_pipeline import store


class Summary(NamedTuple):
  """Statistics of the training images, and their file if the data has one."""

  statistics: statistics_lib.Statistics
  statistics_file: pathlib.Path | None


def run(
  train: sources.Source,
  evaluation: sources.Source,
  decoder: decoding.Options,
  store_dir: str = '',
  num_train: int = 0,
  threads: int = 0,
) -> Summary:
  """Writes the store if one is wanted, and computes statistics.

  Args:
    train: the training source, whole: a store serves samples of any size.
    evaluation: the source that errors are measured on.
    decoder: side of the central square, and how images are decoded.
    store_dir: the folder of the store; empty for none.
    num_train: images of the sample that the statistics are of; 0 for all.
    threads: see `pipeline.eval_batches`.

  Raises:
    errors.UserError: when no image can be read, or see `store.write`.
  """
  measured = sources.sample(train, num_train)
  if store_dir:
    splits = {source.split: source for source in (evaluation, train)}
    for source in splits.values():
      store.write(source, store_dir, decoder, threads)
    kept = store.open_store(
      store_dir, train.split, train.name, decoder.image_size, decoder.upright
    )
    measured = sources.sample(kept, num_train)
  statistics = statistics_lib.compute(measured, decoder, threads)
  path = statistics_lib.stored_path(measured, decoder, to_write=True)
  if path is not None:
    statistics_lib.save(path, statistics)
  return Summary(statistics, path)
