"""A whole figure as one PNG file: its panels side by side, with their text."""

import io

from matplotlib import font_manager
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from alexnet_jax import names
from alexnet_jax.analysis.report import plots

_GAP = 24  # pixels between panels
_FONT = 'DejaVu Sans'  # matplotlib brings it
_WIDTH = 1088  # pixels: the width of the page's column


def sheet(
  heading: str, panels: tuple[plots.Panel, ...], width: int, most: int
) -> bytes:
  """Returns the panels of a figure side by side as one PNG, on white.

  Args:
    heading: above all.
    panels: at least one.
    width: the least width of a panel, pixels.
    most: the most panels in a row.
  """
  per_row = max(1, (_WIDTH + _GAP) // (width + _GAP))
  columns = min(per_row, most, len(panels))
  cell = (_WIDTH + _GAP) // columns - _GAP
  cell = min(cell, 2 * width) * plots.SCALE
  cells = [_labeled(panel, cell) for panel in panels]
  rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
  heights = [max(image.height for image in row) for row in rows]
  gap = _GAP * plots.SCALE
  top = gap + round(1.8 * plots.FONT * plots.SCALE)
  size = (
    columns * (cell + gap) + gap,
    top + sum(heights) + gap * (len(rows) + 1),
  )
  canvas = Image.new('RGB', size, plots.COLORS['paper'])
  _write(canvas, gap, gap, heading, 1.4, plots.COLORS['ink'])
  y = top + gap
  for row, height in zip(rows, heights, strict=True):
    for column, image in enumerate(row):
      canvas.paste(image, (gap + column * (cell + gap), y))
    y += height + gap
  file = io.BytesIO()
  canvas.save(file, 'png')
  return file.getvalue()


def _labeled(panel: plots.Panel, width: int) -> Image.Image:
  """Returns a panel of this width with its title above and note beneath."""
  image = Image.open(io.BytesIO(panel.png))
  height = round(image.height * width / image.width)
  kind = Image.Resampling.LANCZOS
  if not panel.svg and not panel.smooth and image.width < width:
    kind = Image.Resampling.NEAREST
  image = image.convert('RGBA').resize((width, height), kind)
  line = round(1.6 * plots.FONT * plots.SCALE)
  above = line if panel.title else 0
  notes = _wrap(panel.note, width)
  size = (width, above + height + line * len(notes))
  cell = Image.new('RGB', size, plots.COLORS['paper'])
  if panel.title:
    _write(cell, 0, 0, panel.title, 1, plots.COLORS['ink'])
  cell.paste(image, (0, above), image)
  for i, note in enumerate(notes):
    top = above + height + i * line + line // 6
    _write(cell, 0, top, note, 1, plots.COLORS['muted'])
  return cell


def _typeface(size: float) -> ImageFont.FreeTypeFont:
  path = font_manager.findfont(_FONT)
  return ImageFont.truetype(path, round(size * plots.FONT * plots.SCALE))


def _write(image, left, top, text, size, color) -> None:
  """Writes one line, cut so that the image keeps its margin."""
  typeface = _typeface(size)
  text = names.with_glyphs(text, [_FONT])
  short, length = text, len(text)
  while length > 1 and typeface.getlength(short) > image.width - 2 * left:
    length -= 1
    short = plots.shorten(text, length)
  ImageDraw.Draw(image).text((left, top), short, color, typeface)


def _wrap(text: str, width: int) -> list[str]:
  """Breaks a text into lines that fit a width in dots."""
  typeface, lines = _typeface(1), []
  for word in names.with_glyphs(text, [_FONT]).split():
    longer = f'{lines[-1]} {word}' if lines else word
    if lines and typeface.getlength(longer) <= width:
      lines[-1] = longer
    else:
      lines.append(word)
  return lines
