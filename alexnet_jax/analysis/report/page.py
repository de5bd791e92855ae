"""The page: text, figures and tables as one file that works offline.

Sections are plain data; `templates/` says how they look. Each figure is also
written as a PNG file, each table as a CSV file.
"""

import base64
import pathlib
import shutil
from typing import Any, NamedTuple

import jinja2

from alexnet_jax import files
from alexnet_jax.analysis import figures

TEMPLATES = pathlib.Path(__file__).parent / 'templates'
_WIDTH = 1088  # pixels: the page's column


class Figure(NamedTuple):
  """Panels of equal width, as many in a row as fit the window."""

  name: str  # of the PNG file, without extension
  title: str
  panels: tuple[figures.Panel, ...]
  caption: str = ''
  width: int = 320  # the least width of a panel on the page, in pixels
  most: int = 12  # panels in a row

  def png(self) -> bytes:
    """Returns the figure as it is on a page of full width."""
    fit = max(1, (_WIDTH + figures.GAP) // (self.width + figures.GAP))
    columns = min(fit, self.most, len(self.panels))
    width = (_WIDTH + figures.GAP) // columns - figures.GAP
    width = min(width, 2 * self.width)
    return figures.sheet(
      self.panels, title=self.title, columns=columns, width=width
    )


class Table(NamedTuple):
  """Rows of values; the CSV file has all of them, unrounded."""

  name: str  # of the CSV file, without extension
  title: str
  # Headings, each with a format of its values: 'layer | images:, | error:.1%'.
  header: str
  rows: tuple[tuple[Any, ...], ...]  # None is an empty cell
  caption: str = ''
  shown: int | None = None  # rows on the page; None for all
  folded: bool = False  # whether the page shows the rows only on a click

  @property
  def columns(self) -> list[str]:
    """The headings."""
    return [each.partition(':')[0].strip() for each in self.header.split('|')]

  def cells(self) -> list[list[str]]:
    """Returns the page's rows as text."""
    formats = [
      each.partition(':')[2].strip() for each in self.header.split('|')
    ]
    return [
      [
        '' if value is None else format(value, how)
        for value, how in zip(row, formats, strict=True)
      ]
      for row in self.rows[: self.shown]
    ]

  def is_numeric(self, column: int) -> bool:
    """Whether a column holds numbers, which the page aligns to the right."""
    values = [row[column] for row in self.rows if row[column] is not None]
    return bool(values) and all(isinstance(v, int | float) for v in values)

  @property
  def hidden(self) -> int:
    """How many rows only the CSV file has."""
    return len(self.rows) - len(self.rows[: self.shown])


class Facts(NamedTuple):
  """Pairs of a label and a value."""

  pairs: tuple[tuple[str, str], ...]


class Finding(NamedTuple):
  """A statement computed from this run, set off from the rest."""

  text: str


class Note(NamedTuple):
  """How something was computed, or why it is missing."""

  text: str


Block = Figure | Table | Facts | Finding | Note


class Section(NamedTuple):
  """A part of the page."""

  key: str  # its anchor
  title: str
  paper: str  # the place in the paper
  intro: str
  blocks: tuple[Block, ...]
  seconds: float = 0.0  # that it took to make


def out_of(count: int, total: int) -> str:
  """Returns 'all 10,000' or '2,048 of 10,000'."""
  return f'all {total:,}' if count == total else f'{count:,} of {total:,}'


def write(
  folder: pathlib.Path,
  *,
  title: str,
  summary: Facts,
  footer: str,
  sections: tuple[Section, ...],
) -> pathlib.Path:
  """Writes index.html, figures/ and tables/.

  Everything is written beside the folder first, so that an interruption keeps
  the earlier report.

  Args:
    folder: of the report; replaced as a whole.
    title: the page's heading.
    summary: the facts beneath it.
    footer: the last line.
    sections: in order.

  Returns:
    The page's path.
  """
  fresh = folder.with_name(folder.name + '.tmp')
  shutil.rmtree(fresh, ignore_errors=True)
  (fresh / 'figures').mkdir(parents=True)
  try:
    for block in (block for section in sections for block in section.blocks):
      if isinstance(block, Figure):
        path = fresh / 'figures' / f'{block.name}.png'
        path.write_bytes(block.png())
      elif isinstance(block, Table):
        path = fresh / 'tables' / f'{block.name}.csv'
        files.write_csv(path, block.columns, block.rows)
    html = render(title, summary, footer, sections)
    (fresh / 'index.html').write_text(html, encoding='utf-8')
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
  finally:
    shutil.rmtree(fresh, ignore_errors=True)
  return folder / 'index.html'


def render(
  title: str, summary: Facts, footer: str, sections: tuple[Section, ...]
) -> str:
  """Returns the page's HTML."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['base64'] = _base64
  environment.filters['kind'] = lambda block: type(block).__name__
  template = environment.get_template('page.html')
  return template.render(
    title=title, summary=summary, footer=footer, sections=sections
  )


def _base64(data: bytes) -> str:
  return base64.b64encode(data).decode()
