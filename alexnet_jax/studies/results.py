"""What a study measures: one result per variant and seed."""

from collections.abc import Mapping
from typing import NamedTuple


class Origin(NamedTuple):
  """What a result belongs to, wherever its run was made.

  Attributes:
    config: the `StudyRun.config` of the run.
    test_data: a digest of the images that it was tested on; '' for made-up
      images, which differ between seeds.
    revision: of the program, as git names it.
  """

  config: str
  test_data: str
  revision: str


class Result(NamedTuple):
  """What was measured on one network, or on one group of networks.

  Attributes:
    variant: what is compared, such as '10 views'.
    seed: results of two variants with the same seed are a pair.
    values: by the name of the metric, such as `top1_error` (a fraction) or
      `exchanged_bytes`.
    origin: of the result of a single run; None for what a measure found.
  """

  variant: str
  seed: int
  values: Mapping[str, float]
  origin: Origin | None = None
