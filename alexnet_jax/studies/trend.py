"""A power law of the error in the size of something, and where it leads."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np

from alexnet_jax.studies import statistics
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.statistics import Estimate


class Trend(NamedTuple):
  """The law error = factor * size ** -exponent, fitted for each seed alone.

  Attributes:
    sizes: that were measured, increasing.
    exponent: over the seeds.
    predicted: the error by size, of the measured ones and of larger ones.
    foretold: the error at the largest measured size by the smaller ones alone,
      which says how far to trust the law; None of fewer than four sizes.
  """

  sizes: Sequence[float]
  exponent: Estimate
  predicted: Mapping[float, Estimate]
  foretold: Estimate | None


def fit(
  results: Sequence[Result],
  sizes: Mapping[str, float],
  metric: str,
  larger: Sequence[float],
) -> Trend | None:
  """Fits a power law to the results of every seed that has all sizes.

  By least squares of the logarithms. A law without a floor is optimistic far
  out: some error stays, however much there is of anything.

  Args:
    results: of all variants.
    sizes: by the name of the variant, at least two.
    metric: above zero.
    larger: sizes at which to predict.

  Returns:
    The law; None if no seed has all sizes.
  """
  variants = sorted(sizes, key=sizes.__getitem__)
  measured = [sizes[variant] for variant in variants]
  curves = [
    statistics.by_seed(results, variant, metric) for variant in variants
  ]
  seeds = sorted(set.intersection(*(set(curve) for curve in curves)))
  if not seeds:
    return None
  errors = [[curve[seed] for curve in curves] for seed in seeds]
  laws = [_power_law(measured, each) for each in errors]
  return Trend(
    measured,
    statistics.estimate([exponent for _, exponent in laws]),
    {size: _at(size, laws) for size in (*measured, *larger)},
    _at(measured[-1], [_power_law(measured[:-1], each[:-1]) for each in errors])
    if len(measured) > 3
    else None,
  )


def _power_law(
  sizes: Sequence[float], errors: Sequence[float]
) -> tuple[float, float]:
  """Returns factor and exponent."""
  slope, offset = np.polyfit(np.log(sizes), np.log(errors), 1)
  return math.exp(offset), -float(slope)


def _at(size: float, laws: Sequence[tuple[float, float]]) -> Estimate:
  return statistics.estimate([a * size**-exponent for a, exponent in laws])
