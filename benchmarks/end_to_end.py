"""A real training run against its step alone and its input pipeline alone.

  python -m benchmarks.end_to_end --config=configs/fashion_mnist.py --steps=200

The run is main.py as a user starts it, with every flag of its config. On a CPU
its images are made on the cores that compute its steps, so it cannot be faster
than both in turn; where an accelerator computes, than the slower of the two.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app
from absl import flags
from ml_collections import config_flags

from benchmarks import harness
from benchmarks import options
from benchmarks import report
from configs import smoke
import main as program  # Its flags are read here too.

HEADER = ('what', 'images/s', 'lowest to highest', 'waiting for images')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_STEPS = flags.DEFINE_integer(
  'steps', 100, 'Updates of a run, the first tenth not counted.', lower_bound=20
)


def run(steps: int) -> tuple[float, float]:
  """Trains by the command that a user types.

  Args:
    steps: updates to make.

  Returns:
    Images a second, and the share of the time spent waiting for them.
  """
  with tempfile.TemporaryDirectory() as workdir:
    command = [
      sys.executable, program.__file__, f'--workdir={workdir}',
      *_config_flags(),
      f'--config.max_steps={steps}',
      f'--config.log.every_steps={steps // 10}',
      f'--config.validate_every_steps={steps}',
    ]  # fmt: skip
    done = subprocess.run(
      command, cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
      raise SystemExit(f'{" ".join(command)}\n{done.stderr[-1000:]}')
    text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
  return speed([json.loads(line) for line in text.splitlines()])


def _config_flags() -> list[str]:
  """Returns --config and its overrides, as they were given."""
  flag = flags.FLAGS['config']
  if flag.value is None:
    return ['--config=configs/smoke.py']
  overrides = config_flags.get_override_values(flag)
  return [
    f'--config={config_flags.get_config_filename(flag)}',
    *(f'--config.{name}={value}' for name, value in overrides.items()),
  ]


def speed(lines: list[dict[str, float]]) -> tuple[float, float]:
  """Returns images a second and the share spent waiting, of a run's metrics.

  Args:
    lines: of metrics.jsonl. The first window of steps holds the compilation,
      and is left out; the others are equally long.
  """
  windows = [line for line in lines if line['kind'] == 'train'][1:]
  # null: a window that took no time that the clock can tell.
  windows = [line for line in windows if line['images_per_second']]
  seconds = [1 / line['images_per_second'] for line in windows]
  waited = [
    line['waiting'] * own for line, own in zip(windows, seconds, strict=True)
  ]
  return len(seconds) / sum(seconds), sum(waited) / sum(seconds)


def measure() -> dict[str, list[float]]:
  """Returns images a second of each, and shares spent waiting, by round."""
  found: dict[str, list[float]] = {
    name: [] for name in ('run', 'waiting', 'step alone', 'pipeline alone')
  }
  config = flags.FLAGS.config or smoke.get_config()
  with contextlib.ExitStack() as stack:
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
      images_per_second, waiting = run(_STEPS.value)
      found['run'].append(images_per_second)
      found['waiting'].append(waiting)
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
  waiting = f'{100 * harness.median(found["waiting"]):.1f} %'
  lines = []
  for name in ('run', 'step alone', 'pipeline alone'):
    low, high = min(found[name]), max(found[name])
    lines.append(
      [
        name,
        f'{harness.median(found[name]):,.1f}',
        f'{low:,.1f} to {high:,.1f}',
        waiting if name == 'run' else '',
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
