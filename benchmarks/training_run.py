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

_MAIN = pathlib.Path(__file__).parents[1] / 'main.py'


class TrainingRun:
  """Runs main.py; a turn is a whole run."""

  def __init__(self, steps: int, config_flags: Sequence[str]):
    """Keeps the number of updates, and --config with its overrides."""
    self._steps, self._flags = steps, config_flags

  def run(self, count: int) -> None:
    """Does nothing: a run needs no warm-up."""

  def turn(self, seconds: float) -> tuple[float, float, float]:
    """Returns images/s as printed and by the clock, and the data wait's share.

    The clock's are from the times at which the lines of the log arrive.
    """
    arrivals, log = [], []
    with tempfile.TemporaryDirectory() as workdir:
      command = [
        sys.executable, str(_MAIN), f'--workdir={workdir}', *self._flags,
        f'--config.max_steps={self._steps}',
        f'--config.log.every_steps={self._steps // 10}',
        f'--config.validate_every_steps={self._steps}',
        f'--config.checkpoint.every_steps={self._steps}',
      ]  # fmt: skip
      with subprocess.Popen(
        command, cwd=_MAIN.parent, stderr=subprocess.PIPE, text=True
      ) as process:
        for line in process.stderr or ():
          log.append(line)
          if found := re.search(r' step (\d+)/', line):
            arrivals.append((int(found[1]), time.perf_counter()))
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
