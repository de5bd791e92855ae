from collections.abc import Sequence
import gc
import logging
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import opening
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import record_queue
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import tfds
from tests import input_pipeline_testing as testing

tensorflow_datasets = pytest.importorskip('tensorflow_datasets')
download_manager = tensorflow_datasets.core.download.download_manager

ROOT = pathlib.Path(__file__).resolve().parents[1]
PICTURES = [testing.smooth(i, 32, 32) for i in range(30)]
TRAIN, VAL = tfds.IMAGENET_ARCHIVES
SOON = 30.0  # seconds; a thread that is stuck would take forever


class ToyPictures(tensorflow_datasets.core.GeneratorBasedBuilder):
  """Thirty small pictures of three classes."""

  VERSION = tensorflow_datasets.core.Version('1.0.0')

  def _info(self):
    features = tensorflow_datasets.features
    return tensorflow_datasets.core.DatasetInfo(
      builder=self,
      features=features.FeaturesDict(
        {
          'picture': features.Image(shape=(32, 32, 3)),
          'kind': features.ClassLabel(names=['ant', 'bee', 'cat']),
        }
      ),
      supervised_keys=('picture', 'kind'),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i, picture in enumerate(PICTURES):
      yield i, {'picture': picture, 'kind': i % 3}


class ToyNumbers(tensorflow_datasets.core.GeneratorBasedBuilder):
  """A set that is no classification of images."""

  VERSION = tensorflow_datasets.core.Version('1.0.0')

  def _info(self):
    features = tensorflow_datasets.features
    return tensorflow_datasets.core.DatasetInfo(
      builder=self,
      features=features.FeaturesDict(
        {'x': features.Scalar(np.int64), 'y': features.Scalar(np.int64)}
      ),
      supervised_keys=('x', 'y'),
    )

  def _split_generators(self, dl_manager):
    raise AssertionError('refused before it is prepared')

  def _generate_examples(self):
    raise AssertionError('refused before it is prepared')


class Records:
  """Records in memory, as `tfds.Tfds` has them.

  Attributes:
    contents: of each record.
    wait: seconds that every reading takes.
    failures: what is raised when some records are read, by number.
  """

  def __init__(
    self,
    contents: Sequence[bytes],
    wait: float = 0,
    failures: dict[int, BaseException] | None = None,
  ):
    self.contents, self.wait = contents, wait
    self.failures = failures or {}

  def __len__(self) -> int:
    return len(self.contents)

  def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
    time.sleep(self.wait)
    for index in indices:
      if index in self.failures:
        raise self.failures[index]
    return [self.contents[index] for index in indices]


def example(encoded: bytes, label: int) -> bytes:
  features = {
    'image': tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
    'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
  }
  message = tf.train.Example(features=tf.train.Features(feature=features))
  return message.SerializeToString()


def labels_of(indices):
  """Returns labels that tell thirty examples apart."""
  return np.asarray(indices) * 7 % 30


def made_up(count: int = 30, **options) -> tfds.Tfds:
  """Returns a source of the first pictures, in memory."""
  encoded = [testing.encode(picture, 'PNG') for picture in PICTURES[:count]]
  contents = [example(e, labels_of(i)) for i, e in enumerate(encoded)]
  return tfds.Tfds(
    name='made_up',
    split='train',
    directory=pathlib.Path('/nowhere'),
    class_names=tuple(f'class{label}' for label in range(30)),
    fingerprint='',
    records=Records(contents, **options),
    image_key='image',
    label_key='label',
  )


def train_batches(source, **changes):
  plain = {'seed': 5, 'crop_size': 32, 'random_crop': False, 'flip': False}
  return testing.train_batches(source, 32, **(plain | changes))


def eval_batches(source, batch_size=8):
  return pipeline.eval_batches(
    source, batch_size=batch_size, decoder=decoding.Options(32)
  )


def images_and_labels(source):
  steps = [
    (batch['image'][batch['mask'] > 0], batch['label'][batch['mask'] > 0])
    for batch in eval_batches(source)
  ]
  return [np.concatenate(parts) for parts in zip(*steps, strict=True)]


def wait_for_threads(before):
  """Waits a little until no more threads than before are there."""
  end = time.monotonic() + SOON
  while threading.active_count() > before and time.monotonic() < end:
    time.sleep(0.01)
  return threading.active_count()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Returns folders of the set in both formats, as others prepared it."""
  result = {}
  for file_format in ('array_record', 'tfrecord'):
    result[file_format] = str(tmp_path_factory.mktemp(file_format))
    builder = ToyPictures(data_dir=result[file_format], file_format=file_format)
    builder.download_and_prepare(
      download_config=tensorflow_datasets.download.DownloadConfig(num_shards=4)
    )
  return result


# Every set of tensorflow-datasets.


@pytest.mark.parametrize(
  ('split', 'count'), [('train', 30), ('train[20%:90%]+train[:2]', 23)]
)
def test_both_formats_give_what_the_library_gives(folders, split, count):
  builder = ToyPictures(data_dir=folders['tfrecord'])
  dataset = builder.as_dataset(split=split, shuffle_files=False)
  # By the image: the library reads its files interleaved.
  expected = {
    example['picture'].tobytes(): example['kind']
    for example in tensorflow_datasets.as_numpy(dataset)
  }
  results = []
  for folder in folders.values():
    source = tfds.open_tfds('toy_pictures', split, folder)
    assert source.num_examples == count
    assert source.class_names == ('ant', 'bee', 'cat')
    images, labels = images_and_labels(source)
    found = {
      image.tobytes(): label
      for image, label in zip(images, labels, strict=True)
    }
    assert found == expected
    results.append((images, labels))
  for one, other in zip(*results, strict=True):
    np.testing.assert_array_equal(one, other)


def test_both_formats_give_the_same_training_batches(folders):
  steps = [
    train_batches(
      tfds.open_tfds('toy_pictures', 'train', folder),
      random_crop=True,
      crop_size=24,
      flip=True,
    )
    for folder in folders.values()
  ]
  for _ in range(9):  # Past two epochs of four batches.
    one, other = (next(batches) for batches in steps)
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def test_a_set_is_opened_by_its_kind(folders):
  source = opening.open_source(
    'tfds',
    opening.Options(
      split='train[:5]',
      name='toy_pictures',
      data_dir=folders['array_record'],
    ),
  )
  assert (source.name, source.split) == ('toy_pictures', 'train[:5]')
  assert (source.num_examples, source.is_fetched) == (5, True)
  assert source.directory.is_relative_to(folders['array_record'])


def test_random_access_is_in_the_order_of_the_indices(folders):
  for folder in folders.values():
    source = tfds.open_tfds('toy_pictures', 'train', folder)
    every = source.fetch(np.arange(30))
    assert len(set(every)) == 30
    some = source.fetch(np.array([29, 3, 3, 17]))
    assert some == [every[i] for i in (29, 3, 3, 17)]
    assert source.describe(17) == 'toy_pictures train[17]'
    image, label = source.read(tf.constant(every[17]))
    picture = tf.io.decode_png(image).numpy()
    (number,) = [i for i in range(30) if np.array_equal(PICTURES[i], picture)]
    assert (label, label.dtype) == (number % 3, tf.int32)


def test_a_set_is_prepared_once_and_for_random_access(tmp_path, monkeypatch):
  source = tfds.open_tfds('toy_pictures', 'train', str(tmp_path))
  assert list(source.directory.glob('*.array_record-*'))
  monkeypatch.setattr(
    ToyPictures, 'download_and_prepare', lambda *args, **kwargs: 1 / 0
  )
  again = tfds.open_tfds('toy_pictures', 'train', str(tmp_path))
  assert again.fingerprint == source.fingerprint


@pytest.mark.parametrize(
  ('soft', 'hard', 'set_to'),
  [
    (1024, 9999, 1028),
    (1024, resource.RLIM_INFINITY, 1028),
    (1028, 1028, None),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
  ],
)
def test_every_file_may_be_open_at_once(
  folders, monkeypatch, soft, hard, set_to
):
  limits = []
  monkeypatch.setattr(resource, 'getrlimit', lambda what: (soft, hard))
  monkeypatch.setattr(
    resource, 'setrlimit', lambda what, limit: limits.append(limit)
  )
  tfds.open_tfds('toy_pictures', 'train', folders['array_record'])
  assert limits == ([(set_to, hard)] if set_to else [])


def test_too_few_open_files(folders, monkeypatch):
  monkeypatch.setattr(resource, 'getrlimit', lambda what: (256, 1000))
  with pytest.raises(errors.UserError, match='4 files but .* open 1000.*1028'):
    tfds.open_tfds('toy_pictures', 'train', folders['array_record'])


def test_fingerprint_is_of_the_split(folders):
  fingerprints = {
    tfds.open_tfds('toy_pictures', split, folder).fingerprint
    for split in ('train', 'train[:90%]', 'train[10%:]')
    for folder in folders.values()
  }
  assert len(fingerprints) == 6


def test_unknown_set(tmp_path):
  with pytest.raises(errors.UserError, match="no data set 'imagnet'"):
    tfds.open_tfds('imagnet', 'train', str(tmp_path))


def test_unknown_split_names_those_there(folders):
  for split in ('validation', 'train[:9zz]'):
    with pytest.raises(errors.UserError, match=r"only \['train'\]"):
      tfds.open_tfds('toy_pictures', split, folders['tfrecord'])


@pytest.mark.parametrize('split', ['train[:0%]', 'train[90%:10%]'])
def test_a_part_without_examples_is_refused(folders, split):
  for folder in folders.values():
    with pytest.raises(errors.UserError) as caught:
      tfds.open_tfds('toy_pictures', split, folder)
    assert split in str(caught.value)


def test_a_set_without_image_and_class_is_refused_before_it_is_prepared(
  tmp_path,
):
  with pytest.raises(errors.UserError, match='Scalar with Scalar, not Image'):
    tfds.open_tfds('toy_numbers', 'train', str(tmp_path))


def test_no_network(tmp_path, monkeypatch):
  def fail(self, **kwargs):
    raise tensorflow_datasets.download.DownloadError(
      'Failed to get url x.\nlong story'
    )

  monkeypatch.setattr(ToyPictures, 'download_and_prepare', fail)
  with pytest.raises(errors.UserError) as caught:
    tfds.open_tfds('toy_pictures', 'train', str(tmp_path))
  message = str(caught.value)
  assert 'could not be downloaded (Failed to get url x.): connect' in message
  assert '\n' not in message


@pytest.mark.parametrize(
  ('error', 'words'),
  [
    (
      download_manager.NonMatchingChecksumError('x has\n wrong checksum'),
      'is not what its publisher lists (x has wrong checksum)',
    ),
    (
      AssertionError('Manual directory x does not exist.\nGet it by hand'),
      'by hand (Manual directory x does not exist.): see https',
    ),
    (FileNotFoundError('x.tar'), 'lacks files that are downloaded by hand'),
  ],
)
def test_archives_that_are_missing_or_others(
  tmp_path, monkeypatch, error, words
):
  def fail(self, **kwargs):
    raise error

  monkeypatch.setattr(ToyPictures, 'download_and_prepare', fail)
  with pytest.raises(errors.UserError) as caught:
    tfds.open_tfds('toy_pictures', 'train', str(tmp_path))
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_missing_file_is_named(folders):
  (path, *_) = pathlib.Path(folders['array_record']).rglob('*.array_record*')
  away = path.rename(path.with_suffix('.away'))
  try:
    with pytest.raises(errors.UserError, match=f'{path.name} cannot be read'):
      tfds.open_tfds('toy_pictures', 'train', folders['array_record'])
  finally:
    away.rename(path)


# The archives of ImageNet.


@pytest.fixture
def archives(tmp_path):
  images = [('n01440764', b'a' * 3000), ('n01443537', b'b' * 5000)]
  testing.write_imagenet_archives(tmp_path, images, num_val=3)
  return tmp_path


def test_other_sizes_are_only_warned_about(archives, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    tfds.check_imagenet(archives)
  assert '147,897,477,120' in caplog.text
  assert '6,744,924,160' in caplog.text


def test_missing_archives_are_named(archives):
  (archives / VAL).unlink()
  with pytest.raises(errors.UserError, match='image-net.org') as caught:
    tfds.check_imagenet(archives)
  assert f'{archives} lacks {VAL}:' in str(caught.value)
  (archives / TRAIN).unlink()
  with pytest.raises(errors.UserError, match=f'lacks {TRAIN} and {VAL}'):
    tfds.check_imagenet(archives)
  with pytest.raises(errors.UserError, match='absent lacks'):
    tfds.check_imagenet(archives / 'absent')


def test_an_archive_is_a_regular_file(archives):
  (archives / VAL).unlink()
  os.mkfifo(archives / VAL)
  with pytest.raises(errors.UserError, match=f'{VAL} is not a regular file'):
    tfds.check_imagenet(archives)


def test_the_librarys_own_folder_may_be_unknown(homeless, monkeypatch):
  monkeypatch.setattr(tfds.tfds.core.constants, 'DATA_DIR', '~/sets')
  with pytest.raises(errors.UserError, match='data_dir=~/sets .* not known'):
    tfds.open_tfds('mnist', 'train')


@pytest.mark.parametrize(
  'name', ['huggingface:a/b', '../x', '', 'mnist:9.9.9', 'mnist/none', 'a:b']
)
def test_a_name_of_no_set_is_a_mistake_in_one_line(tmp_path, name):
  with pytest.raises(errors.UserError) as caught:
    tfds.open_tfds(name, 'train', str(tmp_path))
  message = str(caught.value)
  assert message.startswith('tensorflow-datasets ')
  assert repr(name) in message
  assert '\n' not in message


def test_a_set_is_not_prepared_for_a_reader(tmp_path):
  with pytest.raises(errors.UserError, match='mnist is not prepared in'):
    tfds.open_tfds('mnist', 'train', str(tmp_path / 'new'), read_only=True)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('keep', [9000, 9 * 512])
def test_cut_off_archive(archives, keep):
  path = archives / TRAIN
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(errors.UserError, match=f'cut off at {keep:,} bytes'):
    tfds.check_imagenet(archives)


@pytest.mark.parametrize(
  'content', [b'', b'<html>log in first</html>' * 99, b'\x1f\x8b' + bytes(2000)]
)
def test_no_archive_at_all(archives, content):
  (archives / VAL).write_bytes(content)
  with pytest.raises(errors.UserError, match='tar archive.*download it again'):
    tfds.check_imagenet(archives)


def test_imagenet_without_archives_is_told_in_words(tmp_path):
  manual = tmp_path / 'manual'
  with pytest.raises(errors.UserError, match=f'{manual} lacks ILSVRC2012'):
    tfds.open_tfds('imagenet2012', 'train', str(tmp_path), str(manual))
  usual = tmp_path / 'downloads/manual'
  with pytest.raises(errors.UserError, match=f'{usual} lacks ILSVRC2012'):
    tfds.open_tfds('imagenet2012', 'train', str(tmp_path))


def test_imagenet_from_its_archives(tmp_path):
  wnids = ['n01440764', 'n01443537', 'n01484850', 'n01491361', 'n01494475']
  images = [
    (wnid, testing.encode(testing.smooth(i, 60, 80), 'JPEG'))
    for i, wnid in enumerate(wnids)
  ]
  manual = tmp_path / 'manual'
  testing.write_imagenet_archives(manual, images, num_val=5)
  source = tfds.open_tfds('imagenet2012', 'train', str(tmp_path), str(manual))
  assert (source.num_examples, len(source.class_names)) == (5, 1000)
  records = source.fetch(np.arange(5))
  read = [source.read(tf.constant(record)) for record in records]
  found = {image.numpy(): source.class_names[label] for image, label in read}
  assert found == {content: wnid for wnid, content in images}
  val = tfds.open_tfds('imagenet2012', 'validation', str(tmp_path))
  assert val.num_examples == 5
  (step,) = pipeline.eval_batches(
    val, batch_size=5, decoder=decoding.Options(32)
  )
  assert step['mask'].sum() == 5
  # The official labels of validation images 1 to 5, by sorted WordNet ids.
  assert sorted(val.class_names[label] for label in step['label']) == [
    'n01751748', 'n02105855', 'n03125729', 'n04263257', 'n09193705',
  ]  # fmt: skip


# TFRecord files.

CONTENTS = [bytes([i]) * (i * 7) for i in range(20)]


@pytest.fixture
def shards(tmp_path):
  result = []
  for number, (first, last) in enumerate([(0, 7), (7, 7), (7, 20)]):
    path = tmp_path / f'x.tfrecord-{number}'
    with tf.io.TFRecordWriter(str(path)) as writer:
      for content in CONTENTS[first:last]:
        writer.write(content)
    count = last - first
    result.append(tfds.Shard(str(path), 0, count, count))
  return result


def test_reads_any_record_of_any_file(shards):
  opened = tfds.open_tfrecords(shards)
  assert len(opened) == 20
  indices = [19, 0, 6, 7, 7]
  assert opened.__getitems__(indices) == [CONTENTS[i] for i in indices]


def test_parts_of_files(shards):
  parts = [shards[0].replace(skip=2, take=3), shards[2].replace(take=4)]
  opened = tfds.open_tfrecords(parts)
  expected = CONTENTS[2:5] + CONTENTS[7:11]
  assert opened.__getitems__(range(7)) == expected


def test_index_is_made_once_and_again_when_files_change(shards, monkeypatch):
  built = []
  index_file = tfds.index_file

  def count(path):
    built.append(path.name)
    return index_file(path)

  monkeypatch.setattr(tfds, 'index_file', count)
  for _ in range(2):
    opened = tfds.open_tfrecords(shards)
    assert opened.__getitems__(range(20)) == CONTENTS
  assert len(built) == 3
  os.utime(shards[1].filename, (1, 1))
  tfds.open_tfrecords(shards)
  assert len(built) == 6
  # A part of the files has an index of its own.
  for _ in range(2):
    tfds.open_tfrecords(shards[1:])
    tfds.open_tfrecords(shards)
  assert len(built) == 8


def test_a_stale_index_on_a_disk_that_cannot_be_written(
  shards, tmp_path, monkeypatch
):
  tfds.open_tfrecords(shards)
  os.utime(shards[1].filename, (1, 1))
  home = tmp_path / 'home'
  home.mkdir()
  monkeypatch.setattr(os, 'access', lambda path, mode: path == home)
  monkeypatch.setenv('HOME', str(home))
  tfds.open_tfrecords(shards)
  (kept,) = home.rglob('*.index.npz')
  monkeypatch.setattr(tfds, 'index_file', lambda path: 1 / 0)
  opened = tfds.open_tfrecords(shards)
  assert opened.__getitems__(range(20)) == CONTENTS


def test_a_reader_leaves_no_index(shards, caplog):
  folder = pathlib.Path(shards[0].filename).parent
  before = sorted(folder.iterdir())
  with caplog.at_level(logging.INFO, logger='absl'):
    opened = tfds.open_tfrecords(shards, read_only=True)
  assert opened.__getitems__(range(20)) == CONTENTS
  assert sorted(folder.iterdir()) == before
  assert 'Indexing 3 TFRecord files, for this run' in caplog.text


def test_a_damaged_index_is_built_again(shards, caplog):
  tfds.open_tfrecords(shards)
  (path,) = pathlib.Path(shards[0].filename).parent.glob('*.index.npz')
  whole = path.read_bytes()
  start = whole.index(b'PK\x01\x02')
  for place in range(start, start + 12):  # Versions, flags, compression.
    content = bytearray(whole)
    content[place] ^= 0x81
    path.write_bytes(content)
    opened = tfds.open_tfrecords(shards)
    assert opened.__getitems__(range(20)) == CONTENTS
  assert 'is damaged and is built again' in caplog.text


def test_cut_off_file(shards):
  path = pathlib.Path(shards[2].filename)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(errors.UserError, match='bytes, its records need'):
    tfds.open_tfrecords(shards)


def test_file_of_another_kind(tmp_path):
  path = tmp_path / 'x.tfrecord'
  path.write_bytes(b'\x1f\x8b not a record file, whatever its name may say')
  with pytest.raises(errors.UserError, match='cut off or compressed'):
    tfds.open_tfrecords([tfds.Shard(str(path), 0, 3, 3)])


def test_number_of_records(shards):
  wrong = [shards[0].replace(take=8, examples_in_shard=8)]
  with pytest.raises(errors.UserError, match='7 records, .* expects 8'):
    tfds.open_tfrecords(wrong)


def test_file_cut_off_after_it_was_indexed(shards):
  opened = tfds.open_tfrecords(shards)
  os.truncate(shards[2].filename, os.path.getsize(shards[2].filename) - 30)
  with pytest.raises(retry.UnavailableError, match='ends inside a record'):
    opened.__getitems__(np.array([19]))


# The queue.


@pytest.mark.parametrize('start_step', [0, 6])
def test_order_is_kept_over_several_epochs(start_step):
  """Thirty examples in batches of eight: the fourth batch is padded."""
  batches = train_batches(made_up(), start_step=start_step)
  for step in range(start_step, 14):
    epoch, place = divmod(step, 4)
    order = pipeline.epoch_tables(5, epoch, 30)['order'].numpy()
    indices = order[8 * place : 8 * place + 8]
    padding = 8 - len(indices)
    batch = next(batches)
    expected = [*labels_of(indices), *[0] * padding]
    assert batch['label'].tolist() == expected
    assert batch['mask'].tolist() == [1] * len(indices) + [0] * padding
    assert not batch['unreadable'].any()
    pictures = np.stack([PICTURES[i] for i in indices])
    np.testing.assert_array_equal(batch['image'][: len(indices)], pictures)
    assert not batch['image'][len(indices) :].any()


def test_evaluation_ends_after_every_example():
  before = threading.active_count()
  batches = list(eval_batches(made_up(20)))
  assert [batch['index'].tolist() for batch in batches] == [
    [*range(8)], [*range(8, 16)], [16, 17, 18, 19, -1, -1, -1, -1],
  ]  # fmt: skip
  labels = np.concatenate([batch['label'] for batch in batches])
  assert labels.tolist() == [*labels_of(range(20)), *[0] * 4]
  images = np.concatenate([batch['image'] for batch in batches])
  np.testing.assert_array_equal(images[:20], PICTURES[:20])
  assert batches[-1]['mask'].tolist() == [1] * 4 + [0] * 4
  assert wait_for_threads(before) <= before


def test_evaluation_of_fewer_examples_than_a_batch_holds():
  (batch,) = eval_batches(made_up(3))
  assert batch['index'].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
  np.testing.assert_array_equal(batch['image'][:3], PICTURES[:3])


def test_a_subset_is_read_in_its_order():
  indices = np.array([29, 3, 3, 17])
  (batch,) = eval_batches(sources.Subset(made_up(), indices))
  assert batch['label'][:4].tolist() == labels_of(indices).tolist()
  expected = np.stack([PICTURES[i] for i in indices])
  np.testing.assert_array_equal(batch['image'][:4], expected)


def test_records_may_end_in_zeros():
  """A numpy array of bytes would cut them off."""
  source = made_up(8)
  # A field that a reader does not know, of two zero bytes.
  contents = [content + b'\x7a\x02\0\0' for content in source.records.contents]
  source.records.contents = contents
  (batch,) = eval_batches(source)
  assert batch['mask'].tolist() == [1] * 8
  np.testing.assert_array_equal(batch['image'], PICTURES[:8])


def test_damaged_records_are_unreadable(caplog):
  source = made_up(16)
  contents = source.records.contents
  contents[3] = b'no tf.train.Example'
  contents[9] = example(b'no image', 1)
  contents[10] = b''
  with caplog.at_level(logging.WARNING, logger='absl'):
    batches = list(eval_batches(source))
  unreadable = np.concatenate([batch['unreadable'] for batch in batches])
  assert np.flatnonzero(unreadable).tolist() == [3, 9, 10]
  for index in (3, 9, 10):
    assert f'left out: made_up train[{index}] (' in caplog.text
  labels = np.concatenate([batch['label'] for batch in batches])
  expected = np.where(unreadable, 0, labels_of(range(16)))
  assert labels.tolist() == expected.tolist()


def test_what_pillow_alone_can_read_is_fetched_again():
  source = made_up(8)
  source.records.contents[5] = example(testing.encode(PICTURES[5], 'BMP'), 5)
  (batch,) = eval_batches(source)
  assert batch['mask'].tolist() == [1] * 8
  np.testing.assert_array_equal(batch['image'], PICTURES[:8])


@pytest.mark.parametrize(
  ('make', 'kind'), [(eval_batches, OSError), (train_batches, errors.UserError)]
)
def test_an_error_in_the_middle_is_raised_as_it_is(make, kind):
  before = threading.active_count()
  order = range(30)
  if make is train_batches:
    order = pipeline.epoch_tables(5, 0, 30)['order'].numpy()
  failure = kind('the disk went away')
  batches = make(made_up(failures={order[17]: failure}))
  # What was fetched before the error is used.
  for first in (0, 8):
    expected = labels_of(order[first : first + 8])
    assert next(batches)['label'].tolist() == expected.tolist()
  with pytest.raises(kind) as caught:
    next(batches)
  assert caught.value is failure
  assert wait_for_threads(before) <= before


def test_a_file_cut_off_while_it_is_used_is_told_in_words(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(retry, 'WAITS', (0, 0))
  path = tmp_path / 'x.tfrecord'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for content in made_up().records.contents:
      writer.write(content)
  records = tfds.open_tfrecords([tfds.Shard(str(path), 0, 30, 30)])
  path.write_bytes(path.read_bytes()[:-30])
  source = made_up()
  object.__setattr__(source, 'records', records)
  with pytest.raises(errors.UserError, match=f'{path} ends inside a record'):
    list(eval_batches(source))


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_a_set_that_comes_back_changes_no_pixel(
  folders, monkeypatch, caplog, file_format
):
  def opened():
    return tfds.open_tfds('toy_pictures', 'train', folders[file_format])

  expected = list(eval_batches(opened()))
  source = opened()
  away = source.directory.with_name('away')
  os.rename(source.directory, away)

  def come_back():
    deadline = time.monotonic() + 60
    while 'trying again' not in caplog.text and time.monotonic() < deadline:
      time.sleep(0.01)
    os.rename(away, source.directory)

  monkeypatch.setattr(retry, 'WAITS', (0.1,) * 300)
  thread = threading.Thread(target=come_back)
  thread.start()
  batches = list(eval_batches(source))
  thread.join()
  for batch, other in zip(batches, expected, strict=True):
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key], err_msg=key)
  assert caplog.text.count('trying again') == 1


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_a_set_that_stays_away_stops_the_run(folders, monkeypatch, file_format):
  before = threading.active_count()
  source = tfds.open_tfds('toy_pictures', 'train', folders[file_format])
  monkeypatch.setattr(retry, 'WAITS', (0.01, 0.01))
  away = source.directory.with_name('away')
  os.rename(source.directory, away)
  try:
    with pytest.raises(errors.UserError) as caught:
      list(eval_batches(source))
  finally:
    os.rename(away, source.directory)
  message = str(caught.value)
  assert str(source.directory) in message
  assert 'No such file or directory' in message
  assert '--config.data.data_dir' in message
  assert wait_for_threads(before) <= before


def test_closing_ends_the_waits(monkeypatch, caplog):
  before = threading.active_count()
  monkeypatch.setattr(retry, 'WAITS', (3600, 3600))
  gone = retry.UnavailableError('x', 'gone')
  batches = eval_batches(made_up(failures={8: gone}))
  next(batches)
  end = time.monotonic() + 60
  while 'trying again' not in caplog.text and time.monotonic() < end:
    time.sleep(0.01)
  batches.close()
  assert wait_for_threads(before) <= before


@pytest.mark.parametrize(
  ('make', 'wait'), [(eval_batches, 0), (train_batches, 0.3)]
)
def test_closing_in_the_middle_ends_the_thread(make, wait):
  before = threading.active_count()
  batches = make(made_up(wait=wait))
  next(batches)
  batches.close()
  assert wait_for_threads(before) <= before


@pytest.mark.parametrize('elsewhere', [False, True])
def test_dropping_in_the_middle_ends_the_thread(elsewhere):
  before = threading.active_count()
  batches = [train_batches(made_up(wait=0.3))]
  reader = threading.Thread(target=lambda: next(batches[0]))
  if elsewhere:
    reader.start()
    reader.join()
  else:
    next(batches[0])
  begun = time.monotonic()
  batches.clear()
  gc.collect()
  assert wait_for_threads(before) <= before
  assert time.monotonic() - begun < SOON


def test_closing_does_not_wait_for_a_stopped_thread():
  """The interpreter's exit may stop the thread while it closes the queue."""
  before = threading.active_count()
  steps = tf.data.Dataset.from_tensors({'index': tf.zeros([8], tf.int64)})
  feeder = record_queue._Feeder(made_up(), steps.repeat())
  with feeder._closing:
    closing = threading.Thread(target=feeder.close, daemon=True)
    closing.start()
    closing.join(SOON)
    assert not closing.is_alive()
  feeder.close()
  assert wait_for_threads(before) <= before


def test_batches_that_are_never_asked_for_start_nothing():
  before = threading.active_count()
  batches = train_batches(made_up())
  assert threading.active_count() == before
  batches.close()


def start_program(rest: str) -> subprocess.Popen:
  """Starts a program of its own that has taken one batch when it says so."""
  program = f"""
import alexnet_jax.input_pipeline
from tests import input_pipeline_tfds_test as own
batches = own.train_batches(own.made_up(wait=0.2))
next(batches)
print('begun', flush=True)
{rest}
"""
  return subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


# Takes batches in a thread that nobody waits for.
DAEMON = """
import threading, time
def work():
  for batch in batches: pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
"""


def test_programs_may_end_in_the_middle():
  """Two come to their ends, one is interrupted; all at once, for time."""
  programs = list(
    map(start_program, ('', 'for batch in batches: pass', DAEMON))
  )
  try:
    for program in programs:
      assert program.stdout.readline() == 'begun\n'
    programs[1].send_signal(signal.SIGINT)
    # The interpreter alone takes a second or two, on a busy machine more.
    _, silence = programs[0].communicate(timeout=150)
    silence += programs[2].communicate(timeout=150)[1]
    try:
      _, traceback = programs[1].communicate(timeout=30)
    except subprocess.TimeoutExpired:
      # Python drops an interrupt that falls into a finalizer.
      programs[1].send_signal(signal.SIGINT)
      _, traceback = programs[1].communicate(timeout=30)
      traceback = traceback[traceback.rindex('Traceback') :]  # the second one
  finally:
    for program in programs:
      program.kill()
  ended = [program.returncode for program in programs]
  assert ended == [0, -signal.SIGINT, 0]
  assert traceback.strip().endswith('KeyboardInterrupt')
  for complaints in (silence, traceback.replace('KeyboardInterrupt', '')):
    # TensorFlow may log that the queue is closed, which it is.
    complaints = '\n'.join(
      line for line in complaints.splitlines() if 'FIFOQueue' not in line
    )
    for word in ('Exception', 'Error', 'Fatal', 'terminate'):
      assert word not in complaints
  assert 'Traceback' not in silence
