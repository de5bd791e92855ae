"""The plot of an ensemble's error against the number of its networks."""

from collections.abc import Sequence
import pathlib
from typing import Any

import matplotlib
from matplotlib import figure
from matplotlib import ticker

from alexnet_jax.analysis import contact_sheet

_PANELS = {'top1_error': 'Top-1 error', 'top5_error': 'Top-5 error'}


def save(
  path: pathlib.Path,
  subsets: Sequence[dict[str, Any]],
  sizes: Sequence[dict[str, Any]],
  subtitle: str,
) -> None:
  """Draws every subset as a dot, their mean as a line, its spread as a band.

  Args:
    path: of the PNG.
    subsets: from `subsets.measure`.
    sizes: from `subsets.summarize`.
    subtitle: a line under the title.
  """
  with matplotlib.rc_context(contact_sheet.STYLE):
    drawing = figure.Figure(figsize=(8.4, 4.3), dpi=160, facecolor='white')
    drawing.text(
      0.035, 0.92, 'Error of averaged networks', size=12, weight='bold'
    )
    drawing.text(0.035, 0.86, subtitle, size=8, color=contact_sheet.MUTED)
    grid = drawing.add_gridspec(
      1, 2, left=0.085, right=0.975, bottom=0.13, top=0.74, wspace=0.24
    )
    for column, (key, title) in enumerate(_PANELS.items()):
      axes = drawing.add_subplot(grid[0, column])
      _draw(axes, key, title, subsets, sizes)
      _style(axes, title, len(sizes))
    # One legend for both panels, beside the title.
    drawing.legend(
      *axes.get_legend_handles_labels(),
      loc='upper right',
      bbox_to_anchor=(0.975, 0.955),
      ncols=3,
      frameon=False,
      fontsize=8,
      labelcolor=contact_sheet.MUTED,
      borderaxespad=0,
    )
    contact_sheet.save(drawing, path)


def _draw(axes: Any, key: str, title: str, subsets: Any, sizes: Any) -> None:
  counts = [size['networks'] for size in sizes]
  means = [100 * size[key]['mean'] for size in sizes]
  spreads = [100 * size[key]['standard_deviation'] for size in sizes]
  axes.fill_between(
    counts,
    [m - s for m, s in zip(means, spreads, strict=True)],
    [m + s for m, s in zip(means, spreads, strict=True)],
    color=contact_sheet.PALE,
    lw=0,
    label='± one standard deviation',
  )
  axes.plot(
    [len(each['members']) for each in subsets],
    [100 * each[key] for each in subsets],
    'o',
    color=contact_sheet.MUTED,
    alpha=0.45,
    ms=3.5,
    mew=0,
    label='one subset',
  )
  axes.plot(
    counts, means, '-o', color=contact_sheet.ACCENT, lw=1.8, ms=5, label='mean'
  )


def _style(axes: Any, title: str, networks: int) -> None:
  axes.set_title(title, loc='left', size=9, weight='bold', pad=10)
  axes.set_xlabel('networks averaged', size=8, color=contact_sheet.MUTED)
  axes.set_xlim(0.7, networks + 0.3)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(symbol=' %'))
  axes.tick_params(labelsize=8, length=0, labelcolor=contact_sheet.MUTED)
  axes.grid(axis='y', color='#e5e7eb', lw=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.spines['bottom'].set_color('#c9ced6')
