import io
import re

import numpy as np
from PIL import Image
import pytest

from alexnet_jax import names
from alexnet_jax.analysis import figures

_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def _chart(name='chart'):
  def draw(axes):
    axes.plot([0, 1], [0, 2], color=figures.COLORS['blue'], label='a line')
    axes.fill_between([0, 1], [0, 1], color=figures.COLORS['red'], alpha=0.5)
    axes.legend()

  return figures.chart(name, draw, title='Title')


def _plain(color, side=8):
  return np.full((side, side, 3), color, np.uint8)


def _open(png):
  return np.asarray(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)


def _box(pixels, color):
  """Returns the sides of the smallest box around all pixels of a color."""
  rows, columns = np.nonzero(abs(pixels - np.array(color)).max(axis=-1) <= 2)
  return rows.min(), rows.max(), columns.min(), columns.max()


def test_chart_takes_the_colors_and_the_font_of_the_page():
  svg = _chart().svg
  assert 'var(--blue)' in svg
  assert 'var(--red)' in svg
  assert not re.findall(r'#[0-9a-f]{6}', svg)
  assert 'font-family' not in svg
  assert '<style' not in svg
  assert '>a line<' in svg  # text, not outlines
  assert re.search(r'<svg[^>]*viewBox="0 0 340 220"', svg)


def test_ids_of_two_charts_do_not_collide():
  first, second = (
    set(re.findall(r'\bid="([^"]*)"', _chart(name).svg)) for name in 'ab'
  )
  assert first
  assert not first & second
  used = set(re.findall(r'(?:url\(|href=")#([^)"]*)', _chart('a').svg))
  assert used <= first


def test_chart_png_has_two_dots_per_pixel():
  assert _open(_chart().png).shape == (440, 680, 3)


def test_logarithmic_axes_have_numbers():
  chart = figures.chart('log', lambda axes: axes.loglog([1, 100]), title='')
  shown = re.sub('<!--.*?-->', '', chart.svg, flags=re.DOTALL)
  assert 'mathdefault' not in shown


def test_picture_keeps_its_pixels():
  panel = figures.picture(_PIXELS, title='Noise')
  np.testing.assert_array_equal(_open(panel.png), _PIXELS)


@pytest.mark.parametrize(('count', 'columns'), [(1, 4), (5, 4), (13, 6)])
def test_sheet_places_every_card_in_rows(tmp_path, count, columns):
  colors = [(200, 20 * i, 255 - 19 * i) for i in range(count)]
  panels = [
    figures.prediction_card(
      f'card-{i}', _plain(color), [1, 0], [0.75, 0.25], ['cat', 'dog'],
      title=f'photo {i}.jpg',
    )
    for i, color in enumerate(colors)
  ]  # fmt: skip
  path = tmp_path / 'new' / 'sheet.png'
  figures.save_sheet(
    path, panels, title='Title', subtitle='subtitle', columns=columns
  )
  assert [file.name for file in path.parent.iterdir()] == ['sheet.png']
  pixels = _open(path.read_bytes())
  boxes = [_box(pixels, color) for color in colors]
  for i, (top, bottom, left, right) in enumerate(boxes):
    assert bottom - top == pytest.approx(2 * figures.CARD, abs=4)
    assert right - left == pytest.approx(2 * figures.CARD, abs=4)
    assert top == boxes[i - i % columns][0]
    assert left == boxes[i % columns][2]
    margin = 2 * figures.GAP - 2
    assert right < pixels.shape[1] - margin
    assert bottom < pixels.shape[0] - margin


def test_sheet_fits_panels_to_a_width():
  panels = [_chart('a'), _chart('b'), _chart('c')]
  wide = _open(figures.sheet(panels, title='', columns=3, width=340))
  tall = _open(figures.sheet(panels, title='', columns=2, width=512))
  assert wide.shape[1] == 2 * (3 * 340 + 4 * figures.GAP)
  assert tall.shape[1] == 2 * (2 * 512 + 3 * figures.GAP)
  assert tall.shape[0] > 1.7 * wide.shape[0]


@pytest.mark.parametrize('truth', [None, 1])
def test_bars_are_as_long_as_their_probabilities(truth):
  card = figures.prediction_card(
    'card', _plain(0), [0, 1], [0.5, 0.2], ['', ''], truth=truth, title=''
  )
  shown = {'gray': 0.2, 'blue': 0.5} if truth is None else {
    'gray': 0.5, 'green': 0.2
  }  # fmt: skip
  pixels = _open(card.png)
  for name, share in shown.items():
    color = np.frombuffer(bytes.fromhex(figures.COLORS[name][1:]), np.uint8)
    _, _, left, right = _box(pixels, (color.astype(int) + 255) / 2)
    assert right - left == pytest.approx(2 * figures.CARD * share, abs=3)


