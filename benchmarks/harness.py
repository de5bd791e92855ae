"""Times contenders that take turns, each in a process of its own.

Threads, allocators and the number of devices are settings of a process, so
every contender has one. All of them stay alive and take turns over several
rounds, so that whatever disturbs the machine affects all of them. While one
works, the others are stopped with SIGSTOP: no idle thread spins and no pipeline
reads ahead.

The flags that several scripts share, and what all of them print, are here too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from importlib import metadata
import math
import multiprocessing
import os
import pathlib
import pkgutil
import platform as platforms
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

from absl import flags

from alexnet_jax import large_pages

PRESET = flags.DEFINE_string('preset', 'paper', 'The network.')
CROP_SIZE = flags.DEFINE_integer('crop_size', 224, 'Side of images, pixels.', 1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Images per batch.', 1)
BATCH_SIZES = flags.DEFINE_list(
  'batch_sizes', ['128'], 'Images per step, in scripts that compare several.'
)
DEVICES = flags.DEFINE_list(
  'devices', ['1', '2'], 'Numbers of devices, in scripts that compare several.'
)
_PRECISIONS = flags.DEFINE_list(
  'precisions',
  [],
  'Any of float32, tf32, bfloat16. Default: float32 on a CPU, all on a GPU.'
  ' bfloat16 keeps parameters in float32, torch through autocast; "torch, pure"'
  ' has bfloat16 parameters as well.',
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each contender.', 1)
_TURN_SECONDS = flags.DEFINE_float(
  'turn_seconds', 0.5, 'Approximate seconds per turn.'
)
_PLATFORM = flags.DEFINE_enum(
  'platform', 'auto', ['auto', 'cpu', 'gpu'], 'auto: the GPU if there is one.'
)
_PACKAGES = ('jax', 'jaxlib', 'torch', 'tensorflow-cpu', 'grain', 'numpy')


def platform() -> str:
  """Returns 'cpu' or 'gpu'."""
  if _PLATFORM.value != 'auto':
    return _PLATFORM.value
  return 'gpu' if gpus() else 'cpu'


def precisions(platform: str) -> list[str]:
  """Returns the precisions to compare on 'cpu' or 'gpu'."""
  everything = ['float32', 'tf32', 'bfloat16']
  return _PRECISIONS.value or everything[: 1 if platform == 'cpu' else 3]


def environment() -> dict[str, str]:
  """Returns the environment variables of contenders that compute.

  On a CPU they request the large pages that `main.py` uses, which make torch
  faster too. A GPU is shared, so no contender may reserve its memory.
  """
  if platform() == 'cpu':
    return {large_pages.VARIABLE: large_pages.SETTING}
  return {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}


class Turn(NamedTuple):
  """What one turn measured.

  Attributes:
    wall: seconds per unit of work.
    cpu: processor seconds per unit, of all threads and child processes.
    memory: bytes, the highest use since the process started.
  """

  wall: float
  cpu: float
  memory: int


def peak_memory() -> int:
  """Returns the largest resident size of this process so far, in bytes."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.findall(r'VmHWM:\s*(\d+) kB', status)[0]) * 1024


def _cpu_seconds() -> float:
  """Returns processor seconds of this process and its process group."""
  ended = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = time.process_time() + ended.ru_utime + ended.ru_stime
  for entry in os.listdir('/proc'):
    if entry.isdigit() and int(entry) != os.getpid():
      with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stat = pathlib.Path('/proc', entry, 'stat').read_text()
        # What follows the name in brackets begins with field 3 of proc(5):
        # 5 is the group, 14 to 17 are utime, stime, cutime and cstime.
        fields = stat.rpartition(')')[2].split()
        if int(fields[2]) == os.getpgrp():
          ticks = sum(map(int, fields[11:15]))
          seconds += ticks / os.sysconf('SC_CLK_TCK')
  return seconds


def repeat(run: Callable[[int], None], seconds: float) -> tuple[int, float]:
  """Does units of work for about so long; returns their number and seconds.

  They come in growing blocks, so that waiting for a block's end costs little.
  """
  start, done, block = time.perf_counter(), 0, 1
  while True:
    run(block)
    done += block
    wall = time.perf_counter() - start
    if wall >= seconds:
      return done, wall
    block = min(done, math.ceil((seconds - wall) * done / wall))


