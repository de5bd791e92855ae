"""Writing a prepared store, shard by shard; see `store` for the files.

A shard is written under another name, synced, renamed, and then entered in the
journal, which is replaced as a whole. Whatever moment the program is stopped
at, the journal's shards are whole, and the next run goes on behind them.
"""

from collections.abc import Iterable, Iterator
from concurrent import futures
import dataclasses
import io
import time
from typing import Any, BinaryIO, NamedTuple
import zlib

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import progress
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import shards
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics
from alexnet_jax.input_pipeline import storage
from alexnet_jax.input_pipeline import store
from alexnet_jax.input_pipeline import store_description
from alexnet_jax.input_pipeline import store_journal

# 805 MB of 256x256 squares: what is lost at most when a run is stopped.
SHARD_SIZE = 4096
_BATCH_SIZE = 64
# A change of the pixels must change these words: a store made half before and
# half after it would be neither.
_PIXELS = (
  'RGB; central square, reduced by whole blocks or in the decoder while twice '
  'image_size or more, then bilinear, rounded half up'
)


class _Part(NamedTuple):
  """What is known of one shard's images once they are written."""

  labels: np.ndarray
  unreadable: np.ndarray
  checksums: np.ndarray
  sums: statistics.Sums


def write(
  source: sources.Source,
  store_dir: str,
  image_size: int,
  *,
  shard_size: int = SHARD_SIZE,
) -> None:
  """Writes one split, or goes on with it; checks one that is complete.

  Args:
    source: the images.
    store_dir: the folder of all splits.
    image_size: side of the squares, pixels.
    shard_size: images a file.

  Raises:
    errors.UserError: when the folder holds a store of something else, when
      another process writes it, or when the disk is full.
  """
  directory = store.folder(store_dir, source.split)
  directory.mkdir(parents=True, exist_ok=True)
  files = shards.Shards(directory, source.num_examples, image_size, shard_size)
  identity = _identity(source, files)
  with store_journal.alone(directory):
    if (directory / store_description.COMPLETE).is_file():
      store_journal.check_same(
        directory, store_description.read(directory), identity
      )
      _mend_complete(source, files)
    else:
      journal = store_journal.begin_or_go_on(directory, identity)
      broken = [k for k in range(journal.done) if files.fault(k)]
      _mend(source, files, broken, journal.arrays)
      _fill(source, files, journal)
      _finish(source, files, journal)
    (directory / store_description.UNFINISHED).unlink(missing_ok=True)


def _identity(source: sources.Source, files: shards.Shards) -> dict[str, Any]:
  """Returns what must be the same from the first shard to the last."""
  return {
    'format': store_description.FORMAT,
    'name': source.name,
    'split': source.split,
    'image_size': files.square_size,
    'num_examples': source.num_examples,
    'shard_size': files.shard_size,
    'pixels': _PIXELS,
    'fingerprint': source.fingerprint,
    'class_names': list(source.class_names),
  }


def _fill(
  source: sources.Source,
  files: shards.Shards,
  journal: store_journal.Journal,
) -> None:
  """Writes the shards that are not in the journal yet."""
  done = min(journal.done * files.shard_size, source.num_examples)
  shown = progress.Progress(
    f'Store {source.split}', source.num_examples, done=done
  )
  steps = _squares(source, files, journal.done)
  for shard in range(journal.done, len(files)):
    with storage.replacing(files.path(shard)) as file:
      part = _write_shard(file, files, shard, steps, shown)
    first = shard * files.shard_size
    for name, array in journal.arrays.items():
      array[first : first + files.count(shard)] = getattr(part, name)
    journal.sums = statistics.Sums(*map(np.add, journal.sums, part.sums))
    journal.done = shard + 1
    store_journal.save(files.directory, journal)


def _squares(
  source: sources.Source, files: shards.Shards, shard: int
) -> Iterator[batches.Batch]:
  """Yields the squares of this shard and all later ones."""
  batch_size = min(_BATCH_SIZE, files.shard_size)
  return batches.eval_batches(
    source,
    batch_size=batch_size,
    image_size=files.square_size,
    start_step=shard * files.shard_size // batch_size,
  )


