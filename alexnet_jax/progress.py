"""Progress of long work, and amounts of time and memory in words."""

import math
import time

from absl import logging

_SECONDS_BETWEEN_LINES = 10


class Progress:
  """Logs share, rate and ETA every ten seconds.

  Shorter work logs nothing.
  """

  def __init__(
    self, what: str, total: int, unit: str = 'images', done: int = 0
  ):
    """Starts the clock.

    Args:
      what: the task, with which the line begins.
      total: the number of units in the whole task.
      unit: what is counted, in the plural.
      done: the number that an earlier run did; not part of the rate.
    """
    self._what, self._total, self._unit = what, total, unit
    self._done = self._done_before = done
    self._start = self._reported = time.monotonic()

  def add(self, count: int) -> None:
    """Counts more units as done."""
    self.report(self._done + count)

  def report(self, done: int) -> None:
    """Sets the number of units done since the beginning of the task."""
    self._done = done
    now = time.monotonic()
    if now - self._reported < _SECONDS_BETWEEN_LINES:
      return
    self._reported = now
    rate = (done - self._done_before) / (now - self._start)
    logging.info(
      '%s: %s of %s %s (%d %%), %.0f %s/s, ETA %s',
      self._what,
      f'{done:,}',
      f'{self._total:,}',
      self._unit,
      100 * done // self._total,
      rate,
      self._unit,
      duration((self._total - done) / max(rate, 1e-9)),
    )


def duration(seconds: float) -> str:
  """Returns a time in words: 42 s, 3 min 20 s, 5 h 12 min, 3 d 4 h."""
  if not math.isfinite(seconds):
    return '?'
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  minutes, seconds = divmod(seconds, 60)
  if minutes < 60:
    return f'{minutes} min {seconds} s'
  hours, minutes = divmod(minutes, 60)
  if hours < 48:
    return f'{hours} h {minutes} min'
  return f'{hours // 24} d {hours % 24} h'


def size(count: int) -> str:
  """Returns a number of bytes in words: 512 B, 1.1 MB, 233 MB."""
  value, unit = float(count), 'B'
  for unit in ('B', 'kB', 'MB', 'GB'):
    if value < 1000 or unit == 'GB':
      break
    value /= 1000
  digits = 1 if unit != 'B' and value < 10 else 0
  return f'{value:.{digits}f} {unit}'
