"""Section 6: the true class's probability as the image changes."""

from collections.abc import Callable
import dataclasses

from absl import logging
from matplotlib.axes import Axes
import numpy as np

from alexnet_jax.report import page
from alexnet_jax.report import plots
from alexnet_jax.report import samples
from alexnet_jax.report import warps
from alexnet_jax.report.subject import Subject

_IMAGES = 384


@dataclasses.dataclass(frozen=True)
class Response:
  """Probabilities of the true class under one kind of change.

  Attributes:
    name: of the change.
    unit: of its amounts.
    amounts: [A].
    probabilities: float32 [A, N], of N images.
    correct: bool [A, N], whether the true class is the likeliest.
  """

  name: str
  unit: str
  amounts: tuple[float, ...]
  probabilities: np.ndarray
  correct: np.ndarray


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  kinds = changes(subject)
  passes = sum(len(amounts) for _, _, amounts, _ in kinds)
  total = subject.eval_source.num_examples
  count = subject.affordable(min(total, _IMAGES), passes)
  examples = subject.read(
    subject.eval_source, samples.choose(total, count, seed=9)
  )
  logging.info('Changing %d images in %d ways', len(examples.labels), passes)
  responses = [
    _respond(subject, examples, name, unit, amounts, change)
    for name, unit, amounts, change in kinds
  ]
  blocks: list[page.Block] = [
    page.Finding(_sentence(responses)),
    _figure(responses),
    _table(responses),
  ]
  if subject.is_grey:
    blocks.append(
      page.Note('These images have no colour to lose, so that is not shown.')
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
    paper='Paper, Section 4.1: what data augmentation teaches',
    intro=(
      'How probable the true class stays as the image turns, moves, grows, is'
      ' mirrored and loses its colour. The network was shown small shifts,'
      ' mirror images and shifted colours in training if its config says so,'
      ' and has to have learned the rest from the data.'
    ),
    blocks=tuple(blocks),
  )


def changes(subject: Subject):
  """Returns (name, unit, amounts, change(images, amount) -> crops) a kind."""
  size, fill = subject.crop_size, subject.mean
  step = max(1, round(size / 28))
  shifts = tuple(float(i * step) for i in range(-10, 11))

  def warped(matrix: Callable[[float], np.ndarray]):
    return lambda images, amount: warps.warp(images, matrix(amount), fill, size)

  kinds = [
    ('Turned', 'degrees, counterclockwise', tuple(range(0, 361, 10)),
     warped(warps.rotation)),
    ('Shifted sideways', 'pixels to the right', shifts,
     warped(lambda amount: warps.shift(0, amount))),
    ('Shifted up or down', 'pixels down', shifts,
     warped(lambda amount: warps.shift(amount, 0))),
    ('Scaled', 'times as large', tuple(2 ** (i / 6) for i in range(-9, 10)),
     warped(warps.scale)),
    ('Mirrored', 'not, and left to right', (0.0, 1.0),
     lambda images, amount: subject.centre(
       images[:, :, ::-1] if amount else images)),
  ]  # fmt: skip
  if not subject.is_grey:
    kinds.append(
      ('Colour taken away', '% of its colour left', (100, 80, 60, 40, 20, 0),
       lambda images, amount: warps.fade(subject.centre(images), amount / 100))
    )  # fmt: skip
  return kinds


def _respond(subject, examples, name, unit, amounts, change) -> Response:
  labels = examples.labels
  own, right = [], []
  for amount in amounts:
    crops = np.asarray(change(examples.images, amount), np.float32)
    probabilities = subject.probabilities(crops)
    own.append(probabilities[np.arange(len(labels)), labels])
    right.append(probabilities.argmax(axis=1) == labels)
  return Response(name, unit, amounts, np.array(own), np.array(right))


def _sentence(responses: list[Response]) -> str:
  turned = responses[0]
  means = turned.probabilities.mean(axis=1)
  half = next(
    (
      amount
      for amount, mean in zip(turned.amounts, means, strict=True)
      if mean < means[0] / 2
    ),
    None,
  )
  lowest = int(means.argmin())
  text = f'Upright, the true class has a probability of {means[0]:.2f} on average'
  if half is None:
    return text + ', and at no angle less than half of that.'
  return text + (
    f'; turned by {half:.0f} degrees it has lost half of it, and it is lowest'
    f' at {turned.amounts[lowest]:.0f} degrees with {means[lowest]:.2f}.'
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
    x = response.amounts
    if len(x) == 2:
      places = np.arange(2)
      axes.bar(places, high - low, 0.5, low, color=blue, alpha=0.18)
      axes.plot(places, mean, 'o', color=blue, markersize=6)
      axes.plot(places, right, '_', color=muted, markersize=22)
      axes.set_xticks(places, ['as it is', 'mirrored'])
      axes.set_xlim(-0.6, 1.6)
    else:
      axes.fill_between(x, low, high, color=blue, alpha=0.18, linewidth=0)
      axes.plot(x, mean, color=blue)
      axes.plot(x, right, color=muted, linewidth=0.9)
      axes.set_xlabel(response.unit)
      axes.set_xlim(x[0], x[-1])
    if response.name == 'Turned':
      axes.set_xticks(range(0, 361, 90))
    if response.name == 'Scaled':
      axes.set_xscale('log', base=2)
      axes.set_xticks([0.5, 1, 2], ['½', '1', '2'])
    axes.set_ylim(0, 1.02)

  return plots.chart(
    'invariance-' + response.name.lower().replace(' ', '-'),
    draw,
    title=response.name,
    alt=f'Probability of the true class, image {response.name.lower()}',
    height=200,
  )


def _table(responses: list[Response]) -> page.Table:
  rows = []
  for response in responses:
    for amount, own, right in zip(
      response.amounts, response.probabilities, response.correct, strict=True
    ):
      low, high = np.quantile(own, (0.25, 0.75))
      rows.append((
        response.name, float(amount), float(own.mean()), float(low),
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
