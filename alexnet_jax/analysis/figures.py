"""Charts, pictures and contact sheets in one style.

matplotlib draws a chart once. The report's page gets it as SVG in the page's
own colors and font, so that it follows the light or dark theme; PNG files get
it in the light theme.
"""

from collections.abc import Callable, Sequence
import functools
import io
import pathlib
import re
import textwrap
from typing import Any, NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from alexnet_jax import files
from alexnet_jax import names

# The page's colors in the light theme; page.css has those of both themes.
COLORS = {
  'ink': '#1c2230',
  'muted': '#667085',
  'line': '#dfe3ea',
  'paper': '#ffffff',
  'blue': '#2b6cd4',
  'orange': '#d2691f',
  'green': '#1f9068',
  'violet': '#8257cc',
  'red': '#c93540',
  'gray': '#b4bcc8',
}
TOWERS = tuple(COLORS[name] for name in ('blue', 'orange', 'green', 'violet'))
# Style of a reference line.
DASHED: dict[str, Any] = {
  'color': COLORS['muted'],
  'linewidth': 1,
  'linestyle': (0, (3, 3)),
}
GAP = 24  # pixels between panels
CARD = 168  # pixels: the width of a prediction card
_BAR = 22  # pixels: the height of a card's bar
_TILE = 112  # pixels: the side of an image in a row of neighbors
_SCALE = 2  # dots per pixel in PNG files
_FONT_SIZE = 11  # pixels
_FONT = 'DejaVu Sans'  # matplotlib brings it
_LEAST = 480  # pixels: room for the heading of a sheet with a single panel

_STYLE = {
  'svg.fonttype': 'none',  # text stays text
  'font.size': _FONT_SIZE,
  'font.family': 'sans-serif',
  'text.color': COLORS['ink'],
  'axes.labelcolor': COLORS['muted'],
  'axes.edgecolor': COLORS['line'],
  'axes.facecolor': 'none',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.spines.left': False,
  'axes.grid': True,
  'axes.grid.axis': 'y',
  'axes.axisbelow': True,
  'figure.facecolor': 'none',
  'grid.color': COLORS['line'],
  'legend.frameon': False,
  'legend.handlelength': 1.2,
  'lines.linewidth': 1.8,
  'xtick.color': COLORS['muted'],
  'xtick.major.pad': 5,
  'ytick.color': COLORS['muted'],
  'ytick.major.pad': 6,
  **{f'{x}tick.{kind}.size': 0 for x in 'xy' for kind in ('major', 'minor')},
}


class Panel(NamedTuple):
  """One chart or picture."""

  png: bytes
  svg: str = ''  # what the page shows instead; empty for a picture
  title: str = ''  # above it
  note: str = ''  # beneath it
  alt: str = ''  # what it shows, for screen readers
  smooth: bool = False  # whether a picture may be interpolated when enlarged


def chart(
  name: str,
  draw: Callable[[Axes], None],
  *,
  title: str,
  note: str = '',
  alt: str = '',
  width: int = 340,
  height: int = 220,
) -> Panel:
  """Draws a chart.

  Args:
    name: unique among the charts of a page.
    draw: draws on the axes that it is given, with colors of `COLORS`.
    title: above the chart.
    note: beneath it.
    alt: for screen readers; the title where it is empty.
    width: in pixels of the page.
    height: in pixels of the page.
  """

  def draw_axes(figure: Figure) -> None:
    draw(figure.subplots())

  panel = _drawing(name, draw_axes, width, height)
  return panel._replace(title=title, note=note, alt=alt or title)


def _drawing(
  name: str, draw: Callable[[Figure], None], width: int, height: int
) -> Panel:
  # One unit of the drawing, a point, is one pixel of the page.
  with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):
    figure = Figure(figsize=(width / 72, height / 72), layout='constrained')
    draw(figure)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format='svg', metadata={'Date': None})
    figure.savefig(png, dpi=72 * _SCALE, facecolor=COLORS['paper'])
  return Panel(png.getvalue(), _for_page(svg.getvalue(), name))


def _for_page(svg: str, name: str) -> str:
  """Gives matplotlib's SVG the page's colors and font, and unique ids."""
  svg = svg[svg.index('<svg') :]
  # A style element would apply to the whole page.
  svg = re.sub(r'<(metadata|style).*?</\1>', '', svg, flags=re.DOTALL)
  # The page sets the size; viewBox keeps the proportions.
  for side in ('width', 'height'):
    svg = re.sub(f'(<svg[^>]*?) {side}="[^"]*"', r'\1', svg, count=1)

  def change(tag: re.Match[str]) -> str:
    text = tag[0]
    for color, value in COLORS.items():
      text = text.replace(value, f'var(--{color})')
    text = re.sub(r'font: ([^;\"]*)', _size_and_weight, text)
    text = re.sub(r'font-family: [^;\"]*;? ?', '', text)
    # Ids are unique within one drawing only.
    return re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{name}-', text)

  # Between tags is what a reader sees, such as a class called '#1c2230'.
  return re.sub(r'<[^>]*>', change, svg)


