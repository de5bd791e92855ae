"""Panels: charts and pictures in one style, for the page and as PNG.

A chart is drawn once by matplotlib. The page gets it as SVG whose colors are
the page's, so that it follows the theme, and whose letters are the page's; the
file gets it as PNG in the light theme.
"""

from collections.abc import Callable
import dataclasses
import io
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from alexnet_jax import names

# Names of the page's colors and their values in the light theme: page.css has
# those of both themes.
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
SCALE = 2  # dots a pixel in PNG files
FONT = 11  # pixels

_STYLE = {
  'svg.fonttype': 'none',  # letters stay letters
  'svg.image_inline': True,
  'font.size': FONT,
  'font.family': 'sans-serif',
  'axes.titlesize': FONT,
  'axes.labelsize': FONT,
  'xtick.labelsize': FONT,
  'ytick.labelsize': FONT,
  'legend.fontsize': FONT,
  'text.color': COLORS['ink'],
  'axes.labelcolor': COLORS['muted'],
  'xtick.color': COLORS['muted'],
  'ytick.color': COLORS['muted'],
  'axes.edgecolor': COLORS['line'],
  'axes.facecolor': 'none',
  'figure.facecolor': 'none',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.spines.left': False,
  'axes.grid': True,
  'axes.grid.axis': 'y',
  'axes.axisbelow': True,
  'grid.color': COLORS['line'],
  'grid.linewidth': 1,
  'axes.linewidth': 1,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'xtick.minor.size': 0,
  'ytick.minor.size': 0,
  'xtick.major.pad': 5,
  'ytick.major.pad': 6,
  'lines.linewidth': 1.8,
  'lines.solid_capstyle': 'round',
  'legend.frameon': False,
  'legend.handlelength': 1.2,
  'figure.constrained_layout.h_pad': 0.04,
  'figure.constrained_layout.w_pad': 0.04,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Panel:
  """One image of a figure.

  Attributes:
    png: the file's image; of a picture, the page's too.
    alt: what it shows, for those who cannot see it.
    svg: markup for the page; empty for a picture.
    title: above it.
    note: beneath it.
    smooth: whether the page may blur it when it enlarges it.
  """

  png: bytes
  alt: str
  svg: str = ''
  title: str = ''
  note: str = ''
  smooth: bool = False


def chart(
  name: str,
  draw: Callable[[Axes], None],
  *,
  alt: str,
  title: str = '',
  note: str = '',
  width: int = 340,
  height: int = 220,
) -> Panel:
  """Draws a chart.

  Args:
    name: one that no other chart of the page has.
    draw: draws on the axes it is given, with colors of `COLORS`.
    alt: see `Panel`.
    title: see `Panel`.
    note: see `Panel`.
    width: in pixels of the page.
    height: in pixels of the page.
  """
  return drawing(
    name,
    lambda figure: draw(figure.subplots()),
    alt=alt,
    title=title,
    note=note,
    width=width,
    height=height,
  )


def drawing(
  name: str,
  draw: Callable[[Figure], None],
  *,
  alt: str,
  title: str = '',
  note: str = '',
  width: int = 340,
  height: int = 220,
) -> Panel:
  """Draws on a whole figure; the arguments are those of `chart`."""
  # One unit of the drawing, a point, is one pixel of the page.
  with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):
    figure = Figure(figsize=(width / 72, height / 72), layout='constrained')
    draw(figure)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format='svg', metadata={'Date': None})
    figure.savefig(png, format='png', dpi=72 * SCALE, facecolor=COLORS['paper'])
  markup = _for_page(svg.getvalue(), name)
  return Panel(png.getvalue(), alt, markup, title, note)


def _for_page(svg: str, name: str) -> str:
  """Makes matplotlib's SVG part of a page: its colors, letters and names."""
  svg = svg[svg.index('<svg') :]
  # Its style would be the whole page's.
  for part in ('metadata', 'style'):
    svg = re.sub(f'<{part}.*?</{part}>', '', svg, flags=re.DOTALL)
  # The page sets the size; the drawing's own proportions are in viewBox.
  for side in ('width', 'height'):
    svg = re.sub(f'(<svg[^>]*?) {side}="[^"]*"', r'\1', svg, count=1)
  for color, value in COLORS.items():
    svg = svg.replace(value, f'var(--{color})')
  svg = re.sub(r'font: ([^;\"]*)', _font, svg)
  svg = re.sub(r'font-family: [^;\"]*;? ?', '', svg)
  # Names are unique within one drawing only.
  svg = re.sub(r'\bid="', f'id="{name}-', svg)
  svg = re.sub(r'url\(#', f'url(#{name}-', svg)
  return re.sub(r'href="#', f'href="#{name}-', svg)


def _font(match: re.Match) -> str:
  """Keeps size and weight of a CSS font: the letters are the page's."""
  size = re.search(r'[\d.]+px', match[1])
  weight = re.search(r'\b[1-9]00\b|bold', match[1])
  kept = [f'font-size: {size[0]}'] if size else []
  return '; '.join(kept + ([f'font-weight: {weight[0]}'] if weight else []))


def picture(
  pixels: np.ndarray,
  *,
  alt: str,
  title: str = '',
  note: str = '',
  smooth: bool = False,
) -> Panel:
  """Returns pixels, uint8 [H, W, 3] or [H, W, 4] with transparency, as a panel.

  See `Panel` for the other arguments.
  """
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'png', optimize=True)
  return Panel(file.getvalue(), alt, '', title, note, smooth)


def label(name: str, letters: int) -> str:
  """Returns a name for a drawing, in signs that its font has, and short.

  To be called by what draws, where the style of `drawing` holds.
  """
  return shorten(names.drawable(name), letters)


def shorten(text: str, letters: int) -> str:
  """Cuts a text that is longer than so many letters, and marks the cut."""
  return text if len(text) <= letters else text[: letters - 1].rstrip() + '…'
