"""Files that are seen whole or not at all, and where they are kept."""

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


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file that takes the place of `path` when all of it is on disk.

  Whatever moment the program or the machine stops at, `path` is the old file
  or the new one.

  Raises:
    errors.UserError: when the disk is full.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix='.')
  try:
    with full_disk_in_words(path), os.fdopen(handle, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    # mkstemp makes the file private; a data set is often shared.
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
  # The new name, too, must survive a power cut.
  directory = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


@contextlib.contextmanager
def full_disk_in_words(path: pathlib.Path) -> Iterator[None]:
  """Turns the error of a full disk into the user's."""
  try:
    yield
  except OSError as error:
    if error.errno != errno.ENOSPC:
      raise
    raise errors.UserError(
      f'the disk is full at {path}: make room and run the same command again'
    ) from error


def save_arrays(path: pathlib.Path, **arrays: npt.ArrayLike) -> None:
  """Writes an .npz file."""
  with replacing(path) as file:
    np.savez(file, allow_pickle=False, **arrays)


def place(directory: pathlib.Path | None, filename: str) -> pathlib.Path:
  """Returns where a file computed from the data in `directory` is kept.

  Beside the data; under ~/.cache/alexnet_jax where it cannot be written, or
  where the data is not on disk. A file that is beside the data is used.
  """
  if directory is not None:
    beside = directory / filename
    if beside.exists() or os.access(directory, os.W_OK):
      return beside
  key = hashlib.sha256(str(directory).encode('utf-8', 'surrogateescape'))
  folder = pathlib.Path.home() / '.cache' / 'alexnet_jax' / key.hexdigest()[:16]
  logging.info('%s cannot be written: keeping %s', directory, folder / filename)
  return folder / filename


def split_name(split: str) -> str:
  """Returns a split such as 'train[:90%]' as a part of a file's name."""
  return re.sub(r'[^\w.-]', '_', split or 'all')
