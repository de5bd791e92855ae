"""How far long work has come, told every few seconds."""

import time

from absl import logging

from alexnet_jax import reporting

_SECONDS_BETWEEN_LINES = 10


class Progress:
  """Counts what is done and logs a line now and then.

  Work that ends before the first line is due says nothing.
  """

  def __init__(self, what: str, total: int, unit: str = 'images'):
    """Starts the clock.

    Args:
      what: is being done, to begin the line with.
      total: how many there are.
      unit: what is counted, in the plural.
    """
    self._what, self._total, self._unit = what, total, unit
    self._done = 0
    self._start = self._reported = time.monotonic()

  def add(self, count: int) -> None:
    """Counts so many more."""
    self._done += count
    now = time.monotonic()
    if now - self._reported < _SECONDS_BETWEEN_LINES:
      return
    self._reported = now
    rate = self._done / (now - self._start)
    logging.info(
      '%s: %s of %s %s (%d %%), %.0f %s/s, left %s',
      self._what,
      f'{self._done:,}',
      f'{self._total:,}',
      self._unit,
      100 * self._done // self._total,
      rate,
      self._unit,
      reporting.duration((self._total - self._done) / max(rate, 1e-9)),
    )
