import os
import warnings

import matplotlib
from matplotlib import figure
import pytest

from alexnet_jax import printable


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    (b'cat.jpg', 'cat.jpg'),
    (b'a b\\n $x_1$.jpg', 'a b\\n $x_1$.jpg'),
    ('猫 😀 é.jpg'.encode(), '猫 😀 é.jpg'),
    (b'\xff\xfe.jpg', r'\xff\xfe.jpg'),
    (b'caf\xe9.jpg', r'caf\xe9.jpg'),
    (b'a\nb\r\t\x1b[31m\x00', r'a\nb\r\t\x1b[31m\x00'),
    ('x\u202egpj.exe\u2028'.encode(), r'x\u202egpj.exe\u2028'),
    (b'', ''),
  ],
)
def test_any_name_is_one_line_of_utf_8(name, expected):
  shown = printable.printable(os.fsdecode(name))
  assert shown == expected
  assert shown.encode().decode() == shown
  assert shown.isprintable()
  assert printable.printable(shown) == shown


def test_surrogates_that_no_file_name_has():
  assert printable.printable('\ud800') == r'\ud800'


def test_what_the_font_lacks_is_escaped():
  own = printable.with_glyphs('猫 é\n\udcff', ['DejaVu Sans'])
  assert own == r'\u732b é\n\xff'
  # Without a font of that name, matplotlib takes DejaVu Sans.
  assert printable.with_glyphs('猫 é', ['no such font']) == r'\u732b é'


@pytest.mark.parametrize('parse', [True, False])
def test_matplotlib_draws_every_character_as_it_is(parse):
  everything = [chr(i) for i in range(0x3100)] + ['猫', '\udcff', '\U0001f98a']
  lines = [''.join(everything[i : i + 64]) for i in range(0, 0x3103, 64)]
  settings = {'text.parse_math': parse, 'font.family': 'sans-serif'}
  with warnings.catch_warnings(), matplotlib.rc_context(settings):
    warnings.simplefilter('error')
    drawing = figure.Figure()
    for line in lines:
      drawing.text(0, 0, printable.drawable(line), weight='bold')
      drawing.text(0, 0, printable.drawable(line))
    # Neither is a formula, though one would end and the other would not.
    for name in (r'$\frac{1}$', '$x_1$', r'\$'):
      drawing.text(0, 0, printable.drawable(name))
    drawing.canvas.draw()
