import os
import re
import warnings

import matplotlib
from matplotlib import figure
import pytest

from alexnet_jax import names


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
  shown = names.printable(os.fsdecode(name))
  assert shown == expected
  assert shown.encode().decode() == shown
  assert shown.isprintable()
  assert names.printable(shown) == shown


def test_surrogates_that_no_file_name_has():
  assert names.printable('\ud800') == r'\ud800'


def test_what_the_font_lacks_is_escaped():
  own = names.with_glyphs('猫 é\n\udcff', ['DejaVu Sans'])
  assert own == r'\u732b é\n\xff'
  # Without a font of that name, matplotlib takes DejaVu Sans.
  assert names.with_glyphs('猫 é', ['no such font']) == r'\u732b é'


@pytest.mark.parametrize('parse', [True, False])
def test_matplotlib_draws_every_character_as_it_is(parse):
  everything = [chr(i) for i in range(0x3100)] + ['猫', '\udcff', '\U0001f98a']
  lines = [''.join(everything[i : i + 64]) for i in range(0, 0x3103, 64)]
  settings = {'text.parse_math': parse, 'font.family': 'sans-serif'}
  with warnings.catch_warnings(), matplotlib.rc_context(settings):
    warnings.simplefilter('error')
    drawing = figure.Figure()
    for line in lines:
      drawing.text(0, 0, names.drawable(line), weight='bold')
      drawing.text(0, 0, names.drawable(line))
    # Neither is a formula, though one would end and the other would not.
    for name in (r'$\frac{1}$', '$x_1$', r'\$'):
      drawing.text(0, 0, names.drawable(name))
    drawing.canvas.draw()


def test_class_names_are_words():
  words = names.classes_in_words(('n02510455', 'n02012849', 'n03126707', 'cat'))
  # The bird and the machine: 'crane' to WordNet, both of them.
  assert words[0] == 'giant panda'
  assert words[3] == 'cat'
  assert len(set(words)) == 4
  assert not any(name.startswith('n0') for name in words)
  # Ids that ILSVRC-2012 does not have, and words that look a little like ids.
  others = ('n00007846', 'n0251045', 'n025104550', 'nun')
  assert names.classes_in_words(others) == others
  # What nobody could see is quoted.
  assert names.classes_in_words(('', '  ', ' a')) == ("''", "'  '", ' a')


def test_a_split_as_a_part_of_a_name():
  parts = [
    names.for_file(split)
    for split in ('train', 'train[:90%]', 'train[90%:]', 'a/b', '', 'x-1.0')
  ]
  assert all(re.fullmatch(r'[\w.-]+', name) for name in parts)
  assert (parts[0], parts[-1]) == ('train', 'x-1.0')
  # Both halves of a set are often in one folder.
  assert len(set(parts)) == len(parts)


def test_a_split_does_not_lead_out_of_a_folder():
  for split in ('..', '.', '../..', '/etc', '../x', '.hidden'):
    part = names.for_file(split)
    assert re.fullmatch(r'[\w-][\w.-]*', part)
  long = ['+'.join([f'train[{i}%:]'] * 40) for i in (1, 2)]
  parts = [names.for_file(split) for split in (*long, '猫' * 100)]
  assert len(set(parts)) == 3
  assert all(len(part.encode()) <= 128 for part in parts)
