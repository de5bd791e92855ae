"""Image files: class folders, and any files that a user names."""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import functools
import glob
import hashlib
import itertools
import os
import pathlib
import stat
from typing import Any

from absl import logging
import numpy as np
from PIL import Image
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import sources

NO_LABEL = -1
_STRETCH = 128  # paths per string of TensorFlow's
# Pillow knows these by name, but needs other programs to decode them.
_UNDECODED = {'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF'}


@dataclasses.dataclass(frozen=True, eq=False)
class Folder(sources.Defaults):
  """A source of image files; see `sources.Source`.

  Attributes:
    paths: of all files, concatenated. A million separate strings would take
      three times the memory.
    ends: int64 [num_examples + 1], where each path ends; the first is 0.
    labels: int32 [num_examples], NO_LABEL where there is none.
  """

  name: str
  split: str
  directory: pathlib.Path | None
  class_names: tuple[str, ...]
  fingerprint: str
  paths: bytes
  ends: np.ndarray
  labels: np.ndarray

  @property
  def num_examples(self) -> int:
    return len(self.labels)

  @functools.cached_property
  def _tensors(self) -> list[tf.Tensor]:
    # One long string would count as a small tensor, which TensorFlow copies
    # into every graph: a second for a million files.
    starts = [*self.ends[:-1:_STRETCH].tolist(), len(self.paths)]
    stretches = [self.paths[a:b] for a, b in itertools.pairwise(starts)]
    return sources.constants(stretches, self.ends, self.labels)

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    stretches, ends, labels = self._tensors
    number = key // _STRETCH
    start, end = tf.gather(ends, key), tf.gather(ends, key + 1)
    path = tf.strings.substr(
      tf.gather(stretches, number),
      start - tf.gather(ends, number * _STRETCH),
      end - start,
    )
    return tf.io.read_file(path), tf.gather(labels, key)

  def load(self, index: int) -> tuple[bytes, np.int32]:
    path = self.describe(index)
    with retry.reading(path):
      return pathlib.Path(path).read_bytes(), self.labels[index]

  def describe(self, index: int) -> str:
    start, end = self.ends[index : index + 2]
    return os.fsdecode(self.paths[start:end])


def open_folder(data_dir: str, split: str, name: str = '') -> Folder:
  """Opens data_dir/split, or data_dir itself when `split` is empty.

  Each folder in it is a class, in the order of the sorted names, with all files
  below it. Hidden files and folders are skipped.

  Raises:
    errors.UserError: when a folder is missing, empty or without images.
  """
  directory = files.user_folder(data_dir, '--config.data.data_dir').absolute()
  root = directory / split
  if not directory.is_dir():
    raise errors.UserError(
      f'there is no data folder {data_dir!r}: set --config.data.data_dir to '
      f'the folder that holds {split or "the classes"!r}'
    )
  if not root.is_dir():
    found = ', '.join(map(repr, _subfolders(directory)))
    raise errors.UserError(
      f'{directory} has no folder {split!r} for that split'
      + (
        f", only {found}: choose one of those, or '' when they are the classes"
        if found
        else f' and no other: arrange the images as {root}/<class>/<file>.jpg,'
        ' or set --config.data.data_dir'
      )
    )
  class_names = _subfolders(root)
  if not class_names:
    raise errors.UserError(
      f'{root} holds no class folders: arrange the images as '
      f'{root}/<class>/<file>.jpg'
    )
  listing = _Listing(root)
  # A link to one of these would add the other classes, or other splits.
  above = (root, *root.parents, *root.resolve().parents)
  outside = {_identity(str(place)) for place in above}
  labels = []
  for label, class_name in enumerate(class_names):
    found = listing.add_folder(str(root / class_name), set(outside))
    if not found:
      raise errors.UserError(
        f'class folder {root / class_name} holds no images: add some or remove '
        'the folder'
      )
    labels.append(np.full(found, label, np.int32))
  listing.report(root)
  return Folder(
    name=name or directory.name,
    split=split,
    directory=directory,
    class_names=tuple(class_names),
    labels=np.concatenate(labels),
    **listing.files(),
  )


def open_files(patterns: Sequence[str], flag: str = '--images') -> Folder:
  """Opens unlabeled files, each once, by pattern and then by name.

  Args:
    patterns: each a file, whatever its extension; a folder, for all image files
      below it; or a glob pattern of files such as 'photos/**/*.png'.
    flag: that they were given with.

  Raises:
    errors.UserError: when no file matches a pattern, or one is the name of
      something else than a file or a folder, such as a FIFO.
  """
  listing = _Listing()
  for pattern in patterns:
    path = files.user_path(pattern, flag)
    if path.exists() and not path.is_file() and not path.is_dir():
      raise errors.UserError(
        f'{flag}={pattern} is not a regular file: name a file or a folder'
      )
    if not _expand(os.fspath(path), listing):
      raise errors.UserError(
        f"no images match '{pattern}': name a file, a folder with images, or a"
        f" pattern in quotes such as {flag}='*.jpg'"
      )
  listing.report(' '.join(patterns))
  fields = listing.files()
  return Folder(
    name='files',
    split='files',
    directory=None,
    class_names=(),
    labels=np.full(len(fields['ends']) - 1, NO_LABEL, np.int32),
    **fields,
  )


