"""Each layer's forward and backward pass compared with its floor.

  python -m benchmarks.layers --batch_size=32

A pass's floor is the longer of two times: its operations at the rate of a large
matrix product, and the bytes that it must read and write at the rate of a large
copy, both measured in the same run. "Above" is what a perfect layer would save.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import app
from absl import flags
import numpy as np

from benchmarks import ceilings
from benchmarks import harness

HEADER = (
  'part', 'forward ms', 'floor', 'ratio', 'backward ms', 'floor', 'ratio',
  'above ms',
)  # fmt: skip

_PRECISION = flags.DEFINE_enum(
  'precision', 'float32', ['float32', 'tf32', 'bfloat16'], 'Of the arithmetic.'
)


class Measured(NamedTuple):
  """The median seconds of a part's passes, and the seconds of their floors."""

  name: str
  forward: float
  forward_floor: float
  backward: float
  backward_floor: float

  @property
  def both(self) -> float:
    return self.forward + self.backward

  @property
  def floors(self) -> float:
    return self.forward_floor + self.backward_floor


def measure() -> tuple[list[Measured], float, ceilings.Rates]:
  """Returns the parts, the whole step's median seconds, and the ceilings."""
  precision = _PRECISION.value
  parts = harness.step_worker(
    'parts', 'benchmarks.layer_passes:LayerPasses', precision=precision
  )
  step = harness.step_worker('step', precision=precision)
  limits = ceilings.workers([precision])
  with harness.race([parts, step, *limits]) as (turns, _):
    costs = parts.call('costs')
  rates = ceilings.rates(turns)
  found = compare(costs, turns['parts'], rates.products[precision], rates.copy)
  return found, harness.median(turn.wall for turn in turns['step']), rates


def compare(
  costs: Sequence[tuple[str, Any, Any]],
  turns: Sequence[Sequence[tuple[float, float]]],
  product: float,
  copy: float,
) -> list[Measured]:
  """Returns the parts' medians over all turns, with their floors.

  A part's costs are (name, forward, backward), its turns (forward seconds,
  backward seconds). `product` is in operations, `copy` in bytes per second.
  """
  found = []
  for i, (name, *both) in enumerate(costs):
    cells = []
    for direction, cost in enumerate(both):
      cells.append(harness.median(turn[i][direction] for turn in turns))
      cells.append(max(cost.flops / product, cost.bytes / copy))
    found.append(Measured(name, *cells))
  return found


def rows(found: Sequence[Measured], step_seconds: float) -> list[list[str]]:
  """Returns the table's rows: the parts, their sum, and the whole step."""
  sums = np.sum([one[1:] for one in found], axis=0)
  total = Measured('sum', *sums.tolist())
  lines = [
    [
      one.name,
      *_cells(one.forward, one.forward_floor, 2),
      *_cells(one.backward, one.backward_floor, 2),
      f'{1e3 * (one.both - one.floors):.1f}',
    ]
    for one in [*found, total]
  ]
  between = f'{1e3 * (step_seconds - total.both):.1f}'
  return lines + [
    [*cells, '', '', '', '']
    for cells in (
      ['both passes', *_cells(total.both, total.floors, 1)],
      ['whole step', *_cells(step_seconds, total.floors, 1)],
      ['between parts', between, '', ''],
    )
  ]


def _cells(seconds: float, floor: float, digits: int) -> list[str]:
  ratio = f'{seconds / floor:.1f}' if floor else ''
  return [f'{1e3 * seconds:.{digits}f}', f'{1e3 * floor:.{digits}f}', ratio]


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  harness.print_header()
  found, step_seconds, rates = measure()
  print(rates.lines(), end='\n\n')
  print(harness.table(HEADER, rows(found, step_seconds)))


if __name__ == '__main__':
  app.run(main)
