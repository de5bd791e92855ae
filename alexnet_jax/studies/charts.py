"""Plots the results of a study."""

from collections.abc import Sequence
import math

from matplotlib.axes import Axes

from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.studies import formatting
from alexnet_jax.studies import statistics
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.study import Study
from alexnet_jax.studies.trend import Trend

_WIDTH, _HEIGHT, _ROW_HEIGHT, _MARGIN = 640, 300, 26, 60  # pixels


def draw(
  study: Study, results: Sequence[Result], law: Trend | None
) -> figures.Panel:
  """Plots the study's metric against size, another metric, or by variant."""
  if law:
    return _trend(study, results, law)
  if study.against:
    return _along(study, results)
  return _variants(study, results)


def _axis(metric: str) -> str:
  """Returns the label of an axis, such as 'test error, %'."""
  name, _, _, unit = formatting.shown(metric)
  return f'{name},{unit}' if unit else name


def _label(results: Sequence[Result], variant: str, metric: str) -> str:
  """Returns a variant's name, with the number of results that are infinite."""
  values = [
    each.values.get(metric, math.nan)
    for each in results
    if each.variant == variant
  ]
  label, never = names.drawable(variant), sum(map(math.isinf, values))
  return f'{label} (never in {never} of {len(values)})' if never else label


def _variants(study: Study, results: Sequence[Result]) -> figures.Panel:
  """Plots the mean, interval and individual runs of every variant."""
  _, factor, _, _ = formatting.shown(study.metric)
  variants = list(dict.fromkeys(each.variant for each in results))

  def draw(axes: Axes) -> None:
    axes.grid(axis='x')
    axes.grid(visible=False, axis='y')
    for place, variant in enumerate(variants):
      by_seed = statistics.by_seed(results, variant, study.metric)
      found = statistics.estimate(list(by_seed.values()))
      dots = [factor * value for value in by_seed.values()]
      axes.plot(
        dots, [place] * len(dots), 'o', color=figures.COLORS['gray'], ms=4
      )
      axes.plot(
        [factor * found.low, factor * found.high], [place] * 2,
        color=figures.COLORS['blue'],
      )  # fmt: skip
      axes.plot(factor * found.mean, place, 'o', color=figures.COLORS['blue'])
    labels = [_label(results, variant, study.metric) for variant in variants]
    axes.set_yticks(range(len(variants)), labels)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel(_axis(study.metric))

  return figures.chart(
    study.name,
    draw,
    title=study.question,
    width=_WIDTH,
    height=_MARGIN + _ROW_HEIGHT * len(variants),
  )


def _trend(
  study: Study, results: Sequence[Result], law: Trend
) -> figures.Panel:
  """Plots the runs by size, the fitted power law and its predictions."""
  _, factor, _, _ = formatting.shown(study.metric)

  def draw(axes: Axes) -> None:
    for variant, size in study.sizes.items():
      values = statistics.by_seed(results, variant, study.metric).values()
      dots = [factor * value for value in values]
      axes.plot([size] * len(dots), dots, 'o', color=figures.COLORS['gray'])
    means = [factor * found.mean for found in law.predicted.values()]
    axes.plot(list(law.predicted), means, color=figures.COLORS['blue'])
    axes.plot(
      study.larger, means[len(law.sizes) :], 'o', mfc=figures.COLORS['paper'],
      color=figures.COLORS['blue'],
    )  # fmt: skip
    axes.set_xscale('log')
    axes.set_ylim(bottom=0)
    axes.set_xlabel(
      'size relative to the base, logarithmic; open circles are predictions'
    )
    axes.set_ylabel(_axis(study.metric))

  return figures.chart(
    study.name, draw, title=study.question, width=_WIDTH, height=_HEIGHT
  )


def _along(study: Study, results: Sequence[Result]) -> figures.Panel:
  """Plots runs and means against `study.against`.

  A variant that lacks that metric is drawn as a horizontal line.
  """
  _, factor, _, _ = formatting.shown(study.metric)
  _, scale, _, _ = formatting.shown(study.against)
  costs = {
    variant: statistics.estimate(
      list(statistics.by_seed(results, variant, study.against).values())
    ).mean
    for variant in dict.fromkeys(each.variant for each in results)
  }

  ordered = sorted(
    costs, key=lambda name: (math.isnan(costs[name]), costs[name])
  )

  def draw(axes: Axes) -> None:
    for number, variant in enumerate(ordered):
      by_seed = statistics.by_seed(results, variant, study.metric)
      dots = [factor * value for value in by_seed.values()]
      mean, label = statistics.estimate(dots).mean, names.drawable(variant)
      if math.isnan(costs[variant]):
        axes.axhline(mean, color=figures.COLORS['gray'], linestyle='--')
        axes.annotate(label, (0, mean), xycoords=('axes fraction', 'data'))
        continue
      cost = scale * costs[variant]
      axes.plot([cost] * len(dots), dots, 'o', color=figures.COLORS['gray'])
      found = statistics.estimate(dots)
      axes.plot(
        [cost] * 2, [found.low, found.high], color=figures.COLORS['blue']
      )
      axes.plot(cost, mean, 'o', color=figures.COLORS['blue'])
      # Alternates above and below, so that neighboring labels do not overlap.
      axes.annotate(
        label, (cost, mean), xytext=(5, -11 if number % 2 else 4),
        textcoords='offset points', size='small',
      )  # fmt: skip
    axes.set_xscale('log')
    axes.set_xlabel(f'{_axis(study.against)}, logarithmic')
    axes.set_ylabel(_axis(study.metric))

  return figures.chart(
    study.name, draw, title=study.question, width=_WIDTH, height=_HEIGHT
  )
