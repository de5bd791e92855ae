"""Classification sets of tensorflow-datasets, read by random access.

A set is prepared in the ArrayRecord format, which is made for random access.
One that was prepared as TFRecord is read through an index of its records.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import os
import pathlib
import struct
import tarfile
from typing import Any, Protocol

from absl import logging
from array_record.python import array_record_data_source
import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import sources

# What to read of one record file: filename, skip, take, examples_in_shard.
Shard = tfds.core.utils.shard_utils.FileInstruction

# Bytes of the archives that must be downloaded by hand, as image-net.org lists
# them for ILSVRC 2012.
IMAGENET_ARCHIVES = {
  'ILSVRC2012_img_train.tar': 147_897_477_120,
  'ILSVRC2012_img_val.tar': 6_744_924_160,
}
# What a process opens besides one split: the other split, logs, sockets.
_OTHER_OPEN_FILES = 1024
# A TFRecord: length (8 bytes, little-endian), checksum (4), content, checksum.
_HEADER, _FOOTER = 12, 4
# The arrays of an index; see `_indices`.
_INDEX = ('stamps', 'counts', 'offsets', 'lengths')


class _Records(Protocol):
  def __len__(self) -> int: ...
  def __getitems__(self, indices: Sequence[int]) -> Sequence[bytes]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Tfds(sources.Defaults):
  """A source of serialized tf.train.Examples; see `sources.Source`."""

  name: str
  split: str
  directory: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  records: _Records
  image_key: str
  label_key: str

  is_fetched = True

  @property
  def num_examples(self) -> int:
    return len(self.records)

  def fetch(self, indices: np.ndarray) -> list[bytes]:
    # A list of ints: the ArrayRecord reader misunderstands an array.
    return list(self.records.__getitems__(indices.tolist()))

  def read(self, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    features = tf.io.parse_single_example(
      key,
      {
        self.image_key: tf.io.FixedLenFeature([], tf.string),
        self.label_key: tf.io.FixedLenFeature([], tf.int64),
      },
    )
    label = tf.cast(features[self.label_key], tf.int32)
    return features[self.image_key], label


def open_tfds(
  name: str,
  split: str,
  data_dir: str = '',
  manual_dir: str = '',
  read_only: bool = False,
) -> Tfds:
  """Opens a data set, and prepares it first if necessary.

  Args:
    name: such as 'imagenet2012' or 'cifar10:3.0.2'.
    split: such as 'train' or 'train[:90%]'.
    data_dir: where prepared sets are; empty for the library's default.
    manual_dir: where archives are that must be downloaded by hand; empty for
      downloads/manual in the folder of prepared sets.
    read_only: whether to refuse a set that is not prepared, and to write
      nothing.

  Raises:
    errors.UserError: when the set, its split or its archives are missing or
      damaged, it could not be downloaded, or it does not pair one image with
      one class.
  """
  builder = _open_builder(name, data_dir)
  if not (builder.info.file_format and builder.is_prepared()):
    if read_only:
      raise errors.UserError(
        f'{name} is not prepared in {builder.data_dir}: run --mode=prepare with'
        ' the --config of the run, or name its folder with that and'
        ' --config.data.data_dir'
      )
    _prepare(builder, name, manual_dir)
  image_key, label_key, class_names = _supervised(builder)
  try:
    shards = builder.info.splits[split].file_instructions
  except (KeyError, ValueError) as error:
    raise errors.UserError(
      f'{name} has no split {split!r}, only {sorted(builder.info.splits)}: '
      'choose one of those or a part such as train[:90%]'
    ) from error
  if not shards:
    raise errors.UserError(
      f'{name} has no examples in {split!r}: choose a larger part, such as '
      'train[:90%]'
    )
  return Tfds(
    name=name,
    split=split,
    directory=pathlib.Path(builder.data_dir),
    class_names=class_names,
    fingerprint=_fingerprint(builder.info.full_name, split, shards),
    records=_open_records(builder, shards, read_only),
    image_key=image_key,
    label_key=label_key,
  )


def _open_builder(name: str, data_dir: str) -> Any:
  """Returns the builder of a set, which may not be prepared yet."""
  # The library's default begins with ~ where the home folder is not known.
  folder = files.user_folder(
    data_dir or tfds.core.constants.DATA_DIR, '--config.data.data_dir'
  )
  try:
    if name.startswith('huggingface:'):  # Such a set may bring a program along.
      raise tfds.core.DatasetNotFoundError(name)
    return tfds.builder(name, data_dir=str(folder) if data_dir else None)
  except tfds.core.DatasetNotFoundError as error:
    raise errors.UserError(
      f'tensorflow-datasets has no data set {name!r}: see '
      'https://www.tensorflow.org/datasets/catalog for the names'
    ) from error
  except (AssertionError, ValueError) as error:  # Of its version, or the name.
    reason = str(error).splitlines()[0]
    raise errors.UserError(
      f'tensorflow-datasets cannot open {name!r} ({reason}): change'
      ' --config.data.name'
    ) from error


def _prepare(builder: Any, name: str, manual_dir: str) -> None:
  """Downloads a set and writes its records."""
  _supervised(builder)  # Before hours of download.
  files.check_writable(pathlib.Path(builder.data_dir), '--config.data.data_dir')
  folder = pathlib.Path(builder.data_path).parents[len(name.split('/'))]
  manual = folder / 'downloads' / 'manual'
  if manual_dir:
    manual = files.user_folder(manual_dir, '--config.data.manual_dir')
  manual = manual.absolute()
  if builder.name == 'imagenet2012':
    check_imagenet(manual)
  logging.info('Preparing %s in %s', name, builder.data_dir)
  try:
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=str(manual)),
      file_format='array_record',
    )
  except (requests.RequestException, tfds.download.DownloadError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise errors.UserError(
      f'{name} could not be downloaded ({reason}): connect to the '
      f'network, or copy a prepared set to {builder.data_dir}'
    ) from error
  except download_manager.NonMatchingChecksumError as error:
    reason = ' '.join(str(error).split())
    raise errors.UserError(
      f'{name} is not what its publisher lists ({reason}): delete that file and'
      f' try again, or copy a prepared set to {builder.data_dir}'
    ) from error
  except (AssertionError, FileNotFoundError, tf.errors.NotFoundError) as error:
    reason = str(error).splitlines()[0]
    if not isinstance(error, AssertionError) or 'Manual directory' in reason:
      raise errors.UserError(
        f'{name} lacks files that are downloaded by hand ({reason}): see'
        f' https://www.tensorflow.org/datasets/catalog/{builder.name}, and set'
        ' --config.data.manual_dir to their folder'
      ) from error
    raise


def check_imagenet(folder: pathlib.Path) -> None:
  """Checks both archives before anything spends hours on them.

  An archive of another size than the official one gets only a warning.

  Raises:
    errors.UserError: when one is missing, not a tar archive, or truncated.
  """
  missing = [n for n in IMAGENET_ARCHIVES if not files.is_file(folder / n)]
  if missing:
    raise errors.UserError(
      f'{folder} lacks {" and ".join(missing)}: log in at '
      'https://image-net.org/download-images, download the ILSVRC 2012 archives'
      ' and set --config.data.manual_dir to their folder'
    )
  for name, official in IMAGENET_ARCHIVES.items():
    _check_archive(folder / name, official)


def _check_archive(path: pathlib.Path, official: int) -> None:
  size = path.stat().st_size
  try:
    with tarfile.open(path, 'r:') as archive:
      first = archive.next()
  except tarfile.TarError as error:
    raise errors.UserError(
      f'{path} ({size:,} bytes) is not a tar archive ({error}): download it '
      'again and do not unpack it'
    ) from error
  if first is None:
    raise errors.UserError(f'{path} is an empty tar archive: download it again')
  # A tar archive ends in two blocks of zeros, which a truncated one lacks.
  with open(path, 'rb') as file:
    file.seek(-min(size, 1024), 2)
    ending = file.read()
  if size % 512 or any(ending):
    raise errors.UserError(
      f'{path} is cut off at {size:,} bytes, the official archive has '
      f'{official:,}: download it again'
    )
  if size != official:
    logging.warning(
      '%s has %s bytes, the official archive %s: is it the right one?',
      path,
      f'{size:,}',
      f'{official:,}',
    )


def _supervised(builder: Any) -> tuple[str, str, tuple[str, ...]]:
  """Returns the keys of image and label, and the class names."""
  keys = builder.info.supervised_keys
  if not keys or len(keys) != 2:
    raise errors.UserError(
      f'{builder.name} has supervised_keys {keys}, not (image, label): choose '
      'a classification set'
    )
  image, label = (builder.info.features[key] for key in keys)
  if not isinstance(image, tfds.features.Image) or not isinstance(
    label, tfds.features.ClassLabel
  ):
    raise errors.UserError(
      f'{builder.name} pairs {type(image).__name__} with '
      f'{type(label).__name__}, not Image with ClassLabel: choose a '
      'classification set'
    )
  return keys[0], keys[1], tuple(label.names)


def _fingerprint(full_name: str, split: str, shards: Sequence[Shard]) -> str:
  digest = hashlib.sha256(f'{full_name} {split}\n'.encode())
  for shard in shards:
    path = pathlib.Path(shard.filename)
    counts = f'{shard.skip} {shard.take} {shard.examples_in_shard}'
    try:
      size = path.stat().st_size
    except OSError as error:
      raise errors.UserError(
        f'{path} cannot be read ({error.strerror}): restore it, or prepare the'
        ' data set again in another --config.data.data_dir'
      ) from error
    digest.update(f'{path.name} {size} {counts}\n'.encode())
  return digest.hexdigest()


def _open_records(
  builder: Any, shards: Sequence[Shard], read_only: bool
) -> _Records:
  file_format = builder.info.file_format.value
  if file_format == 'array_record':
    _allow_open_files(len(shards))
    return ArrayRecords(shards)
  if file_format == 'tfrecord':
    return open_tfrecords(shards, read_only)
  raise errors.UserError(
    f'{builder.data_dir} is in {file_format} format, not array_record or '
    'tfrecord: prepare it in another --config.data.data_dir'
  )


def _allow_open_files(count: int) -> None:
  """Raises the process's limit of open files for `count` more if necessary.

  The ArrayRecord reader keeps every file open; ImageNet has 1,024, which is the
  usual limit of a process.
  """
  import resource  # POSIX only, like the ArrayRecord reader.

  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  needed = count + _OTHER_OPEN_FILES
  if soft == resource.RLIM_INFINITY or soft >= needed:
    return
  if hard != resource.RLIM_INFINITY and hard < needed:
    raise errors.UserError(
      f'the data set has {count} files but a process may open {hard}, and '
      f'{needed} are needed: raise the limit (ulimit -Hn {needed})'
    )
  resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
  logging.info('Raised the limit of open files from %d to %d', soft, needed)


class ArrayRecords:
  """The records of some ArrayRecord files, by number."""

  def __init__(self, shards: Sequence[Shard]):
    """Takes what to read, in order; files are opened when first needed."""
    self._shards = shards
    self._records = self._open()

  def _open(self) -> Any:
    return array_record_data_source.ArrayRecordDataSource(self._shards)

  def __len__(self) -> int:
    return len(self._records)

  def __getitems__(self, indices: Sequence[int]) -> Sequence[bytes]:
    records = self._records
    try:
      return records.__getitems__(indices) if indices else []
    except RuntimeError as error:
      # A reader that has failed once fails from then on.
      self._records = self._open()
      (reason, *_) = str(error).splitlines() or ['']
      folder = pathlib.Path(self._shards[0].filename).parent
      raise retry.UnavailableError(folder, reason) from error


@dataclasses.dataclass(frozen=True, eq=False)
class TFRecords:
  """The records of some TFRecord files, by number.

  Attributes:
    paths: one per file.
    files: int32 [N], the file that each record is in.
    offsets: int64 [N], where its content begins.
    lengths: int64 [N], of the content, bytes.
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
    length, offset = int(self.lengths[index]), int(self.offsets[index])
    with retry.reading(path), open(path, 'rb', buffering=0) as file:
      content = os.pread(file.fileno(), length, offset)
    if len(content) != length:
      raise retry.UnavailableError(
        path,
        f'{len(content)} of {length} bytes',
        problem='ends inside a record',
        remedy='prepare the data set again',
      )
    return content


