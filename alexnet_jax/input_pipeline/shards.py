"""Squares in numpy files of a few thousand each."""

from collections.abc import Sequence
import dataclasses
import errno
import functools
import io
import os
import pathlib
import zlib

import numpy as np

from alexnet_jax import errors

_CHUNK = 2**24  # bytes read at once for a checksum of a whole file


@dataclasses.dataclass(frozen=True)
class Shards:
  """The files that hold the squares of one split.

  They can be memory-mapped with `np.load(path, mmap_mode='r')`, but are read
  with `preadv` here. A file that is cut off or a failing disk is then an error
  with a name; under a memory map it kills the process.

  Attributes:
    directory: of the files.
    num_examples: squares in all files together.
    square_size: side S of the squares, pixels.
    shard_size: squares in every file but the last.
  """

  directory: pathlib.Path
  num_examples: int
  square_size: int
  shard_size: int

  def __len__(self) -> int:
    return -(-self.num_examples // self.shard_size)

  def path(self, shard: int) -> pathlib.Path:
    name = f'images-{shard:05d}-of-{len(self):05d}.npy'
    return self.directory / name

  def count(self, shard: int) -> int:
    """Returns how many squares a shard holds."""
    return min(self.shard_size, self.num_examples - shard * self.shard_size)

  def header(self, shard: int) -> bytes:
    """Returns what a shard's file begins with, before the squares."""
    return _header(self.count(shard), self.square_size)

  def num_bytes(self, shard: int) -> int:
    """Returns the length of a shard's file."""
    squares = self.count(shard) * self.square_size**2 * 3
    return len(self.header(shard)) + squares

  def fault(self, shard: int) -> str:
    """Returns what is visibly wrong with a shard's file; '' for nothing."""
    path = self.path(shard)
    if not path.is_file():
      return 'is missing'
    size, expected = path.stat().st_size, self.num_bytes(shard)
    if size != expected:
      return f'has {size} bytes, not {expected}'
    with open(path, 'rb') as file:
      if file.read(len(self.header(shard))) != self.header(shard):
        return 'begins with another header'
    return ''

  def is_intact(self, shard: int, checksum: int) -> bool:
    """Returns whether a shard's file has this CRC-32, by reading it all."""
    if self.fault(shard):
      return False
    found = 0
    with open(self.path(shard), 'rb') as file:
      while chunk := file.read(_CHUNK):
        found = zlib.crc32(chunk, found)
    return found == checksum

  def open(self) -> list[int]:
    """Opens all files and returns their descriptors.

    They stay open: opening one for each image would hand the interpreter's
    lock to other threads twice more, and cost a third of the speed.

    Raises:
      errors.UserError: when the system does not allow as many.
    """
    try:
      return [os.open(self.path(k), os.O_RDONLY) for k in range(len(self))]
    except OSError as error:
      if error.errno != errno.EMFILE:
        raise
      raise errors.UserError(
        f'{self.directory} has {len(self)} shards, more than a process may '
        f'still open: raise the limit (ulimit -n {len(self) + 1024})'
      ) from error

  def read(
    self, descriptors: Sequence[int], index: int, row: int, band: np.ndarray
  ) -> None:
    """Reads rows of a square.

    Args:
      descriptors: from `open`.
      index: of the square, over all shards.
      row: the first.
      band: uint8 [rows, S, 3], to be filled.

    Raises:
      errors.UserError: when the file ends before.
    """
    shard, place = divmod(index, self.shard_size)
    rows_before = place * self.square_size + row
    start = len(self.header(shard)) + rows_before * self.square_size * 3
    count = os.preadv(descriptors[shard], [band.data], start)
    if count != band.nbytes:
      raise errors.UserError(
        f'{self.path(shard)} ends inside image {index}, after {count} of '
        f'{band.nbytes} bytes: run with mode=prepare, which makes damaged '
        'shards anew'
      )


@functools.lru_cache(maxsize=16)
def _header(count: int, side: int) -> bytes:
  buffer = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    buffer,
    {'descr': '|u1', 'fortran_order': False, 'shape': (count, side, side, 3)},
  )
  return buffer.getvalue()
