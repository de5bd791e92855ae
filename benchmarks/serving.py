"""A contender's side of the harness: what runs in its process."""

from collections.abc import Mapping
import dataclasses
import math
from multiprocessing import connection
import os
import pkgutil
import time
from typing import Any, Protocol

from benchmarks import usage


class Contender(Protocol):
  """What a worker's factory returns; it may have more methods."""

  def run(self, count: int) -> None:
    """Does `count` units of work and waits until they are done."""
    ...


@dataclasses.dataclass(frozen=True)
class Turn:
  """One turn's figures for one unit of work, in seconds.

  Attributes:
    wall: by the clock.
    cpu: of all threads and child processes together.
  """

  wall: float
  cpu: float


def serve(
  pipe: connection.Connection,
  factory: str,
  settings: Mapping[str, Any],
) -> None:
  """Runs in the new process: builds the contender and does what it is told.

  Args:
    pipe: brings (method, arguments), or None for the end; takes (whether it
      went well, result or reason).
    factory: see `harness.Worker`.
    settings: the same.
  """
  # A group of its own, to be stopped and ended together with its children.
  os.setpgid(0, 0)

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
      attempt(turn, contender, *args)
    else:
      attempt(getattr(contender, method), *args)


def turn(contender: Contender, seconds: float) -> Turn:
  """Works in growing blocks, so that waiting for their ends costs little.

  The first unit does not count: the others had the caches and, of what this
  process gives back between two units, the memory.
  """
  contender.run(1)
  cpu, start, done, block = usage.cpu_seconds(), time.perf_counter(), 0, 1
  while True:
    contender.run(block)
    done += block
    wall = time.perf_counter() - start
    if wall >= seconds:
      return Turn(wall / done, (usage.cpu_seconds() - cpu) / done)
    left = math.ceil((seconds - wall) * done / wall)
    block = min(done, left)
