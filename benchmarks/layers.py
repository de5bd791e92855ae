"""Every layer's forward and backward pass against its own floor.

  python -m benchmarks.layers --batch_size=32

A pass's floor is the longer of two times: its operations at the rate of a large
matrix product, and the bytes it must read and write at the rate of a large
copy, both measured in the same run. "Above" is what a perfect layer would save.
"""

from collections.abc import Sequence
import contextlib
import sys
from typing import Any, NamedTuple

from absl import app
from absl import flags

from benchmarks import ceilings
from benchmarks import harness
from benchmarks import options
from benchmarks import report

HEADER = (
  'part', 'forward ms', 'floor', 'ratio', 'backward ms', 'floor', 'ratio',
  'above ms',
)  # fmt: skip

_PRECISION = flags.DEFINE_enum(
  'precision', 'float32', ['float32', 'tf32', 'bfloat16'], 'Of the arithmetic.'
)


class Measured(NamedTuple):
  """A part's median seconds beside its floors' seconds."""

  name: str
  forward: float
  forward_floor: float
  backward: float
  backward_floor: float

  @property
  def above(self) -> float:
    floors = self.forward_floor + self.backward_floor
    return self.forward + self.backward - floors


def measure() -> tuple[list[Measured], float, ceilings.Rates]:
  """Returns the parts, the whole step's median seconds and the ceilings."""
  platform, environment = options.platform(), options.environment()
  settings = {
    'preset': options.PRESET.value,
    'batch_size': options.BATCH_SIZE.value,
    'crop_size': options.CROP_SIZE.value,
    'precision': _PRECISION.value,
    'platform': platform,
  }
  seconds, side = options.TURN_SECONDS.value, options.MATRIX_SIDE.value
  rounds, turns = [], {}
  with contextlib.ExitStack() as stack:
    parts, step = (
      harness.Worker(name, factory, settings, environment)
      for name, factory in (
        ('parts', 'benchmarks.parts:Parts'),
        ('step', 'benchmarks.ours:Step'),
      )
    )
    limits = ceilings.start([_PRECISION.value], platform, environment, side)
    for worker in (parts, step, *limits):
      stack.enter_context(worker).wait()
    step.call('run', 1)  # compiles
    costs = parts.call('costs')
    for _ in range(options.ROUNDS.value):
      parts.resume()
      rounds.append(parts.call('round', seconds / len(costs)))
      parts.pause()
      taken, failures = harness.alternate([step, *limits], 1, seconds)
      if failures:
        raise SystemExit(report.failures(failures))
      for name, one in taken.items():
        turns.setdefault(name, []).extend(one)
  rates = ceilings.read(turns, platform, side)
  step_seconds = harness.median([turn.wall for turn in turns['step']])
  product = rates.products[_PRECISION.value]
  found = against_floors(costs, rounds, product, rates.copy)
  return found, step_seconds, rates


def against_floors(
  costs: Sequence[tuple[str, Any, Any]],
  rounds: Sequence[Sequence[tuple[float, float]]],
  product: float,
  copy: float,
) -> list[Measured]:
  """Returns the parts' medians over the rounds, beside their floors.

  Args:
    costs: (name, forward cost, backward cost) of each part.
    rounds: (forward seconds, backward seconds) of each part, in each round.
    product: operations a second of a matrix product.
    copy: bytes a second.
  """

  def floor(cost):
    return max(cost.flops / product, cost.bytes / copy)

  found = []
  for i, (name, forward, backward) in enumerate(costs):
    seconds = [
      harness.median([one[i][way] for one in rounds]) for way in (0, 1)
    ]
    found.append(
      Measured(name, seconds[0], floor(forward), seconds[1], floor(backward))
    )
  return found


def rows(found: list[Measured], step_seconds: float) -> list[list[str]]:
  """Returns the table's rows: the parts, their sum, and the whole step."""
  total = Measured(
    'sum', *(sum(column) for column in list(zip(*found, strict=True))[1:])
  )
  both = total.forward + total.backward
  floors = total.forward_floor + total.backward_floor
  blank = [''] * 4
  return [
    *(_row(one) for one in [*found, total]),
    ['both passes', f'{1e3 * both:.1f}', f'{1e3 * floors:.1f}',
     f'{both / floors:.1f}', *blank],
    ['whole step', f'{1e3 * step_seconds:.1f}', f'{1e3 * floors:.1f}',
     f'{step_seconds / floors:.1f}', *blank],
    ['between parts', f'{1e3 * (step_seconds - both):.1f}', '', '', *blank],
  ]  # fmt: skip


def _row(one: Measured) -> list[str]:
  cells = [one.name]
  for seconds, floor in (
    (one.forward, one.forward_floor),
    (one.backward, one.backward_floor),
  ):
    ratio = f'{seconds / floor:.1f}' if floor else ''
    cells += [f'{1e3 * seconds:.2f}', f'{1e3 * floor:.2f}', ratio]
  return [*cells, f'{1e3 * one.above:.1f}']


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  print(f'{report.machine()}\n{" ".join(sys.argv[1:])}')
  found, step_seconds, rates = measure()
  print('\n'.join(rates.lines()), end='\n\n')
  print(report.table(HEADER, rows(found, step_seconds)))


if __name__ == '__main__':
  app.run(main)
