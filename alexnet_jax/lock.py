"""Locks: one process, or one job of several, at a time writes into a folder."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import time

from absl import logging

from alexnet_jax import errors

# Network file systems may be mounted without locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class InUseError(errors.UserError):
  """Another process holds a lock."""


def holder(path: pathlib.Path) -> str:
  """Returns who holds the lock, as its file says; '' if there is none."""
  try:
    return path.read_text(errors='replace').strip()
  except FileNotFoundError:
    return ''


@contextlib.contextmanager
def _errors_in_words(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f'{path} cannot be written ({error.strerror}): make its folder writable,'
      ' with room for it, or name another'
    ) from error


@contextlib.contextmanager
def held(path: pathlib.Path, remedy: str) -> Iterator[None]:
  """Holds a lock that the operating system releases when the process ends.

  So no lock is stale, however a process has ended: the file that it leaves
  behind is taken over. It names the holder, for others to read. (NFS before
  version 4 keeps the locks of a host that has gone until it is back.)

  Args:
    path: of the lock's file; its folder is created.
    remedy: what to do where another process holds it, for the message.

  Raises:
    InUseError: if another process holds the lock.
    errors.UserError: if the file cannot be written.
  """
  with _errors_in_words(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      other = holder(path) or 'another process'
      raise InUseError(
        f'{path.parent} is in use by {other}: {remedy}'
      ) from error
    except OSError as error:
      if error.errno not in _WITHOUT_LOCKS:
        raise
      logging.warning(
        'The file system of %s has no locks (%s): take care that no other'
        ' process writes there',
        path,
        error.strerror,
      )
    own = (
      f'process {os.getpid()} on {socket.gethostname()}, since'
      f' {time.strftime("%Y-%m-%d %H:%M:%S")}\n'
    )
    with _errors_in_words(path):
      os.ftruncate(file, 0)
      os.pwrite(file, own.encode(), 0)
    yield
    os.ftruncate(file, 0)
  finally:
    os.close(file)


@contextlib.contextmanager
def waiting_for(
  path: pathlib.Path, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
  """Waits until no other process holds a lock, and holds it.

  Args:
    path: of the lock's file; its folder is created.
    is_stopped: whether to stop waiting, and go on without the lock.

  Raises:
    errors.UserError: if the file cannot be written.
  """
  with contextlib.ExitStack() as stack:
    while not is_stopped():
      try:
        stack.enter_context(held(path, 'wait for it'))
        break
      except InUseError:
        time.sleep(1)
    yield
