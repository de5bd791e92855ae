"""The training step that a GPU would run, read without one.

  python -m benchmarks.gpu_program
  python -m benchmarks.gpu_program --precisions=bfloat16 --batch_sizes=128,256
  python -m benchmarks.gpu_program --precisions=bfloat16 --largest=20

Compiles the step ahead of time for a GPU and prints what it starts there:
launches, bytes, and the least time they need at the GPU's rates, by kind and,
with --largest, one by one. Where there is a GPU, the step is timed too, and the
measured time stands beside the bound. The compiler does not tune the kernels,
for which it would need the GPU: that changes how they work, not what they read.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import importlib.util
import itertools
import sys
from typing import NamedTuple

from absl import app
from absl import flags

from benchmarks import collectives
from benchmarks import gpu_compiler
from benchmarks import gpu_targets
from benchmarks import harness
from benchmarks import launches
from benchmarks import options
from benchmarks import report

INSTALL = (
  "compiling for a GPU needs its packages: pip install 'jax[cuda13]'"
  ' (see benchmarks/requirements.txt)'
)
# JAX's plugin for GPUs, built for one CUDA or another.
PLUGINS = ('jax_cuda13_plugin', 'jax_cuda12_plugin')
HEADER = (
  'arithmetic', 'batch', 'devices', 'launches', 'GB', 'bound us',
  'images/s at the bound', 'of matrix rate', 'collectives', 'measured us',
  'of bound',
)  # fmt: skip
KIND_HEADER = ('kind', 'launches', 'GB', 'bound us', 'share')
LAUNCH_HEADER = ('launch', 'kind', 'MB', 'bound us', 'where')

_TARGET = flags.DEFINE_enum(
  'target', 'h100', list(gpu_targets.TARGETS), 'The GPU to compile for.'
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
    measured: seconds a step on this machine's GPU; () without one.
  """

  case: gpu_compiler.Case
  launches: Sequence[launches.Launch]
  exchanges: Sequence[collectives.Collective]
  measured: Sequence[float] = ()


@contextlib.contextmanager
def compiler(target: str) -> Iterator[harness.Worker]:
  """Starts a `Compiler` in a process of its own.

  Raises:
    SystemExit: if its packages are missing.
  """
  if not any(map(importlib.util.find_spec, PLUGINS)):
    raise SystemExit(INSTALL)
  worker = harness.Worker(
    'compiler',
    'benchmarks.gpu_compiler:Compiler',
    {'target': target},
    gpu_compiler.ENVIRONMENT,
  )
  with worker:
    yield worker.wait()


def cases() -> list[gpu_compiler.Case]:
  """Returns what the flags ask for."""
  asked = itertools.product(
    options.precisions('gpu'),
    map(int, options.BATCH_SIZES.value),
    map(int, options.DEVICES.value or ['1', '2']),
  )
  return [gpu_compiler.Case(*each) for each in asked]


def measure(case: gpu_compiler.Case) -> list[float]:
  """Returns the seconds of a step on this machine's GPUs, [] without them."""
  if options.platform() == 'cpu' or len(report.gpus()) < case.devices:
    return []
  settings = {
    'preset': options.PRESET.value,
    'crop_size': options.CROP_SIZE.value,
    'platform': 'gpu',
    **case._asdict(),
  }
  step = harness.Worker(
    'step', 'benchmarks.ours:Step', settings, options.environment()
  )
  with step:
    rounds, seconds = options.ROUNDS.value, options.TURN_SECONDS.value
    turns, failures = harness.alternate([step.wait()], rounds, seconds)
  if failures:
    raise SystemExit(report.failures(failures))
  return [turn.wall for turn in turns['step']]


def product_rates(
  target: gpu_targets.Target, precision: str
) -> dict[str, float]:
  """Returns operations a second by the dtype of a product's operands.

  A float32 product in a bfloat16 step has JAX's default precision, TF32.
  """
  wide = 'float32' if precision == 'float32' else 'tf32'
  return {'bf16': target.products['bfloat16'], 'f32': target.products[wide]}


def bound(found: Iterable[launches.Launch], case: gpu_compiler.Case) -> float:
  """Returns the least seconds that the launches need, one after the other."""
  target = gpu_targets.TARGETS[_TARGET.value]
  rates = product_rates(target, case.precision)
  return sum(launch.seconds(target.memory, rates) for launch in found)


def row(program: Program) -> list[str]:
  """Returns a program's cells of `HEADER`."""
  case, found = program.case, program.launches
  seconds = bound(found, case)
  rate = sum(launch.operations for launch in found) / seconds
  peak = gpu_targets.TARGETS[_TARGET.value].products[case.precision]
  kinds = collections.Counter(each.kind for each in program.exchanges)
  measured = harness.median(program.measured)
  return [
    case.precision,
    str(case.batch_size),
    str(case.devices),
    str(len(found)),
    f'{sum(launch.bytes for launch in found) / 1e9:.3f}',
    f'{1e6 * seconds:,.0f}',
    f'{case.batch_size / seconds:,.0f}',
    f'{rate / peak:.2f}',
    ', '.join(f'{count} {kind}' for kind, count in kinds.items()),
    f'{1e6 * measured:,.0f}' if program.measured else '',
    f'{seconds / measured:.2f}' if program.measured else '',
  ]


def by_kind(program: Program) -> str:
  """Returns the table of a program's kinds of launches."""
  whole = bound(program.launches, program.case)
  rows = []
  for kind in launches.KINDS:
    found = [launch for launch in program.launches if launch.kind == kind]
    if found:
      seconds = bound(found, program.case)
      size = sum(launch.bytes for launch in found)
      rows.append(
        [
          kind,
          str(len(found)),
          f'{size / 1e9:.3f}',
          f'{1e6 * seconds:,.0f}',
          f'{seconds / whole:.0%}',
        ]
      )
  return report.table(KIND_HEADER, rows)


def largest(program: Program, count: int) -> str:
  """Returns the table of the launches that take longest."""
  seconds = {each: bound([each], program.case) for each in program.launches}
  ordered = sorted(seconds, key=seconds.__getitem__, reverse=True)
  rows = (
    [
      launch.name,
      launch.kind,
      f'{launch.bytes / 1e6:.1f}',
      f'{1e6 * seconds[launch]:.1f}',
      launch.scope,
    ]
    for launch in ordered[:count]
  )
  return report.table(LAUNCH_HEADER, rows)


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  print(f'{report.machine()}\n{" ".join(sys.argv[1:])}\n')
  programs = []
  with compiler(_TARGET.value) as worker:
    for case in cases():
      where = options.PRESET.value, options.CROP_SIZE.value
      text = worker.call('compile', case, *where)
      found = launches.read(text), collectives.read(text)
      programs.append(Program(case, *found, measure(case)))
  target = gpu_targets.TARGETS[_TARGET.value]
  print(f'{_TARGET.value}: {target.memory / 1e12:.2g} TB/s,', end=' ')
  products = target.products.items()
  print(
    ', '.join(f'{name} {rate / 1e12:.3g} TFLOP/s' for name, rate in products)
  )
  print(report.table(HEADER, map(row, programs)))
  for program in programs:
    name = ', '.join(map(str, program.case))
    print(f'\nPrecision, batch, devices: {name}\n\n{by_kind(program)}')
    if _LARGEST.value:
      print(f'\n{largest(program, _LARGEST.value)}')


if __name__ == '__main__':
  app.run(main)
