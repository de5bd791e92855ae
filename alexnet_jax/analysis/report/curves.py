"""Learning curves from `metrics.jsonl`, whatever is left of it."""

import pathlib
from typing import Any

from matplotlib.axes import Axes

from alexnet_jax import reporting
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots

Line = dict[str, Any]
# A cut multiplies the learning rate by at most this.
_CUT = 0.5


def read(path: pathlib.Path) -> list[Line]:
  """Returns the lines that are whole; none if there is no such file.

  A number that was not finite is left out of its line.
  """
  lines = [
    {key: value for key, value in line.items() if value is not None}
    for line in reporting.read(path)
    if isinstance(line, dict)
  ]
  return [line for line in lines if {'step', 'kind', 'epoch'} <= line.keys()]


def of_kind(lines: list[Line], kind: str, *values: str) -> list[Line]:
  """Returns the lines of a kind that have these values."""
  return [
    line for line in lines if line['kind'] == kind and set(values) <= set(line)
  ]


def drops(lines: list[Line]) -> list[tuple[float, float]]:
  """Finds where the learning rate was cut.

  Args:
    lines: of `metrics.jsonl`.

  Returns:
    (epoch, new rate) of each training line whose rate is at most half of that
    of the line before. A rate that was falling already, as a cosine does, is
    not cut.
  """
  training = of_kind(lines, 'train', 'learning_rate')
  found = []
  for i in range(1, len(training)):
    before, after = training[i - 1], training[i]
    rate = after['learning_rate']
    earlier = training[max(0, i - 2)]
    steady = earlier['learning_rate'] == before['learning_rate']
    if steady and rate <= _CUT * before['learning_rate']:
      found.append((after['epoch'], rate))
  return found


def seconds(lines: list[Line], batch_size: int) -> tuple[float, float]:
  """Returns the seconds spent in updates and the images/s of them all.

  Each training line has the rate of the updates since the line before. Zeros
  if there are no training lines.
  """
  training = of_kind(lines, 'train', 'images_per_second')
  spent, images, last = 0.0, 0, 0
  for line in training:
    count = (line['step'] - last) * batch_size
    if line['images_per_second'] > 0 and count > 0:
      spent += count / line['images_per_second']
      images += count
    last = line['step']
  return spent, images / spent if spent else 0.0


def blocks(lines: list[Line]) -> list[page.Block]:
  """Returns the curves of loss, error and rate, or a note on what is missing.

  Args:
    lines: from `read`.
  """
  if not of_kind(lines, 'train', 'nll', 'top1_error'):
    return [
      page.Note(
        'The run has no readable metrics.jsonl with training lines: there are'
        ' no learning curves to draw.'
      )
    ]
  found: list[page.Block] = [
    page.Figure(
      name='learning_curves',
      title='Learning curves',
      panels=(
        _curve(lines, 'nll', 'Loss, nats', 1.0),
        _curve(lines, 'top1_error', 'Top-1 error, %', 100.0),
        _rate(lines),
      ),
      caption=_caption(lines),
    )
  ]
  if not of_kind(lines, 'validation', 'nll', 'top1_error'):
    found.append(
      page.Note('The run has not been validated yet: only training is drawn.')
    )
  return found


def _caption(lines: list[Line]) -> str:
  cuts = drops(lines)
  if not cuts:
    return 'The learning rate was never cut: it followed a smooth schedule.'
  places = ', '.join(f'epoch {epoch:.1f} ({rate:.1g})' for epoch, rate in cuts)
  return f'Dashed lines mark where the learning rate was cut: {places}.'


def _curve(lines: list[Line], key: str, title: str, unit: float) -> plots.Panel:
  training = of_kind(lines, 'train', key)
  validation = of_kind(lines, 'validation', key)

  def draw(axes: Axes) -> None:
    x = [line['epoch'] for line in training]
    y = [unit * line[key] for line in training]
    axes.plot(x, y, color=plots.COLORS['gray'], label='training')
    x = [line['epoch'] for line in validation]
    y = [unit * line[key] for line in validation]
    marker = 'o' if len(validation) < 25 else ''
    axes.plot(
      x, y, color=plots.COLORS['blue'], marker=marker, markersize=4,
      label='validation',
    )  # fmt: skip
    _mark(axes, lines)
    axes.set_xlabel('epoch')
    axes.set_ylim(bottom=0)
    axes.legend(loc='upper right')

  return plots.chart(f'curve-{key}', draw, title=title, alt=f'{title} by epoch')


def _rate(lines: list[Line]) -> plots.Panel:
  training = of_kind(lines, 'train', 'learning_rate')

  def draw(axes: Axes) -> None:
    x = [line['epoch'] for line in training]
    y = [line['learning_rate'] for line in training]
    axes.plot(x, y, color=plots.COLORS['violet'])
    _mark(axes, lines)
    if drops(lines) and min(y) > 0:
      axes.set_yscale('log')
    else:
      axes.set_ylim(bottom=0)
    axes.set_xlabel('epoch')

  return plots.chart(
    'curve-rate', draw, title='Learning rate', alt='Learning rate by epoch'
  )


def _mark(axes: Axes, lines: list[Line]) -> None:
  for epoch, _ in drops(lines):
    axes.axvline(
      epoch, color=plots.COLORS['muted'], linewidth=1, linestyle=(0, (3, 3))
    )