def _write_shard(
  file: BinaryIO,
  files: shards.Shards,
  shard: int,
  steps: Iterable[batches.Batch],
  shown: progress.Progress,
) -> _Part:
  """Takes one shard's images off the steps and writes them."""
  labels, unreadable, checksums = [], [], []
  sums = statistics.no_sums(files.square_size)
  checksum = zlib.crc32(files.header(shard))
  file.write(files.header(shard))
  with futures.ThreadPoolExecutor() as pool:
    for batch in steps:
      count = int((batch['index'] >= 0).sum())
      file.write(np.ascontiguousarray(batch['image'][:count]).data)
      for image in batch['image'][:count]:
        checksum = zlib.crc32(image, checksum)
        checksums.append(checksum)
      labels.extend(batch['label'][:count])
      unreadable.extend(batch['unreadable'][:count] > 0)
      sums = statistics.add(sums, batch, pool)
      shown.report(int(batch['index'].max()) + 1)
      if len(checksums) == files.count(shard):
        break
  return _Part(
    np.array(labels), np.array(unreadable), np.array(checksums, np.uint32), sums
  )


def _finish(
  source: sources.Source, files: shards.Shards, journal: store_journal.Journal
) -> None:
  """Writes everything but the squares; the description makes it complete."""
  directory = files.directory
  measured = statistics.from_sums(journal.sums, source)
  path = statistics.stored_path(source, files.square_size, directory)
  with storage.replacing(path) as file:
    np.savez(file, allow_pickle=False, **dataclasses.asdict(measured))
  array_checksums = {}
  for name, array in journal.arrays.items():
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with storage.replacing(directory / f'{name}.npy') as file:
      file.write(buffer.getbuffer())
    array_checksums[name] = f'{zlib.crc32(buffer.getbuffer()):08x}'
  lost = np.flatnonzero(journal.arrays['unreadable']).tolist()
  description = store_description.text(
    journal.identity
    | {
      'unreadable': [(index, source.describe(index)) for index in lost],
      'arrays': array_checksums,
      'shards': {
        files.path(shard).name: f'{checksum:08x}'
        for shard, checksum in enumerate(_expected(files, journal.arrays))
      },
    }
  )
  with storage.replacing(directory / store_description.COMPLETE) as file:
    file.write(description.encode())
  logging.info('The store in %s is complete', directory)


def _mend_complete(source: sources.Source, files: shards.Shards) -> None:
  """Checks every byte of a complete store and makes damaged shards anew."""
  arrays = store.load(files.directory).arrays()
  start = time.monotonic()
  shown = progress.Progress(f'Check {source.split}', source.num_examples)
  expected = _expected(files, arrays)
  damaged = []
  with futures.ThreadPoolExecutor() as pool:
    found = pool.map(files.is_intact, range(len(files)), expected)
    for shard, intact in enumerate(found):
      if not intact:
        damaged.append(shard)
      shown.report(min((shard + 1) * files.shard_size, source.num_examples))
  logging.info(
    'The store in %s is complete: %d of %d shards intact, checked in %.0f s',
    files.directory,
    len(files) - len(damaged),
    len(files),
    time.monotonic() - start,
  )
  _mend(source, files, damaged, arrays)


def _mend(
  source: sources.Source,
  files: shards.Shards,
  damaged: Iterable[int],
  arrays: dict[str, np.ndarray],
) -> None:
  """Makes shards anew that were whole before.

  Raises:
    errors.UserError: when they come out otherwise than the first time.
  """
  for shard in damaged:
    path = files.path(shard)
    logging.warning('%s is damaged or missing: making it anew', path)
    shown = progress.Progress(f'Store {source.split}', source.num_examples)
    steps = _squares(source, files, shard)
    with storage.replacing(path) as file:
      part = _write_shard(file, files, shard, steps, shown)
      found, expected = part.checksums[-1], _expected(files, arrays)[shard]
      if found != expected:
        raise errors.UserError(
          f'{path} comes out otherwise (checksum {found:08x}) than when the '
          f'store was made ({expected:08x}): delete {files.directory} and '
          'prepare it again'
        )


def _expected(files: shards.Shards, arrays: dict[str, np.ndarray]) -> list[int]:
  """Returns the checksum of each shard's file: its last image's."""
  ends = [k * files.shard_size + files.count(k) for k in range(len(files))]
  return arrays['checksums'][np.array(ends) - 1].tolist()
