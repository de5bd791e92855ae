"""The store: the paper's 256x256 squares, decoded once.

A split is a folder, and every square a file of its own, a thousand to a folder,
which tf.data reads as fast as any other layout that was measured:

  store.json           what it is, of what data, and whether it is complete
  rows                 a label and a hash per square, see `_ROW`
  00000/000 ... 999    uint8 [S, S, 3], raw; empty for an unreadable original
  00001/...

A square's row is written after its file: whenever the program is killed, the
next run verifies the rows that exist and writes the missing squares. Every
square is verified against its row whenever it is read.
"""

from concurrent import futures
import dataclasses
import functools
import json
import math
import os
import pathlib
from typing import Any, BinaryIO

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import lock
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import sources

_FORMAT = 3
_PER_FOLDER = 1000
_BATCH_SIZE = 128
_DESCRIPTION, _ROWS = 'store.json', 'rows'
# The label, and `_check` of it and the file; both 0 until the file is written.
_ROW = np.dtype([('check', '<i8'), ('label', '<i4')])
_UNREADABLE = -1  # Instead of a label.
_PROBLEM = 'is damaged or missing'
_REMEDY = 'run the same command with --mode=prepare to write it again'
# Must change with the pixels, or a store could be written half before and half
# after the change.
_PIXELS = (
  'RGB; central square, reduced by whole blocks or in the decoder while twice '
  'image_size or more, then bilinear, rounded half up'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Store(sources.Defaults):
  """A source of squares on disk; see `sources.Source`.

  Attributes:
    fingerprint: of the data that the store was made from.
    image_size: side S of the squares, pixels.
    rows: `_ROW` [N].
    unreadable: descriptions of the originals that could not be read, by index.
  """

  name: str
  split: str
  directory: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  image_size: int
  rows: np.ndarray
  unreadable: dict[int, str]

  @property
  def num_examples(self) -> int:
    return len(self.rows)

  @functools.cached_property
  def _tensors(self) -> list[tf.Tensor]:
    return sources.constants(self.rows['label'], self.rows['check'])

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    label, check = (tf.gather(values, key) for values in self._tensors)
    number = key // _PER_FOLDER
    folder = tf.strings.as_string(number, width=5, fill='0')
    file = tf.strings.as_string(key - number * _PER_FOLDER, width=3, fill='0')
    root = os.fsencode(self.directory)
    content = tf.io.read_file(
      tf.strings.join([root, folder, file], separator='/')
    )
    intact = tf.equal(_check(content, label), check)
    whole = tf.raw_ops.Assert(condition=intact, data=['its check differs'])
    with tf.control_dependencies([whole]):
      image = tf.io.decode_raw(content, tf.uint8)
    return tf.reshape(image, [self.image_size, self.image_size, 3]), label

  def load(self, index: int) -> tuple[np.ndarray, np.int32]:
    if index in self.unreadable:
      raise decoding.UnreadableError('unreadable when the store was made')
    file, label = _file(self.directory, index), self.rows['label'][index]
    with retry.reading(file, problem=_PROBLEM, remedy=_REMEDY):
      content = file.read_bytes()
    shape = (self.image_size, self.image_size, 3)
    if len(content) != math.prod(shape):
      found = f'{len(content):,} of {math.prod(shape):,} bytes'
      raise retry.UnavailableError(file, found, _PROBLEM, _REMEDY)
    # This is the second reading: the first was in the graph.
    if _check(content, label) != self.rows['check'][index]:
      raise errors.UserError(f'{file} {_PROBLEM}: {_REMEDY}')
    return np.frombuffer(content, np.uint8).reshape(shape), label

  def describe(self, index: int) -> str:
    return self.unreadable.get(index) or super().describe(index)


def _check(content: Any, label: Any) -> tf.Tensor:
  """Returns int64 hashes of files and labels; FarmHash stays the same."""
  hashed = tf.strings.to_hash_bucket_fast(content, 2**63 - 1)
  return tf.bitwise.bitwise_xor(hashed, tf.cast(label, tf.int64))


def _file(directory: pathlib.Path, index: int) -> pathlib.Path:
  number, place = divmod(index, _PER_FOLDER)
  return directory / f'{number:05d}' / f'{place:03d}'


def _split_folder(store_dir: str, split: str) -> pathlib.Path:
  root = files.user_folder(store_dir, '--config.data.store_dir').absolute()
  return root / names.for_file(split)


def open_store(
  store_dir: str,
  split: str,
  name: str,
  image_size: int,
  upright: bool = False,
) -> Store:
  """Opens one split of a store.

  Args:
    store_dir: the folder that --mode=prepare wrote.
    split: such as 'train'.
    name: of the data set; empty for any.
    image_size: side of the squares, pixels.
    upright: whether the EXIF orientation was applied.

  Raises:
    errors.UserError: when the store is missing, unfinished, of other data, or
      visibly damaged.
  """
  directory = _split_folder(store_dir, split)
  description = _read_description(directory)
  if not description.get('complete'):
    state = 'an unfinished store' if description else 'no store'
    raise errors.UserError(
      f'{directory} holds {state}: run the same command with --mode=prepare'
    )
  name = name or description['name']
  expected = {
    'split': split,
    'name': name,
    'image_size': image_size,
    'upright': upright,
  }
  for key, wanted in expected.items():
    if description[key] != wanted:
      raise errors.UserError(
        f'the store in {directory} has {key} {description[key]!r}, not '
        f'{wanted!r}: prepare another with --mode=prepare and another '
        '--config.data.store_dir'
      )
  path, count = directory / _ROWS, description['num_examples']
  if not path.is_file() or path.stat().st_size != count * _ROW.itemsize:
    raise errors.UserError(f'{path} {_PROBLEM}: {_REMEDY}')
  unreadable = {int(i): name for i, name in description['unreadable'].items()}
  if unreadable:
    logging.warning(
      '%d of %d images could not be read when %s was made and are left out: %s',
      len(unreadable),
      count,
      directory,
      ', '.join(list(unreadable.values())[:3]),
    )
  return Store(
    name=description['name'],
    split=description['split'],
    directory=directory,
    class_names=tuple(description['class_names']),
    fingerprint=description['fingerprint'],
    image_size=description['image_size'],
    rows=np.fromfile(path, _ROW),
    unreadable=unreadable,
  )


def _read_description(directory: pathlib.Path) -> dict[str, Any]:
  """Returns what store.json holds; empty if there is no such file."""
  path = directory / _DESCRIPTION
  if not path.is_file():
    return {}
  try:
    description = json.loads(path.read_text())
    found = description['format']
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
      f'{path} is damaged: delete {directory} and {_REMEDY}'
    ) from error
  if found != _FORMAT:
    raise errors.UserError(
      f'{directory} has format {found}, this program reads {_FORMAT}: prepare '
      'another store in another --config.data.store_dir'
    )
  return description


