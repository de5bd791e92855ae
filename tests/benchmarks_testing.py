"""A contender for the tests of the harness; quick to import."""

import os
import subprocess
import sys
import threading
import time

from benchmarks import harness

_BUSY = 'import time\nwhile time.process_time() < {seconds}: pass'


class Counter(harness.Contender):
  """Counts on a thread of its own; a unit of work takes some time, or fails."""

  def __init__(self, work='sleep', seconds=0.01):
    super().__init__(self._do_unit)
    self._work, self._seconds, self._ticks = work, seconds, 0
    self._units = 0
    threading.Thread(target=self._tick, daemon=True).start()

  def _tick(self):
    while True:
      self._ticks += 1
      time.sleep(0.005)

  def ticks(self):
    return self._ticks

  def units(self):
    return self._units

  def born_with(self, variable):
    """Returns whether the variable was there before Python ran."""
    with open('/proc/self/environ', 'rb') as environment:
      return f'{variable}='.encode() in environment.read()

  def _do_unit(self):
    self._units += 1
    if self._work == 'fail':
      raise ValueError('no\nluck')
    if self._work == 'die':
      os._exit(3)
    if self._work == 'sleep':
      time.sleep(self._seconds)
    elif self._work == 'compute':
      end = time.process_time() + self._seconds
      while time.process_time() < end:
        pass
    else:
      code = _BUSY.format(seconds=self._seconds)
      subprocess.run([sys.executable, '-S', '-c', code], check=True)
