"""Files that cannot be read at the moment are read again for about a minute.

When a file system is unmounted, renamed or does not answer, every file on it
fails. None of them is a damaged image: the run waits for them to come back, and
stops when they do not.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import time
from typing import Any, TypeVar

from absl import logging

from alexnet_jax import errors
from alexnet_jax import names
from alexnet_jax import progress

# Seconds to wait before each new attempt: 63 in all.
WAITS = (1, 2, 4, 8, 16, 32)
_REMEDY = (
  'make the data available again, or set --config.data.data_dir to where it is'
  ' now, and run the same command again'
)
_Result = TypeVar('_Result')


class UnavailableError(Exception):
  """A file cannot be opened, or cannot be read to its end, for now.

  Attributes:
    file: its name, or that of the folder that it is in.
    reason: of the failure, such as 'No such file or directory'.
    problem: what has become of the file, as a predicate.
    remedy: what the user can do when the failure lasts.
  """

  def __init__(
    self,
    file: str | os.PathLike[str],
    reason: str,
    problem: str = 'cannot be read',
    remedy: str = _REMEDY,
  ):
    self.file, self.reason = names.printable(os.fspath(file)), reason
    self.problem, self.remedy = problem, remedy
    super().__init__(f'{self.file} {problem} ({reason})')


@contextlib.contextmanager
def reading(file: str | os.PathLike[str], **words: str) -> Iterator[None]:
  """Raises `UnavailableError` in place of an OSError.

  Args:
    file: that is opened and read.
    **words: `problem` and `remedy` of the error.
  """
  try:
    yield
  except OSError as error:
    reason = error.strerror or type(error).__name__
    raise UnavailableError(file, reason, **words) from error


def call(
  attempt: Callable[[], _Result],
  sleep: Callable[[float], Any] = time.sleep,
) -> _Result:
  """Returns what `attempt` returns, after as many attempts as are needed.

  Args:
    attempt: called again, after a wait, while it raises `UnavailableError`.
      Attempts share the waits, however many files they read.
    sleep: waits so many seconds.

  Raises:
    errors.UserError: when the last attempt of about a minute fails too.
  """
  waits, begun = iter(WAITS), 0.0
  while True:
    try:
      result = attempt()
    except UnavailableError as error:
      wait = next(waits, None)
      if wait is None:
        passed = progress.duration(time.monotonic() - begun)
        raise errors.UserError(
          f'{error.file} {error.problem} ({error.reason}, tried for {passed}):'
          f' {error.remedy}'
        ) from error
      if not begun:
        begun = time.monotonic()
        total = progress.duration(sum(WAITS))
        logging.warning('%s: trying again for %s', error, total)
      sleep(wait)
    else:
      if begun:
        passed = progress.duration(time.monotonic() - begun)
        logging.info('The data could be read again after %s', passed)
      return result
