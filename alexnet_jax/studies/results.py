"""What a study measures: one result per variant and seed."""

from collections.abc import Mapping
from typing import NamedTuple


class Result(NamedTuple):
  """What was measured on one network, or on one group of networks.

  Attributes:
    variant: what is compared, such as '10 views'.
    seed: results of two variants with the same seed are a pair.
    values: by the name of the metric, such as `top1_error` (a fraction) or
      `exchanged_bytes`.
  """

  variant: str
  seed: int
  values: Mapping[str, float]
