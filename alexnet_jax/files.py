"""Files that are seen whole or not at all, and JSON that every parser reads.

Everything that a run or an analysis writes at once passes through here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import tempfile
from typing import Any, BinaryIO

from absl import logging
import numpy as np
import numpy.typing as npt

from alexnet_jax import errors
from alexnet_jax import names


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file that takes the place of `path` when all of it is on disk.

  Whatever moment the program or the machine stops at, `path` is the old file
  or the new one.

  Args:
    path: of the file; its folder is created.

  Yields:
    The file, open for writing. `name` is its path, for libraries that open
    files themselves.

  Raises:
    errors.UserError: when the disk is full or the folder cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix='.')
  except (PermissionError, FileExistsError, NotADirectoryError) as error:
    raise errors.UserError(
      f'{path.parent} cannot be written ({error.strerror}): choose another'
      ' folder with --output or --workdir'
    ) from error
  try:
    os.close(handle)
    with full_disk_in_words(path), open(temporary, 'wb') as file:
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


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file in UTF-8."""
  with replacing(path) as file:
    file.write(text.encode())


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value as indented JSON; see `plain`."""
  write_text(path, dumps(value, indent=2) + '\n')


def write_csv(
  path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
  """Writes a table; `rows` may be a generator."""
  with replacing(path) as file:
    text = io.TextIOWrapper(file, encoding='utf-8', newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)
    text.flush()
    text.detach()


def save_arrays(path: pathlib.Path, **arrays: npt.ArrayLike) -> None:
  """Writes an .npz file."""
  with replacing(path) as file:
    np.savez(file, allow_pickle=False, **arrays)


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads what `save_arrays` wrote.

  Raises:
    ValueError: when the file is damaged.
  """
  try:
    with np.load(path) as stored:
      return dict(stored)
  # On damaged files numpy, zipfile and zlib raise OSError, EOFError, KeyError,
  # RuntimeError, NotImplementedError, BadZipFile and others.
  except Exception as error:
    raise ValueError(str(error) or type(error).__name__) from error


def beside(directory: pathlib.Path | None, filename: str) -> pathlib.Path:
  """Returns where a file computed from the data in `directory` is kept.

  Beside the data; under ~/.cache/alexnet_jax where it cannot be written, or
  where the data is not on disk. A file that is beside the data is used.
  """
  if directory is not None:
    path = directory / filename
    if path.exists() or os.access(directory, os.W_OK):
      return path
  key = hashlib.sha256(str(directory).encode('utf-8', 'surrogateescape'))
  folder = pathlib.Path.home() / '.cache' / 'alexnet_jax' / key.hexdigest()[:16]
  logging.info('%s cannot be written: keeping %s', directory, folder / filename)
  return folder / filename


def plain(value: Any) -> Any:
  """Returns a value with every number finite or None, every text printable.

  JSON has no NaN and no infinity, and UTF-8 no lone surrogates.
  """
  if isinstance(value, float):
    return float(value) if math.isfinite(value) else None
  if isinstance(value, str):
    return names.printable(value)
  if isinstance(value, Mapping):
    return {plain(key): plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  return value


def dumps(value: Any, indent: int | None = None) -> str:
  """Returns a value as JSON; see `plain`."""
  return json.dumps(plain(value), indent=indent, allow_nan=False)


def loads(text: str) -> Any:
  """Returns a value from JSON; NaN and Infinity of an older run are None.

  Raises:
    json.JSONDecodeError: if the text is not JSON.
  """
  return json.loads(text, parse_constant=lambda _: None)
