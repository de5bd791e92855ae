"""Formats metrics, intervals and comparisons for display."""

import math

from alexnet_jax.studies.statistics import Answer
from alexnet_jax.studies.statistics import Estimate
from alexnet_jax.studies.statistics import Verdict
from alexnet_jax.studies.study import EPOCHS_TO
from alexnet_jax.studies.study import EPOCHS_TO_TEST
from alexnet_jax.studies.study import Comparison
from alexnet_jax.studies.study import error_of

# Display name, factor, decimals and unit of each metric.
_SHOWN = {
  'top1_error': ('test error', 100, 2, ' %'),
  'top5_error': ('top-5 error', 100, 2, ' %'),
  'train_error': ('training error', 100, 2, ' %'),
  'gap': ('test - training error', 100, 2, ' %'),
  'nll': ('loss', 1, 3, ''),
  'seconds': ('training, s', 1, 0, ''),
  'parameters': ('parameters', 1, 0, ''),
  'multiply_adds': ('multiply-adds', 1, 0, ''),
  'bytes': ('bytes', 1, 0, ''),
  'exchanged_bytes': ('bytes between towers', 1, 0, ''),
  'specialized': ('runs whose towers differ (p < 0.05)', 1, 0, ''),
  'lowest': ('lowest median color score of a tower', 1, 3, ''),
  'highest': ('highest median color score of a tower', 1, 3, ''),
  'difference': ("difference of the towers' median color scores", 1, 3, ''),
  'train_nll': ('training loss', 1, 3, ''),
  'memory': ('peak memory, MB', 1e-6, 0, ''),
  'test_milliseconds': ('ms per test image', 1, 3, ''),
}


def shown(metric: str) -> tuple[str, float, int, str]:
  """Returns the display name, factor, decimals and unit of a metric."""
  if metric.startswith(EPOCHS_TO):
    whose = 'test' if metric.startswith(EPOCHS_TO_TEST) else 'training'
    return f'epochs to {100 * error_of(metric):g} % {whose} error', 1, 2, ''
  if metric.startswith('gradient_'):
    layer = metric.removeprefix('gradient_')
    name = layer.removesuffix('_relative')
    of_weights = ' / that of its weights' if name != layer else ''
    return f'gradient norm of {name}{of_weights}', 1, 4, ''
  return _SHOWN.get(metric, (metric, 1, 4, ''))


def number(value: float, metric: str) -> str:
  """Returns '21.30 %'; '?' for NaN."""
  _, factor, decimals, unit = shown(metric)
  if math.isnan(value):
    return '?'
  return f'{factor * value:z,.{decimals}f}{unit}'


def interval(found: Estimate, metric: str) -> str:
  """Returns '21.30 +- 0.40 %', or the mean if there is no interval."""
  _, factor, decimals, unit = shown(metric)
  if math.isnan(found.low):
    return number(found.mean, metric)
  half = factor * (found.high - found.low) / 2
  return f'{factor * found.mean:z,.{decimals}f} +- {half:.{decimals}f}{unit}'


def in_words(answer: Answer, metric: str) -> str:
  """Returns a comparison such as 'none - across maps: 0.5 +- 0.2 points'."""
  comparison, found = answer.comparison, answer.estimate
  what = f'{answer.first} - {answer.second}'
  if comparison.ratio:
    what = f'{answer.first} / {answer.second}'
  if comparison.metric or comparison.ratio:
    what = f'{shown(comparison.metric or metric)[0]}, {what}'
  metric = comparison.metric or metric
  if comparison.ratio:
    value = f'{found.mean:.2f}'
    if not math.isnan(found.low):
      value += f' ({found.low:.2f} to {found.high:.2f})'
    return f'{what}: {value}'
  return f'{what}: {in_points(interval(found, metric))}'


def pairs(answer: Answer) -> str:
  """Returns the number of pairs of a comparison, such as '3' or '2 of 3'."""
  count = answer.estimate.count
  return (
    f'{count} of {count + answer.without}' if answer.without else str(count)
  )


def judged(answer: Answer) -> str:
  """Returns the verdict, or the resolved sign if there is no claim."""
  if answer.verdict != Verdict.NO_CLAIM:
    return answer.verdict
  neutral = 1.0 if answer.comparison.ratio else 0.0
  if not answer.without and answer.estimate.low > neutral:
    return 'no claim; resolved: the first is higher'
  if not answer.without and answer.estimate.high < neutral:
    return 'no claim; resolved: the first is lower'
  return 'no claim; not resolved'


def in_points(difference: str) -> str:
  """Returns a difference of percentages in percentage points."""
  return difference.replace(' %', ' points')


def claimed(comparison: Comparison, metric: str) -> str:
  """Returns the paper's figure for a comparison."""
  if comparison.claim is None:
    return {1: 'higher', -1: 'lower', 0: 'no figure'}[comparison.sign]
  if comparison.ratio:
    return f'{comparison.claim:g}'
  return in_points(number(comparison.claim, comparison.metric or metric))