def open_tfrecords(
  shards: Sequence[Shard], read_only: bool = False
) -> TFRecords:
  """Opens parts of TFRecord files through an index kept beside them.

  Args:
    shards: what to read, in order; all in one folder.
    read_only: whether not to write an index that is missing.

  Raises:
    errors.UserError: when a file is not a TFRecord file or is truncated.
  """
  paths = [pathlib.Path(shard.filename) for shard in shards]
  offsets, lengths = [], []
  for shard, (starts, sizes) in zip(
    shards, _indices(paths, read_only), strict=True
  ):
    if len(starts) != shard.examples_in_shard:
      raise errors.UserError(
        f'{shard.filename} has {len(starts)} records, the data set expects '
        f'{shard.examples_in_shard}: prepare the data set again'
      )
    part = slice(shard.skip, shard.skip + shard.take)
    offsets.append(starts[part])
    lengths.append(sizes[part])
  takes = [shard.take for shard in shards]
  numbers = np.repeat(np.arange(len(shards), dtype=np.int32), takes)
  return TFRecords(
    paths, numbers, np.concatenate(offsets), np.concatenate(lengths)
  )


def _indices(
  paths: Sequence[pathlib.Path], read_only: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns each file's offsets and lengths, from a current index if any."""
  status = [path.stat() for path in paths]
  stamps = np.array([(s.st_size, s.st_mtime_ns) for s in status], np.int64)
  # A part such as train[:90%] may leave out files: it has its own index.
  names = '\n'.join(path.name for path in paths)
  digest = hashlib.sha256(names.encode()).hexdigest()[:8]
  stem = paths[0].name.split('.tfrecord')[0]
  filename = f'{stem}.{digest}.index.npz'
  path = files.beside(paths[0].parent, filename)
  stored = _load_index(path) if path and path.exists() else None
  if stored and np.array_equal(stored['stamps'], stamps):
    ends = np.cumsum(stored['counts'])[:-1]
    offsets, lengths = (
      np.split(stored[key], ends) for key in ('offsets', 'lengths')
    )
    return list(zip(offsets, lengths, strict=True))
  path = None
  if not read_only:
    path = files.beside(paths[0].parent, filename, to_write=True)
  logging.info(
    'Indexing %d TFRecord files, %s',
    len(paths),
    f'once, into {path}' if path else 'for this run',
  )
  tables = [index_file(each) for each in paths]
  if path is None:
    return tables
  offsets, lengths = zip(*tables, strict=True)
  files.save_arrays(
    path,
    stamps=stamps,
    counts=np.array([len(each) for each in offsets]),
    offsets=np.concatenate(offsets),
    lengths=np.concatenate(lengths),
  )
  return tables


def _load_index(path: pathlib.Path) -> dict[str, np.ndarray] | None:
  try:
    stored = files.load_arrays(path)
    return {key: stored[key] for key in _INDEX}
  except (ValueError, KeyError):
    logging.warning('%s is damaged and is built again', path)
    return None


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
