"""Means with intervals, paired differences, and the verdict on a claim."""

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
# How far an estimate may be from the paper's figure to agree in size: by this
# factor, unless the interval contains the figure anyway.
_FACTOR = 2.0


class Verdict(enum.StrEnum):
  """What the runs say about a claim."""

  SIZE = 'agrees in sign and size'
  SIGN = 'agrees in sign'
  OPEN = 'not resolved with these seeds'
  AGAINST = 'contradicts'
  NO_CLAIM = 'no claim to judge'


class Estimate(NamedTuple):
  """A mean with its interval at 95 %.

  Attributes:
    mean: of the values.
    low: NaN for a single value.
    high: NaN for a single value.
    count: of values.
  """

  mean: float
  low: float
  high: float
  count: int


class Answer(NamedTuple):
  """What a comparison came to.

  Attributes:
    comparison: the question.
    first: the variant that was compared, of a grid the best.
    second: the other one.
    estimate: of the differences or, if the comparison is of that kind, of the
      factors; paired by seed.
    verdict: on the claim.
  """

  comparison: Comparison
  first: str
  second: str
  estimate: Estimate
  verdict: Verdict


def estimate(values: Sequence[float]) -> Estimate:
  """Returns the mean and the interval by Student's t distribution."""
  count = len(values)
  mean = float(np.mean(values)) if count else math.nan
  if count < 2:
    return Estimate(mean, math.nan, math.nan, count)
  error = float(stats.sem(values))
  if not error:
    return Estimate(mean, mean, mean, count)
  low, high = stats.t.interval(_CONFIDENCE, count - 1, mean, error)
  return Estimate(mean, float(low), float(high), count)


def by_seed(
  results: Sequence[Result], variant: str, metric: str
) -> dict[int, float]:
  """Returns a variant's finite values, by seed."""
  return {
    each.seed: each.values[metric]
    for each in results
    if each.variant == variant
    and math.isfinite(each.values.get(metric, math.nan))
  }


def compare(
  results: Sequence[Result], comparison: Comparison, default_metric: str
) -> Answer | None:
  """Compares two variants by the pairs that have the same seed.

  Args:
    results: of all variants.
    comparison: which two.
    default_metric: where the comparison names none.

  Returns:
    The answer; None if there is no pair.
  """
  metric = comparison.metric or default_metric
  first, second = (
    best(results, name, metric)
    for name in (comparison.first, comparison.second)
  )
  ours, theirs = (by_seed(results, name, metric) for name in (first, second))
  seeds = sorted(ours.keys() & theirs.keys())
  if comparison.ratio:  # Nothing is a multiple of zero.
    seeds = [seed for seed in seeds if ours[seed] > 0 and theirs[seed] > 0]
  if not seeds:
    return None
  if comparison.ratio:
    # Of logarithms, since 2 and 1/2 are equally far from 1.
    logs = [math.log(ours[seed] / theirs[seed]) for seed in seeds]
    mean, low, high, count = estimate(logs)
    found = Estimate(math.exp(mean), math.exp(low), math.exp(high), count)
  else:
    found = estimate([ours[seed] - theirs[seed] for seed in seeds])
  return Answer(comparison, first, second, found, verdict(found, comparison))


def best(results: Sequence[Result], name: str, metric: str) -> str:
  """Returns the variant of a grid whose mean is lowest; `name` if it is none.

  A value of the grid counts only if it has come to a number with every seed
  that any of them has: of one that diverges, the survivors alone would be seen.
  """
  grid = [each for each in results if each.variant.split(GRID)[0] == name]
  seeds = {each.seed for each in grid}
  means: dict[str, float] = {}
  for variant in dict.fromkeys(each.variant for each in grid):
    values = by_seed(results, variant, metric)
    if values.keys() == seeds:
      means[variant] = float(np.mean(list(values.values())))
  return min(means, key=means.__getitem__, default=name)


def verdict(found: Estimate, comparison: Comparison) -> Verdict:
  """Judges a claim by rule.

  The sign is resolved if the interval excludes zero, or 1 for a ratio. It
  agrees in size, too, if the interval contains the paper's figure, or the mean
  is within a factor of two of it.
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
