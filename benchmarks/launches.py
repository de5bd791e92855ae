"""The kernels that a compiled program starts on a GPU, and what each moves.

A kernel's bytes are those of its operands and results: whatever a GPU's caches
do, a fusion reads its operands from memory and writes its results there. The
bound is the longer of bytes at the memory's rate and operations at the rate of
matrix products, summed over kernels that run one after the other.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import math
import re
from typing import NamedTuple

from benchmarks import collectives
from benchmarks import hlo

# What an instruction of the entry does without starting a kernel. An
# asynchronous operation starts one at its beginning.
_NO_KERNEL = {
  'parameter', 'constant', 'bitcast', 'get-tuple-element', 'tuple',
  'partition-id', 'replica-id', 'after-all',
}  # fmt: skip
# `model.Stage` and `train_step.py` name the parts of a step; the first one that
# a fusion holds names the fusion.
_SCOPES = (
  ('update', 'update'),
  ('response_norm', 'normalization'),
  ('map_norm', 'normalization'),
  ('pool', 'pooling'),
  ('dropout', 'dropout'),
  ('activation', 'activation'),
)
_MOVES = {
  'copy', 'transpose', 'reshape', 'bitcast', 'slice', 'concatenate', 'pad',
  'broadcast', 'parameter', 'constant', 'tuple', 'get-tuple-element',
}  # fmt: skip
KINDS = (
  'convolution', 'matrix product', 'normalization', 'pooling', 'activation',
  'dropout', 'update', 'cast', 'layout copy', 'collective', 'other',
)  # fmt: skip


class Launch(NamedTuple):
  """A kernel.

  Attributes:
    name: of the instruction.
    kind: of `KINDS`.
    bytes: read and written.
    operations: of its matrix product, 0 without one.
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

    Args:
      memory: bytes a second.
      products: operations a second by the operands' dtype.
    """
    transfer = self.bytes / memory
    if not self.operations:
      return transfer
    return max(transfer, self.operations / products[self.dtype])


def read(text: str) -> list[Launch]:
  """Returns the launches of a compiled program, from its text.

  Raises:
    ValueError: for a loop or a branch, whose launches depend on data.
  """
  program = hlo.parse(text)
  return [
    _launch(program, instruction)
    for instruction in program.entry.values()
    if _starts_kernel(instruction)
  ]


def _starts_kernel(instruction: hlo.Instruction) -> bool:
  if instruction.opcode in ('while', 'conditional', 'call'):
    raise ValueError(f'{instruction.opcode}: its launches cannot be counted')
  return not (
    instruction.opcode in _NO_KERNEL or instruction.opcode.endswith('-done')
  )


def _launch(program: hlo.Program, instruction: hlo.Instruction) -> Launch:
  operations, dtype = _product(program, instruction)
  read = collections.Counter()
  for number, name in enumerate(instruction.operand_names):
    origin = _origin(program, name)
    read[origin] += _bytes_read(program, instruction, number, name)
  # What a kernel is handed twice, in one shape or another, it reads once.
  read_bytes = sum(
    min(size, hlo.byte_size(program.entry[origin].type))
    for origin, size in read.items()
  )
  return Launch(
    instruction.name,
    _kind(program, instruction, operations),
    read_bytes + hlo.byte_size(hlo.result_type(instruction)),
    operations,
    dtype,
    instruction.scope,
  )


def _origin(program: hlo.Program, name: str) -> str:
  """Returns whose memory an array is in."""
  while program.entry[name].opcode == 'bitcast':
    (name,) = program.entry[name].operand_names
  return name


def _bytes_read(
  program: hlo.Program, instruction: hlo.Instruction, number: int, name: str
) -> int:
  """Returns the bytes of an operand, or of the slices a fusion takes of it."""
  whole = hlo.byte_size(program.entry[name].type)
  if not instruction.called:
    return whole
  computation = program.computations[instruction.called]
  (parameter,) = (
    inner.name
    for inner in computation.values()
    if inner.opcode == 'parameter' and inner.operands == str(number)
  )
  return int(min(whole, _bytes_used(computation, parameter)))


def _bytes_used(computation: hlo.Computation, name: str) -> float:
  """Returns the bytes of the slices, infinity if all of it is used."""
  total = 0.0
  for user in computation.values():
    if name in user.operand_names:
      if user.opcode in ('slice', 'dynamic-slice'):
        total += hlo.byte_size(user.type)
      elif user.opcode == 'bitcast':
        total += _bytes_used(computation, user.name)
      else:
        return math.inf
  return total


def _product(
  program: hlo.Program, instruction: hlo.Instruction
) -> tuple[int, str]:
  """Returns the operations of a matrix product or convolution, and its dtype.

  A multiply-add is two operations.
  """
  operands = [program.entry[n].type for n in instruction.operand_names]
  if '__cudnn$conv' in instruction.attributes:
    result = hlo.result_type(instruction)
    return _convolution(instruction.attributes, operands, result)
  if '__cublas$' in instruction.attributes:
    (dtype, lhs), *_ = hlo.arrays(operands[0])
    result = hlo.arrays(instruction.type)[0][1]
    contracted = _sides(
      instruction, lhs, 'lhs_contracting_dimensions":\\[(.*?)]'
    )
    return 2 * math.prod(result) * contracted, dtype
  for computation in _called(program, instruction):
    for inner in computation.values():
      if inner.opcode == 'dot':
        types = [computation[n].type for n in inner.operand_names]
        (dtype, lhs), *_ = hlo.arrays(types[0])
        result = hlo.arrays(inner.type)[0][1]
        contracted = _sides(inner, lhs, r'lhs_contracting_dims=\{(.*?)\}')
        return 2 * math.prod(result) * contracted, dtype
  return 0, ''


def _called(
  program: hlo.Program, instruction: hlo.Instruction
) -> Iterator[hlo.Computation]:
  """Yields the computation of a fusion, and those of fusions inside it."""
  if instruction.called:
    computation = program.computations[instruction.called]
    yield computation
    for inner in computation.values():
      yield from _called(program, inner)


def _sides(
  instruction: hlo.Instruction, shape: tuple[int, ...], pattern: str
) -> int:
  """Returns the product of the sides that an attribute lists."""
  found = re.search(pattern, instruction.attributes)
  axes = re.findall(r'\d+', found[1]) if found else []
  return math.prod(shape[int(axis)] for axis in axes)


def _convolution(
  attributes: str, operands: list[str], result: str
) -> tuple[int, str]:
  """The same of a cuDNN convolution, forward or back to one of its inputs."""
  shapes = [hlo.arrays(text)[0][1] for text in operands]
  (_, made), *_ = hlo.arrays(result)
  if '__cudnn$convBackwardFilter' in attributes:
    outputs, kernel = shapes[1], made
  elif '__cudnn$convBackwardInput' in attributes:
    outputs, kernel = shapes[0], shapes[1]
  else:
    outputs, kernel = made, shapes[1]
  layout = re.search(r'dim_labels=\w+_(\w+)->', attributes)
  if not layout:
    raise ValueError(f'no dim_labels in: {attributes[:200]}')
  features = kernel[layout[1].index('o')]
  operations = 2 * math.prod(outputs) * math.prod(kernel) // features
  return operations, hlo.arrays(operands[0])[0][0]


def _kind(
  program: hlo.Program, instruction: hlo.Instruction, operations: int
) -> str:
  if collectives.kind_of(instruction):
    return 'collective'
  if operations:
    is_convolution = '__cudnn$conv' in instruction.attributes
    return 'convolution' if is_convolution else 'matrix product'
  inside = list(program.inside(instruction))
  opcodes = {inner.opcode for inner in inside} - _MOVES
  if not opcodes:
    return 'layout copy'
  if opcodes == {'convert'}:
    return 'cast'
  return _named(inner.scope for inner in inside if inner.opcode not in _MOVES)


def _named(scopes: Iterable[str]) -> str:
  """Returns the kind by the first of `_SCOPES` that one of the paths holds."""
  parts = {part for scope in scopes for part in scope.split('/')}
  for scope, kind in _SCOPES:
    if scope in parts:
      return kind
  return 'other'