def _size_and_weight(match: re.Match[str]) -> str:
  size = re.search(r'[\d.]+px', match[1])
  weight = re.search(r'\b[1-9]00\b|bold', match[1])
  kept = [f'font-size: {size[0]}'] if size else []
  return '; '.join(kept + ([f'font-weight: {weight[0]}'] if weight else []))


def picture(
  pixels: np.ndarray, *, title: str, note: str = '', smooth: bool = False
) -> Panel:
  """Returns uint8 [H, W, 3] or, with transparency, [H, W, 4] as a panel."""
  png = _png(Image.fromarray(pixels))
  return Panel(png, title=title, note=note, alt=title, smooth=smooth)


def _png(image: Image.Image) -> bytes:
  file = io.BytesIO()
  image.save(file, 'png')
  return file.getvalue()


def prediction_card(
  name: str,
  image: np.ndarray,
  classes: np.ndarray,
  probabilities: np.ndarray,
  class_names: Sequence[str],
  *,
  truth: int | None = None,
  title: str,
) -> Panel:
  """Draws an image above its likeliest classes (paper, Figure 4, left).

  Args:
    name: unique among the charts of a page.
    image: uint8 [S, S, 3].
    classes: int [K], the likeliest first.
    probabilities: float [K], of these classes.
    class_names: of all classes, by label.
    truth: the true class, whose bar is green; None where it is not known, then
      the bar of the likeliest class is blue.
    title: above the image.
  """
  height = CARD + 8 + _BAR * len(classes)

  def draw(figure: Figure) -> None:
    figure.set_layout_engine('none')
    share = CARD / height
    photo = figure.add_axes((0, 1 - share, 1, share))
    photo.imshow(resize(image, _SCALE * CARD), interpolation='none')
    photo.axis('off')
    bars = figure.add_axes((0, 0, 1, _BAR * len(classes) / height))
    for i, label in enumerate(classes):
      color = 'green' if label == truth else 'gray'
      if truth is None and i == 0:
        color = 'blue'
      length = max(probabilities[i], 0.012)
      bars.barh(i, length, 0.82, color=COLORS[color], alpha=0.5)
      class_name = fit(class_names[label], CARD - 56)
      bars.text(0.03, i, names.drawable(class_name), va='center')
      percent = f'{probabilities[i]:.1%}'
      bars.text(0.985, i, percent, va='center', ha='right')
    bars.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5))
    bars.axis('off')

  panel = _drawing(name, draw, CARD, height)
  alt = f'{title}, classified as {class_names[classes[0]]}'
  return panel._replace(title=names.shorten(title, 20), alt=alt)


def neighbor_row(
  query: np.ndarray,
  neighbors: np.ndarray,
  *,
  hits: np.ndarray | None = None,
  title: str,
  note: str = '',
  notes: Sequence[str] = (),
) -> Panel:
  """Draws an image and, to its right, its neighbors (paper, Figure 4, right).

  Args:
    query: uint8 [S, S, 3].
    neighbors: uint8 [k, S, S, 3], the nearest first.
    hits: bool [k], which neighbors get a green frame instead of a red one; None
      for no frames.
    title: above the row.
    note: beneath it.
    notes: beneath each neighbor, a line break where they hold one; empty for
      none.
  """
  scale = _SCALE if notes else 1  # Text is drawn in dots, not in pixels.
  side, gap = _TILE * scale, 6 * scale
  first, *tiles = (
    Image.fromarray(resize(image, side)) for image in (query, *neighbors)
  )
  step, corner = first.width + gap, first.width - 1
  for i, hit in enumerate([] if hits is None else hits):
    ImageDraw.Draw(tiles[i]).rectangle(
      (0, 0, corner, corner),
      outline=COLORS['green' if hit else 'red'],
      width=4 * scale,
    )
  if notes:
    tiles = [_labeled(*each) for each in zip(tiles, notes, strict=True)]
  height = max(image.height for image in (first, *tiles))
  # The query is three gaps farther from its neighbors than these are apart.
  row = _canvas((1 + len(tiles)) * step + 2 * gap, height)
  row.paste(first, (0, 0))
  for i, image in enumerate(tiles, 1):
    row.paste(image, (i * step + 3 * gap, 0))
  alt = f'{title} and its {len(tiles)} nearest neighbors'
  return Panel(_png(row), '', title, note, alt, smooth=True)


def save_sheet(
  path: pathlib.Path,
  panels: Sequence[Panel],
  *,
  title: str,
  subtitle: str = '',
  columns: int,
) -> None:
  """Writes panels as one PNG file; see `sheet`."""
  png = sheet(panels, title=title, subtitle=subtitle, columns=columns)
  with files.replacing(path) as file:
    file.write(png)


