"""Reads the text of a compiled program: kernels, bytes, operations, exchanges.

A kernel's bytes are those of its operands and results: whatever a GPU's caches
do, a fusion reads its operands from memory and writes its results there. The
bound of a program is the sum over its kernels, which run one after another, of
the longer of bytes at the memory's rate and operations at the rate of matrix
products.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import math
import re
from typing import NamedTuple

import numpy as np

# In the order in which tables list them.
KINDS = (
  'convolution', 'matrix product', 'normalization', 'pooling', 'activation',
  'dropout', 'update', 'cast', 'layout copy', 'collective', 'other',
)  # fmt: skip
# `model.Stage` and `train_step.py` name the parts of a step; the first of these
# scopes that a fusion contains gives its kind.
_KIND_OF_SCOPE = {
  'update': 'update', 'response_norm': 'normalization',
  'map_norm': 'normalization', 'pool': 'pooling', 'dropout': 'dropout',
  'activation': 'activation',
}  # fmt: skip
_COLLECTIVE = re.compile(
  r'(all-gather|all-reduce|reduce-scatter|(?:ragged-)?all-to-all'
  r'|collective-\w+|send|recv)(-start)?'
)
# Instructions of the entry that start no kernel; an asynchronous operation
# starts one at its beginning.
_NO_KERNEL = {
  'parameter', 'constant', 'bitcast', 'get-tuple-element', 'tuple',
  'partition-id', 'replica-id', 'after-all',
}  # fmt: skip
_MOVES = {
  'copy', 'transpose', 'reshape', 'bitcast', 'slice', 'concatenate', 'pad',
  'broadcast', 'parameter', 'constant', 'tuple', 'get-tuple-element', 'fusion',
}  # fmt: skip
_ITEM_BYTES = {
  'f64': 8, 's64': 8, 'u64': 8, 'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2,
  'f16': 2, 's16': 2, 'u16': 2, 's8': 1, 'u8': 1, 'pred': 1, 'token': 0,
}  # fmt: skip
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'(ENTRY )?%([^\s(]+) \(.*\{')
# %name = type opcode(operands), attributes
_INSTRUCTION = re.compile(
  r'\s*(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*?)\)(?:$|, (.*))'
)

Array = tuple[str, tuple[int, ...]]  # dtype and shape


def _arrays(text: str) -> list[Array]:
  return [
    (dtype, tuple(int(side) for side in sides.split(',') if side))
    for dtype, sides in _ARRAY.findall(text)
  ]


def _size(arrays: Iterable[Array]) -> int:
  """Returns the bytes of all arrays."""
  return sum(_ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in arrays)


class Instruction(NamedTuple):
  """A line of a computation.

  Attributes:
    name: without its %.
    type: of the result or the results.
    opcode: 'fusion', 'all-gather-start' and so on.
    operands: the text in the brackets after the opcode.
    attributes: the text after that.
  """

  name: str
  type: str
  opcode: str
  operands: str
  attributes: str

  @property
  def operand_names(self) -> list[str]:
    return re.findall(r'%([^\s,()]+)', self.operands)

  @property
  def called(self) -> str:
    """The computation of a fusion; '' for other instructions."""
    return self.attribute(r'\bcalls=%([^\s,]+)')

  @property
  def scope(self) -> str:
    """The path of transformations, modules and scopes in JAX."""
    return self.attribute(r'op_name="([^"]*)"')

  @property
  def collective(self) -> str:
    """The kind of exchange that starts here; '' for other instructions."""
    found = _COLLECTIVE.fullmatch(self.opcode)
    return found[1] if found else ''

  @property
  def results(self) -> list[Array]:
    """The arrays it makes; of an asynchronous start, those of its end.

    A start returns its operands before the results, except for an all-reduce.
    """
    arrays, operands = _arrays(self.type), len(self.operand_names)
    if self.opcode.endswith('-start') and self.opcode != 'all-reduce-start':
      return arrays[operands : 2 * operands]
    return arrays

  @property
  def bytes(self) -> int:
    """The bytes of all arrays of its type."""
    return _size(_arrays(self.type))

  def attribute(self, pattern: str) -> str:
    """Returns the first group of a pattern in the attributes, '' if absent."""
    found = re.search(pattern, self.attributes)
    return found[1] if found else ''


Computation = dict[str, Instruction]


def parse_line(line: str) -> Instruction | None:
  """Returns the instruction of a line, None if it has none."""
  found = _INSTRUCTION.match(line)
  return (
    Instruction(*(part or '' for part in found.groups())) if found else None
  )


def parse(text: str) -> tuple[Computation, dict[str, Computation]]:
  """Returns the computation that is executed, and all of them by name."""
  computations: dict[str, Computation] = {}
  entry: Computation = {}
  current: Computation = {}
  for line in text.splitlines():
    if line[:1] in ('%', 'E'):
      if head := _COMPUTATION.match(line):
        current = computations[head[2]] = {}
        entry = current if head[1] else entry
    elif found := parse_line(line):
      current[found.name] = found
  return entry, computations


class Exchange(NamedTuple):
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
  def sent(self) -> float:
    """The bytes that one device sends; see `ring_bytes`."""
    size = len(self.groups[0])
    whole = self.bytes * (size if self.kind == 'reduce-scatter' else 1)
    return ring_bytes(self.kind, whole, size)


def ring_bytes(kind: str, size: int, devices: int) -> float:
  """Returns the bytes that each device of a ring sends to the next one.

  An array is passed around in as many parts as there are devices. To gather
  the parts, or to add up and scatter them, every part takes devices - 1 steps;
  adding up everywhere is one after the other.

  Args:
    kind: 'all-gather', 'reduce-scatter' or 'all-reduce'.
    size: bytes of the whole array.
    devices: of the ring.

  Raises:
    ValueError: for a kind that this project's step does not use.
  """
  if kind not in ('all-gather', 'reduce-scatter', 'all-reduce'):
    raise ValueError(f'{kind}: not expected in a training step')
  rounds = 2 if kind == 'all-reduce' else 1
  return rounds * size * (devices - 1) / devices


def exchanges(text: str) -> list[Exchange]:
  """Returns the exchanges of a compiled program's text."""
  return [
    Exchange(one.collective, _size(one.results), _groups(one.attributes))
    for one in map(parse_line, text.splitlines())
    if one and one.collective
  ]


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
  """Returns the groups of devices among which a collective works."""
  if listed := re.search(r'replica_groups=\{(\{.*?\})\}', attributes):
    groups = re.findall(r'\{([\d,]+)\}', listed[1])
    return tuple(tuple(map(int, group.split(','))) for group in groups)
  # Or as mesh['data'=2,'tower'=2] {'tower'}: the axes, and those joined.
  named = re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', attributes)
  if not named:
    raise ValueError(f'no groups of devices in: {attributes[:200]}')
  sizes = {
    axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])
  }
  joined = re.findall(r"'(\w+)'", named[2])
  devices = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
  places = [list(sizes).index(axis) for axis in joined]
  devices = np.moveaxis(devices, places, range(-len(places), 0))
  rows = devices.reshape(-1, math.prod(sizes[axis] for axis in joined))
  return tuple(map(tuple, rows.tolist()))


