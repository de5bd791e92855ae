"""The prepared store: the paper's 256x256 squares, decoded once.

A split is a folder, and every square a file of its own, a thousand to a folder,
which tf.data reads as fast as any other layout that was tried:

  store.json           what it is, of what data, and whether it is complete
  index.npz            labels, hashes, and the originals that were unreadable
  00000/000 ... 999    uint8 [S, S, 3], raw; empty for such an original
  00000/index.npz      the part of index.npz that is about this folder
  00001/...

A folder is written under another name and renamed when it is whole: whatever
moment the program is stopped at, the next run goes on with the missing ones.
Every square is held against its hash whenever it is read.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax import printable
from alexnet_jax import progress
from alexnet_jax.input_pipeline import atomic_write
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import sources

_FORMAT = 2
_PER_FOLDER = 1000
_BATCH_SIZE = 125  # divides it
_DESCRIPTION = 'store.json'
_INDEX = 'index.npz'
_REMEDY = 'run the same command with --mode=prepare, which makes it again'
# A change of the pixels must change these words: a store made half before and
# half after it would be neither.
_PIXELS = (
  'RGB; central square, reduced by whole blocks or in the decoder while twice '
  'image_size or more, then bilinear, rounded half up'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Squares(sources.Defaults):
  """A source of squares on disk; see `sources.Source`.

  Attributes:
    fingerprint: of the data that the store was made from.
    image_size: side S of the squares, pixels.
    labels: int32 [N].
    hashes: int64 [N].
    unreadable: what a person calls the originals that could not be read, by
      index.
  """

  name: str
  split: str
  directory: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  image_size: int
  labels: np.ndarray
  hashes: np.ndarray
  unreadable: dict[int, str]

  @property
  def num_examples(self) -> int:
    return len(self.labels)

  @functools.cached_property
  def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.init_scope():  # Outside the graph that asks first.
      return tf.constant(self.labels), tf.constant(self.hashes)

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    labels, hashes = self._tensors
    number = key // _PER_FOLDER
    folder = tf.strings.as_string(number, width=5, fill='0')
    file = tf.strings.as_string(key - number * _PER_FOLDER, width=3, fill='0')
    root = str(self.directory).encode('utf-8', 'surrogateescape')
    content = tf.io.read_file(
      tf.strings.join([root, folder, file], separator='/')
    )
    intact = tf.equal(_hash(content), tf.gather(hashes, key))
    check = tf.raw_ops.Assert(condition=intact, data=['its hash differs'])
    with tf.control_dependencies([check]):
      image = tf.io.decode_raw(content, tf.uint8)
    shape = [self.image_size, self.image_size, 3]
    return tf.reshape(image, shape), tf.gather(labels, key)

  def verify(self, index: int) -> None:
    if index in self.unreadable:
      raise decoding.UnreadableError('unreadable when the store was made')
    path = _folder(self.directory, index // _PER_FOLDER)
    path /= f'{index % _PER_FOLDER:03d}'
    raise errors.UserError(f'{path} is damaged or missing: {_REMEDY}')

  def describe(self, index: int) -> str:
    return self.unreadable.get(index, f'{self.name} {self.split}[{index}]')


def _hash(content: Any) -> tf.Tensor:
  """Returns int64 hashes of strings: FarmHash, which stays the same."""
  return tf.strings.to_hash_bucket_fast(content, 2**63 - 1)


def _folder(directory: pathlib.Path, number: int) -> pathlib.Path:
  return directory / f'{number:05d}'


def split_folder(store_dir: str, split: str) -> pathlib.Path:
  """Returns the folder of one split."""
  root = pathlib.Path(store_dir).expanduser().absolute()
  return root / atomic_write.split_name(split)


def open_squares(
  store_dir: str, *, split: str, name: str, image_size: int
) -> Squares:
  """Opens one split of a store.

  Args:
    store_dir: the folder that mode=prepare wrote.
    split: such as 'train'.
    name: of the data set that is wanted; empty for any.
    image_size: side of the squares that is wanted, pixels.

  Raises:
    errors.UserError: when the store is missing, unfinished, of other data, or
      visibly damaged.
  """
  directory = split_folder(store_dir, split)
  description = _describe(directory)
  for key, wanted in (
    ('split', split),
    ('name', name or description['name']),
    ('image_size', image_size),
  ):
    if description[key] != wanted:
      raise errors.UserError(
        f'the store in {directory} has {key} {description[key]!r}, not '
        f'{wanted!r}: prepare another one with --mode=prepare and another '
        '--config.data.store_dir'
      )
  table = _read_index(directory)
  unreadable = _unreadable(table)
  if unreadable:
    logging.warning(
      '%d of %d images could not be read when %s was made and are left out: %s',
      len(unreadable),
      len(table['labels']),
      directory,
      ', '.join(list(unreadable.values())[:3]),
    )
  return Squares(
    name=description['name'],
    split=split,
    directory=directory,
    class_names=tuple(description['class_names']),
    fingerprint=description['fingerprint'],
    image_size=image_size,
    labels=table['labels'],
    hashes=table['hashes'],
    unreadable=unreadable,
  )


def _describe(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the description of a complete store."""
  description = _read_description(directory)
  if description is None or not description['complete']:
    state = 'no store' if description is None else 'an unfinished store'
    raise errors.UserError(
      f'{directory} holds {state}: run the same command with --mode=prepare'
    )
  return description


