"""Batches that may be long in coming: named, and given up on a signal."""

from collections.abc import Callable, Iterator
import queue
import threading
import time
from typing import Any

from absl import logging

STALLED_SECONDS = 30.0  # until the log names what is being waited for
_POLL_SECONDS = 0.2
_CLOSING_SECONDS = 10.0
_NAME = 'batches'


class GivenUpError(Exception):
  """The program is to stop, and a batch has not come yet."""


class Watched(Iterator[Any]):
  """Iterates in a thread, so that the main thread is never stuck in a read.

  The thread is one item ahead.
  """

  def __init__(
    self,
    items: Iterator[Any],
    stopped: Callable[[], bool],
    describe: Callable[[], str],
  ):
    """Starts the thread.

    Args:
      items: the batches; the thread closes them if they are a generator.
      stopped: whether to give up waiting.
      describe: what is waited for, for the log.
    """
    self._items, self._stopped, self._describe = items, stopped, describe
    self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(1)
    self._closed = threading.Event()
    # A read that never returns must not keep the interpreter from its exit.
    self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
    self._thread.start()

  def _run(self) -> None:
    try:
      for item in self._items:
        self._put('item', item)
        if self._closed.is_set():
          break
      self._put('end', None)
    except BaseException as error:  # Raised where the items are used.
      self._put('error', error)
    finally:
      if close := getattr(self._items, 'close', None):
        close()

  def _put(self, kind: str, value: Any) -> None:
    while not self._closed.is_set():
      try:
        self._queue.put((kind, value), timeout=_POLL_SECONDS)
      except queue.Full:
        continue
      return

  def __next__(self) -> Any:
    """Returns the next item.

    Raises:
      GivenUpError: if the program is to stop and the item is not there.
      Exception: that of the iterator.
    """
    kind, value = self._get()
    if kind == 'item':
      return value
    self._closed.set()
    if kind == 'error':
      raise value
    raise StopIteration

  def _get(self) -> tuple[str, Any]:
    started, told = time.monotonic(), False
    while True:
      try:
        return self._queue.get(timeout=_POLL_SECONDS)
      except queue.Empty:
        if self._stopped():
          raise GivenUpError from None
      waited = time.monotonic() - started
      if waited > STALLED_SECONDS and not told:
        told = True
        logging.warning(
          'No batch for %.0f s: still reading %s', waited, self._describe()
        )

  def close(self) -> None:
    """Ends the thread after the item that it is reading, if that comes soon."""
    self._closed.set()
    self._thread.join(_CLOSING_SECONDS)


def is_stuck() -> bool:
  """Whether a thread still reads: the interpreter must not be taken from it."""
  return any(thread.name == _NAME for thread in threading.enumerate())