class Launch(NamedTuple):
  """A kernel.

  Attributes:
    name: of the instruction.
    kind: one of `KINDS`.
    bytes: read and written.
    operations: of its matrix product, two per multiply-add; 0 without one.
    dtype: of the product's operands.
    scope: where in the step it comes from.
  """

  name: str
  kind: str
  bytes: int
  operations: int
  dtype: str
  scope: str

  def seconds(self, memory: float, products: Mapping[str, float]) -> float:
    """Returns the least time it needs.

    `memory` is in bytes per second, `products` in operations per second by the
    dtype of the operands.
    """
    transfer = self.bytes / memory
    if not self.operations:
      return transfer
    return max(transfer, self.operations / products[self.dtype])


def launches(text: str) -> list[Launch]:
  """Returns the kernels of a compiled program's text.

  Raises:
    ValueError: for a loop or a branch, whose launches depend on data.
  """
  entry, computations = parse(text)
  found = []
  for one in entry.values():
    if one.opcode in ('while', 'conditional', 'call'):
      raise ValueError(f'{one.opcode}: its launches cannot be counted')
    if one.opcode not in _NO_KERNEL and not one.opcode.endswith('-done'):
      size = _bytes_read(entry, computations, one) + _size(one.results)
      product = _product(entry, computations, one)
      kind = _kind(computations, one, product[0])
      found.append(Launch(one.name, kind, size, *product, one.scope))
  return found


