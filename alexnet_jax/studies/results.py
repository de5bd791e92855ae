"""The result of a run or of a measurement."""

from collections.abc import Mapping
from typing import NamedTuple


class Origin(NamedTuple):
  """The run that a result belongs to.

  Attributes:
    config: its `StudyRun.config`.
    test_data: a digest of the test images; '' for synthetic images, which
      depend on the seed.
    revision: the git revision of the program.
  """

  config: str
  test_data: str
  revision: str


class Data(NamedTuple):
  """The data of a study's base.

  Attributes:
    words: a description.
    digest: of the training and test images; '' for synthetic images, which
      depend on the seed.
    test_digest: of the test images, likewise.
    num_train: the number of training images.
  """

  words: str
  digest: str
  test_digest: str
  num_train: int


class Result(NamedTuple):
  """The metrics of one network or of one group of networks.

  Attributes:
    variant: the variant, such as '10 views'.
    seed: the seed; comparisons pair results with the same seed.
    values: the metrics by name, such as `top1_error` (a fraction) or
      `exchanged_bytes`; empty for a run that diverged.
    origin: the run; None for results of a measure.
  """

  variant: str
  seed: int
  values: Mapping[str, float]
  origin: Origin | None = None
