"""Random access to TFRecord files, which know only one way: forward.

A TFRecord is a length (8 bytes, little-endian), a checksum of it (4), that
many bytes, and their checksum (4). One pass over the lengths gives an index.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import struct
from typing import NamedTuple

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax.input_pipeline import storage

_HEADER, _FOOTER = 12, 4


class Shard(NamedTuple):
  """A stretch of one record file.

  Attributes:
    path: of the file.
    skip: how many records to leave out at its beginning.
    take: how many records to use.
    total: how many records the file holds.
  """

  path: pathlib.Path
  skip: int
  take: int
  total: int


@dataclasses.dataclass(frozen=True, eq=False)
class IndexedRecords:
  """The records of some TFRecord files, by number.

  Attributes:
    paths: one a file.
    files: int32 [N], the file that each record lies in.
    offsets: int64 [N], where its bytes begin.
    lengths: int64 [N], how many they are.
  """

  paths: Sequence[pathlib.Path]
  files: np.ndarray
  offsets: np.ndarray
  lengths: np.ndarray

  def __len__(self) -> int:
    return len(self.files)

  def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
    return [self._read(index) for index in indices]

  def _read(self, index: int) -> bytes:
    # Opened each time: a thousand open shards exceed the usual limit.
    path = self.paths[self.files[index]]
    descriptor = os.open(path, os.O_RDONLY)
    try:
      content = os.pread(
        descriptor, int(self.lengths[index]), int(self.offsets[index])
      )
    finally:
      os.close(descriptor)
    if len(content) != self.lengths[index]:
      raise errors.UserError(
        f'{path} ends inside a record, {len(content)} of '
        f'{self.lengths[index]} bytes: prepare the data set again'
      )
    return content


def open_records(shards: Sequence[Shard], index_file: str) -> IndexedRecords:
  """Opens stretches of TFRecord files through an index kept beside them.

  Args:
    shards: what to read, in order; all in one folder.
    index_file: name of the index of these very files. It is made when absent
      or older than they are.

  Raises:
    errors.UserError: when a file is not a TFRecord file or is cut off.
  """
  paths = [shard.path for shard in shards]
  where = storage.place(paths[0].parent, index_file)
  stamps = np.array([_stamp(path) for path in paths], np.int64)
  names = np.array([path.name for path in paths])
  index = _load(where, names, stamps)
  if index is None:
    logging.info('Indexing %d TFRecord files, once, into %s', len(paths), where)
    index = _build(shards)
    storage.save_arrays(where, names=names, stamps=stamps, **index)
  return _select(shards, index)


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_size, status.st_mtime_ns


def _load(
  where: pathlib.Path, names: np.ndarray, stamps: np.ndarray
) -> dict[str, np.ndarray] | None:
  if not where.exists():
    return None
  with np.load(where) as stored:
    same = np.array_equal(stored['names'], names)
    if not same or not np.array_equal(stored['stamps'], stamps):
      return None
    return {key: stored[key] for key in ('files', 'offsets', 'lengths')}


def _build(shards: Sequence[Shard]) -> dict[str, np.ndarray]:
  """Returns files, offsets and lengths of all records of the shards' files."""
  files, offsets, lengths = [], [], []
  for number, shard in enumerate(shards):
    shard_offsets, shard_lengths = index_file(shard.path)
    if len(shard_offsets) != shard.total:
      raise errors.UserError(
        f'{shard.path} holds {len(shard_offsets)} records, the data set counts '
        f'{shard.total}: prepare the data set again'
      )
    files.append(np.full(len(shard_offsets), number, np.int32))
    offsets.append(shard_offsets)
    lengths.append(shard_lengths)
  return {
    'files': np.concatenate(files),
    'offsets': np.concatenate(offsets),
    'lengths': np.concatenate(lengths),
  }


def index_file(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Returns offsets and lengths, int64 [N], of the records of one file.

  Raises:
    errors.UserError: when the lengths do not add up to the file's size.
  """
  offsets, lengths = [], []
  size = path.stat().st_size
  position = 0
  with open(path, 'rb') as file:
    while position < size:
      file.seek(position)
      header = file.read(8)
      length = struct.unpack('<Q', header)[0] if len(header) == 8 else size
      offsets.append(position + _HEADER)
      lengths.append(length)
      position += _HEADER + length + _FOOTER
  if position != size:
    raise errors.UserError(
      f'{path} has {size} bytes, its records need {position}: it is cut off or '
      'compressed; prepare the data set again'
    )
  return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _select(
  shards: Sequence[Shard], index: dict[str, np.ndarray]
) -> IndexedRecords:
  """Keeps the stretch that each shard asks for."""
  totals = np.array([shard.total for shard in shards])
  starts = np.cumsum(totals) - totals
  chosen = np.concatenate(
    [
      start + np.arange(shard.skip, shard.skip + shard.take)
      for start, shard in zip(starts, shards, strict=True)
    ]
  )
  return IndexedRecords(
    [shard.path for shard in shards],
    index['files'][chosen],
    index['offsets'][chosen],
    index['lengths'][chosen],
  )
