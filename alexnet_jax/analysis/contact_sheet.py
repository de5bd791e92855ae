"""Contact sheets: images with their likeliest classes, or their neighbors.

Both are halves of the paper's Figure 4. Everything is placed in inches from the
upper left corner, so that rows and columns line up whatever the texts.
"""

import bisect
from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import matplotlib
from matplotlib import figure
from matplotlib import font_manager
from matplotlib import patches
from matplotlib import textpath
import numpy as np

from alexnet_jax import names

INK, MUTED, ACCENT, PALE = '#1f2328', '#6b7280', '#2563a8', '#dbe6f2'
FIRST_BAR, TRACK = '#9dc0e6', '#f3f4f6'  # of the likeliest class; behind bars
# Names are data, and may hold any sign: '$' must not begin a formula.
STYLE = {
  'font.family': 'DejaVu Sans',
  'text.parse_math': False,
  'text.color': INK,
}
_DPI = 160
_MARGIN, _HEADER = 0.45, 0.85
# A cell of each sheet: image, space to the next cell, height of a line.
_CELL, _GAP, _LINE = 1.95, 0.35, 0.2
_SMALL_CELL, _SMALL_GAP = 1.3, 0.18
# Images of fewer pixels are shown pixel by pixel, not smoothed.
_SMOOTH_FROM = 100


class Guesses(NamedTuple):
  """An image and its likeliest classes.

  Attributes:
    square: uint8 [S, S, 3].
    caption: what the image is called.
    names: of the classes, the likeliest first.
    probabilities: of the same.
  """

  square: np.ndarray
  caption: str
  names: Sequence[str]
  probabilities: Sequence[float]


class Neighbors(NamedTuple):
  """A query and the images nearest to it.

  Attributes:
    square: uint8 [S, S, 3], the query.
    caption: what it is called.
    squares: uint8 [k, S, S, 3], the nearest first.
    names: of their classes.
    distances: to the query.
  """

  square: np.ndarray
  caption: str
  squares: np.ndarray
  names: Sequence[str]
  distances: Sequence[float]


class Sheet:
  """A figure of given size on which everything is placed in inches."""

  def __init__(self, width: float, height: float, title: str, subtitle: str):
    self._size = width, height
    self.figure = figure.Figure(figsize=self._size, dpi=_DPI, facecolor='white')
    room = width - 2 * _MARGIN
    self.text(_MARGIN, 0.5, title, room, size=12, weight='bold')
    self.text(_MARGIN, 0.74, subtitle, room, size=8, color=MUTED)

  def text(
    self, left: float, base: float, text: str, room: float = 0, **style: Any
  ) -> None:
    """Writes one line, cut to `room` inches where that is not 0."""
    width, height = self._size
    style = {'va': 'baseline', **style}
    text = names.drawable(text)
    if room:
      text = _fit(text, room, style['size'], style.get('weight', 'normal'))
    self.figure.text(left / width, 1 - base / height, text, **style)

  def box(
    self, left: float, top: float, width: float, height: float, color: str
  ) -> None:
    across, down = self._size
    corner = left / across, 1 - (top + height) / down
    self.figure.add_artist(
      patches.Rectangle(
        corner, width / across, height / down, color=color, lw=0
      )
    )

  def image(self, left: float, top: float, side: float, pixels: np.ndarray):
    across, down = self._size
    axes = self.figure.add_axes(
      (left / across, 1 - (top + side) / down, side / across, side / down)
    )
    smooth = len(pixels) >= _SMOOTH_FROM
    axes.imshow(pixels, interpolation='antialiased' if smooth else 'nearest')
    axes.set_axis_off()

  def save(self, path: pathlib.Path) -> None:
    save(self.figure, path)


