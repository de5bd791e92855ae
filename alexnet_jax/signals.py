"""Signals that stop the program: noticed at once, obeyed within a stated time.

SIGINT, SIGTERM and SIGHUP mean the same: save what there is to save, and end
with exit code 128 + the signal's number. Outside of `deferred` there is nothing
to save, and the program ends where it is.

A handler in Python has to wait while the main thread is inside of compiled
code, such as a read from a file system that does not answer. So a thread
watches, and ends a process that does not obey in time.
"""

# Installed before other packages are imported, hence the standard library only.
from collections.abc import Iterator
import contextlib
import math
import os
import signal
import sys
import threading
import time

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a process may take, in seconds: to end where there is nothing to save, to
# come to a point where it can save, alone or with the other processes of its
# job, and to save.
TO_END, TO_NOTICE, TO_AGREE, TO_SAVE = 3.0, 60.0, 300.0, 300.0
# `timeout` and job managers signal a process and then its group: the second
# signal comes immediately and means the same as the first.
_SAME_SIGNAL_SECONDS = 1.0


class Stopped(SystemExit):
  """Ends the program where there is nothing to save."""

  def __init__(self, number: int):
    self.exit_code = 128 + number
    super().__init__(self.exit_code)


class StopSignal:
  """The first signal that has arrived, and until when to obey it."""

  def __init__(self):
    self.number: int | None = None
    self._since = math.inf
    self._deferred = False
    self._adopted = False  # whether the signal was another process's
    self._again_from = math.inf  # from when on a signal is a second one
    self._seconds = TO_END
    # A handler may interrupt itself.
    self._lock = threading.RLock()

  def install(self) -> None:
    """Takes over the signals; to be called once, in the main thread.

    What is ignored, as by `nohup`, stays ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in STOPPING:
      if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, self._in_main_thread)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=self._watch, args=(reading,), daemon=True).start()

  def _watch(self, reading: int) -> None:
    """Reads the numbers of the signals as they arrive."""
    while True:
      for number in os.read(reading, 64):
        if number in STOPPING:
          self.receive(number)

  def receive(self, number: int) -> None:
    """Takes note of a signal; a second one ends the process."""
    now = time.monotonic()
    with self._lock:
      if self.number is None or self._adopted:
        # The own signal may come after that of another process, and means the
        # same.
        if self.number is None:
          self.number, self._since = number, now
        self._adopted, self._again_from = False, now
        # First, since a terminal that nobody reads may block the writing.
        threading.Thread(target=self._limit, daemon=True).start()
        what = 'saving, then stopping' if self._deferred else 'stopping'
        _say(f'{self.name}: {what} (again to stop at once)')
      elif now - self._again_from > _SAME_SIGNAL_SECONDS:
        _say(f'{signal.Signals(number).name} again: stopping at once')
        self._end()

  def _limit(self) -> None:
    while time.monotonic() < self._since + self._seconds:
      time.sleep(0.1)
    if self._deferred:
      _say(f'{self.name}: not obeyed within {self._seconds:.0f} s, ending now')
    self._end()

  def _end(self) -> None:
    os._exit(self.exit_code)

  def _in_main_thread(self, number: int, frame: object) -> None:
    del frame
    # The thread sees every signal, and may be about to say so. This call may
    # come late, from a main thread that was busy, and must not count as a
    # second one.
    with self._lock:
      if self.number is None:
        self.receive(number)
    if not self._deferred:
      # Compiled code that called back into Python may not pass it on, and would
      # complain. Then `_limit` ends the process.
      sys.unraisablehook = lambda _: None
      raise Stopped(number)

  @contextlib.contextmanager
  def deferred(self, to_notice: float = TO_NOTICE) -> Iterator[None]:
    """Encloses what asks `received` from time to time, and then saves.

    Args:
      to_notice: seconds from a signal until `saving` must have been called.
    """
    self._deferred, self._seconds = True, to_notice
    try:
      yield
    finally:
      self._deferred = False
      if self.number is None:
        self._seconds = TO_END

  def adopt(self, number: int) -> None:
    """Takes over the signal that another process of the job has received."""
    if self.number is None and number:
      self.number, self._since = number, time.monotonic()
      self._adopted = True

  def saving(self) -> None:
    """Grants the time to save, after a signal has been noticed."""
    self._seconds = time.monotonic() - self._since + TO_SAVE

  def received(self) -> bool:
    return self.number is not None

  @property
  def name(self) -> str:
    """The signal's name, such as 'SIGTERM'."""
    return '' if self.number is None else signal.Signals(self.number).name

  @property
  def exit_code(self) -> int:
    """128 + the signal's number, as shells report it: 143 for SIGTERM."""
    return 0 if self.number is None else 128 + self.number


def _say(text: str) -> None:
  # Not by logging, whose locks the main thread may hold.
  with contextlib.suppress(OSError, ValueError):
    os.write(sys.stderr.fileno(), f'main.py: {text}\n'.encode())


STOP = StopSignal()
