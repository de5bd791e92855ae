"""Contenders in processes of their own, timed in turn.

A framework's threads, its number of devices and its allocator are settings of
a process, so every contender has one. All live at the same time and work in
turn, a little each, many rounds: what disturbs the machine meets all of them.
While one works the others are stopped (SIGSTOP), so that no idle thread spins
and nobody fetches ahead.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import math
import multiprocessing
import os
import pkgutil
import resource
import signal
import statistics
import time
from typing import Any, Protocol


class Contender(Protocol):
  """What a worker's factory returns; it may have more methods."""

  def run(self, count: int) -> None:
    """Does `count` units of work and waits until they are done."""
    ...


class ContenderError(Exception):
  """A contender failed; the message is one line for its row."""


@dataclasses.dataclass(frozen=True)
class Turn:
  """One turn's figures for one unit of work, in seconds.

  Attributes:
    wall: by the clock.
    cpu: of all threads and child processes together.
  """

  wall: float
  cpu: float


class Worker:
  """A contender in its own process; a context manager.

  Attributes:
    name: for the table.
    timeout: seconds any call may take.
  """

  def __init__(
    self,
    name: str,
    factory: str,
    settings: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    timeout: float = 600.0,
  ):
    """Starts the process and returns at once; `wait` for the contender.

    Args:
      name: for the table.
      factory: 'package.module:callable', imported in the new process alone.
      settings: keyword arguments of the factory; picklable.
      environment: variables set before anything is imported.
      timeout: seconds any call may take.
    """
    self.name = name
    self.timeout = timeout
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._started = time.perf_counter()
    self._process = context.Process(
      target=_serve, args=(theirs, factory, dict(settings), environment or {})
    )
    self._process.start()
    theirs.close()

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()

  @property
  def pid(self) -> int:
    return self._process.pid or 0

  def wait(self) -> 'Worker':
    """Waits until the contender is built, and returns itself.

    Raises:
      ContenderError: if it could not be.
    """
    self._receive()
    return self

  def first_run(self) -> float:
    """Returns the seconds from the process's start to its first unit's end."""
    self.wait()
    self.call('run', 1)
    return time.perf_counter() - self._started

  def call(self, method: str, *args: Any) -> Any:
    """Returns what the contender's method returns.

    Raises:
      ContenderError: if it raised, died or took too long.
    """
    self._pipe.send((method, args))
    return self._receive()

  def turn(self, seconds: float) -> Turn:
    """Works for about so long, at least one unit, and returns its figures."""
    return self.call('_turn', seconds)

  def pause(self) -> None:
    self._signal(signal.SIGSTOP)

  def resume(self) -> None:
    self._signal(signal.SIGCONT)

  def close(self) -> None:
    """Ends the process and those it started; a second call does nothing."""
    if self._pipe.closed:
      return
    self.resume()
    with contextlib.suppress(BrokenPipeError):
      self._pipe.send(None)
    # Frameworks clean up behind themselves at exit, if it is quick.
    self._process.join(5)
    self._signal(signal.SIGKILL)
    self._process.join()
    self._pipe.close()

  def _signal(self, number: int) -> None:
    # It may have ended, or not have come as far as to lead its group.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.pid, number)

  def _receive(self) -> Any:
    try:
      if not self._pipe.poll(self.timeout):
        raise ContenderError(f'took more than {self.timeout:g} s')
      good, value = self._pipe.recv()
    except (EOFError, ConnectionResetError):
      self._process.join(10)
      code = self._process.exitcode
      raise ContenderError(f'its process ended with code {code}') from None
    if not good:
      raise ContenderError(value)
    return value


def _serve(pipe, factory, settings, environment) -> None:
  """Runs in the new process: builds the contender and does what it is told."""
  # A group of its own, to be stopped and ended together with its children.
  os.setpgid(0, 0)
  os.environ.update(environment)

  def attempt(function, *args, **kwargs):
    try:
      pipe.send((True, function(*args, **kwargs)))
    except Exception as e:  # Whatever it is, it belongs in the row.
      line = ' '.join(f'{type(e).__name__}: {e}'.split())
      pipe.send((False, line[:300]))

  contender = None

  def build():
    nonlocal contender
    contender = pkgutil.resolve_name(factory)(**settings)

  attempt(build)
  while True:
    request = pipe.recv()
    if request is None:
      return
    method, args = request
    if method == '_turn':
      attempt(_turn, contender, *args)
    else:
      attempt(getattr(contender, method), *args)


def _turn(contender: Contender, seconds: float) -> Turn:
  """Works in growing blocks, so that waiting for their ends costs little."""
  cpu, start, done, block = cpu_seconds(), time.perf_counter(), 0, 1
  while True:
    contender.run(block)
    done += block
    wall = time.perf_counter() - start
    if wall >= seconds:
      return Turn(wall / done, (cpu_seconds() - cpu) / done)
    left = math.ceil((seconds - wall) * done / wall)
    block = min(done, left)


def alternate(
  workers: Sequence[Worker], rounds: int, seconds: float
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
  """Lets the workers work in turn.

  Args:
    workers: built ones; they are left stopped.
    rounds: turns of each.
    seconds: about how long a turn lasts, beyond one unit of work.

  Returns:
    The turns, by the worker's name, and why some failed, by name.
  """
  turns: dict[str, list[Turn]] = {worker.name: [] for worker in workers}
  failures: dict[str, str] = {}
  for worker in workers:
    worker.pause()
  for number in range(rounds):
    # Each round begins with another one, so that none always follows the same.
    start = number % len(workers)
    for worker in [*workers[start:], *workers[:start]]:
      if worker.name in failures:
        continue
      worker.resume()
      try:
        turns[worker.name].append(worker.turn(seconds))
      except ContenderError as e:
        failures[worker.name] = str(e)
      worker.pause()
  return turns, failures


def median(values: Sequence[float]) -> float:
  """Returns the median, NaN of nothing."""
  return statistics.median(values) if values else math.nan


def peak_memory() -> int:
  """Returns the most memory this process has held so far, in bytes (Linux)."""
  with open('/proc/self/status') as status:
    lines = dict(line.split(':', 1) for line in status)
  return int(lines['VmHWM'].split()[0]) * 1024


def cpu_seconds() -> float:
  """Returns the processor time of this process and its descendants (Linux)."""
  ended = resource.getrusage(resource.RUSAGE_CHILDREN)
  return (
    time.process_time()
    + ended.ru_utime
    + ended.ru_stime
    + sum(_alive(child) for child in _children('self'))
  )


def _children(pid: int | str) -> list[str]:
  found = []
  for task in os.listdir(f'/proc/{pid}/task'):
    with open(f'/proc/{pid}/task/{task}/children') as names:
      found += names.read().split()
  return found


def _alive(pid: str) -> float:
  """Returns the processor time of another process and its descendants."""
  try:
    with open(f'/proc/{pid}/stat') as stat:
      # The second field, the program's name, may hold anything but ')'.
      fields = stat.read().rsplit(')', 1)[1].split()
    children = _children(pid)
  except FileNotFoundError:
    return 0.0  # It ended in between.
  # utime, stime, cutime and cstime: fields 14 to 17 of proc(5).
  seconds = sum(map(int, fields[11:15])) / os.sysconf('SC_CLK_TCK')
  return seconds + sum(map(_alive, children))
