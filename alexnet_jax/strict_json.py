"""JSON that every parser reads: no NaN, no Infinity, no lone surrogates.

All JSON that a run writes passes through here. A number that is not finite is
null: readers test for None.
"""

from collections.abc import Mapping
import json
import math
from typing import Any

from alexnet_jax import printable


def plain(value: Any) -> Any:
  """Returns a value with every number finite or None, every text printable."""
  if isinstance(value, float):
    return float(value) if math.isfinite(value) else None
  if isinstance(value, str):
    return printable.printable(value)
  if isinstance(value, Mapping):
    return {plain(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  return value


def dumps(value: Any, indent: int | None = None) -> str:
  """Returns a value as JSON; see `plain`."""
  return json.dumps(plain(value), indent=indent, allow_nan=False)


def loads(text: str) -> Any:
  """Returns a value from JSON; NaN and Infinity of an older run are None.

  Raises:
    json.JSONDecodeError: if the text is not JSON.
  """
  return json.loads(text, parse_constant=lambda _: None)