def _bytes_read(entry, computations, instruction) -> int:
  """Returns the bytes of its operands, or of the slices it takes of them."""
  read = collections.Counter()
  for number, name in enumerate(instruction.operand_names):
    size: float = entry[name].bytes
    if instruction.called:
      fusion = computations[instruction.called]
      (parameter,) = (
        inner.name
        for inner in fusion.values()
        if inner.opcode == 'parameter' and inner.operands == str(number)
      )
      size = min(size, _bytes_used(fusion, parameter))
    while entry[name].opcode == 'bitcast':
      (name,) = entry[name].operand_names
    read[name] += int(size)
  # What a kernel gets twice, in one shape or another, it reads once.
  return sum(min(size, entry[name].bytes) for name, size in read.items())


def _bytes_used(fusion: Computation, name: str) -> float:
  """Returns the bytes of the slices, infinity if all of it is used."""
  total = 0.0
  for user in fusion.values():
    if name in user.operand_names:
      if user.opcode in ('slice', 'dynamic-slice'):
        total += user.bytes
      elif user.opcode == 'bitcast':
        total += _bytes_used(fusion, user.name)
      else:
        return math.inf
  return total


def _inside(
  computations, instruction
) -> Iterator[tuple[Computation, Instruction]]:
  """Yields the instructions of a fusion, and of fusions inside it."""
  if instruction.called:
    fusion = computations[instruction.called]
    for inner in fusion.values():
      yield fusion, inner
      yield from _inside(computations, inner)


def _product(entry, computations, instruction) -> tuple[int, str]:
  """Returns the operations of a weighted sum and its dtype, or (0, '')."""
  if '__cudnn$conv' in instruction.attributes:
    return _convolution(entry, instruction)
  if '__cublas$' in instruction.attributes:
    axes = instruction.attribute(r'lhs_contracting_dimensions":\[(.*?)]')
    return _dot(entry, instruction, axes)
  for fusion, inner in _inside(computations, instruction):
    if inner.opcode == 'dot':
      axes = inner.attribute(r'lhs_contracting_dims=\{(.*?)\}')
      return _dot(fusion, inner, axes)
  return 0, ''


def _dot(computation, instruction, axes) -> tuple[int, str]:
  (dtype, left), *_ = _arrays(computation[instruction.operand_names[0]].type)
  (_, result), *_ = instruction.results
  contracted = math.prod(left[int(axis)] for axis in re.findall(r'\d+', axes))
  return 2 * math.prod(result) * contracted, dtype


def _convolution(entry, instruction) -> tuple[int, str]:
  """The same for cuDNN: forward, or backward to one of its inputs."""
  (dtype, first), (_, second) = (
    _arrays(entry[name].type)[0] for name in instruction.operand_names[:2]
  )
  (_, result), *_ = instruction.results
  match instruction.attribute(r'__cudnn\$conv(Backward\w+)'):
    case 'BackwardFilter':
      outputs, kernel = second, result
    case 'BackwardInput':
      outputs, kernel = first, second
    case _:
      outputs, kernel = result, second
  # Such as b01f_o01i->b01f: the kernel's outputs are its first axis.
  layout = instruction.attribute(r'dim_labels=\w+_(\w+)->')
  features = kernel[layout.index('o')]
  return 2 * math.prod(outputs) * math.prod(kernel) // features, dtype


def _kind(computations, instruction, operations) -> str:
  if instruction.collective:
    return 'collective'
  if operations:
    is_convolution = '__cudnn$conv' in instruction.attributes
    return 'convolution' if is_convolution else 'matrix product'
  inside = [inner for _, inner in _inside(computations, instruction)]
  works = [one for one in inside or [instruction] if one.opcode not in _MOVES]
  if not works:
    return 'layout copy'
  if all(one.opcode == 'convert' for one in works):
    return 'cast'
  scopes = {scope for one in works for scope in one.scope.split('/')}
  kinds = (kind for scope, kind in _KIND_OF_SCOPE.items() if scope in scopes)
  return next(kinds, 'other')