def save(drawing: figure.Figure, path: pathlib.Path) -> None:
  """Writes a figure as PNG; the file is never seen half-written."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  drawing.savefig(temporary, format='png')
  temporary.replace(path)


def shorten(text: str, length: int) -> str:
  """Cuts a text that is too long; of a path the end is what tells most."""
  if len(text) <= length:
    return text
  if '/' in text:
    return '…' + text[-length + 1 :]
  return text[: length - 1] + '…'


def _fit(text: str, room: float, size: float, weight: str) -> str:
  """Returns as much of a text as is at most `room` inches wide."""
  font = font_manager.FontProperties(size=size, weight=weight)

  def fits(length: int) -> bool:
    width, _, _ = textpath.text_to_path.get_text_width_height_descent(
      shorten(text, length), font, ismath=False
    )
    # Drawn letters stand on whole dots, a little wider than these outlines.
    return width <= 72 * 0.97 * room

  # Lengths fall from left to right, so those that fit are a right part.
  lengths = range(len(text), 0, -1)
  first = bisect.bisect_left(lengths, True, key=fits)
  return shorten(text, lengths[first]) if first < len(lengths) else ''


def save_guesses(
  path: pathlib.Path, cells: Sequence[Guesses], title: str, subtitle: str
) -> None:
  """Writes a sheet of images, each above its likeliest classes as bars."""
  columns = min(len(cells), 4 if len(cells) <= 12 else 6)
  rows = -(-len(cells) // columns)
  lines = max(len(cell.names) for cell in cells)
  height = _CELL + 0.34 + lines * _LINE + 0.35
  # Wide enough for the title above a single image.
  width = max(columns * (_CELL + _GAP) - _GAP, 4.6)
  with matplotlib.rc_context(STYLE):
    sheet = Sheet(
      width + 2 * _MARGIN, _HEADER + 0.15 + rows * height, title, subtitle
    )
    for i, cell in enumerate(cells):
      row, column = divmod(i, columns)
      left = _MARGIN + column * (_CELL + _GAP)
      _draw_guesses(sheet, left, _HEADER + 0.15 + row * height, cell)
    sheet.save(path)


def _draw_guesses(sheet: Sheet, left: float, top: float, cell: Guesses):
  sheet.image(left, top, _CELL, cell.square)
  base = top + _CELL + 0.22
  sheet.text(left, base, cell.caption, _CELL, size=8, weight='bold')
  for i, (name, share) in enumerate(
    zip(cell.names, cell.probabilities, strict=True)
  ):
    first, height = base + 0.1 + i * _LINE, _LINE - 0.03
    sheet.box(left, first, _CELL, height, TRACK)
    color = FIRST_BAR if i == 0 else PALE
    sheet.box(left, first, _CELL * float(share), height, color)
    style = {'size': 7, 'weight': 'bold' if i == 0 else 'normal'}
    sheet.text(left + 0.05, first + 0.12, name, _CELL - 0.65, **style)
    sheet.text(
      left + _CELL - 0.05, first + 0.12, percent(share), ha='right', **style
    )


def percent(share: float) -> str:
  """Returns a probability as people read it: 93.1 %, < 0.1 %."""
  return f'{100 * share:.1f} %' if share >= 0.0005 else '< 0.1 %'


def distance(value: float) -> str:
  """Returns a distance with about four digits: 0.071, 1.812, 1235."""
  return f'{value:.3f}' if value < 1000 else f'{value:.4g}'


def save_neighbors(
  path: pathlib.Path, rows: Sequence[Neighbors], title: str, subtitle: str
) -> None:
  """Writes a sheet with a row for each query: itself, then its neighbors."""
  columns = 1 + max(len(row.squares) for row in rows)
  step = _SMALL_CELL + _SMALL_GAP
  width = max(columns * step + 0.3, 4.6)
  height = _SMALL_CELL + 0.62
  with matplotlib.rc_context(STYLE):
    sheet = Sheet(
      width + 2 * _MARGIN,
      _HEADER + 0.15 + len(rows) * height + 0.1,
      title,
      subtitle,
    )
    for i, row in enumerate(rows):
      _draw_neighbors(sheet, _HEADER + 0.15 + i * height, row)
    sheet.save(path)


def _draw_neighbors(sheet: Sheet, top: float, row: Neighbors) -> None:
  base = top + _SMALL_CELL + 0.17
  sheet.image(_MARGIN, top, _SMALL_CELL, row.square)
  style = {'size': 7.5, 'weight': 'bold'}
  sheet.text(_MARGIN, base, row.caption, _SMALL_CELL, **style)
  sheet.text(_MARGIN, base + 0.15, 'query', size=7, color=MUTED)
  for i, square in enumerate(row.squares):
    left = _MARGIN + 0.3 + (i + 1) * (_SMALL_CELL + _SMALL_GAP)
    sheet.image(left, top, _SMALL_CELL, square)
    sheet.text(left, base, row.names[i], _SMALL_CELL, size=7.5)
    words = f'distance {distance(row.distances[i])}'
    sheet.text(left, base + 0.15, words, size=7, color=MUTED)
