import csv
import io
import re

import numpy as np
from PIL import Image
import pytest

from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page

_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def _section(text='First.'):
  chart = figures.chart('chart', lambda axes: axes.plot([0, 1]), title='Title')
  picture = figures.picture(_PIXELS, title='Noise')
  table = page.Table(
    'numbers',
    'Numbers',
    'name | share:.1%',
    (('a, "b"', 0.12345), ('c', None), ('<script>', 1.0)),
    shown=2,
  )
  pictures = page.Figure('pictures', 'Pictures', (picture, chart))
  blocks = page.Finding('Found.'), page.Note('Noted.'), pictures, table
  return page.Section('first', 'First & last', 'Section 1', text, blocks)


def _write(folder, text='First.'):
  return page.write(
    folder,
    title='A title',
    summary=page.Facts((('Label', 'Value'),)),
    footer='The end',
    sections=(_section(text),),
  )


def test_page_has_everything_in_one_file(tmp_path):
  html = _write(tmp_path / 'report').read_text()
  assert 'First &amp; last' in html
  assert '&lt;script&gt;' not in html  # the third row is in the CSV alone
  assert 'The CSV has 1 more rows.' in html
  assert '12.3%' in html
  for kind, text in (('finding', 'Found.'), ('note', 'Noted.')):
    assert f'<p class="{kind}">{text}</p>' in html
  addresses = re.findall(r'(?:src|href)="([^"]{1,30})', html)
  outside = [a for a in addresses if re.match(r'(https?:)?//', a)]
  assert not outside
  assert 'src="data:image/png;base64,' in html


def test_copies_of_figures_and_tables(tmp_path):
  folder = _write(tmp_path / 'report').parent
  Image.open(folder / 'figures' / 'pictures.png').verify()
  with (folder / 'tables' / 'numbers.csv').open() as file:
    rows = list(csv.reader(file))
  assert rows == [
    ['name', 'share'], ['a, "b"', '0.12345'], ['c', ''], ['<script>', '1.0']
  ]  # fmt: skip


def test_interruption_leaves_the_earlier_page(tmp_path, monkeypatch):
  path = _write(tmp_path / 'report', 'The earlier one.')

  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(page, 'render', interrupted)
  with pytest.raises(KeyboardInterrupt):
    _write(tmp_path / 'report')
  assert 'The earlier one.' in path.read_text()
  assert [p.name for p in tmp_path.iterdir()] == ['report']


def test_a_new_page_replaces_an_earlier_one_whole(tmp_path):
  path = _write(tmp_path / 'report', 'The earlier one.')
  (path.parent / 'figures' / 'stale.png').write_bytes(b'')
  (tmp_path / 'report.tmp').mkdir()  # of a killed run
  _write(tmp_path / 'report', 'The later one.')
  assert 'The later one.' in path.read_text()
  assert not (path.parent / 'figures' / 'stale.png').exists()
  assert [p.name for p in tmp_path.iterdir()] == ['report']


def test_light_colors_are_those_of_the_charts():
  css = (page.TEMPLATES / 'page.css').read_text()
  light = css[: css.index('@media')]
  dark = re.findall(r'--(\w+): #', css[css.index('@media') :])
  for name, value in figures.COLORS.items():
    assert f'--{name}: {value};' in light
    assert dark.count(name) == 2  # by the system's setting and by the button


@pytest.mark.parametrize(('width', 'most', 'columns'), [
  (320, 12, 3), (330, 2, 2), (150, 6, 6), (2000, 12, 1)
])  # fmt: skip
def test_figure_file_is_as_wide_as_the_page(width, most, columns):
  panels = (figures.picture(_PIXELS, title=''),) * 7
  png = page.Figure('', '', panels, width=width, most=most).png()
  found = Image.open(io.BytesIO(png))
  # The page's column and its margins, but for pixels lost in dividing it.
  expected = 2 * (1088 + 2 * 24)
  assert expected - 2 * columns < found.width <= expected


def test_out_of():
  assert page.out_of(10000, 10000) == 'all 10,000'
  assert page.out_of(2048, 10000) == '2,048 of 10,000'