def write(
  source: sources.Source,
  store_dir: str,
  options: decoding.Options,
  threads: int = 0,
) -> None:
  """Writes one split, or resumes it; verifies the squares that exist.

  Args:
    source: the images.
    store_dir: the folder of all splits.
    options: how images are decoded.
    threads: see `pipeline.eval_batches`.

  Raises:
    errors.UserError: when the folder holds a store of other data, another
      process is writing it, or the disk is full.
  """
  directory = _split_folder(store_dir, source.split)
  files.check_writable(directory, '--config.data.store_dir')
  directory.mkdir(parents=True, exist_ok=True)
  identity = {
    'format': _FORMAT,
    'name': source.name,
    'split': source.split,
    'image_size': options.image_size,
    'upright': options.upright,
    'num_examples': source.num_examples,
    'pixels': _PIXELS,
    'fingerprint': source.fingerprint,
    'class_names': list(source.class_names),
  }
  begun = _read_description(directory) or identity
  for key, value in identity.items():
    if begun.get(key) != value:
      raise errors.UserError(
        f'the store in {directory} was begun with {key} '
        f'{str(begun.get(key))[:60]}, now it is {str(value)[:60]}: delete '
        'that folder, or choose another --config.data.store_dir'
      )
  (directory / _ROWS).touch()
  with (
    lock.held(directory / 'lock', 'wait for it'),
    open(directory / _ROWS, 'r+b') as file,
  ):
    file.truncate(source.num_examples * _ROW.itemsize)  # Pads with zeros.
    rows = np.fromfile(file, _ROW)
    if begun.get('max_pixels') != options.max_pixels:
      # What was too large before is tried again.
      rows[rows['label'] == _UNREADABLE] = 0
    missing = _missing(directory, rows)
    _check_space(directory, source.split, options.image_size, len(missing))
    if len(missing):
      files.write_text(directory / _DESCRIPTION, json.dumps(identity, indent=1))
      some = sources.Subset(source, missing)
      _write_squares(directory, some, options, threads, rows, file)
    os.sync()  # Syncing each file would wait for the disk each time.
    lost = np.flatnonzero(rows['label'] == _UNREADABLE).tolist()
    unreadable = {i: names.printable(source.describe(i)) for i in lost}
    complete = identity | {
      'unreadable': unreadable,
      'max_pixels': options.max_pixels,
      'complete': True,
    }
    files.write_text(directory / _DESCRIPTION, json.dumps(complete, indent=1))
  logging.info('The store in %s is complete', directory)


