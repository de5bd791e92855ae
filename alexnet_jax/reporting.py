"""What a run reports: terminal lines, metrics.jsonl, TensorBoard events."""

from collections.abc import Mapping
import importlib.metadata
import io
import json
import logging as python_logging
import math
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

from absl import logging
import jax
import tensorboardX

from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax import progress

# Keys of metrics.jsonl that had other names in earlier versions.
_RENAMED = {'rate': 'learning_rate', 'waiting': 'data_wait'}
_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
  'tensorflow-datasets',
)  # fmt: skip


def set_up_terminal() -> None:
  """Sets the log's format and drops other packages' chatter.

  Printing never fails: a terminal whose encoding lacks a character shows its
  escape, as Python does on stderr by default.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')
  handler = logging.get_absl_handler()
  handler.setFormatter(
    _Formatter('%(asctime)s %(message)s', datefmt='%H:%M:%S')
  )
  handler.addFilter(_matters)
  logging.set_verbosity(logging.INFO)


class _Formatter(python_logging.Formatter):
  """Makes messages printable, and our own one line."""

  def formatMessage(self, record: python_logging.LogRecord) -> str:
    lines = [record.message]
    if not _is_ours(record):
      lines = record.message.split('\n')
    record.message = '\n'.join(map(names.printable, lines))
    return super().formatMessage(record)


def _is_ours(record: python_logging.LogRecord) -> bool:
  return 'alexnet_jax' in pathlib.Path(record.pathname).parts


def _matters(record: python_logging.LogRecord) -> bool:
  """Whether a line is ours, another package's warning, or Orbax's error.

  Orbax logs a dozen lines per checkpoint, and warns of each without metrics.
  """
  if _is_ours(record):
    return True
  parts = pathlib.Path(record.pathname).parts
  least = python_logging.ERROR if 'orbax' in parts else python_logging.WARNING
  return record.levelno >= least


class Reporter:
  """Writes `metrics.jsonl` and event files; both agree after a restart."""

  def __init__(self, workdir: pathlib.Path, first_step: int):
    """Opens the files and drops what was written after the checkpoint.

    Args:
      workdir: of the run; created.
      first_step: the step from which the run resumes.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / 'metrics.jsonl'
    kept = [
      line for line in read(self._path) if line['step'] <= first_step
    ]  # fmt: skip
    files.write_text(
      self._path, ''.join(files.dumps(line) + '\n' for line in kept)
    )
    self._file = self._path.open('a')
    self._events = tensorboardX.SummaryWriter(
      str(workdir / 'events'), purge_step=first_step + 1
    )

  def write(self, step: int, kind: str, values: dict[str, float]) -> None:
    """Writes one line, and one event per value.

    Args:
      step: updates made.
      kind: 'train', 'epoch' or 'validation'.
      values: by name.
    """
    line = {'step': step, 'kind': kind, **values}
    self._file.write(files.dumps(line) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(f'{kind}/{name}', value, step)
    self._events.flush()

  def close(self) -> None:
    self._file.close()
    self._events.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of `metrics.jsonl`, without one cut off by a kill.

  Numbers that were not finite are None.
  """
  if not files.is_file(path):
    return []
  lines = []
  for text in path.read_text().splitlines():
    try:
      line = files.loads(text)
      lines.append({_RENAMED.get(key, key): x for key, x in line.items()})
    except (json.JSONDecodeError, AttributeError):  # Cut off, or no mapping.
      logging.warning('%s: dropping an incomplete line', path)
  return lines


def write_run_record(
  workdir: pathlib.Path, config: Mapping[str, Any], devices: list[jax.Device]
) -> None:
  """Writes `config.json` and `run.json`: versions, devices, git revision."""
  files.write_json(workdir / 'config.json', config)
  record = {
    'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    'python': platform.python_version(),
    'versions': {name: _version(name) for name in _PACKAGES},
    'devices': [f'{d.platform}:{d.id} {d.device_kind}' for d in devices],
    'host': platform.platform(),
    'git_revision': _git_revision(),
  }
  files.write_json(workdir / 'run.json', record)


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git_revision() -> str | None:
  """Returns the checkout's revision, '-dirty' if changed; None outside git."""
  folder = pathlib.Path(__file__).parent
  command = ['git', '-C', str(folder), 'describe', '--always', '--dirty']
  command += ['--abbrev=40', '--exclude=*']
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
  except FileNotFoundError:
    return None
  return done.stdout.strip() or None


def train_line(
  step: int, total: int, values: dict[str, float], seconds_left: float
) -> str:
  """Returns the terminal's line for a window of training steps.

  Args:
    step: updates made.
    total: updates of the whole run.
    values: of the window, as in `metrics.jsonl`.
    seconds_left: the ETA; NaN, like a speed not measured yet, becomes '?'.
  """
  speed, wait = values['images_per_second'], 100 * values['data_wait']
  return (
    f'step {step}/{total}  epoch {values["epoch"]:.2f}'
    f'  loss {values["nll"]:.4f}  error {100 * values["top1_error"]:.1f} %'
    f'  learning rate {values["learning_rate"]:.2g}'
    f'  {"?" if math.isnan(speed) else round(speed)} images/s'
    f'  data wait {"?" if math.isnan(wait) else f"{wait:.1f}"} %'
    f'  ETA {progress.duration(seconds_left)}'
  )


def curve(values: list[float], width: int = 40) -> str:
  """Returns a one-line curve of the values, the lowest at the bottom.

  Args:
    values: at least one.
    width: at most so many characters; the last values are kept.
  """
  blocks = '▁▂▃▄▅▆▇█'
  values = values[-width:]
  low, high = min(values), max(values)
  span = (high - low) or 1.0
  return ''.join(
    blocks[int((value - low) / span * (len(blocks) - 1))] for value in values
  )
