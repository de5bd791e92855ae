"""Contenders in processes of their own, timed in turn.

A framework's threads, its number of devices and its allocator are settings of
a process, so every contender has one. All live at the same time and work in
turn, a little each, many rounds: what disturbs the machine meets all of them.
While one works the others are stopped (SIGSTOP), so that no idle thread spins
and nobody fetches ahead.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import math
import multiprocessing
import os
import signal
import statistics
import time
from typing import Any

from benchmarks import serving


class ContenderError(Exception):
  """A contender failed; the message is one line for its row."""


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
      environment: variables the process is born with: what the C library
        reads of them it reads before Python runs.
      timeout: seconds any call may take.
    """
    self.name = name
    self.timeout = timeout
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._started = time.perf_counter()
    self._process = context.Process(
      target=serving.serve,
      args=(theirs, factory, dict(settings)),
    )
    with _added_to_environment(environment or {}):
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

  def turn(self, seconds: float) -> serving.Turn:
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


@contextlib.contextmanager
def _added_to_environment(variables: Mapping[str, str]) -> Iterator[None]:
  before = dict(os.environ)
  os.environ.update(variables)
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(before)


def alternate(
  workers: Sequence[Worker], rounds: int, seconds: float
) -> tuple[dict[str, list[serving.Turn]], dict[str, str]]:
  """Lets the workers work in turn.

  Args:
    workers: built ones; they are left stopped.
    rounds: turns of each.
    seconds: about how long a turn lasts, beyond one unit of work.

  Returns:
    The turns, by the worker's name, and why some failed, by name.
  """
  turns: dict[str, list[serving.Turn]] = {worker.name: [] for worker in workers}
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
