"""The file that says what a prepared store is, and makes it complete."""

import json
import pathlib
from typing import Any
import zlib

from alexnet_jax import errors

FORMAT = 1
# The description of a complete store, the journal of one in the making.
COMPLETE, UNFINISHED = 'store.json', 'unfinished.npz'


def text(content: dict[str, Any]) -> str:
  """Returns the text of store.json, with a checksum of itself."""
  return json.dumps(content | {'checksum': _checksum(content)}, indent=1)


def read(directory: pathlib.Path) -> dict[str, Any]:
  """Reads what `text` wrote.

  Raises:
    errors.UserError: when it is damaged or of another format.
  """
  path = directory / COMPLETE
  try:
    content = json.loads(path.read_text())
    found, expected = content.pop('checksum'), _checksum(content)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise damaged(path, 'it is no description of a store') from error
  if found != expected:
    raise damaged(path, f'its checksum is {expected}, not {found}')
  if content['format'] != FORMAT:
    raise errors.UserError(
      f'{directory} has format {content["format"]}, this program reads '
      f'{FORMAT}: prepare another store in another store_dir'
    )
  return content


def _checksum(content: dict[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True)
  return f'{zlib.crc32(text.encode()):08x}'


def damaged(path: pathlib.Path, reason: str) -> errors.UserError:
  """Returns the error of a damaged file that only a new store mends."""
  return errors.UserError(
    f'{path} is damaged, {reason}: delete {path.parent} and run with '
    'mode=prepare'
  )
