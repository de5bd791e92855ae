"""Whole training steps, forward, backward and update, compared with torch's.

  python -m benchmarks.train_step --batch_sizes=32,128,256
  python -m benchmarks.train_step --precisions=bfloat16   # on a GPU

Runs on the GPU when there is one. Nothing is set for this project's steps that
a training run would not set, except for the folder of JAX's persistent
compilation cache, and on a GPU that JAX takes memory as it needs it, because
the contenders share it.
"""

from collections.abc import Mapping, Sequence
import importlib.util
import math
import tempfile
from typing import Any, NamedTuple

from absl import app
from absl import flags

from benchmarks import ceilings
from benchmarks import harness
from benchmarks import workload

HEADER = (
  'contender', 'arithmetic', 'batch', 'ms a step', 'lowest to highest',
  'images/s', 'TFLOP/s', 'of matrix rate', 'against torch', 'peak memory',
  'first step', 'second start',
)  # fmt: skip
_CHANNELS_LAST = {'norm': 'shifted_norm', 'channels_last': True}
_COMPILED = {**_CHANNELS_LAST, 'compile_mode': 'default'}
# Name: module and settings. "torch, pure" takes part in bfloat16 only.
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
  'ours': ('jax_step', {}),
  'ours, 2 devices': ('jax_step', {'devices': 2}),
  'torch': ('torch_step', {}),
  'torch, shifted norm': ('torch_step', {'norm': 'shifted_norm'}),
  'torch, channels last': ('torch_step', _CHANNELS_LAST),
  'torch, compiled': ('torch_step', _COMPILED),
  'torch, pure': ('torch_step', {**_COMPILED, 'precision': 'pure_bfloat16'}),
}

_CONTENDERS = flags.DEFINE_multi_enum(
  'contender', list(CONTENDERS), list(CONTENDERS), 'Contenders to compare.'
)
_COMPILE_MODE = flags.DEFINE_string(
  'compile_mode', 'default', "torch.compile's mode, such as max-autotune."
)


class Entry(NamedTuple):
  """A contender at one precision and batch size, and what was measured.

  Attributes:
    name: one of `CONTENDERS`.
    precision: 'float32', 'tf32' or 'bfloat16'.
    batch_size: images per step.
    turns: of the race.
    start_seconds: as for `harness.Worker`.
  """

  name: str
  precision: str
  batch_size: int
  turns: Sequence[harness.Turn]
  start_seconds: Sequence[float] = ()

  @property
  def seconds(self) -> float:
    return harness.median(turn.wall for turn in self.turns)


def make_worker(
  name: str, precision: str, batch_size: int, cache_dir: str
) -> harness.Worker:
  """Returns the worker of a contender."""
  module, own = CONTENDERS[name]
  worker = harness.step_worker(
    f'{name}; {precision}; batch {batch_size}',
    f'benchmarks.{module}:random_step',
    **{'precision': precision, 'batch_size': batch_size, **own},
  )
  # A folder each, so that none finds what another one compiled.
  folder = f'{cache_dir}/{worker.name.replace(" ", "_")}'
  if module == 'jax_step':
    worker.starts = 2
    worker.settings['cache_dir'] = folder
  elif 'compile_mode' in own:
    worker.starts = 2
    worker.settings['compile_mode'] = _COMPILE_MODE.value
    worker.environment['TORCHINDUCTOR_CACHE_DIR'] = folder
  return worker


def measure(
  batch_size: int,
) -> tuple[list[Entry], ceilings.Rates, dict[str, str]]:
  """Returns what was measured, the ceilings, and why some did not run."""
  precisions = harness.precisions(harness.platform())
  names = list(_CONTENDERS.value)
  missing = {}
  if not importlib.util.find_spec('torch'):
    absent = [name for name in names if name.startswith('torch')]
    missing = dict.fromkeys(absent, 'torch is not installed')
    names = [name for name in names if name not in missing]
  with tempfile.TemporaryDirectory() as cache_dir:
    workers = {
      (name, precision): make_worker(name, precision, batch_size, cache_dir)
      for precision in precisions
      for name in names
      if name != 'torch, pure' or precision == 'bfloat16'
    }
    everyone = [*workers.values(), *ceilings.workers(precisions)]
    with harness.race(everyone, all_must_work=False) as (turns, failures):
      rates = ceilings.rates(turns)
  entries = [
    Entry(*key, batch_size, turns[worker.name], worker.start_seconds)
    for key, worker in workers.items()
    if worker.name in turns
  ]
  return entries, rates, missing | failures


def rows(
  entries: Sequence[Entry], products: Mapping[str, float]
) -> list[list[str]]:
  """Returns the table's rows, given `ceilings.Rates.products`."""
  network = workload.network(harness.PRESET.value)
  flops = workload.step_flops(network, harness.CROP_SIZE.value)
  torch = {e.precision: e.seconds for e in entries if e.name == 'torch'}
  lines = []
  for entry in entries:
    rate = flops * entry.batch_size / entry.seconds
    peer = torch.get(entry.precision)
    starts = [f'{seconds:.1f} s' for seconds in entry.start_seconds]
    lines.append(
      [
        entry.name,
        entry.precision,
        str(entry.batch_size),
        *harness.milliseconds([turn.wall for turn in entry.turns]),
        f'{entry.batch_size / entry.seconds:,.1f}',
        f'{rate / 1e12:.3g}',
        f'{rate / products.get(entry.precision, math.nan):.2f}',
        f'{peer / entry.seconds:.2f}' if peer else '',
        f'{entry.turns[-1].memory / 2**30:.2f} GiB',
        *[*starts, ''][:2],
      ]
    )
  return lines


def summary(entries: Sequence[Entry]) -> list[str]:
  """Returns lines that compare this project with the fastest torch."""
  lines = []
  for precision in dict.fromkeys(entry.precision for entry in entries):
    seconds = {e.name: e.seconds for e in entries if e.precision == precision}
    ours, two_devices = map(seconds.get, ('ours', 'ours, 2 devices'))
    peers = [name for name in seconds if name.startswith('torch')]
    if ours and peers:
      best = min(peers, key=seconds.__getitem__)
      ratio = seconds[best] / ours
      lines.append(f'{precision}: {ratio:.2f} times as fast as "{best}"')
    if ours and two_devices:
      ratio = ours / two_devices
      lines.append(f'{precision}: two devices at {ratio:.2f} of one')
  return lines


def check_agreement() -> None:
  """Prints whether both frameworks compute the same function.

  Raises:
    SystemExit: if they do not.
  """
  if not importlib.util.find_spec('torch'):
    print('torch is not installed: nothing to compare with.')
    return
  settings = {
    'preset': harness.PRESET.value,
    'rows': 2,
    'crop_size': harness.CROP_SIZE.value,
  }
  try:
    with harness.Worker(
      'agreement', 'benchmarks.torch_step:Agreement', settings
    ) as check:
      print('\n'.join(check.call('lines')))
  except harness.ContenderError as e:
    raise SystemExit(f'The networks do not agree: {e}') from e


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  harness.print_header()
  check_agreement()
  for batch_size in map(int, harness.BATCH_SIZES.value):
    entries, rates, failures = measure(batch_size)
    print(rates.lines(), end='\n\n')
    print(harness.table(HEADER, rows(entries, rates.products)), end='\n\n')
    print('\n'.join(summary(entries)))
    print(harness.failure_lines(failures))


if __name__ == '__main__':
  app.run(main)
