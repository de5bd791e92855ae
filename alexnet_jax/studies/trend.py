"""Fits a power law of the error in a size, and extrapolates it."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np

from alexnet_jax.studies import statistics
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.statistics import Estimate


class Trend(NamedTuple):
  """The power law error = factor * size ** -exponent, fitted for each seed.

  Attributes:
    sizes: the measured sizes, increasing.
    exponent: the exponent over the seeds.
    predicted: the fitted error by size, for measured and larger sizes.
    held_out: the error at the largest measured size predicted from the smaller
      sizes alone, a check of the fit; None for fewer than four sizes.
  """

  sizes: Sequence[float]
  exponent: Estimate
  predicted: Mapping[float, Estimate]
  held_out: Estimate | None


def fit(
  results: Sequence[Result],
  sizes: Mapping[str, float],
  metric: str,
  larger: Sequence[float],
) -> Trend | None:
  """Fits a power law to the results of every seed that has all sizes.

  A seed with a result of zero, whose logarithm is undefined, is left out.

  Least squares of the logarithms. The law has no floor, so its extrapolation is
  optimistic: some error is irreducible.

  Args:
    results: the results of all variants.
    sizes: sizes by the name of the variant, at least two.
    metric: the metric, above zero.
    larger: sizes at which to extrapolate.

  Returns:
    The fit; None if no seed has all sizes.
  """
  variants = sorted(sizes, key=sizes.__getitem__)
  measured = [sizes[variant] for variant in variants]
  curves = [
    statistics.by_seed(results, variant, metric) for variant in variants
  ]
  seeds = sorted(set.intersection(*map(_positive, curves)))
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


def _positive(curve: Mapping[int, float]) -> set[int]:
  return {seed for seed, value in curve.items() if value > 0}


def _power_law(
  sizes: Sequence[float], errors: Sequence[float]
) -> tuple[float, float]:
  """Returns the factor and the exponent."""
  slope, offset = np.polyfit(np.log(sizes), np.log(errors), 1)
  return math.exp(offset), -float(slope)


def _at(size: float, laws: Sequence[tuple[float, float]]) -> Estimate:
  return statistics.estimate([a * size**-exponent for a, exponent in laws])
