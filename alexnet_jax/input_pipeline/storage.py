"""Files that are computed once from a data set and kept with it."""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import os
import pathlib
import re
import tempfile
from typing import BinaryIO

from absl import logging
import numpy as np
import numpy.typing as npt

from alexnet_jax import errors


def place(directory: pathlib.Path | None, filename: str) -> pathlib.Path:
  """Returns where a file computed from the data in `directory` is kept.

  Beside the data; under ~/.cache/alexnet_jax where it cannot be written, or
  where the data lies nowhere. A file that is already beside the data is used.
  """
  if directory is not None:
    beside = directory / filename
    if beside.exists() or os.access(directory, os.W_OK):
      return beside
  key = hashlib.sha256(str(directory).encode()).hexdigest()[:16]
  kept = pathlib.Path.home() / '.cache' / 'alexnet_jax' / key / filename
  logging.info('%s cannot be written: keeping %s', directory, kept)
  return kept


def split_name(split: str) -> str:
  """Returns a split such as 'train[:90%]' as a part of a file's name."""
  return re.sub(r'[^\w.-]+', '_', split or 'all')


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file that takes the place of `path` when all of it is on disk.

  Whatever moment the program or the machine stops at, `path` is the old file
  or the new one. What is left of an interrupted write is overwritten by the
  next, so only one process at a time may write a path.

  Raises:
    errors.UserError: when the disk is full.
  """
  temporary = path.with_name(f'{path.name}.partial')
  try:
    with open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    temporary.unlink(missing_ok=True)
    if error.errno != errno.ENOSPC:
      raise
    raise errors.UserError(
      f'the disk is full at {path}: make room and run the same command again'
    ) from error
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  # The new name, too, must survive a power cut.
  directory = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def save_arrays(path: pathlib.Path, **arrays: npt.ArrayLike) -> None:
  """Writes an .npz file that is never seen half-written."""
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix='.')
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, allow_pickle=False, **arrays)
      file.flush()
      os.fsync(file.fileno())
    # mkstemp makes the file private; a data set is often shared.
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
