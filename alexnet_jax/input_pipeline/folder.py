"""Images in folders: data_dir/split/class/files."""

from collections.abc import Iterator
import dataclasses
import hashlib
import os
import pathlib

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax import errors

EXTENSIONS = ('.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.gif', '.webp')


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
  """A source of image files; see `sources.Source`."""

  name: str
  split: str
  directory: pathlib.Path
  root: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  paths: np.ndarray  # bytes [num_examples], relative to root
  labels: np.ndarray  # int32 [num_examples]

  record_spec = (tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32))

  @property
  def num_examples(self) -> int:
    return len(self.paths)

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    return self.paths[indices], self.labels[indices]

  def read(self, record: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    path, label = record
    return tf.io.read_file(tf.strings.join([f'{self.root}/', path])), label

  def describe(self, index: int) -> str:
    return str(self.root / os.fsdecode(self.paths[index]))


def open_folder(data_dir: str, split: str, name: str = '') -> Folder:
  """Opens data_dir/split, or data_dir itself when `split` is empty.

  Each folder in it is a class, in the order of the sorted names; its files
  may lie deeper. Hidden files and folders are passed over.

  Raises:
    errors.UserError: when a folder is missing, empty or without images.
  """
  directory = pathlib.Path(data_dir).expanduser().absolute()
  root = directory / split
  if not data_dir or not directory.is_dir():
    raise errors.UserError(
      f'there is no data folder {data_dir!r}: set data_dir to the folder that '
      f'holds {split or "the classes"!r}'
    )
  if not root.is_dir():
    raise errors.UserError(
      f'{directory} has no split {split!r}, only {_subfolders(directory)}: '
      "choose one of those, or '' when they are the classes"
    )
  class_names = _subfolders(root)
  if not class_names:
    raise errors.UserError(
      f'{root} holds no class folders: lay the images out as '
      f'{root}/<class>/<file>.jpg'
    )
  paths, labels, digest = _list_images(root, class_names)
  return Folder(
    name=name or directory.name,
    split=split,
    directory=directory,
    root=root,
    class_names=tuple(class_names),
    fingerprint=digest,
    paths=np.array(paths, dtype=bytes),
    labels=np.array(labels, dtype=np.int32),
  )


def _subfolders(folder: pathlib.Path) -> list[str]:
  return sorted(
    entry.name
    for entry in os.scandir(folder)
    if entry.is_dir() and not entry.name.startswith('.')
  )


def _list_images(
  root: pathlib.Path, class_names: list[str]
) -> tuple[list[bytes], list[int], str]:
  """Returns relative paths, their labels and the fingerprint of all."""
  digest = hashlib.sha256()
  paths, labels, passed_over = [], [], 0
  for label, class_name in enumerate(class_names):
    before = len(paths)
    for entry in walk(root / class_name):
      if not entry.name.lower().endswith(EXTENSIONS):
        passed_over += 1
        continue
      path = os.fsencode(os.path.relpath(entry.path, root))
      status = entry.stat()
      digest.update(b'%s\0%d\0' % (path, status.st_size))
      digest.update(b'%d\n' % int(status.st_mtime))
      paths.append(path)
      labels.append(label)
    if len(paths) == before:
      raise errors.UserError(
        f'class folder {root / class_name} holds no images '
        f'({" ".join(EXTENSIONS)}): add some or remove the folder'
      )
  if passed_over:
    logging.info('%s: passed over %d other files', root, passed_over)
  return paths, labels, digest.hexdigest()


def walk(folder: pathlib.Path | str) -> Iterator[os.DirEntry]:
  """Yields the files below `folder` in sorted order, hidden ones excepted."""
  for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      yield from walk(entry.path)
    else:
      yield entry