def _expand(pattern: str, listing: '_Listing') -> int:
  """Adds the files that match a pattern; returns how many there are."""
  if os.path.isdir(pattern):
    return listing.add_folder(pattern, set())
  if os.path.lexists(pattern):  # It may have brackets in its name.
    return listing.add(pattern)
  matches = sorted(glob.glob(pattern, recursive=True))
  return sum(listing.add(path) for path in matches if not os.path.isdir(path))


@functools.cache
def extensions() -> frozenset[str]:
  """Returns the extensions of what Pillow decodes: '.jpg' and so on."""
  Image.init()
  return frozenset(
    ending
    for ending, kind in Image.registered_extensions().items()
    if kind in Image.OPEN and kind not in _UNDECODED
  )


class _Listing:
  """The image files found so far, and a count of what was skipped."""

  def __init__(self, root: pathlib.Path | None = None):
    self._root = root  # The names in the fingerprint are relative to it.
    self._paths = bytearray()
    self._ends = [0]
    self._digest = hashlib.sha256()
    self._named: set[str] = set()
    self._endings: Counter[str] = Counter()

  def files(self) -> dict[str, Any]:
    """Returns the fields of `Folder` that describe the files."""
    return {
      'paths': bytes(self._paths),
      'ends': np.array(self._ends, np.int64),
      'fingerprint': self._digest.hexdigest(),
    }

  def add_folder(self, folder: str, visited: set[tuple[int, int]]) -> int:
    """Adds the image files below a folder, in order; returns how many.

    `visited` are folders that must not be entered again, whatever links to
    them; this one and those below it are added.
    """
    identity = _identity(folder)
    if identity in visited:
      logging.warning('Left out: %s (a folder that was seen before)', folder)
      return 0
    visited.add(identity)
    count = 0
    for entry in _scan(folder):
      ending = os.path.splitext(entry.name)[1].lower()
      if _is_folder(entry):
        count += self.add_folder(entry.path, visited)
      elif ending in extensions():
        count += self.add(entry.path)
      else:
        self._endings[ending or 'without an extension'] += 1
    return count

  def add(self, path: str) -> int:
    """Adds a regular file, and logs anything else; returns 1 or 0."""
    try:
      status = os.stat(path)
    except OSError as error:  # A broken link, a circle of links.
      logging.warning('Left out: %s (%s)', path, error.strerror)
      return 0
    if not stat.S_ISREG(status.st_mode):
      logging.warning('Left out: %s (not a regular file)', path)
      return 0
    if self._root is None:  # Patterns may overlap.
      name, place = path, os.path.abspath(path)
      if place in self._named:
        return 1
      self._named.add(place)
    else:
      name = os.path.relpath(path, self._root)
    self._paths += os.fsencode(path)
    self._ends.append(len(self._paths))
    numbers = status.st_size, int(status.st_mtime)
    self._digest.update(b'%s\0%d\0%d\n' % (os.fsencode(name), *numbers))
    return 1

  def report(self, where: pathlib.Path | str) -> None:
    """Logs in one line what kinds of files were skipped."""
    if self._endings:
      logging.info(
        '%s: skipped %d files that are not named like images: %s',
        where,
        self._endings.total(),
        ', '.join(f'{n} {ending}' for ending, n in self._endings.most_common()),
      )


def _scan(folder: str) -> list[os.DirEntry]:
  """Returns the entries of a folder, sorted, without hidden names."""
  try:
    with os.scandir(folder) as entries:
      visible = [entry for entry in entries if not entry.name.startswith('.')]
  except OSError as error:
    raise errors.UserError(
      f'{folder} cannot be listed ({error.strerror}): change its permissions or'
      ' name another folder'
    ) from error
  return sorted(visible, key=lambda entry: entry.name)


def _identity(folder: str) -> tuple[int, int]:
  status = os.stat(folder)
  return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A circle of links, which `_Listing.add` logs.
    return False


def _subfolders(folder: pathlib.Path) -> list[str]:
  entries = _scan(str(folder))
  for entry in entries:
    if entry.is_symlink() and not os.path.exists(entry.path):
      logging.warning('Left out: %s (a broken link)', entry.path)
  return [entry.name for entry in entries if _is_folder(entry)]
