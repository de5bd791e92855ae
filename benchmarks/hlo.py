"""Reads the text of a compiled program: instructions, bytes, operations."""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

_ITEM_BYTES = {
  'f64': 8, 's64': 8, 'u64': 8, 'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2,
  'f16': 2, 's16': 2, 'u16': 2, 's8': 1, 'u8': 1, 'pred': 1, 'token': 0,
}  # fmt: skip
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'(?P<entry>ENTRY )?%(?P<name>[^\s(]+) \(.*\{')
_NAME = re.compile(r'\s*(?:ROOT )?%(?P<name>\S+) = ')
_OPCODE = re.compile(r' (?P<opcode>[a-z][a-z0-9-]*)\(')


class Instruction(NamedTuple):
  """A line of a computation.

  Attributes:
    name: without its %.
    type: of the result, such as 'f32[2,3]{1,0}', or several in brackets.
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
    """Returns the name of the computation of a fusion, '' of others."""
    found = re.search(r'\bcalls=%([^\s,]+)', self.attributes)
    return found[1] if found else ''

  @property
  def scope(self) -> str:
    """Returns the path of transformations, modules and scopes in JAX."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ''


Computation = dict[str, Instruction]


class Program(NamedTuple):
  """A compiled module.

  Attributes:
    entry: the computation that is executed.
    computations: all of them, by name.
  """

  entry: Computation
  computations: dict[str, Computation]

  def inside(self, instruction: Instruction) -> Iterator[Instruction]:
    """Yields the instructions that one of the entry stands for."""
    if not instruction.called:
      yield instruction
      return
    for inner in self.computations[instruction.called].values():
      yield from self.inside(inner)


def parse(text: str) -> Program:
  """Returns a compiled program from `compiled.as_text()`."""
  entry: Computation = {}
  computations: dict[str, Computation] = {}
  current: Computation = {}
  for line in text.splitlines():
    if line[:1] in ('%', 'E'):
      if head := _COMPUTATION.match(line):
        current = computations[head['name']] = {}
        entry = current if head['entry'] else entry
    elif found := parse_line(line):
      current[found.name] = found
  return Program(entry, computations)


def parse_line(line: str) -> Instruction | None:
  """Returns the instruction of a line, or None if there is none."""
  name = _NAME.match(line)
  if not name:
    return None
  type_end = name.end()
  if line[type_end] == '(':  # several results
    type_end += _closing(line[type_end:]) + 1
  opcode = _OPCODE.search(line, type_end)
  if not opcode:
    return None
  start = opcode.end()
  end = start - 1 + _closing(line[start - 1 :])
  return Instruction(
    name['name'],
    line[name.end() : opcode.start()],
    opcode['opcode'],
    line[start:end],
    line[end + 1 :],
  )


def _closing(text: str) -> int:
  """Returns the place of the bracket that closes the first character."""
  depth = 0
  for place, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if depth == 0:
      return place
  raise ValueError(f'a bracket stays open: {text[:100]}')


def arrays(type_text: str) -> list[tuple[str, tuple[int, ...]]]:
  """Returns the dtypes and shapes of a type."""
  return [
    (dtype, tuple(int(side) for side in sides.split(',') if side))
    for dtype, sides in _ARRAY.findall(type_text)
  ]


def byte_size(type_text: str) -> int:
  """Returns the bytes of all arrays of a type."""
  return sum(
    _ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in arrays(type_text)
  )


def result_type(instruction: Instruction) -> str:
  """Returns the type of the result; of an asynchronous start, of its end.

  A start returns its operands and then the results, but for an all-reduce.
  """
  opcode, text = instruction.opcode, instruction.type
  if opcode.endswith('-start') and opcode != 'all-reduce-start':
    if text[1] == '(':
      return text[_closing(text[1:]) + 2 :]
    operands = len(instruction.operand_names)
    return ' '.join(
      f'{dtype}[{",".join(map(str, shape))}]'
      for dtype, shape in arrays(text)[operands : 2 * operands]
    )
  return text
