"""Section 6: the true class's probability as the image changes."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.axes import Axes
import numpy as np
import numpy.typing as npt

from alexnet_jax import progress
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report.subject import Examples
from alexnet_jax.analysis.report.subject import Subject

_IMAGES = 384


class Change(NamedTuple):
  """One way to change images, by A amounts."""

  name: str
  unit: str  # of the amounts
  amounts: tuple[float, ...]
  # From prepared images, uint8 [N, S, S, 3], and an amount to crops, 0..255
  # [N, crop, crop, 3].
  apply: Callable[[np.ndarray, float], npt.ArrayLike]


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  changes = all_changes(subject)
  passes = sum(len(change.amounts) for change in changes)
  chosen = subject.choose_tests(_IMAGES, seed=9, passes=passes)
  examples = subject.read(subject.eval_source, chosen)
  shown = progress.Progress('Changed images', len(examples.labels) * passes)
  measured = [
    (change, _measure(subject, examples, change, shown)) for change in changes
  ]
  note = (
    f'{len(examples.labels):,} test images drawn at random. Beyond the edge of'
    ' an image the mean image is shown.'
  )
  if subject.is_gray:
    note += ' Loss of color is not measured: these images have no color.'
  return page.Section(
    key='invariance',
    title='Invariance',
    paper='Paper, Section 4.1 (data augmentation)',
    intro=(
      'The probability of the true class as the image is rotated, shifted,'
      ' scaled, mirrored and desaturated. Random crops, mirror images and'
      ' shifted colors were part of training if the config enables them; any'
      ' other invariance was learned from the data.'
    ),
    blocks=(
      page.Finding(_finding(measured[0][1])),
      page.Figure(
        'invariance',
        'Probability of the true class',
        tuple(_panel(*each) for each in measured),
        'The line is the mean over the images, the band spans their middle'
        ' half; the thin line is the share of images that are classified'
        ' correctly.',
      ),
      _table(measured),
      page.Note(note),
    ),
  )


def all_changes(subject: Subject) -> list[Change]:
  """Returns the ways in which images are changed."""
  size, fill = subject.crop_size, subject.mean
  step = max(1, round(size / 28))
  shifts = tuple(float(i * step) for i in range(-10, 11))
  angles = tuple(float(angle) for angle in range(0, 361, 10))
  factors = tuple(2 ** (i / 6) for i in range(-9, 10))

  def warped(matrix: Callable[[float], np.ndarray]):
    return lambda images, amount: warp(images, matrix(amount), fill, size)

  def mirrored(images, amount):
    return subject.center(images[:, :, ::-1] if amount else images)

  def faded(images, amount):
    return desaturate(subject.center(images), amount / 100)

  right, down = (lambda x: shift(0, x)), (lambda x: shift(x, 0))
  changes = [
    Change('Rotated', 'degrees, counterclockwise', angles, warped(rotation)),
    Change('Shifted sideways', 'pixels to the right', shifts, warped(right)),
    Change('Shifted up or down', 'pixels down', shifts, warped(down)),
    Change('Scaled', 'times as large', factors, warped(scale)),
    Change('Mirrored', 'left to right', (0.0, 1.0), mirrored),
  ]
  if not subject.is_gray:
    left = (100.0, 80.0, 60.0, 40.0, 20.0, 0.0)
    changes.append(Change('Desaturated', '% of color left', left, faded))
  return changes


def rotation(degrees: float) -> np.ndarray:
  """Returns the map [2, 3] that rotates the image counterclockwise."""
  angle = np.deg2rad(degrees)
  cosine, sine = np.cos(angle), np.sin(angle)
  return np.array([[cosine, sine, 0], [-sine, cosine, 0]], np.float32)


def shift(down: float, right: float) -> np.ndarray:
  """Returns the map [2, 3] that moves the image by so many pixels."""
  return np.array([[1, 0, -down], [0, 1, -right]], np.float32)


def scale(factor: float) -> np.ndarray:
  """Returns the map [2, 3] that shows everything `factor` times as large."""
  return np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]], np.float32)


@functools.partial(jax.jit, static_argnums=(3,))
def warp(
  images: jax.Array, matrix: jax.Array, fill: jax.Array, crop_size: int
) -> jax.Array:
  """Cuts the center view out of images under a map of the plane.

  The pixel of the crop at (y, x) from its center shows the image at
  matrix @ (y, x, 1) from the image's, interpolated linearly.

  Args:
    images: [N, S, S, 3], 0..255.
    matrix: float32 [2, 3], rows for (y, x).
    fill: float32 [crop_size, crop_size, 3] or [3], shown beyond the image.
    crop_size: side of the result, pixels.

  Returns:
    float32 [N, crop_size, crop_size, 3].
  """
  size = images.shape[1]
  # As `views.center_view` cuts: an odd margin is larger below and right.
  start = (size - crop_size) // 2
  middle = start + (crop_size - 1) / 2
  offsets = jnp.arange(crop_size) - (crop_size - 1) / 2
  y, x = jnp.meshgrid(offsets, offsets, indexing='ij')
  places = jnp.stack([y, x, jnp.ones_like(y)])
  places = jnp.tensordot(matrix, places, axes=1) + middle  # [2, crop, crop]
  # Rounding must not push the border's own pixels outside.
  inside = jnp.all((places > -0.01) & (places < size - 0.99), axis=0)
  flat = jnp.moveaxis(images.astype(jnp.float32), 0, -1)
  flat = flat.reshape(size, size, -1)  # every image's channels at one place
  seen = jax.vmap(
    lambda plane: jax.scipy.ndimage.map_coordinates(
      plane, list(places), order=1, mode='nearest'
    ),
    in_axes=-1,
    out_axes=-1,
  )(flat)
  seen = seen.reshape(crop_size, crop_size, 3, len(images))
  return jnp.where(inside[..., None], jnp.moveaxis(seen, -1, 0), fill)


def desaturate(images: np.ndarray, saturation: float) -> np.ndarray:
  """Returns uint8 [..., 3] as float32: unchanged for 1, luminance for 0."""
  gray = figures.to_gray(images)[..., None]
  return gray + saturation * (images.astype(np.float32) - gray)


def _measure(
  subject: Subject,
  examples: Examples,
  change: Change,
  shown: progress.Progress,
) -> np.ndarray:
  """Returns, per amount, what the table has: float64 [A, 5]."""
  labels = examples.labels
  rows = []
  for amount in change.amounts:
    crops = np.asarray(change.apply(examples.images, amount), np.float32)
    probabilities = subject.probabilities(crops)
    shown.add(len(labels))
    own = probabilities[np.arange(len(labels)), labels]
    correct = probabilities.argmax(axis=1) == labels
    quartiles = np.quantile(own, (0.25, 0.75))
    rows.append((amount, own.mean(), *quartiles, correct.mean()))
  return np.array(rows, np.float64)


def _finding(rotated: np.ndarray) -> str:
  angles, means = rotated[:, 0], rotated[:, 1]
  lowest, below = means.argmin(), np.flatnonzero(means < means[0] / 2)
  upright = f'The mean probability of the true class is {means[0]:.2f} upright'
  if not len(below):
    return f'{upright} and never less than half of that at any rotation.'
  return (
    f'{upright}. At a rotation by {angles[below[0]]:.0f} degrees it is less'
    f' than half of that, and it is lowest at {angles[lowest]:.0f} degrees, at'
    f' {means[lowest]:.2f}.'
  )


def _panel(change: Change, measured: np.ndarray) -> figures.Panel:
  name = change.name
  x, mean, low, high, correct = measured.T

  def draw(axes: Axes) -> None:
    blue, muted = figures.COLORS['blue'], figures.COLORS['muted']
    if len(x) == 2:
      axes.bar((0, 1), high - low, 0.5, low, color=blue, alpha=0.18)
      axes.plot((0, 1), mean, 'o', color=blue, markersize=6)
      axes.plot((0, 1), correct, '_', color=muted, markersize=22)
      axes.set_xticks((0, 1), ['unchanged', 'mirrored'])
      axes.set_xlim(-0.6, 1.6)
    else:
      margin = 0.03 * (x[-1] - x[0])
      axes.fill_between(x, low, high, color=blue, alpha=0.18, linewidth=0)
      axes.plot(x, mean, color=blue)
      axes.plot(x, correct, color=muted, linewidth=0.9)
      axes.set_xlim(x[0] - margin, x[-1] + margin)
    axes.set_xlabel(change.unit)
    if name == 'Rotated':
      axes.set_xticks(range(0, 361, 90))
    if name.startswith('Shifted'):
      axes.set_xticks([x[0], x[0] / 2, 0, x[-1] / 2, x[-1]])
      axes.xaxis.set_major_formatter(lambda x, _: f'{x:+.0f}' if x else '0')
    if name == 'Scaled':
      axes.set_xscale('log', base=2)
      axes.set_xticks([0.5, 1, 2], ['½', '1', '2'])
    axes.set_ylim(0, 1.02)

  key = 'invariance-' + name.lower().replace(' ', '-')
  alt = f'Probability of the true class, image {name.lower()}'
  return figures.chart(key, draw, title=name, alt=alt, height=200)


def _table(measured: list[tuple[Change, np.ndarray]]) -> page.Table:
  rows = tuple(
    (change.name, *row) for change, each in measured for row in each.tolist()
  )
  header = (
    'change | amount:.2f | mean:.3f | lower quartile:.3f | upper quartile:.3f'
    ' | correct:.1%'
  )
  return page.Table('invariance', 'All numbers', header, rows, folded=True)
