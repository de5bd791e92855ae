import csv
import io
import re

import numpy as np
from PIL import Image
import pytest

from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import sheets

_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def _chart(name='chart'):
  def draw(axes):
    axes.plot([0, 1], [0, 2], color=plots.COLORS['blue'], label='a line')
    axes.fill_between([0, 1], [0, 1], color=plots.COLORS['red'], alpha=0.5)
    axes.legend()

  return plots.chart(name, draw, alt='A chart', title='Title')


def _section(text='First.'):
  table = page.Table(
    'numbers',
    'Numbers',
    (page.Column('name'), page.Column('share', '{:.1%}')),
    (('a, "b"', 0.12345), ('c', None), ('<script>', 1.0)),
    shown=2,
  )
  pictures = page.Figure(
    'pictures', 'Pictures', (plots.picture(_PIXELS, alt='Noise'), _chart('x'))
  )
  return page.Section(
    'first', 'First & last', 'Section 1', text, (pictures, table)
  )


def _write(folder, text='First.'):
  return page.write(
    folder,
    title='A title',
    summary=page.Facts((('Label', 'Value'),)),
    footer='The end',
    sections=(_section(text),),
  )


def test_chart_takes_the_colors_and_letters_of_the_page():
  svg = _chart().svg
  assert 'var(--blue)' in svg
  assert 'var(--red)' in svg
  assert not re.findall(r'#[0-9a-f]{6}', svg)
  assert 'font-family' not in svg
  assert '<style' not in svg
  assert '>a line<' in svg  # letters, not outlines
  assert re.search(r'<svg[^>]*viewBox="0 0 340 220"', svg)


def test_names_inside_charts_do_not_collide():
  first, second = (
    set(re.findall(r'\bid="([^"]*)"', _chart(name).svg)) for name in 'ab'
  )
  assert first
  assert not first & second
  used = set(re.findall(r'(?:url\(|href=")#([^)"]*)', _chart('a').svg))
  assert used <= first


def test_chart_png_has_two_dots_a_pixel():
  image = Image.open(io.BytesIO(_chart().png))
  assert image.size == (680, 440)


def test_picture_keeps_its_pixels():
  panel = plots.picture(_PIXELS, alt='')
  image = np.asarray(Image.open(io.BytesIO(panel.png)))
  np.testing.assert_array_equal(image, _PIXELS)


def test_sheet_lays_panels_out():
  panels = (_chart('a'), _chart('b'), _chart('c'))
  one = Image.open(io.BytesIO(sheets.sheet('Title', panels, 320, 12)))
  two = Image.open(io.BytesIO(sheets.sheet('Title', panels, 320, 2)))
  # As wide as the page's column, but for pixels lost in dividing it.
  assert 2 * 1088 < one.width <= two.width == 2 * (1088 + 2 * 24)
  assert two.height > 1.7 * one.height  # two rows, of larger panels


def test_page_has_everything_in_one_file(tmp_path):
  html = _write(tmp_path / 'report').read_text()
  assert 'First &amp; last' in html
  assert '&lt;script&gt;' not in html  # the third row is in the CSV alone
  assert 'The CSV has 1 more rows.' in html
  assert '12.3%' in html
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
  for name, value in plots.COLORS.items():
    assert f'--{name}: {value};' in light
    assert dark.count(name) == 2  # by the system's setting and by the button


def test_shorten():
  assert plots.shorten('T-shirt/top', 11) == 'T-shirt/top'
  assert plots.shorten('Egyptian cat', 9) == 'Egyptian…'
  assert plots.shorten('sulphur-crested cockatoo', 10) == 'sulphur-c…'


def test_tile_and_resize():
  tiles = np.stack([_PIXELS, _PIXELS, _PIXELS])
  found = mosaics.tile(tiles, 2)
  assert found.shape == (11, 15, 4)
  np.testing.assert_array_equal(found[6:, :7, :3], _PIXELS)
  assert found[:5, 7, 3].max() == 0  # the gap can be seen through
  assert found[6:, 8:, 3].max() == 0  # and so can the missing tile
  big = mosaics.resize(_PIXELS, 15)
  assert big.shape == (10, 14, 3)
  np.testing.assert_array_equal(big[::2, ::2], _PIXELS)
  assert mosaics.resize(_PIXELS, 4).shape == (4, 4, 3)


def test_overlay():
  image = np.full((1, 3, 3), 100, np.uint8)
  values = np.array([[1.0, 0.0, -0.5]])
  found = mosaics.overlay(image, values, '#ff0000', '#0000ff')
  gray = 55 + 60
  assert found[0, 0].tolist() == [255, 0, 0]
  assert found[0, 1].tolist() == [gray, gray, gray]
  half = round(gray / 2 + 0.01)
  assert found[0, 2].tolist() == [half, half, round((gray + 255) / 2 + 0.01)]
