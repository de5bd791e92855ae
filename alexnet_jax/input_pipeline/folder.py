"""Image files: class folders, and whatever files a user names."""

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
from alexnet_jax.input_pipeline import sources

NO_LABEL = -1
_STRETCH = 128  # paths per string of TensorFlow's
# Pillow knows these by name, but needs other programs to decode them.
_UNDECODED = {'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF'}


@dataclasses.dataclass(frozen=True, eq=False)
class Folder(sources.Defaults):
  """A source of image files; see `sources.Source`.

  Attributes:
    paths: of all files, one after the other. A million strings of their own
      would take three times the memory.
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
    starts = self.ends[:-1:_STRETCH].tolist()
    stretches = [
      self.paths[start:end]
      for start, end in itertools.pairwise([*starts, len(self.paths)])
    ]
    with tf.init_scope():  # Outside the graph that asks first.
      return [tf.constant(x) for x in (stretches, self.ends, self.labels)]

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

  def describe(self, index: int) -> str:
    start, end = self.ends[index : index + 2]
    return os.fsdecode(self.paths[start:end])


def open_folder(data_dir: str, split: str, name: str = '') -> Folder:
  """Opens data_dir/split, or data_dir itself when `split` is empty.

  Each folder in it is a class, in the order of the sorted names; its files
  may be deeper. Hidden files and folders are passed over.

  Raises:
    errors.UserError: when a folder is missing, empty or without images.
  """
  directory = pathlib.Path(data_dir).expanduser().absolute()
  root = directory / split
  if not data_dir or not directory.is_dir():
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
        else ', nor any other: lay the images out as'
        f' {root}/<class>/<file>.jpg, or set --config.data.data_dir'
      )
    )
  class_names = _subfolders(root)
  if not class_names:
    raise errors.UserError(
      f'{root} holds no class folders: lay the images out as '
      f'{root}/<class>/<file>.jpg'
    )
  listing = _Listing(root)
  # A link to one of these would bring in the other classes, or other splits.
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


def open_files(patterns: Sequence[str]) -> Folder:
  """Opens files by their names, folders and patterns; they have no labels.

  Args:
    patterns: each a file, whatever its name ends in; a folder, of which all
      files named like images are taken, those in folders inside it too; or a
      pattern such as '*.jpg' or 'photos/**/*.png', which stands for files.

  Returns:
    Every file once, in the order of the patterns and then of the names.

  Raises:
    errors.UserError: when no file matches a pattern.
  """
  listing = _Listing()
  for pattern in patterns:
    if not _expand(os.path.expanduser(pattern), listing):
      raise errors.UserError(
        f"no images match '{pattern}': name a file, a folder with images, or a"
        " pattern in quotes such as '*.jpg'"
      )
  listing.report(' '.join(patterns))
  files = listing.files()
  return Folder(
    name='files',
    split='files',
    directory=None,
    class_names=(),
    labels=np.full(len(files['ends']) - 1, NO_LABEL, np.int32),
    **files,
  )


def _expand(pattern: str, listing: '_Listing') -> int:
  """Adds what matches a pattern; returns how many files do."""
  if os.path.isdir(pattern):
    return listing.add_folder(pattern, set())
  if os.path.lexists(pattern):  # It may have brackets in its name.
    return listing.add(pattern)
  matches = sorted(glob.glob(pattern, recursive=True))
  return sum(listing.add(path) for path in matches if not os.path.isdir(path))


@functools.cache
def extensions() -> frozenset[str]:
  """Returns the endings of the files that Pillow decodes: '.jpg' and so on."""
  Image.init()
  return frozenset(
    ending
    for ending, kind in Image.registered_extensions().items()
    if kind in Image.OPEN and kind not in _UNDECODED
  )


class _Listing:
  """The image files found so far, and a count of what was passed over."""

  def __init__(self, root: pathlib.Path | None = None):
    """Takes the folder that the fingerprint's names are relative to."""
    self._root = root
    self._paths = bytearray()
    self._ends = [0]
    self._digest = hashlib.sha256()
    self._named: set[bytes] = set()
    self._endings: Counter[str] = Counter()

  def files(self) -> dict[str, Any]:
    """Returns what `Folder` keeps of the files."""
    return {
      'paths': bytes(self._paths),
      'ends': np.array(self._ends, np.int64),
      'fingerprint': self._digest.hexdigest(),
    }

  def add_folder(self, folder: str, visited: set[tuple[int, int]]) -> int:
    """Adds the image files in a folder and those inside it, in order.

    Args:
      folder: its path.
      visited: folders that must not be entered again, whatever links to them;
        this one and those inside it are added.

    Returns:
      How many there are.

    Raises:
      errors.UserError: when a folder may not be read.
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
        self._endings[ending or 'without an ending'] += 1
    return count

  def add(self, path: str) -> int:
    """Adds a regular file, and names what is none; returns 1 or 0."""
    try:
      status = os.stat(path)
    except OSError as error:  # A broken link, a circle of links.
      logging.warning('Left out: %s (%s)', path, error.strerror)
      return 0
    if not stat.S_ISREG(status.st_mode):
      logging.warning('Left out: %s (not a regular file)', path)
      return 0
    encoded = os.fsencode(path)
    if self._root is None:  # Patterns may overlap.
      place = os.fsencode(os.path.abspath(path))
      if place in self._named:
        return 1
      self._named.add(place)
    self._paths += encoded
    self._ends.append(len(self._paths))
    name = encoded
    if self._root is not None:
      name = os.fsencode(os.path.relpath(path, self._root))
    self._digest.update(b'%s\0%d\0' % (name, status.st_size))
    self._digest.update(b'%d\n' % int(status.st_mtime))
    return 1

  def report(self, where: pathlib.Path | str) -> None:
    """Says once what kinds of files were passed over."""
    if self._endings:
      logging.info(
        '%s: passed over %d files that are not named like images: %s',
        where,
        self._endings.total(),
        ', '.join(f'{n} {ending}' for ending, n in self._endings.most_common()),
      )


def _scan(folder: str) -> list[os.DirEntry]:
  """Returns what is in a folder, sorted, hidden names excepted.

  Raises:
    errors.UserError: when it may not be read.
  """
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
  except OSError:  # A circle of links; `_Listing.add` says so.
    return False


def _subfolders(folder: pathlib.Path) -> list[str]:
  entries = _scan(str(folder))
  for entry in entries:
    if entry.is_symlink() and not os.path.exists(entry.path):
      logging.warning('Left out: %s (a broken link)', entry.path)
  return [entry.name for entry in entries if _is_folder(entry)]