def _missing(directory: pathlib.Path, rows: np.ndarray) -> np.ndarray:
  """Verifies all squares that exist; returns the indices to be written."""
  intact = np.zeros(len(rows), bool)
  written = np.flatnonzero(rows['check'])
  shown = progress.Progress('Check of the store', len(written))
  with futures.ThreadPoolExecutor() as pool:
    for start in range(0, len(written), _BATCH_SIZE):
      some = written[start : start + _BATCH_SIZE]
      contents = pool.map(_read, [_file(directory, i) for i in some.tolist()])
      checks = _check(list(contents), rows['label'][some]).numpy()
      intact[some] = checks == rows['check'][some]
      shown.add(len(some))
  damaged = written[~intact[written]]
  if len(damaged):
    logging.warning(
      '%d squares are damaged or missing and written again, the first %s',
      len(damaged),
      _file(directory, damaged[0]),
    )
  return np.flatnonzero(~intact)


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError:
    return b'missing'  # Matches no row.


def _check_space(
  directory: pathlib.Path, split: str, image_size: int, count: int
) -> None:
  """Logs the space that the store needs and raises if the disk lacks it."""
  disk = os.statvfs(directory)
  blocks = -(-(image_size**2 * 3) // disk.f_frsize)  # whole ones per file
  needed, free = count * blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
  logging.info(
    'Store %s: %s images of %dx%d to write, %.4g GB; %s has %.4g GB free',
    split,
    f'{count:,}',
    image_size,
    image_size,
    needed / 1e9,
    directory,
    free / 1e9,
  )
  # Some file systems allocate inodes on demand and report none.
  if needed > free or (disk.f_files and count > disk.f_favail):
    raise errors.UserError(
      f'the store needs {needed / 1e9:.4g} GB and {count:,} files more, but '
      f'{directory} has room for {free / 1e9:.4g} GB and {disk.f_favail:,}: '
      'make room or choose another --config.data.store_dir'
    )


def _write_squares(
  directory: pathlib.Path,
  source: sources.Subset,
  options: decoding.Options,
  threads: int,
  rows: np.ndarray,
  rows_file: BinaryIO,
) -> None:
  """Writes some squares and then their rows, to the file and to `rows`."""

  def write_one(index: int, content: bytes) -> None:
    path = _file(directory, index)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    row, place = rows[index].tobytes(), index * _ROW.itemsize
    os.pwrite(rows_file.fileno(), row, place)

  done = len(rows) - source.num_examples
  shown = progress.Progress(f'Store {source.split}', len(rows), done=done)
  batches = pipeline.eval_batches(
    source, batch_size=_BATCH_SIZE, decoder=options, threads=threads
  )
  with futures.ThreadPoolExecutor() as pool:
    for batch in batches:
      batch = {k: v[batch['index'] >= 0] for k, v in batch.items()}
      indices = source.indices[batch['index']]
      unreadable = batch['unreadable'] > 0
      contents = [
        b'' if lost else image.tobytes()
        for image, lost in zip(batch['image'], unreadable, strict=True)
      ]
      labels = np.where(unreadable, _UNREADABLE, batch['label'])
      rows['label'][indices] = labels
      rows['check'][indices] = _check(contents, labels)
      try:
        with files.full_disk_in_words(directory):
          list(pool.map(write_one, indices.tolist(), contents))
      except OSError as error:
        raise errors.UserError(
          f'{directory} cannot be written ({error.strerror}): make it available'
          ' again and run the same command again, which resumes'
        ) from error
      shown.add(len(indices))