def test_neighbors_are_in_a_row_to_the_right_of_their_query():
  colors = [(10, 0, 0), *((100, 80 * i + 10, 200) for i in range(3))]
  row = figures.neighbor_row(
    _plain(colors[0]),
    np.stack([_plain(color) for color in colors[1:]]),
    hits=np.array([True, False, True]),
    title='query.jpg',
    notes=['cat\ndistance 0.5', 'dog', 'a very long name of a class'],
  )
  pixels = _open(row.png)
  boxes = [_box(pixels, color) for color in colors]
  lefts = [box[2] for box in boxes]
  assert lefts == sorted(lefts)
  assert lefts[1] - boxes[0][3] > 1.5 * (lefts[2] - boxes[1][3])
  assert boxes[1][0] == boxes[2][0] == boxes[3][0]
  for i, name in enumerate(('green', 'red', 'green'), 1):
    frame = pixels[boxes[i][0] - 2, lefts[i]]
    expected = bytes.fromhex(figures.COLORS[name][1:])
    assert frame.tolist() == list(expected)


def test_neighbors_without_notes_or_frames():
  images = np.stack([_plain(50), _plain(100)])
  row = figures.neighbor_row(_plain(0), images, title='', note='A note')
  alpha = np.asarray(Image.open(io.BytesIO(row.png)))[..., 3]
  assert set(np.unique(alpha)) == {0, 255}  # gaps are transparent
  assert row.note == 'A note'


def test_names_with_any_character_are_drawn():
  # '$' begins a formula to matplotlib, and this one would not end.
  card = figures.prediction_card(
    'card', _plain(0), [0, 1], [0.9, 0.1], [r'$x^{y$', '猫\n'],
    title=r'a $\frac{1} b_^.jpg',
  )  # fmt: skip
  assert r'\u732b\n' in card.svg
  assert '$x^{y$' in card.svg
  assert figures.sheet([card], title=r'$\q$猫', subtitle='$$$', columns=1)


def test_tile_and_resize():
  found = figures.tile(np.stack([_PIXELS, _PIXELS, _PIXELS]), 2)
  assert found.shape == (11, 15, 4)
  np.testing.assert_array_equal(found[6:, :7, :3], _PIXELS)
  assert found[:5, 7, 3].max() == 0  # the gap is transparent
  assert found[6:, 8:, 3].max() == 0  # and so is the missing tile
  big = figures.resize(_PIXELS, 15)
  assert big.shape == (10, 14, 3)
  np.testing.assert_array_equal(big[::2, ::2], _PIXELS)
  assert figures.resize(_PIXELS, 4).shape == (4, 4, 3)


# Formulas, words of SVG, letters that are wide, and what nobody could see.
_ODD = (
  '$x$',
  'W' * 250,
  'two\nlines',
  '😀',
  'שלום',
  '#1c2230 font: id="',
  '   ',
)


def test_a_card_is_as_large_whatever_the_classes_are_called():
  plain, odd = (
    figures.prediction_card(
      'card', _plain(9), np.arange(5), np.full(5, 0.1), each, title=each[0]
    )
    for each in (('a',) * 5, _ODD[:5])
  )
  assert _open(plain.png).shape == _open(odd.png).shape
  # The percentages have the right edge to themselves.
  edge = 2 * (figures.CARD - 44)
  below = 2 * figures.CARD + 16
  np.testing.assert_array_equal(
    _open(odd.png)[below:, edge:], _open(plain.png)[below:, edge:]
  )


@pytest.mark.parametrize('text', [*_ODD, 'a/' + 'b' * 300, ''])
@pytest.mark.parametrize('width', [20, 100])
def test_a_text_is_cut_to_a_width(text, width):
  short = figures.fit(text, width)
  assert figures._typeface().getlength(short) <= 2 * width
  assert short == names.with_glyphs(text, [figures._FONT]) or '…' in short


def test_a_long_note_is_broken_and_not_cut():
  lines = figures._wrapped('W' * 250, 2 * 112)
  assert ''.join(lines) == 'W' * 250
  assert all(figures.fit(line, 112) == line for line in lines)


def test_a_name_in_a_chart_is_not_rewritten():
  def draw(axes):
    axes.text(0, 0, names.drawable(_ODD[5]))

  assert f'>{_ODD[5]}</text>' in figures.chart('c', draw, title='').svg
