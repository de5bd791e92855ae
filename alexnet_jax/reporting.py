"""What a run reports: terminal lines, metrics.jsonl, TensorBoard events."""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import importlib.metadata
import io
import json
import logging as python_logging
import math
import os
import pathlib
import platform
import struct
import subprocess
import sys
import time
from typing import Any

from absl import logging
import jax
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2
from tensorboardX.proto import summary_pb2

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax import progress

# The kinds of lines in metrics.jsonl: means over the steps since the line
# before, over the steps of an epoch, and over the validation images.
KINDS = ('train', 'epoch', 'validation')
_PACKAGE = pathlib.Path(__file__).parent
_EVENT_FILE = 'events.out.tfevents.'  # TensorBoard knows files by this.
# Keys of metrics.jsonl that had other names in earlier versions.
_RENAMED = {'rate': 'learning_rate', 'waiting': 'data_wait'}
_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
  'tensorflow-datasets',
)  # fmt: skip


def set_up_terminal(process: int = 0) -> None:
  """Sets the log's format and drops other packages' chatter.

  Printing never fails: a terminal whose encoding lacks a character shows its
  escape, as Python does on stderr by default, and a log that nobody reads any
  longer (`2>&1 | head`) or that cannot be written changes nothing.

  Args:
    process: the number of this process. All but the first log only warnings and
      errors, which begin with it.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')
  handler = logging.get_absl_handler()
  stderr = sys.stderr
  if isinstance(stderr, io.TextIOWrapper) and stderr is sys.__stderr__:
    sys.stderr = io.TextIOWrapper(
      io.BufferedWriter(_Stderr(stderr.fileno(), 'wb', closefd=False)),
      encoding=stderr.encoding,
      errors='backslashreplace',
      line_buffering=True,
    )
    handler.python_handler.setStream(sys.stderr)
  prefix = f'process {process}: ' if process else ''
  handler.setFormatter(
    _Formatter(f'{prefix}%(asctime)s %(message)s', datefmt='%H:%M:%S')
  )
  handler.addFilter(_matters)
  logging.set_verbosity(logging.WARNING if process else logging.INFO)


class _Stderr(io.FileIO):
  """Standard error, which drops what cannot be written."""

  def write(self, data: Any) -> int:
    try:
      return super().write(data)
    except OSError:
      return len(data)


class _Formatter(python_logging.Formatter):
  """Makes messages printable, and our own one line."""

  def formatMessage(self, record: python_logging.LogRecord) -> str:
    lines = [record.message]
    if not _is_ours(record):
      lines = record.message.split('\n')
    record.message = '\n'.join(map(names.printable, lines))
    return super().formatMessage(record)


def _is_ours(record: python_logging.LogRecord) -> bool:
  return _PACKAGE in pathlib.Path(record.pathname).parents


def _matters(record: python_logging.LogRecord) -> bool:
  """Whether a line is ours, or another package's warning.

  Orbax logs a dozen lines per checkpoint, and tracebacks of the errors that it
  raises, as asyncio does; they are reported where they are handled.
  """
  if _is_ours(record):
    return True
  parts = pathlib.Path(record.pathname).parts
  if 'orbax' in parts or record.name == 'asyncio':
    return False
  return record.levelno >= python_logging.WARNING


class Reporter:
  """Writes `metrics.jsonl`, and TensorBoard's events from its lines.

  The file is the record of the run. Its writing must succeed; that of the
  events may fail.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    first_step: int,
    validated: int,
    writes: bool = True,
  ):
    """Drops what was written after the checkpoint, and opens the files.

    Args:
      workdir: of the run; created.
      first_step: the step from which the run resumes.
      validated: the step of the last validation that the state knows of. The
        results of a later one are dropped: the run validates again.
      writes: whether this process writes; of several, one does.

    Raises:
      errors.UserError: if a file cannot be read or written.
    """
    self._writes = writes
    if not writes:
      return
    self._path = workdir / 'metrics.jsonl'
    kept = [
      line
      for line in read(self._path)
      if line['step'] < first_step
      or line['step'] == first_step
      and (line['kind'] != 'validation' or validated == first_step)
    ]
    files.write_text(
      self._path, ''.join(files.dumps(line) + '\n' for line in kept)
    )
    with self._errors_in_words():
      self._file = self._path.open('ab', buffering=0)
    self._events = _Events(workdir / 'events', kept)

  @contextlib.contextmanager
  def _errors_in_words(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      kept = '; it resumes from the last checkpoint'
      raise files.in_words(error, self._path, kept) from error

  def write(
    self, step: int, kind: str, values: Mapping[str, float | str]
  ) -> None:
    """Writes one line, and an event with the same values.

    Args:
      step: updates made.
      kind: one of `KINDS`.
      values: by name.

    Raises:
      errors.UserError: if the line cannot be written.
    """
    if not self._writes:
      return
    now = round(time.time(), 3)
    line = files.plain({'step': step, 'kind': kind, 'time': now, **values})
    with self._errors_in_words():
      _write_all(self._file, f'{files.dumps(line)}\n'.encode())
    self._events.write(line)

  def sync(self) -> None:
    """Waits until the lines are on disk, as they are to be before a checkpoint.

    Otherwise a power cut could leave a checkpoint without the lines before it.
    """
    if self._writes:
      with self._errors_in_words():
        os.fsync(self._file.fileno())

  def close(self) -> None:
    if self._writes:
      with self._errors_in_words():
        self._file.close()
      self._events.close()


class _Events:
  """TensorBoard's event files, one run for each kind of line.

  The runs have the same tags, so that training and validation share a chart.
  """

  def __init__(self, folder: pathlib.Path, lines: Iterable[dict[str, Any]]):
    """Replaces the event files by those of the lines.

    Args:
      folder: of the runs; created.
      lines: of `metrics.jsonl`.

    Raises:
      errors.UserError: if the folder cannot be written, other than for a full
        or failing disk.
    """
    self._folder = folder
    self._files: dict[str, io.FileIO] = {}
    try:
      self._replace(lines)
    except OSError as error:
      if error.errno not in files.DISK_ERRORS:
        raise files.in_words(error, folder) from error
      self._give_up(error)

  def _replace(self, lines: Iterable[dict[str, Any]]) -> None:
    for path in _event_files(self._folder):  # Of an earlier version.
      path.unlink()
    events = {kind: [_first_events()] for kind in KINDS}
    for line in lines:
      events[line['kind']].append(_event(line))
    name = f'{_EVENT_FILE}{time.time_ns()}'
    for kind in KINDS:
      folder = self._folder / kind
      folder.mkdir(parents=True, exist_ok=True)
      for path in _event_files(folder):
        if path.stat().st_size:
          # A TensorBoard that is reading it turns to the next file by name only
          # from the end of one that exists.
          os.truncate(path, 0)
        else:
          path.unlink()
      self._files[kind] = (folder / name).open('xb', buffering=0)
      _write_all(self._files[kind], b''.join(events[kind]))

  def write(self, line: dict[str, Any]) -> None:
    """Adds a line's values; does nothing once writing has failed."""
    if not self._files:
      return
    try:
      _write_all(self._files[line['kind']], _event(line))
    except OSError as error:
      self._give_up(error)

  def _give_up(self, error: OSError) -> None:
    self.close()
    logging.warning(
      'No more events for TensorBoard: %s cannot be written (%s).'
      ' metrics.jsonl has all values, and the next start writes the events'
      ' again from it',
      self._folder,
      error.strerror,
    )

  def close(self) -> None:
    for file in self._files.values():
      # A network's disk may report here that it is full.
      with contextlib.suppress(OSError):
        file.close()
    self._files = {}


def _event_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in folder.glob(f'{_EVENT_FILE}*') if path.is_file()]


