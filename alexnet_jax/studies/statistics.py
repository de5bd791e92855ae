"""Confidence intervals, paired differences, and verdicts on claims."""

from collections.abc import Sequence
import enum
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from alexnet_jax.studies.results import Result
from alexnet_jax.studies.study import GRID
from alexnet_jax.studies.study import Comparison

_CONFIDENCE = 0.95
# An estimate agrees in size if it is within this factor of the paper's figure,
# or if its interval contains that figure.
_FACTOR = 2.0


class Verdict(enum.StrEnum):
  """The verdict on a claim."""

  SIZE = 'agrees in sign and size'
  SIGN = 'agrees in sign'
  OPEN = 'not resolved with these seeds'
  AGAINST = 'contradicts'
  NO_CLAIM = 'no claim to judge'


class Estimate(NamedTuple):
  """A mean with its 95 % confidence interval.

  Attributes:
    mean: the mean.
    low: lower end of the interval; NaN for a single value and for equal values,
      whose spread is unknown.
    high: upper end of the interval, likewise.
    count: the number of values.
  """

  mean: float
  low: float
  high: float
  count: int


class Answer(NamedTuple):
  """The outcome of a comparison.

  Attributes:
    comparison: the comparison.
    first: the first variant; the best value if it is a grid.
    second: the second variant, likewise.
    estimate: the difference or ratio, paired by seed.
    verdict: the verdict on the claim.
    without: the number of seeds with an infinite result of one of the two, or
      whose run diverged.
  """

  comparison: Comparison
  first: str
  second: str
  estimate: Estimate
  verdict: Verdict
  without: int = 0


def estimate(values: Sequence[float]) -> Estimate:
  """Returns the mean with a confidence interval by Student's t distribution."""
  count = len(values)
  mean = float(np.mean(values)) if count else math.nan
  # Equal values are those of a coarse metric, such as the error on few images.
  if len({round(value, 12) for value in values}) < 2:
    return Estimate(mean, math.nan, math.nan, count)
  error = float(stats.sem(values))
  low, high = stats.t.interval(_CONFIDENCE, count - 1, mean, error)
  return Estimate(mean, float(low), float(high), count)


def by_seed(
  results: Sequence[Result], variant: str, metric: str
) -> dict[int, float]:
  """Returns the finite values of a variant, by seed."""
  return {
    each.seed: each.values[metric]
    for each in results
    if each.variant == variant
    and math.isfinite(each.values.get(metric, math.nan))
  }


def compare(
  results: Sequence[Result], comparison: Comparison, default_metric: str
) -> Answer | None:
  """Compares two variants, paired by seed.

  Args:
    results: the results of all variants.
    comparison: the comparison.
    default_metric: the metric to use if the comparison names none, and by
      which the best value of a grid is chosen.

  Returns:
    The outcome; None if no seed has both results.
  """
  metric = comparison.metric or default_metric
  first, second = (
    best(results, name, default_metric)
    for name in (comparison.first, comparison.second)
  )
  ours, theirs = (by_seed(results, name, metric) for name in (first, second))
  seeds = sorted(ours.keys() & theirs.keys())
  if comparison.ratio:  # The logarithm of zero is undefined.
    seeds = [seed for seed in seeds if ours[seed] > 0 and theirs[seed] > 0]
  if not seeds:
    return None
  if comparison.ratio:
    # On a logarithmic scale, 2 and 1/2 are equally far from 1.
    logs = [math.log(ours[seed] / theirs[seed]) for seed in seeds]
    mean, low, high, count = estimate(logs)
    found = Estimate(math.exp(mean), math.exp(low), math.exp(high), count)
  else:
    found = estimate([ours[seed] - theirs[seed] for seed in seeds])
  measured = [
    {each.seed for each in results if each.variant == name}
    for name in (first, second)
  ]
  without = len(set.intersection(*measured)) - len(seeds)
  judged = verdict(found, comparison)
  if without and judged != Verdict.NO_CLAIM:
    judged = Verdict.OPEN  # The remaining seeds are not a fair sample.
  return Answer(comparison, first, second, found, judged, without)


def best(results: Sequence[Result], name: str, metric: str) -> str:
  """Returns the variant of a grid with the lowest mean; `name` if not a grid.

  Considers only values that have a finite result for every seed, so that a
  value that diverges with some seeds is not judged by the others.
  """
  grid = [each for each in results if each.variant.split(GRID)[0] == name]
  seeds = {each.seed for each in grid}
  means: dict[str, float] = {}
  for variant in dict.fromkeys(each.variant for each in grid):
    values = by_seed(results, variant, metric)
    if values.keys() == seeds:
      means[variant] = float(np.mean(list(values.values())))
  return min(means, key=means.__getitem__, default=name)


def is_edge(results: Sequence[Result], variant: str) -> bool:
  """Returns whether a variant is the first or the last value of a grid."""
  name, is_grid, _ = variant.partition(GRID)
  values = [
    each.variant for each in results if each.variant.startswith(name + GRID)
  ]
  return bool(is_grid) and variant in (values[0], values[-1])


def verdict(found: Estimate, comparison: Comparison) -> Verdict:
  """Returns the verdict on a claim.

  The sign is resolved if the interval excludes zero, or 1 for a ratio. The size
  agrees as well if the interval contains the paper's figure or the mean is
  within a factor of two of it.
  """
  ratio, claim = comparison.ratio, comparison.claim
  neutral = 1.0 if ratio else 0.0
  sign = comparison.sign if claim is None else math.copysign(1, claim - neutral)
  if not sign:
    return Verdict.NO_CLAIM
  if not (found.low > neutral or found.high < neutral):
    return Verdict.OPEN
  if math.copysign(1, found.mean - neutral) != sign:
    return Verdict.AGAINST
  if claim is None:
    return Verdict.SIGN
  size = found.mean / claim
  if ratio:
    size = math.log(found.mean) / math.log(claim)
  if found.low <= claim <= found.high or 1 / _FACTOR <= size <= _FACTOR:
    return Verdict.SIZE
  return Verdict.SIGN
