"""Section 6: the true class's probability as the image changes."""

import dataclasses

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import progress
from alexnet_jax.analysis.report import changes
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report.subject import Subject

_IMAGES = 384


@dataclasses.dataclass(frozen=True)
class Response:
  """What a change does to N images.

  Attributes:
    change: with A amounts.
    probabilities: float32 [A, N], of the true class.
    correct: bool [A, N], whether the true class is the likeliest.
  """

  change: changes.Change
  probabilities: np.ndarray
  correct: np.ndarray


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  kinds = changes.all_changes(subject)
  passes = sum(len(change.amounts) for change in kinds)
  total = subject.eval_source.num_examples
  count = subject.affordable(min(total, _IMAGES), passes)
  examples = subject.read(
    subject.eval_source, subject.choose_tests(count, seed=9)
  )
  told = progress.Progress('Changed images', count * passes)
  responses = [_respond(subject, examples, change, told) for change in kinds]
  blocks: list[page.Block] = [
    page.Finding(_sentence(responses)),
    _figure(responses),
    _table(responses),
  ]
  if subject.is_gray:
    blocks.append(
      page.Note('These images have no color to lose, so that is not shown.')
    )
  blocks.append(
    page.Note(
      f'{len(examples.labels):,} test images drawn at random. What a change'
      ' uncovers beyond the image shows the mean image.'
    )
  )
  return page.Section(
    key='invariance',
    title='Invariance',
    paper='Paper, Section 4.1 (data augmentation)',
    intro=(
      'How probable the true class stays as the image turns, moves, grows, is'
      ' mirrored and loses its color. The network was shown small shifts,'
      ' mirror images and shifted colors in training if its config says so,'
      ' and has to have learned the rest from the data.'
    ),
    blocks=tuple(blocks),
  )


def _respond(
  subject: Subject,
  examples: samples.Examples,
  change: changes.Change,
  told: progress.Progress,
) -> Response:
  labels = examples.labels
  own, right = [], []
  for amount in change.amounts:
    crops = np.asarray(change.apply(examples.images, amount), np.float32)
    probabilities = subject.probabilities(crops)
    told.add(len(labels))
    own.append(probabilities[np.arange(len(labels)), labels])
    right.append(probabilities.argmax(axis=1) == labels)
  return Response(change, np.array(own), np.array(right))


def _sentence(responses: list[Response]) -> str:
  turned = responses[0]
  means = turned.probabilities.mean(axis=1)
  half = next(
    (
      amount
      for amount, mean in zip(turned.change.amounts, means, strict=True)
      if mean < means[0] / 2
    ),
    None,
  )
  lowest = int(means.argmin())
  upright = f'Upright, the true class has a mean probability of {means[0]:.2f}'
  if half is None:
    return upright + ', and at no angle less than half of that.'
  return upright + (
    f'; turned by {half:.0f} degrees it has lost more than half of that, and'
    f' it is lowest at {turned.change.amounts[lowest]:.0f} degrees, with'
    f' {means[lowest]:.2f}.'
  )


def _figure(responses: list[Response]) -> page.Figure:
  return page.Figure(
    name='invariance',
    title='Probability of the true class',
    panels=tuple(_panel(response) for response in responses),
    caption=(
      'The line is the mean over the images, the band holds the middle half of'
      ' them; the thin line is the share of images that are classified right.'
    ),
  )


def _panel(response: Response) -> plots.Panel:
  def draw(axes: Axes) -> None:
    low, high = np.quantile(response.probabilities, (0.25, 0.75), axis=1)
    mean = response.probabilities.mean(axis=1)
    right = response.correct.mean(axis=1)
    blue, muted = plots.COLORS['blue'], plots.COLORS['muted']
    x = response.change.amounts
    if len(x) == 2:
      places = np.arange(2)
      axes.bar(places, high - low, 0.5, low, color=blue, alpha=0.18)
      axes.plot(places, mean, 'o', color=blue, markersize=6)
      axes.plot(places, right, '_', color=muted, markersize=22)
      axes.set_xticks(places, ['as it is', 'mirrored'])
      axes.set_xlim(-0.6, 1.6)
    else:
      margin = 0.03 * (x[-1] - x[0])
      axes.fill_between(x, low, high, color=blue, alpha=0.18, linewidth=0)
      axes.plot(x, mean, color=blue)
      axes.plot(x, right, color=muted, linewidth=0.9)
      axes.set_xlim(x[0] - margin, x[-1] + margin)
    axes.set_xlabel(response.change.unit)
    if response.change.name == 'Turned':
      axes.set_xticks(range(0, 361, 90))
    if response.change.name.startswith('Shifted'):
      axes.set_xticks([x[0], x[0] / 2, 0, x[-1] / 2, x[-1]])
      axes.xaxis.set_major_formatter(lambda x, _: f'{x:+.0f}' if x else '0')
    if response.change.name == 'Scaled':
      axes.set_xscale('log', base=2)
      axes.set_xticks([0.5, 1, 2], ['½', '1', '2'])
    axes.set_ylim(0, 1.02)

  return plots.chart(
    'invariance-' + response.change.name.lower().replace(' ', '-'),
    draw,
    title=response.change.name,
    alt=f'Probability of the true class, image {response.change.name.lower()}',
    height=200,
  )


def _table(responses: list[Response]) -> page.Table:
  rows = []
  for response in responses:
    for amount, own, right in zip(
      response.change.amounts,
      response.probabilities,
      response.correct,
      strict=True,
    ):
      low, high = np.quantile(own, (0.25, 0.75))
      rows.append((
        response.change.name, float(amount), float(own.mean()), float(low),
        float(high), float(right.mean()),
      ))  # fmt: skip
  return page.Table(
    name='invariance',
    title='All numbers',
    columns=(
      page.Column('change'),
      page.Column('amount', '{:.2f}'),
      page.Column('mean', '{:.3f}'),
      page.Column('lower quartile', '{:.3f}'),
      page.Column('upper quartile', '{:.3f}'),
      page.Column('right', '{:.1%}'),
    ),
    rows=tuple(rows),
    folded=True,
  )
