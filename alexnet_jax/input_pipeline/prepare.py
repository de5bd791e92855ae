"""Everything that is done once for a data set, before the first training."""

import pathlib
from typing import NamedTuple

from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics as statistics_lib


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
  train: sources.Source, evaluation: sources.Source, image_size: int
) -> Summary:
  """Checks a data set and computes its statistics anew.

  Opening the sources has already checked archives and prepared what had to
  be; see `sources.open_source`.

  Args:
    train: the training source.
    evaluation: the source that errors are measured on.
    image_size: side of the centre square, pixels.

  Raises:
    errors.UserError: when the sources disagree or nothing can be read.
  """
  sources.check_same_classes(train, evaluation)
  path = statistics_lib.stored_path(train, image_size)
  statistics = statistics_lib.compute(train, image_size)
  statistics_lib.save(path, statistics)
  return Summary(train, evaluation, statistics, path)