def _read_description(directory: pathlib.Path) -> dict[str, Any] | None:
  path = directory / _DESCRIPTION
  if not path.is_file():
    return None
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


def _read_index(directory: pathlib.Path) -> dict[str, np.ndarray]:
  path = directory / _INDEX
  try:
    with np.load(path) as stored:  # A zip archive, which has checksums.
      return dict(stored)
  # numpy and zipfile raise a dozen kinds for what is in a damaged file.
  except Exception as error:
    raise errors.UserError(
      f'{path} is damaged or missing: {_REMEDY}'
    ) from error


def _unreadable(table: dict[str, np.ndarray]) -> dict[int, str]:
  indices = np.flatnonzero(table['unreadable']).tolist()
  return dict(zip(indices, table['unreadable_names'].tolist(), strict=True))


def write(
  source: sources.Source,
  store_dir: str,
  options: decoding.Options,
  threads: int = 0,
) -> None:
  """Writes one split, or goes on with it; checks what is there.

  Args:
    source: the images.
    store_dir: the folder of all splits.
    options: how images are decoded.
    threads: see `pipeline.eval_batches`.

  Raises:
    errors.UserError: when the folder holds a store of something else, when
      another process writes it, or when the disk is full.
  """
  directory = split_folder(store_dir, source.split)
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
  with _alone(directory):
    begun = _read_description(directory) or identity
    for key, value in identity.items():
      if begun.get(key) != value:
        raise errors.UserError(
          f'the store in {directory} was begun with {key} '
          f'{str(begun.get(key))[:60]}, now it is {str(value)[:60]}: delete '
          'that folder, or choose another --config.data.store_dir'
        )
    missing = _missing_folders(directory, source.num_examples)
    _check_space(directory, source, options, len(missing))
    if missing:
      _save_description(directory, identity | {'complete': False})
      _write_folders(directory, source, options, missing, threads)
    _save_index(directory, source.num_examples)
    _save_description(directory, identity | {'complete': True})
  logging.info('The store in %s is complete', directory)


def _save_description(
  directory: pathlib.Path, description: dict[str, Any]
) -> None:
  with atomic_write.replacing(directory / _DESCRIPTION) as file:
    file.write(json.dumps(description, indent=1).encode())


def _num_folders(num_examples: int) -> int:
  return pipeline.steps_per_epoch(num_examples, _PER_FOLDER)


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
  """Keeps a second process out; the lock ends with the process.

  Raises:
    errors.UserError: when there is one.
  """
  import fcntl  # POSIX only.

  with open(directory / 'lock', 'wb') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise errors.UserError(
        f'another process is writing the store in {directory}: wait for it'
      ) from error
    yield


def _missing_folders(directory: pathlib.Path, num_examples: int) -> list[int]:
  """Returns the folders to be written, after a check of all that are there."""
  for unfinished in directory.glob('*.partial'):
    shutil.rmtree(unfinished)
  missing = []
  shown = progress.Progress('Check of the store', num_examples)
  with futures.ThreadPoolExecutor() as pool:
    for number in range(_num_folders(num_examples)):
      folder = _folder(directory, number)
      if not folder.is_dir():
        missing.append(number)
      elif not _is_intact(folder, pool):
        logging.warning('%s is damaged: making it again', folder)
        shutil.rmtree(folder)
        missing.append(number)
      shown.report(min((number + 1) * _PER_FOLDER, num_examples))
  return missing


