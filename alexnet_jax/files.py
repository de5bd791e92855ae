"""The user's paths, files written whole or not at all, JSON and CSV.

Every text of the user that names a file or a folder becomes a path here, and
everything that a run or an analysis writes at once is written here.
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
import re
import tempfile
from typing import Any, BinaryIO

from absl import logging
import numpy as np
import numpy.typing as npt

from alexnet_jax import errors
from alexnet_jax import names

# Errors of a disk on which the files were in order: in words, and what to do.
DISK_ERRORS = {
  errno.ENOSPC: ('the disk is full', 'make room'),
  errno.EDQUOT: ('the disk quota is used up', 'make room'),
  errno.EFBIG: ('a file may not get larger', 'raise the limit (ulimit -f)'),
  errno.EIO: ('the disk fails', 'check it'),
}
_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')
_NAME_BYTES = 255  # NAME_MAX, the longest name on Linux and macOS.
# Cells of a table that spreadsheets would take for formulas begin with one of
# these; the last four are full-width forms (OWASP, "CSV Injection").
_FORMULA = tuple('=+-@\t\r\n＝＋－＠')


def user_path(text: str, flag: str) -> pathlib.Path:
  """Returns the local path that a user has written, with ~ and ~user expanded.

  Args:
    text: the path, or a glob pattern.
    flag: the flag that it was given with, for messages: '--workdir'.

  Raises:
    errors.UserError: when the text is empty, a URL, or not a path that this
      machine can open. Nothing need exist under that name.
  """
  if not text.strip():
    raise errors.UserError(f'{flag} is empty: give the name of a local folder')
  if _SCHEME.match(text):
    raise errors.UserError(
      f'{flag}={text} is not a local folder: mount the bucket or copy it, and'
      f' name that folder with {flag}'
    )
  path, text = _expanded(text), names.shorten(text, 200)
  if path is None:
    raise errors.UserError(
      f'{flag}={text} begins with a home folder that is not known: write out'
      f' the path, or {flag}=./{text} for a name that begins with ~'
    )
  try:
    if max(map(len, os.fsencode(path).split(b'/'))) > _NAME_BYTES:
      raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with contextlib.suppress(FileNotFoundError):
      os.stat(path)
  except (OSError, ValueError) as error:
    # A ValueError is of a character that no name has, such as NUL.
    reason = error.strerror if isinstance(error, OSError) else error
    raise errors.UserError(
      f'{flag}={text} cannot be opened ({reason}): give another path with'
      f' {flag}'
    ) from error
  return path


def _expanded(text: str) -> pathlib.Path | None:
  """Returns a path with ~ or ~user expanded; None if that is not known."""
  home = text.partition('/')[0]
  if not home.startswith('~'):
    return pathlib.Path(text)
  # An empty HOME would make ~/x the root's /x.
  if home == '~' and os.environ.get('HOME') == '':
    return None
  expanded = os.path.expanduser(text)
  return None if expanded == text else pathlib.Path(expanded)


def user_folder(text: str, flag: str) -> pathlib.Path:
  """Returns the folder that a user has written; see `user_path`.

  Raises:
    errors.UserError: also when there is something else under that name.
  """
  path = user_path(text, flag)
  if os.path.lexists(path) and not path.is_dir():
    kind = 'a broken link' if path.is_symlink() else 'a file'
    raise errors.UserError(
      f'{flag}={text} is {kind} and not a folder: name another with {flag}'
    )
  return path


def is_file(path: pathlib.Path) -> bool:
  """Returns whether there is a file to read under this name.

  Raises:
    errors.UserError: when there is something else, such as a FIFO, from which
      reading may never end.
  """
  if os.path.lexists(path) and not path.is_file():
    raise errors.UserError(
      f'{path} is not a regular file: remove it, or name another place'
    )
  return path.is_file()


def check_writable(folder: pathlib.Path, flag: str) -> None:
  """Checks that a folder can be written by making another in it.

  Args:
    folder: where files will be written; need not exist.
    flag: that names another folder.

  Raises:
    errors.UserError: when it cannot be written. Nothing is left in it.
  """
  try:
    with full_disk_in_words(folder):
      tempfile.TemporaryDirectory(prefix='.', dir=_existing(folder)).cleanup()
  except OSError as error:
    raise errors.UserError(
      f'{folder} cannot be written ({error.strerror}): choose another folder'
      f' with {flag}'
    ) from error


def is_writable(folder: pathlib.Path) -> bool:
  """Returns whether the system permits to write a folder, or to make it."""
  place = _existing(folder)
  return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _existing(path: pathlib.Path) -> pathlib.Path:
  """Returns a path, or the nearest above it that exists."""
  path = path.absolute()
  while not os.path.lexists(path):
    path = path.parent
  return path


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
  with _refusal_in_words(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix='.')
  try:
    os.close(handle)
    with full_disk_in_words(path), open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    # mkstemp makes the file private; a data set is often shared.
    os.chmod(temporary, 0o644)
    with _refusal_in_words(path):
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


def flush(folder: pathlib.Path) -> None:
  """Waits until a folder, all that is in it, and its name are on disk."""
  for path in (*folder.rglob('*'), folder, folder.parent):
    handle = os.open(path, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


@contextlib.contextmanager
def _refusal_in_words(path: pathlib.Path) -> Iterator[None]:
  """Turns the system's refusal to create a path into the user's error."""
  try:
    yield
  except OSError as error:
    raise in_words(error, path) from error


@contextlib.contextmanager
def full_disk_in_words(path: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a full or failing disk into the user's.

  Everything else that is raised passes, for it may have another cause.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in DISK_ERRORS:
      raise
    raise in_words(error, path) from error


def in_words(
  error: OSError, path: pathlib.Path, kept: str = ''
) -> errors.UserError:
  """Returns the user's error for one met in writing a file or a folder.

  Args:
    error: from the operating system.
    path: of the file or folder.
    kept: what is not lost on a full or failing disk, as the message's end.
  """
  if error.errno in DISK_ERRORS:
    what, remedy = DISK_ERRORS[error.errno]
    return errors.UserError(
      f'{what} at {path}: {remedy} and run the same command again{kept}'
    )
  return errors.UserError(
    f'{path} cannot be written ({error.strerror}): make it writable or choose'
    ' another folder with --output or --workdir'
  )


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
  """Writes a table; `rows` may be a generator.

  A text that a spreadsheet would take for a formula gets an apostrophe in
  front, after which Excel and LibreOffice show it as it is: names of files and
  classes come from strangers, and a formula can run programs. Numbers are
  written as they are, negative ones too.
  """
  with replacing(path) as file:
    text = io.TextIOWrapper(file, encoding='utf-8', newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(map(_cell, header))
    writer.writerows(map(_cell, row) for row in rows)
    text.flush()
    text.detach()


def _cell(value: Any) -> Any:
  """Returns a cell in one line that no spreadsheet takes for a formula."""
  if not isinstance(value, str):
    return value
  text = names.printable(value)
  if not value.startswith(_FORMULA):
    return text
  with contextlib.suppress(ValueError):
    float(text)
    return text
  return f"'{text}"


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


def beside(
  directory: pathlib.Path, filename: str, to_write: bool = False
) -> pathlib.Path | None:
  """Returns where a file computed from the data in `directory` is kept.

  Beside the data, or under ~/.cache/alexnet_jax where that cannot be written.
  To be read, a file there comes before one beside the data, which may be of the
  data as they were; any is better than none.

  Args:
    directory: of the data.
    filename: of the file.
    to_write: whether a file that cannot be written is of no use.

  Returns:
    Its path; None, with a warning, where there is no place for it.

  Raises:
    errors.UserError: when there is something of that name that is not a file.
  """
  path = directory / filename
  found = is_file(path)
  if is_writable(directory):
    return path
  key = hashlib.sha256(str(directory).encode('utf-8', 'surrogateescape'))
  cache = _expanded('~/.cache/alexnet_jax')
  kept = cache and cache / key.hexdigest()[:16] / filename
  if not to_write:
    if kept and is_file(kept):
      return kept
    if found:
      return path
  if kept is None or not is_writable(kept.parent):
    logging.warning(
      'Neither %s nor ~/.cache can be written: %s is not kept',
      directory,
      filename,
    )
    return None
  logging.info('%s cannot be written: keeping %s', directory, kept)
  return kept


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
