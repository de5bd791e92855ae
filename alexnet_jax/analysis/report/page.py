"""The page: sections of text, figures and tables as one file that needs no net.

What a section says is plain data made here; how it looks is `templates/`. Each
figure is also written as a PNG, each table as a CSV.
"""

import base64
import csv
import dataclasses
import io
import pathlib
import shutil
from typing import Any

import jinja2

from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import sheets

TEMPLATES = pathlib.Path(__file__).parent / 'templates'


@dataclasses.dataclass(frozen=True)
class Figure:
  """Panels of one width, in rows as long as the window allows.

  Attributes:
    name: of the PNG, without its ending.
    title: a few words.
    panels: charts or pictures.
    caption: what to see, in plain text.
    width: the least width of a panel on the page, pixels.
    most: the most panels in a row.
  """

  name: str
  title: str
  panels: tuple[plots.Panel, ...]
  caption: str = ''
  width: int = 320
  most: int = 12


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table.

  Attributes:
    name: its heading.
    shown: how the page formats a value, as `str.format` does.
  """

  name: str
  shown: str = '{}'


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of values; the CSV has all of them, unrounded.

  Attributes:
    name: of the CSV, without its ending.
    title: a few words.
    columns: one a value.
    rows: the values; None is an empty cell.
    caption: what to see, in plain text.
    shown: rows on the page; 0 for all.
    folded: whether the page shows it only when asked.
  """

  name: str
  title: str
  columns: tuple[Column, ...]
  rows: tuple[tuple[Any, ...], ...]
  caption: str = ''
  shown: int = 0
  folded: bool = False

  def cells(self) -> list[list[str]]:
    """Returns the page's rows as text."""
    rows = self.rows[: self.shown] if self.shown else self.rows
    return [
      [
        _cell(value, column.shown)
        for value, column in zip(row, self.columns, strict=True)
      ]
      for row in rows
    ]

  def numeric(self, column: int) -> bool:
    """Whether a column holds numbers, which the page aligns to the right."""
    values = [row[column] for row in self.rows if row[column] is not None]
    return bool(values) and all(isinstance(v, int | float) for v in values)

  @property
  def hidden(self) -> int:
    """How many rows the page leaves to the CSV."""
    return max(0, len(self.rows) - self.shown) if self.shown else 0


def _cell(value: Any, shown: str) -> str:
  return '' if value is None else shown.format(value)


@dataclasses.dataclass(frozen=True)
class Facts:
  """Short facts, each a label and a value."""

  items: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Finding:
  """A sentence computed from this run, set off from the rest."""

  text: str


@dataclasses.dataclass(frozen=True)
class Note:
  """What could not be shown and why, or how something was computed."""

  text: str


Block = Figure | Table | Facts | Finding | Note


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    key: its anchor.
    title: its heading.
    paper: the place in the paper.
    intro: two sentences that say what is shown.
    blocks: what is shown, in order.
    seconds: how long it took to make.
  """

  key: str
  title: str
  paper: str
  intro: str
  blocks: tuple[Block, ...]
  seconds: float = 0.0


def write(
  folder: pathlib.Path,
  *,
  title: str,
  summary: Facts,
  footer: str,
  sections: tuple[Section, ...],
) -> pathlib.Path:
  """Writes index.html, figures/ and tables/; replaces an earlier report whole.

  Everything is written beside the folder first, so that an interruption leaves
  the earlier report, or none.

  Args:
    folder: of the report; anything in it is replaced.
    title: the page's heading.
    summary: the facts beneath it.
    footer: the last line.
    sections: in order.

  Returns:
    The page's path.
  """
  fresh = folder.with_name(folder.name + '.tmp')
  shutil.rmtree(fresh, ignore_errors=True)
  for part in ('figures', 'tables'):
    (fresh / part).mkdir(parents=True)
  try:
    for section in sections:
      _write_copies(fresh, section)
    html = render(title, summary, footer, sections)
    (fresh / 'index.html').write_text(html, encoding='utf-8')
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
  finally:
    shutil.rmtree(fresh, ignore_errors=True)
  return folder / 'index.html'


def _write_copies(folder: pathlib.Path, section: Section) -> None:
  for block in section.blocks:
    if isinstance(block, Figure):
      png = sheets.sheet(block.title, block.panels, block.width, block.most)
      (folder / 'figures' / f'{block.name}.png').write_bytes(png)
    elif isinstance(block, Table):
      text = _csv(block)
      (folder / 'tables' / f'{block.name}.csv').write_text(
        text, encoding='utf-8'
      )


def _csv(table: Table) -> str:
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(column.name for column in table.columns)
  writer.writerows(table.rows)
  return file.getvalue()


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
  environment.filters |= {'data_uri': _data_uri, 'kind': _kind}
  style, script = (
    (TEMPLATES / name).read_text(encoding='utf-8')
    for name in ('page.css', 'page.js')
  )
  return environment.get_template('page.html').render(
    title=title,
    summary=summary,
    footer=footer,
    sections=sections,
    style=style,
    script=script,
  )


def _data_uri(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode()


def _kind(block: Block) -> str:
  return type(block).__name__.lower()
