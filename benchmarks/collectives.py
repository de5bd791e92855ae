"""What a compiled program sends between devices, read off its text."""

import math
import re
from typing import NamedTuple

import numpy as np

_COLLECTIVE = re.compile(
  r' = (?P<result>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|reduce-scatter'
  r'|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast'
  r'|send|recv)(?P<start>-start)?\(.*'
)
_ITEM_BYTES = {'f32': 4, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'pred': 1}


class Collective(NamedTuple):
  """One exchange between devices.

  Attributes:
    kind: 'all-gather' and so on.
    bytes: of the result on one device.
    groups: the numbers of the devices that take part together.
  """

  kind: str
  bytes: int
  groups: tuple[tuple[int, ...], ...]

  @property
  def sent(self) -> int:
    """Returns the bytes that one device hands over to the others.

    For an all-reduce those that must be added up: how often they travel is the
    implementation's affair.

    Raises:
      ValueError: for a kind that this project's step has no use for.
    """
    others = len(self.groups[0]) - 1
    match self.kind:
      case 'all-gather':
        return self.bytes // len(self.groups[0]) * others
      case 'reduce-scatter':
        return self.bytes * others
      case 'all-reduce':
        return self.bytes
    raise ValueError(f'{self.kind}: this was not to be expected')


def read(program: str) -> list[Collective]:
  """Returns the exchanges of a compiled program's text."""
  found = []
  for match in _COLLECTIVE.finditer(program):
    shapes = re.findall(r'([a-z]+\d*)\[([\d,]*)\]', match['result'])
    if match['start'] and match['kind'] == 'all-gather':
      shapes = shapes[len(shapes) // 2 :]  # operands stand before results
    size = sum(
      _ITEM_BYTES[dtype] * math.prod(int(n) for n in sides.split(',') if n)
      for dtype, sides in shapes
    )
    found.append(Collective(match['kind'], size, _groups(match[0])))
  return found


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
  """Returns the groups of devices among which a collective works."""
  listed = re.search(r'replica_groups=\{(\{.*?\})\}', line)
  if listed:
    return tuple(
      tuple(int(n) for n in group.split(','))
      for group in re.findall(r'\{([\d,]+)\}', listed[1])
    )
  # Or as mesh['data'=2,'tower'=2] {'tower'}: the axes, and those joined.
  named = re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', line)
  if not named:
    raise ValueError(f'no groups of devices in: {line[:200]}')
  sizes = {
    name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])
  }
  ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
  last = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", named[2])]
  first = [axis for axis in range(ids.ndim) if axis not in last]
  size = math.prod(ids.shape[axis] for axis in last)
  rows = ids.transpose(first + last).reshape(-1, size).tolist()
  return tuple(tuple(row) for row in rows)


def sent_between(
  found: list[Collective], devices_per_copy: int
) -> tuple[int, int]:
  """Returns bytes a device sends between towers, and between copies.

  Args:
    found: from `read`.
    devices_per_copy: neighbours among which one network's towers are shared.
  """
  between_towers = between_copies = 0
  for one in found:
    copies = {device // devices_per_copy for device in one.groups[0]}
    if len(copies) == 1:
      between_towers += one.sent
    else:
      between_copies += one.sent
  return between_towers, between_copies