def sheet(
  panels: Sequence[Panel],
  *,
  title: str,
  subtitle: str = '',
  columns: int,
  width: int = 0,
) -> bytes:
  """Returns panels in rows under a heading, as one PNG on white.

  Args:
    panels: at least one.
    title: of the sheet.
    subtitle: a line beneath it.
    columns: panels in a row, at most.
    width: of every panel, in pixels of the page; 0 for that of the widest.
  """
  columns = min(columns, len(panels))
  images = [Image.open(io.BytesIO(panel.png)) for panel in panels]
  cell = width * _SCALE or max(image.width for image in images)
  cells = [
    _labeled(_scaled(image, panel, cell), panel.note, panel.title)
    for image, panel in zip(images, panels, strict=True)
  ]
  gap, line = GAP * _SCALE, _line_height()
  top = 2 * gap + line * (3 if subtitle else 2)
  rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
  heights = [max(image.height for image in row) for row in rows]
  across = max(columns * (cell + gap) + gap, _LEAST * _SCALE)
  down = top + sum(heights) + gap * len(rows)
  canvas = Image.new('RGB', (across, down), COLORS['paper'])
  _write(canvas, gap, gap, title, 'ink', 1.4)
  _write(canvas, gap, gap + 3 * line // 2, subtitle, 'muted')
  for row, height in zip(rows, heights, strict=True):
    for column, image in enumerate(row):
      canvas.paste(image, (gap + column * (cell + gap), top), image)
    top += height + gap
  return _png(canvas)


def _scaled(image: Image.Image, panel: Panel, width: int) -> Image.Image:
  height = round(image.height * width / image.width)
  kind = Image.Resampling.LANCZOS
  if not panel.svg and not panel.smooth and image.width < width:
    kind = Image.Resampling.NEAREST
  return image.convert('RGBA').resize((width, height), kind)


def _labeled(image: Image.Image, note: str, title: str = '') -> Image.Image:
  """Returns an image with its title above it and its note beneath, RGBA."""
  line = _line_height()
  above = line if title else 0
  notes = [
    wrapped
    for one in note.split('\n')
    for wrapped in _wrapped(names.with_glyphs(one, [_FONT]), image.width)
  ]
  cell = _canvas(image.width, above + image.height + line * len(notes))
  _write(cell, 0, 0, title, 'ink')
  cell.paste(image, (0, above))
  for i, text in enumerate(notes):
    top = above + image.height + i * line + line // 6
    _write(cell, 0, top, text, 'muted')
  return cell


def _wrapped(text: str, width: int) -> list[str]:
  """Breaks a text into lines of about so many dots."""
  per_letter = max(_typeface().getlength(text) / max(1, len(text)), 1)
  return textwrap.wrap(text, max(1, int(width / per_letter)))


def _canvas(width: int, height: int) -> Image.Image:
  return Image.new('RGBA', (width, height), COLORS['paper'] + '00')


def _line_height() -> int:
  return round(1.6 * _FONT_SIZE * _SCALE)


@functools.cache
def _typeface(size: float = 1) -> ImageFont.FreeTypeFont:
  path = font_manager.findfont(_FONT)
  return ImageFont.truetype(path, round(size * _FONT_SIZE * _SCALE))


def _write(
  image: Image.Image, left: int, top: int, text: str, color: str, size=1.0
) -> None:
  """Writes one line, shortened to leave a right margin like the left one."""
  short = fit(text, (image.width - 2 * left) / _SCALE, size)
  ImageDraw.Draw(image).text((left, top), short, COLORS[color], _typeface(size))


def fit(text: str, width: float, size: float = 1) -> str:
  """Returns a text shortened to a width, with characters of the font only.

  Args:
    text: a name or some words.
    width: in pixels of the page.
    size: of the letters, relative to the page's.
  """
  typeface = _typeface(size)
  text = names.with_glyphs(text, [_FONT])
  short, length = text, len(text)
  while length > 1 and typeface.getlength(short) > width * _SCALE:
    length -= 1
    short = names.shorten(text, length)
  return short


def tile(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
  """Lays images out in rows, with transparent gaps.

  Args:
    images: uint8 [N, H, W, 3] or [N, H, W, 1].
    columns: images per row.
    gap: pixels between them.

  Returns:
    uint8 [rows * (H + gap) - gap, columns * (W + gap) - gap, 4].
  """
  count, height, width, _ = images.shape
  rows = -(-count // columns)
  canvas = np.zeros((rows, height + gap, columns, width + gap, 4), np.uint8)
  for i, image in enumerate(images):
    place = canvas[i // columns, :height, i % columns, :width]
    place[..., :3], place[..., 3] = image, 255
  shape = (rows * (height + gap), columns * (width + gap), 4)
  return canvas.reshape(shape)[: shape[0] - gap, : shape[1] - gap]


def resize(image: np.ndarray, side: int) -> np.ndarray:
  """Shrinks a large image smoothly; enlarges a small one in whole pixels.

  Args:
    image: uint8 [H, W, 3].
    side: in pixels; an enlarged image's is the nearest multiple not above it.

  Returns:
    uint8 [side', side', 3].
  """
  times = side // max(image.shape[:2])
  if times:
    return image.repeat(times, axis=0).repeat(times, axis=1)
  small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
  return np.asarray(small)


def to_gray(images: np.ndarray) -> np.ndarray:
  """Returns the luminance (ITU-R BT.601) of [..., 3] as float32 [...]."""
  weights = np.array([0.299, 0.587, 0.114], np.float32)
  return images.astype(np.float32) @ weights
