"""Whole training steps, forward, backward and update, beside torch's.

  python -m benchmarks.train_step --batch_sizes=32,128,256
  python -m benchmarks.train_step --precisions=bfloat16   # on a GPU

Runs on the GPU when there is one. Every contender has a process of its own,
and they work in turn. Nothing is set for this project's steps that a training
run would not set, but for two things: JAX's persistent compilation cache, and
on a GPU that JAX takes memory as it needs it, because the contenders share it.
"""

from collections.abc import Sequence
import contextlib
import importlib.util
import pathlib
import sys
import tempfile

from absl import app
from absl import flags

from alexnet_jax import presets
from benchmarks import ceilings
from benchmarks import contenders
from benchmarks import counts
from benchmarks import harness
from benchmarks import options
from benchmarks import report

HEADER = (
  'contender', 'arithmetic', 'batch', 'ms a step', 'lowest to highest',
  'images/s', 'TFLOP/s', 'of matrix rate', 'against torch', 'peak memory',
  'first step', 'second start',
)  # fmt: skip

_CONTENDERS = flags.DEFINE_multi_enum(
  'contender',
  list(contenders.CONTENDERS),
  list(contenders.CONTENDERS),
  'Who takes part.',
)
_COMPILE_MODE = flags.DEFINE_string(
  'compile_mode', 'default', "torch.compile's mode, such as max-autotune."
)
_CACHE_DIR = flags.DEFINE_string(
  'cache_dir',
  '',
  "Where compiled programs are kept, for a second start; '': a temporary folder"
  ' that is empty at the first.',
)
_LIMIT = flags.DEFINE_float(
  'limit_seconds', 150, 'A contender that needs longer for a step is left out.'
)


def check() -> None:
  """Prints whether both frameworks compute the same function."""
  if not importlib.util.find_spec('torch'):
    print('torch is not installed: nothing to compare with.')
    return
  settings = {
    'preset': options.PRESET.value,
    'rows': 2,
    'crop_size': options.CROP_SIZE.value,
  }
  with harness.Worker('check', 'benchmarks.agreement:Check', settings) as work:
    try:
      print('\n'.join(work.wait().call('lines')))
    except harness.ContenderError as e:
      raise SystemExit(f'The networks were not compared: {e}') from e


def race(
  batch_size: int, precisions: Sequence[str], cache_dir: pathlib.Path
) -> tuple[list[contenders.Entry], ceilings.Rates, dict[str, str]]:
  """Lets the contenders step in turn, and the ceilings with them.

  Args:
    batch_size: images a step.
    precisions: of the arithmetic.
    cache_dir: of compiled programs.

  Returns:
    What was measured, the ceilings, and why some did not run.
  """
  platform, side = options.platform(), options.MATRIX_SIDE.value
  setting = contenders.Setting(
    preset=options.PRESET.value,
    crop_size=options.CROP_SIZE.value,
    platform=platform,
    compile_mode=_COMPILE_MODE.value,
    cache_dir=cache_dir,
    environment=options.environment(),
    limit=_LIMIT.value,
  )
  chosen = contenders.entries(_CONTENDERS.value, precisions, batch_size)
  failures: dict[str, str] = {}
  with contextlib.ExitStack() as stack:
    workers = stack.enter_context(contenders.started(chosen, setting, failures))
    limits = ceilings.start(precisions, platform, options.environment(), side)
    for worker in limits:
      stack.enter_context(worker).wait()
    turns, failed = harness.alternate(
      [*workers, *limits], options.ROUNDS.value, options.TURN_SECONDS.value
    )
    failures |= failed
    by_key = {worker.name: worker for worker in workers}
    for entry in chosen:
      if entry.key not in failures:
        entry.seconds = [turn.wall for turn in turns[entry.key]]
        by_key[entry.key].resume()
        entry.memory = by_key[entry.key].call('memory')
  done = [entry for entry in chosen if entry.key not in failures]
  return done, ceilings.read(turns, platform, side), failures


def rows(
  entries: Sequence[contenders.Entry], rates: ceilings.Rates
) -> list[list[str]]:
  """Returns the table's rows."""
  network = presets.get(options.PRESET.value)
  flops = counts.step_flops(network, options.CROP_SIZE.value)
  torch = {
    entry.precision: harness.median(entry.seconds)
    for entry in entries
    if entry.name == 'torch'
  }
  lines = []
  for entry in entries:
    seconds = harness.median(entry.seconds)
    rate = flops * entry.batch_size / seconds
    peer = torch.get(entry.precision)
    lines.append(
      [
        entry.name,
        entry.precision,
        str(entry.batch_size),
        *report.milliseconds(entry.seconds, seconds),
        f'{entry.batch_size / seconds:,.1f}',
        f'{rate / 1e12:.3g}',
        f'{rate / rates.products[entry.precision]:.2f}',
        f'{peer / seconds:.2f}' if peer else '',
        f'{entry.memory / 2**30:.2f} GiB',
        f'{entry.first:.1f} s',
        f'{entry.second:.1f} s' if entry.compiles else '',
      ]
    )
  return lines


def summary(entries: Sequence[contenders.Entry]) -> list[str]:
  """Returns a line a precision: this project against the fastest torch."""
  lines = []
  for precision in dict.fromkeys(entry.precision for entry in entries):
    seconds = {
      entry.name: harness.median(entry.seconds)
      for entry in entries
      if entry.precision == precision
    }
    peers = [name for name in seconds if name.startswith('torch')]
    if 'ours' in seconds and peers:
      best = min(peers, key=seconds.__getitem__)
      ratio = seconds[best] / seconds['ours']
      lines.append(f'{precision}: {ratio:.2f} times as fast as "{best}"')
    if {'ours', 'ours, 2 devices'} <= seconds.keys():
      ratio = seconds['ours'] / seconds['ours, 2 devices']
      lines.append(f'{precision}: two devices at {ratio:.2f} of one')
  return lines


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  platform = options.platform()
  precisions = options.precisions(platform)
  print(f'{report.machine()}\n{" ".join(sys.argv[1:])}')
  check()
  for batch_size in map(int, options.BATCH_SIZES.value):
    with tempfile.TemporaryDirectory() as temporary:
      cache_dir = pathlib.Path(_CACHE_DIR.value or temporary)
      entries, rates, failures = race(batch_size, precisions, cache_dir)
    print('\n'.join(rates.lines()), end='\n\n')
    print(report.table(HEADER, rows(entries, rates)), end='\n\n')
    print('\n'.join(summary(entries)))
    print(report.failures(failures))


if __name__ == '__main__':
  app.run(main)
