"""What a compiled program sends between devices, read off its text."""

import math
import re
from typing import NamedTuple

import numpy as np

from benchmarks import hlo

KINDS = (
  'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
  'ragged-all-to-all', 'collective-permute', 'collective-broadcast', 'send',
  'recv',
)  # fmt: skip


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


def kind_of(instruction: hlo.Instruction) -> str:
  """Returns the kind of an exchange at its start, '' of all else."""
  kind = instruction.opcode.removesuffix('-start')
  return kind if kind in KINDS else ''


def read(program: str) -> list[Collective]:
  """Returns the exchanges of a compiled program's text."""
  found = []
  for line in program.splitlines():
    instruction = hlo.parse_line(line)
    if instruction and kind_of(instruction):
      size = hlo.byte_size(hlo.result_type(instruction))
      groups = _groups(instruction.attributes)
      found.append(Collective(kind_of(instruction), size, groups))
  return found


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
  """Returns the groups of devices among which a collective works."""
  listed = re.search(r'replica_groups=\{(\{.*?\})\}', attributes)
  if listed:
    return tuple(
      tuple(int(n) for n in group.split(','))
      for group in re.findall(r'\{([\d,]+)\}', listed[1])
    )
  # Or as mesh['data'=2,'tower'=2] {'tower'}: the axes, and those joined.
  named = re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', attributes)
  if not named:
    raise ValueError(f'no groups of devices in: {attributes[:200]}')
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
    devices_per_copy: neighbors among which one network's towers are shared.
  """
  between_towers = between_copies = 0
  for one in found:
    copies = {device // devices_per_copy for device in one.groups[0]}
    if len(copies) == 1:
      between_towers += one.sent
    else:
      between_copies += one.sent
  return between_towers, between_copies
