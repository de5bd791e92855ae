"""A real training run against its step alone and its input pipeline alone.

  python -m benchmarks.end_to_end
  python -m benchmarks.end_to_end --config=configs/fashion_mnist.py --steps=200

The run is main.py as a user starts it, with every flag of its config. On a CPU
its images are made on the cores that compute its steps, so it cannot be faster
than both in turn; where an accelerator computes, than the slower of the two.

Without --config it is configs/imagenet.py, plateau schedule included, on the
sample of ImageNet in ALEXNET_DATA or on made-up images. The speed that a run
prints is held against the moments at which its lines arrive.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
from ml_collections import config_dict
from ml_collections import config_flags

from benchmarks import harness
from benchmarks import image_files
from benchmarks import options
from benchmarks import report
from configs import imagenet
import main as program  # Its flags are read here too.

HEADER = ('what', 'images/s', 'lowest to highest', 'data wait')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# How far what is printed may be from the clock.
_TOLERANCE = 0.1
_STEPS = flags.DEFINE_integer(
  'steps', 100, 'Updates of a run, the first tenth not counted.', lower_bound=20
)


def run(steps: int, given: list[str]) -> tuple[float, float, float]:
  """Trains by the command that a user types.

  Args:
    steps: updates to make.
    given: --config and its overrides.

  Returns:
    Images per second as printed and by the clock, and the data wait's share.
  """
  with tempfile.TemporaryDirectory() as workdir:
    command = [
      sys.executable, program.__file__, f'--workdir={workdir}', *given,
      f'--config.max_steps={steps}',
      f'--config.log.every_steps={steps // 10}',
      f'--config.validate_every_steps={steps}',
      f'--config.checkpoint.every_steps={steps}',
    ]  # fmt: skip
    arrivals, log = [], []
    with subprocess.Popen(
      command, cwd=_ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
      for line in process.stderr or ():
        log.append(line)
        if found := re.search(r' step (\d+)/', line):
          arrivals.append((int(found[1]), time.perf_counter()))
    if process.returncode:
      raise SystemExit(f'{" ".join(command)}\n{"".join(log)[-1000:]}')
    folder = pathlib.Path(workdir)
    batch_size = json.loads((folder / 'config.json').read_text())['batch_size']
    text = (folder / 'metrics.jsonl').read_text()
  (first, begun), (last, ended) = arrivals[0], arrivals[-1]
  printed, wait = speed([json.loads(line) for line in text.splitlines()])
  return printed, batch_size * (last - first) / (ended - begun), wait


def _given() -> list[str]:
  """Returns --config and its overrides, as they were given."""
  flag = flags.FLAGS['config']
  return [
    f'--config={config_flags.get_config_filename(flag)}',
    *_as_flags(config_flags.get_override_values(flag)),
  ]


def _as_flags(overrides: dict[str, Any]) -> list[str]:
  return [f'--config.{name}={value}' for name, value in overrides.items()]


def _flagship(folder: str) -> tuple[list[str], config_dict.ConfigDict]:
  """Returns the flags and the config of a run of configs/imagenet.py.

  Args:
    folder: an empty one, for the images of the sample.
  """
  overrides: dict[str, Any] = {
    'batch_size': options.BATCH_SIZE.value,
    'data.source': 'synthetic',
  }
  if data := os.environ.get('ALEXNET_DATA'):
    train = pathlib.Path(folder) / 'train'
    image_files.unpack_sample(pathlib.Path(data), train, 1)
    overrides |= {
      'data.source': 'folder',
      'data.data_dir': folder,
      'data.eval_split': 'train',
      'network.fc8.features': sum(1 for _ in train.iterdir()),
    }
  config = imagenet.get_config()
  config.update_from_flattened_dict(overrides)
  return ['--config=configs/imagenet.py', *_as_flags(overrides)], config


def speed(lines: list[dict[str, float]]) -> tuple[float, float]:
  """Returns images a second and the data wait's share, of a run's metrics.

  Args:
    lines: of metrics.jsonl. The first window of steps holds the compilation,
      and is left out; the others are equally long.
  """
  windows = [line for line in lines if line['kind'] == 'train'][1:]
  # null: a window that took no time that the clock can tell.
  windows = [line for line in windows if line['images_per_second']]
  seconds = [1 / line['images_per_second'] for line in windows]
  waited = [
    line['data_wait'] * own for line, own in zip(windows, seconds, strict=True)
  ]
  return len(seconds) / sum(seconds), sum(waited) / sum(seconds)


def measure() -> dict[str, list[float]]:
  """Returns images per second of each, and the data wait, by round.

  Raises:
    SystemExit: if a run's printed speed is not what the clock says.
  """
  found: dict[str, list[float]] = {
    name: []
    for name in ('run', 'by the clock', 'wait', 'step alone', 'pipeline alone')
  }
  with contextlib.ExitStack() as stack:
    if flags.FLAGS.config is None:
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      given, config = _flagship(folder)
    else:
      given, config = _given(), flags.FLAGS.config
    workers = []
    for name, factory in (
      ('step alone', 'StepAlone'),
      ('pipeline alone', 'PipelineAlone'),
    ):
      worker = harness.Worker(
        name, f'benchmarks.run_parts:{factory}', {'config': config}
      )
      workers.append(stack.enter_context(worker).wait())
      worker.pause()
    for _ in range(options.ROUNDS.value):
      printed, clock, wait = run(_STEPS.value, given)
      if abs(printed / clock - 1) > _TOLERANCE:
        raise SystemExit(
          f'the run printed {printed:.1f} images/s, the clock says {clock:.1f}'
        )
      found['run'].append(printed)
      found['by the clock'].append(clock)
      found['wait'].append(wait)
      turns, failures = harness.alternate(
        workers, 1, options.TURN_SECONDS.value
      )
      if failures:
        raise SystemExit(report.failures(failures))
      for name, (turn,) in turns.items():
        found[name].append(config.batch_size / turn.wall)
  return found


def rows(found: dict[str, list[float]]) -> list[list[str]]:
  """Returns the table's rows, with the two limits that the parts set."""
  step, pipeline = (
    harness.median(found[name]) for name in ('step alone', 'pipeline alone')
  )
  wait = f'{100 * harness.median(found["wait"]):.1f} %'
  lines = []
  for name in ('run', 'by the clock', 'step alone', 'pipeline alone'):
    low, high = min(found[name]), max(found[name])
    lines.append(
      [
        name,
        f'{harness.median(found[name]):,.1f}',
        f'{low:,.1f} to {high:,.1f}',
        wait if name == 'run' else '',
      ]
    )
  in_turn = 1 / (1 / step + 1 / pipeline)
  return [
    *lines,
    ['limit: the slower of the two', f'{min(step, pipeline):,.1f}', '', ''],
    ['limit: both in turn', f'{in_turn:,.1f}', '', ''],
  ]


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  print(f'{report.machine()}\n{" ".join(sys.argv[1:])}\n')
  print(report.table(HEADER, rows(measure())))


if __name__ == '__main__':
  app.run(main)
