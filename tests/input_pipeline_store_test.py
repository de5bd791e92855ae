"""Reading a prepared store: the same batches, or a refusal by name."""

import itertools
import json
import logging

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import idx
from alexnet_jax.input_pipeline import loading
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics
from alexnet_jax.input_pipeline import store
from alexnet_jax.input_pipeline import store_writer
from tests import input_pipeline_testing as testing


def prepared(source, tmp_path, image_size, shard_size=4):
  store_writer.write(
    source, str(tmp_path / 'store'), image_size, shard_size=shard_size
  )
  return store.open_store(
    str(tmp_path / 'store'),
    split=source.split,
    name=source.name,
    image_size=image_size,
  )


def photos(tmp_path, sides=(40, 40)):
  """Returns a folder of 2 x 5 pictures, one more unreadable in each class."""
  testing.write_folder(tmp_path / 'data/train', 2, 5, sides)
  for label, content in enumerate([b'no image', b'']):
    path = tmp_path / f'data/train/class{label}/002_broken.jpg'
    path.write_bytes(content)
  return folder.open_folder(str(tmp_path / 'data'), 'train')


def train(source, steps, image_size, crop_size, **changes):
  settings = {
    'batch_size': 5,
    'seed': 3,
    'start_step': 0,
    'random_crop': True,
    'flip': True,
    'crop_chunk': 1,
    'shuffle': True,
    'color_scale': np.array([1.0, 2.0, 3.0]),
    'eigenvectors': np.eye(3),
    'threads': 2,
  }
  iterator = batches.train_batches(
    source,
    image_size=image_size,
    crop_size=crop_size,
    **(settings | changes),
  )
  return itertools.islice(iterator, steps)


def assert_same(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key], err_msg=key)
      assert one[key].dtype == other[key].dtype


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'shuffle': False, 'crop_chunk': 4},
    {'random_crop': False, 'flip': False},
    {'batch_size': 32, 'start_step': 3},
  ],
)
def test_training_batches_equal_those_of_the_original(tmp_path, changes):
  source = photos(tmp_path)
  kept = prepared(source, tmp_path, 40)
  # Three epochs of 5, 5 and 2 images; two images are unreadable.
  ours = list(train(kept, 9, 40, 33, **changes))
  assert_same(ours, train(source, 9, 40, 33, **changes))
  assert sum(batch['unreadable'].sum() for batch in ours[:3]) >= 2


def test_evaluation_batches_equal_those_of_the_original(tmp_path):
  source = photos(tmp_path, sides=(50, 67))
  kept = prepared(source, tmp_path, 40)
  ours = list(batches.eval_batches(kept, batch_size=7, image_size=40))
  theirs = batches.eval_batches(source, batch_size=7, image_size=40)
  assert_same(ours, theirs)
  assert [batch['mask'].sum() for batch in ours] == [6, 4]


def write_real(root, count):
  """Writes real JPEGs as they are: of many sizes, upright and lying."""
  for i, (wnid, content) in enumerate(testing.imagenet_images(count)):
    path = root / wnid / f'{i}.JPEG'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  (path.parent / '0_broken.JPEG').write_bytes(content[:5000])


def test_real_images_in_evaluation(tmp_path):
  write_real(tmp_path / 'data/val', 22)
  source = folder.open_folder(str(tmp_path / 'data'), 'val')
  kept = prepared(source, tmp_path, 256, shard_size=16)
  ours = list(batches.eval_batches(kept, batch_size=8, image_size=256))
  theirs = batches.eval_batches(source, batch_size=8, image_size=256)
  assert_same(ours, theirs)
  assert sum(batch['unreadable'].sum() for batch in ours) == 1


@pytest.mark.parametrize('crop_chunk', [1, 32])
def test_real_images_in_training(tmp_path, crop_chunk):
  write_real(tmp_path / 'data/train', 22)
  source = folder.open_folder(str(tmp_path / 'data'), 'train')
  kept = prepared(source, tmp_path, 256, shard_size=16)
  kwargs = {'batch_size': 8, 'crop_chunk': crop_chunk}
  ours = list(train(kept, 6, 256, 224, **kwargs))
  assert [batch['mask'].sum() for batch in ours].count(8) >= 2
  assert_same(ours, train(source, 6, 256, 224, **kwargs))