class Contender:
  """Does units of work; lives in a process of its own."""

  def __init__(
    self,
    unit: Callable[[], Any],
    wait: Callable[[Any], Any] = lambda result: None,
    memory: Callable[[], int] = peak_memory,
  ):
    """Keeps the functions.

    `unit` does, or launches, a unit of work; `wait`, given the last unit's
    result, waits until all are done; `memory` returns the most bytes in use.
    """
    self._unit, self._wait, self._memory = unit, wait, memory

  def run(self, count: int) -> None:
    """Does `count` units of work and waits until they are done."""
    result = None
    for _ in range(count):
      result = self._unit()
    self._wait(result)

  def turn(self, seconds: float) -> Any:
    """Works for about so long and returns a `Turn`.

    The first unit is not counted: the other contenders had the caches and, of
    what this process releases between two units, the memory.
    """
    self.run(1)
    before = _cpu_seconds()
    done, wall = repeat(self.run, seconds)
    return Turn(wall / done, (_cpu_seconds() - before) / done, self._memory())


class ContenderError(Exception):
  """A contender failed; the message is one line."""


@dataclasses.dataclass
class Worker:
  """A contender in a process of its own, which runs only during a call.

  A context manager: the process lives as long as the block.

  Attributes:
    name: for the table.
    factory: 'package.module:callable', imported in the new process only;
      returns a `Contender`, or whatever `call` is to be used on.
    settings: keyword arguments of the factory; picklable.
    environment: variables that exist when the process starts; the C library
      reads some of them before Python runs.
    timeout: seconds that any call may take; None for no limit.
    starts: how often a race starts it; a second process finds what the first
      one compiled.
    start_seconds: of each start in a race, from the start of the process to the
      end of its first unit of work.
  """

  name: str
  factory: str
  settings: dict[str, Any]
  environment: dict[str, str] = dataclasses.field(default_factory=dict)
  timeout: float | None = 600.0
  starts: int = 1
  start_seconds: list[float] = dataclasses.field(default_factory=list)

  def __enter__(self) -> 'Worker':
    """Starts the process and builds the contender.

    Raises:
      ContenderError: if it cannot be built.
    """
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(theirs, self.factory, self.settings)
    )
    self._started = time.perf_counter()
    before = dict(os.environ)
    os.environ.update(self.environment)
    try:
      self._process.start()
    finally:
      os.environ.clear()
      os.environ.update(before)
    theirs.close()
    try:
      self._answer()
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *exc_info) -> None:
    """Ends the process and its children; a second call does nothing."""
    if self._pipe.closed:
      return
    self._signal(signal.SIGCONT)
    with contextlib.suppress(BrokenPipeError):
      self._pipe.send(None)
    self._process.join(5)  # Frameworks clean up at exit.
    self._signal(signal.SIGKILL)
    self._process.join()
    self._pipe.close()

  def first_runs(self) -> None:
    """Does the first unit of work, and fills in `start_seconds`."""
    for number in range(self.starts):
      if number > 0:
        self.__exit__()
        self.__enter__()
      self.call('run', 1)
      self.start_seconds.append(time.perf_counter() - self._started)

  def call(self, method: str, *args: Any) -> Any:
    """Returns what the contender's method returns.

    Raises:
      ContenderError: if it raised an exception, died or took too long.
    """
    self._signal(signal.SIGCONT)
    return self._answer((method, args))

  def _answer(self, *requests: Any) -> Any:
    try:
      for request in requests:
        self._pipe.send(request)
      if not self._pipe.poll(self.timeout):
        self._signal(signal.SIGKILL)
        raise ContenderError(f'took more than {self.timeout:g} s')
      succeeded, value = self._pipe.recv()
    except (EOFError, ConnectionError):
      self._process.join(10)
      code = self._process.exitcode
      raise ContenderError(f'its process ended with code {code}') from None
    finally:
      self._signal(signal.SIGSTOP)
    if not succeeded:
      raise ContenderError(value)
    return value

  def _signal(self, number: int) -> None:
    # The process may have ended, or not lead its group yet.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid or 0, number)


