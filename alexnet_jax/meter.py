"""Training speed, data wait and ETA, measured by one clock."""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import math
import time

import jax


class Meter:
  """Measures training from one line of the log to the next.

  A window covers everything the loop does between two calls of `read`, except
  what `pause` encloses: validations and checkpoints. `restart` leaves out the
  first step, which compiles.

  A thread notes when each step finishes, so that neither the speed nor the data
  wait needs the loop to wait for the device.
  """

  def __init__(self):
    self._thread = futures.ThreadPoolExecutor(1, 'meter')
    self._newest: futures.Future[float] | None = None  # when it finished
    self._pauses: dict[str, float] = {}  # seconds of the last one, by name
    self._pace = math.nan  # seconds per step, over the last whole window
    self.restart()

  def restart(self) -> None:
    """Begins a window now and drops what was counted before."""
    self._steps, self._images = 0, 0
    self._waited, self._paused = 0.0, 0.0
    self._started = time.perf_counter()

  @contextlib.contextmanager
  def input(self) -> Iterator[None]:
    """Encloses preparing a batch: data wait while the device is idle."""
    started = time.perf_counter()
    yield
    ended = time.perf_counter()
    if self._newest is None:
      idle_since = started
    elif self._newest.done():
      idle_since = max(started, self._newest.result())
    else:  # The step before still runs: the device was not kept waiting.
      return
    self._waited += max(0.0, ended - idle_since)

  def add(self, loss: jax.Array, images: int) -> None:
    """Counts a dispatched step and waits for the one before it.

    So one step runs while the next batch is prepared, and no more are queued.

    Args:
      loss: of the step, not yet computed.
      images: in its batch, in all processes together.
    """
    previous = self._newest
    self._newest = self._thread.submit(_time_when_ready, loss)
    if previous is not None:
      previous.result()
    self._steps += 1
    self._images += images

  def drain(self) -> None:
    """Waits for the running step."""
    if self._newest is not None:
      self._newest.result()

  @contextlib.contextmanager
  def pause(self, name: str) -> Iterator[None]:
    """Encloses work that is not training; waits for the running step first."""
    self.drain()
    started = time.perf_counter()
    yield
    self._pauses[name] = time.perf_counter() - started
    self._paused += self._pauses[name]

  def read(self) -> dict[str, float]:
    """Waits for the running step, and returns and restarts the window.

    Returns:
      `images_per_second`, and `data_wait`, the share of the time in which the
      device was idle because its batch was not ready. NaN if the window has no
      step.
    """
    self.drain()
    seconds = time.perf_counter() - self._started - self._paused
    seconds = seconds if self._steps else math.nan
    self._pace = seconds / (self._steps or math.nan)
    figures = {
      'images_per_second': self._images / seconds,
      'data_wait': self._waited / seconds,
    }
    self.restart()
    return figures

  def seconds_left(self, steps: int, **pauses: int) -> float:
    """Returns the ETA in seconds: NaN before the first window.

    Args:
      steps: still to make, at the pace of the last window.
      **pauses: how many of each name are to come, each as long as the last of
        that name; 0 seconds where there has been none yet.
    """
    return steps * self._pace + sum(
      count * self._pauses.get(name, 0.0) for name, count in pauses.items()
    )

  def close(self) -> None:
    """Ends the thread."""
    self._thread.shutdown()


def _time_when_ready(loss: jax.Array) -> float:
  loss.block_until_ready()
  return time.perf_counter()