def test_grey_arrays(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (11, 12, 12), np.uint8)
  testing.write_idx(tmp_path / 'data', 'train', images, np.arange(11) % 3)
  source = idx.open_idx(str(tmp_path / 'data'), 'train')
  kept = prepared(source, tmp_path, 12)
  assert kept.class_names == ('0', '1', '2')
  assert_same(train(kept, 4, 12, 9), train(source, 4, 12, 9))


def test_the_other_way_of_reading_gives_the_same(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)

  class ByRecords:
    record_spec, describe = kept.record_spec, kept.describe
    fetch, read = kept.fetch, kept.read

  def plan(step):
    draws = preprocessing.centre_draws(12, 40, 40)
    return np.arange(12), draws._replace(flips=np.arange(12) % 2 == 0)

  assert_same(
    loading.load(kept, plan, range(1), 16, 40, 40, 1),
    loading.load(ByRecords(), plan, range(1), 16, 40, 40, 1),
  )


def test_a_store_is_a_source_of_squares(tmp_path):
  source = photos(tmp_path)
  kept = prepared(source, tmp_path, 40)
  assert isinstance(kept, sources.Squares)
  for key in ('name', 'split', 'class_names', 'num_examples', 'fingerprint'):
    assert getattr(kept, key) == getattr(source, key)
  assert kept.describe(0) == 'data train[0]'
  assert kept.describe(3) == source.describe(3)
  assert kept.describe(3).endswith('class0/002_broken.jpg')


def test_files_are_plain_numpy(tmp_path):
  source = photos(tmp_path)
  kept = prepared(source, tmp_path, 40)
  (step,) = batches.eval_batches(source, batch_size=12, image_size=40)
  names = [f'images-0000{k}-of-00003.npy' for k in range(3)]
  shards = [np.load(kept.directory / name, mmap_mode='r') for name in names]
  np.testing.assert_array_equal(np.concatenate(shards), step['image'])
  labels = np.load(kept.directory / 'labels.npy')
  np.testing.assert_array_equal(labels, step['label'])
  unreadable = np.load(kept.directory / 'unreadable.npy')
  np.testing.assert_array_equal(unreadable, step['unreadable'] > 0)


def test_statistics_lie_in_the_store_and_equal_the_originals(
  tmp_path, monkeypatch
):
  source = photos(tmp_path, sides=(50, 67))
  expected = statistics.compute(source, 40)
  kept = prepared(source, tmp_path, 40)
  monkeypatch.setattr(statistics, 'compute', lambda *args: 1 / 0)
  found = statistics.load_or_compute(kept, 40)
  assert (found.num_examples, found.unreadable) == (10, 2)
  for key, value in vars(expected).items():
    np.testing.assert_array_equal(getattr(found, key), value, err_msg=key)


