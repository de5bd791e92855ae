"""A whole training run, as a user starts it, as a contender."""

from collections.abc import Iterable, Mapping, Sequence
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

import main as program  # noqa: F401 - defines --config

STEPS = flags.DEFINE_integer('steps', 100, 'Updates per run.', 20)
_MAIN = pathlib.Path(__file__).parents[1] / 'main.py'


def given_flags() -> list[str]:
  """Returns --config and its overrides as they were given; [] if not."""
  flag = flags.FLAGS['config']
  if flag.value is None:
    return []
  path = config_flags.get_config_filename(flag)
  return as_flags(path, config_flags.get_override_values(flag))


def as_flags(path: str, overrides: Mapping[str, Any]) -> list[str]:
  """Returns the flags that select a config file and override its keys."""
  values = [f'--config.{name}={value}' for name, value in overrides.items()]
  return [f'--config={path}', *values]


def launch(workdir: str, run_flags: Iterable[str]) -> subprocess.Popen[str]:
  """Starts main.py; its log is the process's `stderr`."""
  command = [sys.executable, str(_MAIN), f'--workdir={workdir}', *run_flags]
  return subprocess.Popen(
    command, cwd=_MAIN.parent, stderr=subprocess.PIPE, text=True
  )


def step_of(line: str) -> int | None:
  """Returns the step of a log line for a window; None for other lines."""
  found = re.search(r' step (\d+)/', line)
  return int(found[1]) if found else None


class TrainingRun:
  """Runs main.py; a turn is a whole run."""

  def __init__(self, steps: int, run_flags: Sequence[str]):
    """Keeps the number of updates, and --config with its overrides."""
    self._steps, self._flags = steps, run_flags

  def run(self, count: int) -> None:
    """Does nothing: a run needs no warm-up."""

  def turn(self, seconds: float) -> tuple[float, float, float]:
    """Returns images/s as printed and by the clock, and the data wait's share.

    The clock's are from the times at which the lines of the log arrive.
    """
    arrivals, log = [], []
    with tempfile.TemporaryDirectory() as workdir:
      run_flags = [
        *self._flags,
        f'--config.max_steps={self._steps}',
        f'--config.log.every_steps={self._steps // 10}',
        f'--config.validate_every_steps={self._steps}',
        f'--config.checkpoint.every_steps={self._steps}',
      ]
      with launch(workdir, run_flags) as process:
        for line in process.stderr or ():
          log.append(line)
          if step := step_of(line):
            arrivals.append((step, time.perf_counter()))
      if process.returncode:
        raise RuntimeError(f'main.py failed: {"".join(log[-1:])}')
      config = json.loads(pathlib.Path(workdir, 'config.json').read_text())
      metrics = pathlib.Path(workdir, 'metrics.jsonl').read_text()
    (first, start), *_, (last, end) = arrivals
    clock = config['batch_size'] * (last - first) / (end - start)
    printed, wait = speed(map(json.loads, metrics.splitlines()))
    return printed, clock, wait


def speed(lines: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
  """Returns images per second and the data wait's share of a run.

  Args:
    lines: of metrics.jsonl. The first window of steps includes the compilation
      and is left out; the others are equally long.
  """
  _, *windows = (line for line in lines if line['kind'] == 'train')
  # null: a window too short for the clock.
  windows = [one for one in windows if one['images_per_second']]
  seconds = sum(1 / one['images_per_second'] for one in windows)
  waited = sum(one['data_wait'] / one['images_per_second'] for one in windows)
  return len(windows) / seconds, waited / seconds