def _first_events() -> bytes:
  """Returns what an event file begins with.

  The start at step 0 makes a TensorBoard forget what it has read before.
  """
  now = time.time()
  start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  return _record(
    event_pb2.Event(wall_time=now, file_version='brain.Event:2')
  ) + _record(event_pb2.Event(wall_time=now, step=0, session_log=start))


def _event(line: dict[str, Any]) -> bytes:
  """Returns the values of a line of `metrics.jsonl` as an event."""
  values = [
    summary_pb2.Summary.Value(tag=name, simple_value=value)
    for name, value in line.items()
    if name not in ('step', 'kind', 'time') and isinstance(value, int | float)
  ]
  return _record(
    event_pb2.Event(
      wall_time=line.get('time', time.time()),  # Earlier versions had none.
      step=line['step'],
      summary=summary_pb2.Summary(value=values),
    )
  )


def _record(event: event_pb2.Event) -> bytes:
  """Returns an event as a TFRecord: length, checksum, message, checksum."""
  message = event.SerializeToString()
  length = struct.pack('<Q', len(message))
  check = record_writer.masked_crc32c
  return b''.join((
    length, struct.pack('<I', check(length)),
    message, struct.pack('<I', check(message)),
  ))  # fmt: skip


def _write_all(file: io.FileIO, data: bytes) -> None:
  """Writes without a buffer, which would be written again at the closing."""
  rest = memoryview(data)
  while rest:  # A disk that is nearly full takes a part.
    rest = rest[file.write(rest) :]


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of `metrics.jsonl`, without those cut off by a kill.

  Numbers that were not finite are None.

  Raises:
    errors.UserError: if there is a file that cannot be read.
  """
  try:
    if not files.is_file(path):
      return []
    text = path.read_bytes().decode('utf-8', 'backslashreplace')
  except OSError as error:
    raise errors.UserError(
      f'{path} cannot be read ({error.strerror}): make it readable or move it'
      ' away'
    ) from error
  found = [_parse(each) for each in text.splitlines()]
  lines = [line for line in found if line is not None]
  if len(lines) < len(found):
    logging.warning(
      '%s: dropping incomplete lines (%d)', path, len(found) - len(lines)
    )
  return lines


def _parse(text: str) -> dict[str, Any] | None:
  """Returns a line of `metrics.jsonl`; None if it is not whole."""
  try:
    line = files.loads(text)
  except json.JSONDecodeError:
    return None
  if not isinstance(line, dict) or not isinstance(line.get('step'), int):
    return None
  if line.get('kind') not in KINDS:
    return None
  return {_RENAMED.get(key, key): value for key, value in line.items()}


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