def test_opening_names_what_could_not_be_read(tmp_path, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    prepared(photos(tmp_path), tmp_path, 40)
  message = caplog.messages[-1]
  assert message.startswith('2 of 12 images could not be read when')
  assert 'class1/002_broken.jpg' in message


def refusal(kept, read=False, **changes):
  """Returns the one line with which a store is refused."""
  wanted = {'split': 'train', 'name': kept.name, 'image_size': 40} | changes

  def use():
    again = store.open_store(str(kept.directory.parent), **wanted)
    assert read, 'a store was opened that should have been refused'
    return list(batches.eval_batches(again, batch_size=5, image_size=40))

  with pytest.raises(errors.UserError) as caught:
    use()
  message = str(caught.value)
  assert '\n' not in message
  return message


def test_another_store_than_wanted_is_refused(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  assert 'image_size 40, not 32: prepare' in refusal(kept, image_size=32)
  assert "name 'data', not 'cifar10'" in refusal(kept, name='cifar10')
  assert 'test holds no store: run the same' in refusal(kept, split='test')
  kept.directory.rename(kept.directory.parent / 'train_50_')
  message = refusal(kept, split='train[50]')
  assert "split 'train', not 'train[50]'" in message


def test_an_unfinished_store_is_refused(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  (kept.directory / 'store.json').rename(kept.directory / 'unfinished.npz')
  assert 'holds an unfinished store: run the same' in refusal(kept)


def test_a_missing_shard_is_named(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  kept.shards.path(1).unlink()
  assert 'images-00001-of-00003.npy is missing' in refusal(kept)


@pytest.mark.parametrize('change', [-1, 1])
def test_a_shard_of_another_length_is_named(tmp_path, change):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  path = kept.shards.path(2)
  content = path.read_bytes()
  path.write_bytes(content[:change] if change < 0 else content + b'\0')
  length = 128 + 4 * 40 * 40 * 3
  expected = f'00002-of-00003.npy has {length + change} bytes, not {length}'
  assert expected in refusal(kept)


@pytest.mark.parametrize(
  ('place', 'index'),
  [(128, 4), (128 + 2 * 4800 + 17, 6), (128 + 4 * 4800 - 1, 7)],
)
def test_a_flipped_bit_is_found_where_it_is_read(tmp_path, place, index):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  path = kept.shards.path(1)
  content = bytearray(path.read_bytes())
  content[place] ^= 4
  path.write_bytes(content)
  message = refusal(kept, read=True)
  assert f'images-00001-of-00003.npy is damaged: image {index} ' in message
  assert 'mode=prepare' in message


def test_a_damaged_header_is_named(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  path = kept.shards.path(1)
  content = path.read_bytes()
  path.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
  assert '00001-of-00003.npy begins with another header' in refusal(kept)


def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  list(batches.eval_batches(kept, batch_size=12, image_size=40))
  path = kept.shards.path(0)
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(errors.UserError, match='00000-of-00003.npy ends inside'):
    list(batches.eval_batches(kept, batch_size=12, image_size=40))


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
  kept = prepared(photos(tmp_path), tmp_path, 40)

  def too_many(*args):
    raise OSError(24, 'Too many open files')

  with monkeypatch.context() as patch:
    patch.setattr(store.shards.os, 'open', too_many)
    message = refusal(kept)
  assert '3 shards, more than a process may still open' in message
  assert 'ulimit -n 1027' in message


def test_every_image_is_checked_once(tmp_path, monkeypatch):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  checked = []
  crc32 = store.zlib.crc32

  def counting(*args):
    checked.append(args)
    return crc32(*args)

  monkeypatch.setattr(store.zlib, 'crc32', counting)
  for _ in range(2):
    list(batches.eval_batches(kept, batch_size=12, image_size=40))
    assert len(checked) == 12 + 3  # Each image, and the header of each shard.


@pytest.mark.parametrize('name', ['labels', 'unreadable', 'checksums'])
def test_a_damaged_array_is_named(tmp_path, name):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  path = kept.directory / f'{name}.npy'
  content = path.read_bytes()
  path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  assert f'{name}.npy is damaged, its checksum is' in refusal(kept)
  path.unlink()
  assert f'{name}.npy is damaged, it is missing' in refusal(kept)


def test_a_damaged_description_is_named(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  path = kept.directory / 'store.json'
  text = path.read_text()
  path.write_text(text.replace('class1', 'class2', 1))
  assert 'store.json is damaged, its checksum is' in refusal(kept)
  path.write_text(text[:100])
  assert 'store.json is damaged, it is no description' in refusal(kept)
  path.write_text('[]')
  assert 'store.json is damaged, it is no description' in refusal(kept)
  content = json.loads(text) | {'format': 2}
  del content['checksum']
  path.write_text(store.store_description.text(content))
  assert 'has format 2, this program reads 1' in refusal(kept)


def test_damaged_statistics_are_named(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path, 40)
  path = kept.directory / 'statistics-train-40.npz'
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match='-40.npz is damaged .*: delete'):
    statistics.load_or_compute(kept, 40)
