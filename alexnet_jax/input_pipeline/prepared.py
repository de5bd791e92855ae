"""Classification sets of tensorflow-datasets, read at random.

A set is prepared in the ArrayRecord format, which is made for random access.
One that already lies there as TFRecord is read through an index instead.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
from typing import Any, Protocol

from absl import logging
import numpy as np
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import archives
from alexnet_jax.input_pipeline import records

# What a process opens besides one split: the other split, logs, sockets.
_OTHER_OPEN_FILES = 1024


class _Records(Protocol):
  """What both formats have in common."""

  def __len__(self) -> int: ...
  def __getitems__(self, indices: Sequence[int]) -> Sequence[bytes]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A source of serialized tf.train.Examples; see `sources.Source`."""

  name: str
  split: str
  directory: pathlib.Path
  class_names: tuple[str, ...]
  fingerprint: str
  records: _Records
  image_key: str
  label_key: str

  record_spec = (tf.TensorSpec([], tf.string),)

  @property
  def num_examples(self) -> int:
    return len(self.records)

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    # A list of ints: the ArrayRecord reader misunderstands an array.
    serialized = self.records.__getitems__(indices.tolist())
    return (np.array(serialized, dtype=object),)

  def read(self, record: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    (serialized,) = record
    features = tf.io.parse_single_example(
      serialized,
      {
        self.image_key: tf.io.FixedLenFeature([], tf.string),
        self.label_key: tf.io.FixedLenFeature([], tf.int64),
      },
    )
    label = tf.cast(features[self.label_key], tf.int32)
    return features[self.image_key], label

  def describe(self, index: int) -> str:
    return f'{self.name} {self.split}[{index}]'


def open_prepared(
  name: str, split: str, data_dir: str = '', manual_dir: str = ''
) -> Prepared:
  """Opens a data set, and prepares it first when that was not done.

  Args:
    name: such as 'imagenet2012' or 'cifar10:3.0.2'.
    split: such as 'train' or 'train[:90%]'.
    data_dir: where prepared sets lie; empty for the library's default.
    manual_dir: where archives lie that must be fetched by hand; empty for
      downloads/manual in the folder of prepared sets.

  Raises:
    errors.UserError: when the set, its split or its archives are not there,
      or it does not pair one image with one class.
  """
  builder = prepare(name, data_dir, manual_dir)
  image_key, label_key, class_names = _supervised(builder)
  try:
    instructions = builder.info.splits[split].file_instructions
  except (KeyError, ValueError) as error:
    raise errors.UserError(
      f'{name} has no split {split!r}, only {sorted(builder.info.splits)}: '
      'choose one of those or a part such as train[:90%]'
    ) from error
  shards = [
    records.Shard(
      pathlib.Path(one.filename), one.skip, one.take, one.examples_in_shard
    )
    for one in instructions
  ]
  return Prepared(
    name=name,
    split=split,
    directory=pathlib.Path(builder.data_dir),
    class_names=class_names,
    fingerprint=_fingerprint(builder.info.full_name, split, shards),
    records=_open(builder, split, shards),
    image_key=image_key,
    label_key=label_key,
  )


def prepare(name: str, data_dir: str = '', manual_dir: str = '') -> Any:
  """Returns the builder of a set that lies prepared on disk.

  Raises:
    errors.UserError: when there is no such set, it is no classification set,
      its archives are missing or damaged, or it could not be downloaded.
  """
  builder = _builder(name, data_dir)
  if builder.info.file_format and builder.is_prepared():
    return builder
  _supervised(builder)  # Before hours of download.
  import requests
  import tensorflow_datasets as tfds

  folder = pathlib.Path(builder.data_path).parents[len(name.split('/'))]
  manual = pathlib.Path(manual_dir or folder / 'downloads' / 'manual')
  manual = manual.expanduser().absolute()
  if builder.name == 'imagenet2012':
    archives.check_imagenet(manual)
  logging.info('Preparing %s in %s', name, builder.data_dir)
  try:
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=str(manual)),
      file_format='array_record',
    )
  except (requests.RequestException, tfds.download.DownloadError) as error:
    raise errors.UserError(
      f'{name} could not be downloaded ({_first_line(error)}): connect to the '
      f'network, or copy a prepared set to {builder.data_dir}'
    ) from error
  return builder


def _builder(name: str, data_dir: str) -> Any:
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(name, data_dir=data_dir or None)
  except tfds.core.DatasetNotFoundError as error:
    raise errors.UserError(
      f'tensorflow-datasets knows no set {name!r}: see '
      'https://www.tensorflow.org/datasets/catalog for the names'
    ) from error


def _supervised(builder: Any) -> tuple[str, str, tuple[str, ...]]:
  """Returns the names of image and label, and the classes."""
  import tensorflow_datasets as tfds

  keys = builder.info.supervised_keys
  features = builder.info.features
  if not keys or len(keys) != 2:
    raise errors.UserError(
      f'{builder.name} has supervised_keys {keys}, not (image, label): choose '
      'a classification set'
    )
  image, label = (features[key] for key in keys)
  if not isinstance(image, tfds.features.Image) or not isinstance(
    label, tfds.features.ClassLabel
  ):
    raise errors.UserError(
      f'{builder.name} pairs {type(image).__name__} with '
      f'{type(label).__name__}, not Image with ClassLabel: choose a '
      'classification set'
    )
  return keys[0], keys[1], tuple(label.names)


def _open(builder: Any, split: str, shards: list[records.Shard]) -> _Records:
  file_format = builder.info.file_format.value
  if file_format == 'array_record':
    import tensorflow_datasets as tfds

    _allow_open_files(len(shards))
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return builder.as_data_source(split, deserialize_method=raw)
  if file_format == 'tfrecord':
    # A part such as train[:90%] may leave out files, hence the number.
    stem = shards[0].path.name.split('.tfrecord')[0]
    return records.open_records(shards, f'{stem}.{len(shards)}.index.npz')
  raise errors.UserError(
    f'{builder.data_dir} is in {file_format} format, not array_record or '
    'tfrecord: prepare it in another data_dir'
  )


def _allow_open_files(count: int) -> None:
  """Raises the process's limit of open files for `count` more, if need be.

  The ArrayRecord reader keeps every file open; ImageNet has 1,024, as many as
  a process may usually open.
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


def _fingerprint(
  full_name: str, split: str, shards: Sequence[records.Shard]
) -> str:
  digest = hashlib.sha256(f'{full_name} {split}\n'.encode())
  for path, skip, take, total in shards:
    line = f'{path.name} {path.stat().st_size} {skip} {take} {total}\n'
    digest.update(line.encode())
  return digest.hexdigest()


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
