import numpy as np
from PIL import Image
import pytest

from alexnet_jax.analysis import contact_sheet

# Inches from the upper left corner, times the dots an inch.
_DOTS = 160


def _plain(color, side=8):
  return np.full((side, side, 3), color, np.uint8)


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB')).astype(int)


def _boxes(pixels, color):
  """Returns the sides of the smallest box around all pixels of a color."""
  rows, columns = np.nonzero(abs(pixels - np.array(color)).max(axis=-1) <= 2)
  return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize('count', [1, 5, 13])
def test_every_image_is_there_in_its_place(tmp_path, count):
  colors = [(200, 20 * i, 255 - 19 * i) for i in range(count)]
  cells = [
    contact_sheet.Guesses(
      _plain(color), f'photo {i}.jpg', ['cat', 'dog'], [0.75, 0.25]
    )
    for i, color in enumerate(colors)
  ]
  path = tmp_path / 'new' / 'sheet.png'
  contact_sheet.save_guesses(path, cells, 'Title', 'subtitle')
  assert [file.name for file in path.parent.iterdir()] == ['sheet.png']
  pixels = _read(path)
  boxes = [_boxes(pixels, color) for color in colors]
  columns = {1: 1, 5: 4, 13: 6}[count]
  side = contact_sheet._CELL * _DOTS
  for i, (top, bottom, left, right) in enumerate(boxes):
    assert bottom - top == pytest.approx(side, abs=3)
    assert right - left == pytest.approx(side, abs=3)
    # Rows and columns line up, and stay on the sheet.
    assert top == boxes[i - i % columns][0]
    assert left == boxes[i % columns][2]
    assert right < pixels.shape[1] - 0.4 * _DOTS
    assert bottom < pixels.shape[0] - 0.5 * _DOTS


def test_a_bar_is_as_long_as_its_probability(tmp_path):
  cell = contact_sheet.Guesses(_plain(0), 'x', ['', ''], [0.5, 0.2])
  contact_sheet.save_guesses(tmp_path / 's.png', [cell], '', '')
  pixels = _read(tmp_path / 's.png')
  width = contact_sheet._CELL * _DOTS
  for color, share in (
    (contact_sheet.FIRST_BAR, 0.5), (contact_sheet.PALE, 0.2)
  ):  # fmt: skip
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    _, _, left, right = _boxes(pixels, rgb)
    assert right - left == pytest.approx(share * width, abs=3)


def test_neighbors_stand_in_a_row_behind_their_query(tmp_path):
  rows = [
    contact_sheet.Neighbors(
      _plain((10 + 90 * q, 0, 0)),
      'query.jpg',
      np.stack([_plain((100 * q, 80 * i + 10, 200)) for i in range(3)]),
      ['cat'] * 3,
      [0.5, 1.5, 2000],
    )
    for q in range(2)
  ]
  contact_sheet.save_neighbors(tmp_path / 's.png', rows, 'Title', 'subtitle')
  pixels = _read(tmp_path / 's.png')
  for q in range(2):
    colors = [(10 + 90 * q, 0, 0)]
    colors += [(100 * q, 80 * i + 10, 200) for i in range(3)]
    boxes = [_boxes(pixels, color) for color in colors]
    assert len({box[0] for box in boxes}) == 1
    lefts = [box[2] for box in boxes]
    assert lefts == sorted(lefts)
    assert boxes[-1][3] < pixels.shape[1] - 0.4 * _DOTS


def test_small_images_keep_their_pixels(tmp_path):
  # A checkerboard of two colors stays one of two colors.
  square = np.indices((8, 8)).sum(0) % 2
  square = np.stack([255 * square, 0 * square, 0 * square], -1)
  cell = contact_sheet.Guesses(square.astype(np.uint8), '', [''], [0])
  contact_sheet.save_guesses(tmp_path / 's.png', [cell], '', '')
  pixels = _read(tmp_path / 's.png')
  top, bottom, left, right = _boxes(pixels, (255, 0, 0))
  inside = pixels[top:bottom, left:right].reshape(-1, 3)
  blended = (inside[:, 0] > 20) & (inside[:, 0] < 235)
  assert blended.mean() < 0.01


def test_names_with_any_sign_are_drawn_as_they_are(tmp_path):
  # '$' begins a formula to matplotlib, and this one would not end.
  cell = contact_sheet.Guesses(
    _plain(0), r'a $\frac{1} b_^.jpg', [r'$x^{y$', '100 %'], [0.9, 0.1]
  )
  contact_sheet.save_guesses(tmp_path / 's.png', [cell], r'$\q$', '$$$')
  assert (tmp_path / 's.png').stat().st_size > 1000


def test_words():
  assert contact_sheet.percent(0.9312) == '93.1 %'
  assert contact_sheet.percent(1.0) == '100.0 %'
  assert contact_sheet.percent(0.00049) == '< 0.1 %'
  assert contact_sheet.distance(0.0714) == '0.071'
  assert contact_sheet.distance(1234.56) == '1235'
  assert contact_sheet.shorten('cat', 3) == 'cat'
  assert contact_sheet.shorten('golden retriever', 8) == 'golden …'
  # Of a path the end tells most.
  assert contact_sheet.shorten('a/long/way/to/x.jpg', 9) == '…to/x.jpg'