def _is_intact(folder: pathlib.Path, pool: futures.Executor) -> bool:
  try:
    hashes = _read_index(folder)['hashes']
    files = [folder / f'{i:03d}' for i in range(len(hashes))]
    contents = pool.map(lambda path: _hash(path.read_bytes()).numpy(), files)
    return list(contents) == hashes.tolist()
  except (OSError, errors.UserError):
    return False


def _check_space(
  directory: pathlib.Path,
  source: sources.Source,
  options: decoding.Options,
  num_folders: int,
) -> None:
  """Says how much the store takes, and refuses when the disk has not got it.

  Raises:
    errors.UserError: with both numbers.
  """
  count = min(num_folders * _PER_FOLDER, source.num_examples)
  disk = os.statvfs(directory)
  # A file takes whole blocks.
  blocks = -(-(options.image_size**2 * 3) // disk.f_frsize)
  needed, free = count * blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
  logging.info(
    'Store %s: %s images of %dx%d to write, %.4g GB; %s has %.4g GB free',
    source.split,
    f'{count:,}',
    options.image_size,
    options.image_size,
    needed / 1e9,
    directory,
    free / 1e9,
  )
  # Some file systems make room for files as they go and report none.
  if needed > free or (disk.f_files and count > disk.f_favail):
    raise errors.UserError(
      f'the store needs {needed / 1e9:.4g} GB and {count:,} files more, but '
      f'{directory} has room for {free / 1e9:.4g} GB and {disk.f_favail:,}: '
      'make room or choose another --config.data.store_dir'
    )


def _write_folders(
  directory: pathlib.Path,
  source: sources.Source,
  options: decoding.Options,
  missing: Sequence[int],
  threads: int,
) -> None:
  """Writes some folders, their images decoded in parallel and in order."""
  count = source.num_examples
  places = [
    np.arange(k * _PER_FOLDER, min((k + 1) * _PER_FOLDER, count))
    for k in missing
  ]
  if not places:
    return
  wanted = np.concatenate(places)
  shown = progress.Progress(
    f'Store {source.split}', count, done=count - len(wanted)
  )
  batches = pipeline.eval_batches(
    sources.Subset(source, wanted),
    batch_size=_BATCH_SIZE,
    decoder=options,
    threads=threads,
  )
  with futures.ThreadPoolExecutor() as pool:
    for number, indices in zip(missing, places, strict=True):
      num_batches = pipeline.steps_per_epoch(len(indices), _BATCH_SIZE)
      parts = itertools.islice(batches, num_batches)
      _write_folder(_folder(directory, number), source, indices, parts, pool)
      shown.add(len(indices))


def _write_folder(
  folder: pathlib.Path,
  source: sources.Source,
  indices: np.ndarray,
  batches: Iterable[pipeline.Batch],
  pool: futures.Executor,
) -> None:
  """Writes one folder, which gets its name when all of it is on disk."""
  partial = folder.with_suffix('.partial')
  partial.mkdir()
  tables: dict[str, list[np.ndarray]] = {
    'labels': [], 'hashes': [], 'unreadable': []
  }  # fmt: skip
  written = 0
  for batch in batches:
    real = batch['index'] >= 0
    unreadable = batch['unreadable'][real] > 0
    contents = [
      b'' if bad else image.tobytes()
      for image, bad in zip(batch['image'][real], unreadable, strict=True)
    ]
    paths = [partial / f'{written + i:03d}' for i in range(len(contents))]
    with atomic_write.full_disk_in_words(partial):
      list(pool.map(pathlib.Path.write_bytes, paths, contents))
    tables['labels'].append(batch['label'][real])
    tables['hashes'].append(_hash(contents).numpy())
    tables['unreadable'].append(unreadable)
    written += len(contents)
  joined = {name: np.concatenate(parts) for name, parts in tables.items()}
  lost = indices[joined['unreadable']].tolist()
  names = np.array([printable.printable(source.describe(i)) for i in lost], str)
  atomic_write.save_arrays(partial / _INDEX, **joined, unreadable_names=names)
  os.sync()  # Once per folder: each file by itself would wait for the disk.
  partial.rename(folder)


def _save_index(directory: pathlib.Path, num_examples: int) -> None:
  """Joins the folders' tables."""
  tables = [
    _read_index(_folder(directory, number))
    for number in range(_num_folders(num_examples))
  ]
  joined = {
    name: np.concatenate([table[name] for table in tables])
    for name in tables[0]
  }
  atomic_write.save_arrays(directory / _INDEX, **joined)