def _serve(pipe: Any, factory: str, settings: Mapping[str, Any]) -> None:
  """Runs in the new process: builds the contender, then answers calls."""
  # A group of its own, to be stopped and ended together with its children.
  os.setpgid(0, 0)
  contender, request = None, ('', ())
  while request is not None:
    method, args = request
    try:
      if contender is None:
        contender, value = pkgutil.resolve_name(factory)(**settings), None
      else:
        value = getattr(contender, method)(*args)
      pipe.send((True, value))
    except Exception as e:  # Whatever it is, it is reported beside the table.
      line = ' '.join(f'{type(e).__name__}: {e}'.split())
      pipe.send((False, line[:300]))
    request = pipe.recv()


@contextlib.contextmanager
def race(
  workers: Sequence[Worker], all_must_work: bool = True
) -> Iterator[tuple[dict[str, list[Any]], dict[str, str]]]:
  """Starts the workers one after another, and lets them work in turns.

  Yields the turns by the worker's name, and the reasons of failures by name;
  the processes live until the block ends. If `all_must_work`, a failure raises
  `SystemExit`.
  """
  turns: dict[str, list[Any]] = {worker.name: [] for worker in workers}
  failures: dict[str, str] = {}
  with contextlib.ExitStack() as stack:
    for number in range(-1, _ROUNDS.value):
      # Each round begins with a different worker, so that nobody always follows
      # the same one.
      first = max(number, 0) % max(len(workers), 1)
      for worker in [*workers[first:], *workers[:first]]:
        if worker.name in failures:
          continue
        try:
          if number < 0:
            stack.enter_context(worker).first_runs()
          else:
            turn = worker.call('turn', _TURN_SECONDS.value)
            turns[worker.name].append(turn)
        except ContenderError as e:
          failures[worker.name] = str(e)
          del turns[worker.name]
          if all_must_work:
            raise SystemExit(failure_lines(failures)) from e
    yield turns, failures


def step_worker(
  name: str, factory: str = 'benchmarks.jax_step:random_step', **settings: Any
) -> Worker:
  """Returns the worker of a step; the flags give the other settings."""
  defaults = {
    'preset': PRESET.value,
    'crop_size': CROP_SIZE.value,
    'batch_size': BATCH_SIZE.value,
    'platform': platform(),
  }
  return Worker(name, factory, defaults | settings, environment())


def cores() -> int:
  """Returns how many cores this process may use."""
  return len(os.sched_getaffinity(0))


def gpus() -> list[str]:
  """Returns the names of the machine's NVIDIA GPUs."""
  command = ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader']
  try:
    return subprocess.check_output(command, text=True).splitlines()
  except (OSError, subprocess.CalledProcessError):
    return []


def print_header() -> None:
  """Prints processor, cores, memory, GPUs, versions, load, and the flags."""
  cpuinfo = pathlib.Path('/proc/cpuinfo').read_text()
  model = re.search(r'model name\s*: (.*)', cpuinfo)
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  parts = [
    model[1] if model else platforms.machine(),
    f'{cores()} cores',
    f'{memory / 2**30:.0f} GiB',
    *gpus(),
    f'Python {platforms.python_version()}',
  ]
  for package in _PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      parts.append(f'{package} {metadata.version(package)}')
  parts.append(f'load at the start {os.getloadavg()[0]:.1f}')
  print(', '.join(parts), ' '.join(sys.argv[1:]), sep='\n', end='\n\n')


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table whose columns are aligned."""
  cells = [list(header), *map(list, rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  cells.insert(1, ['-' * width for width in widths])
  return '\n'.join(
    f'| {" | ".join(map(str.ljust, row, widths))} |' for row in cells
  )


def failure_lines(reasons: Mapping[str, str]) -> str:
  """Returns a line for each contender that is not in the table."""
  return '\n'.join(f'Not run: {name}: {why}' for name, why in reasons.items())


def median(values: Iterable[float]) -> float:
  """Returns the median; NaN if there are no values."""
  values = list(values)
  return statistics.median(values) if values else math.nan


def spread(values: Sequence[float], form: str = ',.0f') -> tuple[str, str]:
  """Returns the median and the range of some values, as text."""
  low, middle, high = min(values), median(values), max(values)
  return f'{middle:{form}}', f'{low:{form}} to {high:{form}}'


def milliseconds(seconds: Sequence[float]) -> tuple[str, str]:
  """Returns the median and the range of durations, in milliseconds."""
  low, middle, high = (
    f'{1e3 * x:.4g}' if x < 9.9995 else f'{1e3 * x:.0f}'
    for x in (min(seconds), median(seconds), max(seconds))
  )
  return middle, f'{low} to {high}'
