"""The training step as compiled for a GPU, read without one.

  python -m benchmarks.gpu_program
  python -m benchmarks.gpu_program --precisions=bfloat16 --batch_sizes=128,256
  python -m benchmarks.gpu_program --precisions=bfloat16 --largest=20

Compiles the step ahead of time for a GPU and prints what it starts there:
launches, bytes, and the least time they need at the GPU's rates, by kind and,
with --largest, one by one. Where there is a GPU, the step is timed as well, and
the measured time is printed beside the bound. The compiler cannot tune the
kernels without the GPU: tuning changes how they work, not what they read.
"""

import collections
from collections.abc import Callable, Sequence
import importlib.util
import itertools
import math
from typing import NamedTuple

from absl import app
from absl import flags

from benchmarks import gpu_compiler
from benchmarks import harness
from benchmarks import hlo

INSTALL = (
  "compiling for a GPU needs its packages: pip install 'jax[cuda13]'"
  ' (see benchmarks/requirements.txt)'
)
# JAX's GPU plugins, each built for a version of CUDA.
PLUGINS = ('jax_cuda13_plugin', 'jax_cuda12_plugin')
HEADER = (
  'arithmetic', 'batch', 'devices', 'launches', 'GB', 'bound us',
  'images/s at the bound', 'of matrix rate', 'collectives', 'measured us',
  'of bound',
)  # fmt: skip

_TARGET = flags.DEFINE_enum(
  'target', 'h100', list(gpu_compiler.TARGETS), 'The GPU to compile for.'
)
_LARGEST = flags.DEFINE_integer(
  'largest', 0, 'How many launches to list, the longest first.', lower_bound=0
)


class Program(NamedTuple):
  """A compiled step.

  Attributes:
    case: what it is.
    launches: of one device.
    exchanges: between devices.
    measured: seconds per step on this machine's GPU; NaN without one.
  """

  case: gpu_compiler.Case
  launches: Sequence[hlo.Launch]
  exchanges: Sequence[hlo.Exchange]
  measured: float


def cases() -> list[gpu_compiler.Case]:
  """Returns the steps that the flags ask for."""
  asked = itertools.product(
    harness.precisions('gpu'),
    map(int, harness.BATCH_SIZES.value),
    map(int, harness.DEVICES.value),
  )
  return [gpu_compiler.Case(*each) for each in asked]


def compiled(asked: Sequence[gpu_compiler.Case]) -> list[str]:
  """Returns the texts of the compiled steps.

  Raises:
    SystemExit: if the packages are missing.
  """
  if not any(map(importlib.util.find_spec, PLUGINS)):
    raise SystemExit(INSTALL)
  with harness.Worker(
    'compiler',
    'benchmarks.gpu_compiler:Compiler',
    {'target': _TARGET.value},
    gpu_compiler.ENVIRONMENT,
  ) as worker:
    network = harness.PRESET.value, harness.CROP_SIZE.value
    return [worker.call('compile', case, *network) for case in asked]


def measure(case: gpu_compiler.Case) -> float:
  """Returns the seconds of a step on this machine's GPUs; NaN without them."""
  if harness.platform() == 'cpu' or len(harness.gpus()) < case.devices:
    return math.nan
  step = harness.step_worker('step', **case._asdict())
  with harness.race([step]) as (turns, _):
    return harness.median(turn.wall for turn in turns['step'])


def seconds_of(precision: str) -> Callable[[hlo.Launch], float]:
  """Returns the function that gives a launch's least seconds on the target.

  A float32 product in a bfloat16 step has JAX's default precision, TF32.
  """
  target = gpu_compiler.TARGETS[_TARGET.value]
  wide = 'float32' if precision == 'float32' else 'tf32'
  rates = {'bf16': target.products['bfloat16'], 'f32': target.products[wide]}
  return lambda launch: launch.seconds(target.memory, rates)


def row(program: Program) -> list[str]:
  """Returns a program's cells of `HEADER`."""
  case, launches, exchanges, measured = program
  seconds = sum(map(seconds_of(case.precision), launches))
  rate = sum(launch.operations for launch in launches) / seconds
  peak = gpu_compiler.TARGETS[_TARGET.value].products[case.precision]
  kinds = collections.Counter(exchange.kind for exchange in exchanges)
  return [
    *map(str, case),
    *_sizes(launches, seconds),
    f'{case.batch_size / seconds:,.0f}',
    f'{rate / peak:.2f}',
    ', '.join(f'{count} {kind}' for kind, count in kinds.items()),
    '' if math.isnan(measured) else f'{1e6 * measured:,.0f}',
    '' if math.isnan(measured) else f'{seconds / measured:.2f}',
  ]


def _sizes(launches: Sequence[hlo.Launch], seconds: float) -> list[str]:
  size = sum(launch.bytes for launch in launches)
  return [str(len(launches)), f'{size / 1e9:.3f}', f'{1e6 * seconds:,.0f}']


def kinds_table(program: Program) -> str:
  """Returns the table of a program's kinds of launches."""
  seconds = seconds_of(program.case.precision)
  total = sum(map(seconds, program.launches))
  rows = []
  for kind in hlo.KINDS:
    launches = [one for one in program.launches if one.kind == kind]
    if launches:
      own = sum(map(seconds, launches))
      rows.append([kind, *_sizes(launches, own), f'{own / total:.0%}'])
  return harness.table(('kind', 'launches', 'GB', 'bound us', 'share'), rows)


def largest_table(program: Program, count: int) -> str:
  """Returns the table of the launches that take longest."""
  seconds = seconds_of(program.case.precision)
  rows = (
    [
      launch.name,
      launch.kind,
      f'{launch.bytes / 1e6:.1f}',
      f'{1e6 * seconds(launch):.1f}',
      launch.scope,
    ]
    for launch in sorted(program.launches, key=seconds, reverse=True)[:count]
  )
  return harness.table(('launch', 'kind', 'MB', 'bound us', 'where'), rows)


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  harness.print_header()
  asked = cases()
  programs = [
    Program(case, hlo.launches(text), hlo.exchanges(text), measure(case))
    for case, text in zip(asked, compiled(asked), strict=True)
  ]
  target = gpu_compiler.TARGETS[_TARGET.value]
  products = (
    f'{name} {rate / 1e12:.3g} TFLOP/s'
    for name, rate in target.products.items()
  )
  print(
    f'{_TARGET.value}: {target.memory / 1e12:.2g} TB/s', *products, sep=', '
  )
  print(harness.table(HEADER, map(row, programs)))
  for program in programs:
    name = ', '.join(map(str, program.case))
    print(f'\nPrecision, batch, devices: {name}\n\n{kinds_table(program)}')
    if _LARGEST.value:
      print(f'\n{largest_table(program, _LARGEST.value)}')


if __name__ == '__main__':
  app.run(main)
