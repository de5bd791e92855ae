"""How far a long pass over images has come, in the log."""

import time

from absl import logging

_SECONDS_BETWEEN_REPORTS = 10


class Progress:
  """Reports share, rate and time left, now and then and at the end."""

  def __init__(self, task: str, total: int, done: int = 0):
    """Starts the clock.

    Args:
      task: what is done, for the line.
      total: images of the whole task.
      done: how many of them an earlier run did: no part of the rate.
    """
    self._task = task
    self._total = total
    self._done_before = done
    self._start = self._reported = time.monotonic()

  def report(self, done: int) -> None:
    """Logs a line if it is time; `done` counts from the task's beginning."""
    now = time.monotonic()
    if now - self._reported < _SECONDS_BETWEEN_REPORTS and done < self._total:
      return
    self._reported = now
    rate = max(done - self._done_before, 1) / max(now - self._start, 1e-9)
    logging.info(
      '%s: %d of %d images (%.0f %%), %.0f images/s, %s left',
      self._task,
      done,
      self._total,
      100 * done / self._total,
      rate,
      _duration((self._total - done) / rate),
    )


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
