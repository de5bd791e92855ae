"""Images that have no labels: files, folders and patterns from a user."""

from collections.abc import Iterator, Sequence
import dataclasses
import glob
import hashlib
import os
import pathlib

import numpy as np
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import folder

NO_LABEL = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """A source of image files without labels; see `sources.Source`."""

  paths: tuple[str, ...]

  name = 'files'
  split = 'files'
  directory: pathlib.Path | None = None
  class_names: tuple[str, ...] = ()
  record_spec = (tf.TensorSpec([], tf.string),)

  @property
  def num_examples(self) -> int:
    return len(self.paths)

  @property
  def fingerprint(self) -> str:
    digest = hashlib.sha256()
    for path in self.paths:
      status = os.stat(path)
      line = f'{path}\0{status.st_size}\0{status.st_mtime_ns}\n'
      digest.update(os.fsencode(line))
    return digest.hexdigest()

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    paths = [os.fsencode(self.paths[index]) for index in indices]
    return (np.array(paths, dtype=object),)

  def read(self, record: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    (path,) = record
    return tf.io.read_file(path), tf.constant(NO_LABEL, tf.int32)

  def describe(self, index: int) -> str:
    return self.paths[index]


def open_files(patterns: Sequence[str]) -> Files:
  """Opens files by their names, folders and patterns.

  Args:
    patterns: each a file, whatever its name ends in; a folder, of which all
      files named like images are taken, those in folders inside it too; or a
      pattern such as '*.jpg' or 'photos/**/*.png', which stands for files.

  Returns:
    Every file once, in the order of the patterns and then of the names.

  Raises:
    errors.UserError: when a pattern stands for no file.
  """
  paths: dict[str, None] = {}
  for pattern in patterns:
    found = list(_expand(os.path.expanduser(pattern)))
    if not found:
      raise errors.UserError(
        f"'{pattern}' stands for no image: name a file, a folder with images,"
        " or a pattern in quotes such as '*.jpg'"
      )
    paths.update(dict.fromkeys(found))
  return Files(tuple(paths))


def _expand(pattern: str) -> Iterator[str]:
  if os.path.isdir(pattern):
    for entry in folder.walk(pattern):
      if entry.name.lower().endswith(folder.EXTENSIONS):
        yield entry.path
  elif os.path.exists(pattern):  # It may have brackets in its name.
    yield pattern
  else:
    for path in sorted(glob.glob(pattern, recursive=True)):
      if not os.path.isdir(path):
        yield path
