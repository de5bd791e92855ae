"""Whether a long run grows: its memory, threads and open files by step.

  python -m benchmarks.soak --steps=20000
  python -m benchmarks.soak --steps=5000 --config=configs/fashion_mnist.py

The run is main.py as a user starts it. The default is configs/smoke.py, which
validates every 16 steps and saves every 7: 20,000 steps contain several times
as many validations and checkpoints as 90 epochs of ImageNet.

Caches and allocators fill up at the start, which the fit leaves out. A leak
keeps its slope however long the run is.
"""

from collections.abc import Iterator, Sequence
import os
import pathlib
import re
import tempfile
from typing import NamedTuple

from absl import app
from absl import flags
import numpy as np

from benchmarks import harness
from benchmarks import training_run

HEADER = ('steps', 'resident MiB', 'threads', 'open files')

_EVERY = flags.DEFINE_integer('every', 1000, 'Updates per row of the table.', 1)
_WARM_UP = flags.DEFINE_integer(
  'warm_up', 2000, 'Updates at the start that the fit leaves out.', 0
)
_SMOKE = ('--config=configs/smoke.py', '--config.optimizer.schedule=constant')


class Sample(NamedTuple):
  """What a process holds after a step.

  Attributes:
    step: updates made.
    memory: resident size, in MiB.
    threads: of the process.
    files: open file descriptors.
  """

  step: int
  memory: float
  threads: int
  files: int


def sample(step: int, process_id: int) -> Sample:
  """Returns what a process holds now."""
  folder = pathlib.Path('/proc', str(process_id))
  status = (folder / 'status').read_text()
  kib, threads = (
    int(re.findall(rf'{key}:\s*(\d+)', status)[0])
    for key in ('VmRSS', 'Threads')
  )
  return Sample(step, kib / 1024, threads, len(os.listdir(folder / 'fd')))


def watch(run_flags: Sequence[str]) -> Iterator[Sample]:
  """Runs main.py and yields a sample at each log line of a window.

  Raises:
    SystemExit: if the run fails.
  """
  line = ''
  with (
    tempfile.TemporaryDirectory() as workdir,
    training_run.launch(workdir, run_flags) as process,
  ):
    for line in process.stderr or ():
      if step := training_run.step_of(line):
        yield sample(step, process.pid)
  if process.returncode:
    raise SystemExit(f'main.py failed: {line}')


def rows(samples: Sequence[Sample], every: int) -> list[list[str]]:
  """Returns the table: medians of the samples of every so many steps.

  Saves and validations in progress need memory, threads and files of their own.
  """
  windows: dict[int, list[Sample]] = {}
  for each in samples:
    windows.setdefault(-(-each.step // every), []).append(each)
  found = []
  for number, window in windows.items():
    _, *held = zip(*window, strict=True)
    medians = [f'{harness.median(values):,.0f}' for values in held]
    steps = f'{(number - 1) * every + 1:,} to {window[-1].step:,}'
    found.append([steps, *medians])
  return found


def growth(samples: Sequence[Sample]) -> list[float]:
  """Returns the growth per 1,000 steps of memory, threads and files.

  It is the slope of the straight line through the samples, by least squares.
  """
  steps, *held = np.array(samples, np.float64).T
  return [1000 * float(np.polyfit(steps, values, 1)[0]) for values in held]


def main(argv: list[str]) -> None:
  """Prints the table and the growth."""
  del argv
  harness.print_header()
  steps, warm_up = training_run.STEPS.value, _WARM_UP.value
  run_flags = training_run.given_flags() or _SMOKE
  samples: list[Sample] = []
  try:
    for each in watch([*run_flags, f'--config.max_steps={steps}']):
      samples.append(each)
  except KeyboardInterrupt:
    print(f'stopped after {samples[-1].step if samples else 0} steps')
  print(harness.table(HEADER, rows(samples, _EVERY.value)))
  fitted = [each for each in samples if each.step > warm_up]
  if len(fitted) < 2:
    raise SystemExit(f'no fit: fewer than 2 log lines after step {warm_up}')
  memory, threads, files = growth(fitted)
  print(
    f'\nPer 1,000 steps after step {warm_up:,}: {memory:+z.2f} MiB,'
    f' {threads:+z.2f} threads, {files:+z.2f} open files'
  )


if __name__ == '__main__':
  flags.set_default(training_run.STEPS, 20000)
  app.run(main)
