"""The prepared store: written once, read as the original, never wrong."""

import itertools
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import names
from alexnet_jax.input_pipeline import arrays
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import prepare
from alexnet_jax.input_pipeline import statistics
from alexnet_jax.input_pipeline import store
from tests import input_pipeline_testing as testing


@pytest.fixture(autouse=True)
def _small_folders(monkeypatch):
  """Folders of four images, written two at a time."""
  monkeypatch.setattr(store, '_PER_FOLDER', 4)
  monkeypatch.setattr(store, '_BATCH_SIZE', 2)


def photos(tmp_path, sides=(40, 40)):
  """Returns a folder of 2 x 5 pictures, one more unreadable in each class."""
  testing.write_folder(tmp_path / 'data/train', 2, 5, sides)
  for label, content in enumerate([b'no image', b'']):
    path = tmp_path / f'data/train/class{label}/002_broken.jpg'
    path.write_bytes(content)
  return folder.open_folder(str(tmp_path / 'data'), 'train')


def write(source, tmp_path, image_size=40):
  store.write(source, str(tmp_path / 'store'), decoding.Options(image_size))


def open_store(tmp_path, image_size=40, split='train', name=''):
  return store.open_store(
    str(tmp_path / 'store'), split=split, name=name, image_size=image_size
  )


def prepared(source, tmp_path, image_size=40):
  write(source, tmp_path, image_size)
  return open_store(tmp_path, image_size, source.split, source.name)


def train(source, steps, image_size, **changes):
  changes = {'batch_size': 5, **changes}
  batches = testing.train_batches(source, image_size, **changes)
  return itertools.islice(batches, steps)


def evaluation(source, batch_size, image_size):
  return pipeline.eval_batches(
    source, batch_size=batch_size, decoder=decoding.Options(image_size)
  )


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
  kept = prepared(source, tmp_path)
  # Three epochs of 5, 5 and 2 images; two images are unreadable.
  ours = list(train(kept, 9, 40, **changes))
  assert_same(ours, train(source, 9, 40, **changes))
  assert sum(batch['unreadable'].sum() for batch in ours[:3]) >= 2


def test_evaluation_batches_equal_those_of_the_original(tmp_path):
  source = photos(tmp_path, sides=(50, 67))
  kept = prepared(source, tmp_path)
  ours = list(evaluation(kept, 7, 40))
  assert_same(ours, evaluation(source, 7, 40))
  assert [batch['mask'].sum() for batch in ours] == [6, 4]


def test_real_images(tmp_path):
  for i, (wnid, content) in enumerate(testing.imagenet_images(22)):
    path = tmp_path / 'data/val' / wnid / f'{i}.JPEG'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  (path.parent / '0_broken.JPEG').write_bytes(content[:5000])
  source = folder.open_folder(str(tmp_path / 'data'), 'val')
  kept = prepared(source, tmp_path, 256)
  assert_same(evaluation(kept, 8, 256), evaluation(source, 8, 256))
  ours = train(kept, 4, 256, crop_size=224, batch_size=16, crop_chunk=32)
  assert_same(
    ours, train(source, 4, 256, crop_size=224, batch_size=16, crop_chunk=32)
  )


def test_gray_arrays(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
  testing.write_idx(tmp_path / 'idx', 'train', images, np.arange(9) % 3)
  source = arrays.open_idx(str(tmp_path / 'idx'), 'train')
  kept = prepared(source, tmp_path, 8)
  assert_same(train(kept, 4, 8), train(source, 4, 8))


def test_squares_are_plain_files_of_bytes(tmp_path):
  source = photos(tmp_path)
  kept = prepared(source, tmp_path)
  (expected,) = evaluation(source, 12, 40)
  files = sorted((tmp_path / 'store/train').glob('0*/0*'))
  assert [str(file.relative_to(kept.directory)) for file in files] == [
    f'{i // 4:05d}/{i % 4:03d}' for i in range(12)
  ]
  for file, image, bad in zip(
    files, expected['image'], expected['unreadable'], strict=True
  ):
    content = b'' if bad else image.tobytes()
    assert file.read_bytes() == content
  labels = np.where(expected['unreadable'], -1, expected['label'])
  np.testing.assert_array_equal(kept.rows['label'], labels)
  assert kept.fingerprint == source.fingerprint
  assert kept.class_names == source.class_names


def test_opening_names_what_could_not_be_read(tmp_path, caplog):
  source = photos(tmp_path)
  with caplog.at_level(logging.WARNING, logger='absl'):
    kept = prepared(source, tmp_path)
  (message,) = [m for m in caplog.messages if 'when' in m]
  assert '2 of 12 images' in message
  assert message.count('002_broken.jpg') == 2
  assert kept.describe(3) == source.describe(3)
  assert kept.describe(0) == 'data train[0]'


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'split': 'val'}, 'holds no store: run the same command with --mode'),
    ({'name': 'other'}, "name 'data', not 'other'"),
    ({'image_size': 41}, 'image_size 40, not 41'),
  ],
)
def test_another_store_than_wanted_is_refused(tmp_path, changes, words):
  write(photos(tmp_path), tmp_path)
  with pytest.raises(errors.UserError, match=words):
    open_store(tmp_path, **changes)


def damage_a_byte(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


DAMAGES = [
  damage_a_byte,
  pathlib.Path.unlink,
  lambda path: path.write_bytes(path.read_bytes()[:-1]),
  lambda path: path.write_bytes(b''),
]


@pytest.mark.parametrize('damage', DAMAGES)
def test_damage_is_noticed_where_it_is_read_and_named(tmp_path, damage):
  kept = prepared(photos(tmp_path), tmp_path)
  damage(kept.directory / '00001/003')
  first = evaluation(kept, 4, 40)
  assert next(first)['mask'].sum() == 3
  with pytest.raises(errors.UserError, match='00001/003 is damaged or missing'):
    next(first)
  with pytest.raises(errors.UserError, match='--mode=prepare'):
    list(train(kept, 3, 40))


@pytest.mark.parametrize('damage', DAMAGES)
def test_preparing_again_makes_what_is_damaged(tmp_path, caplog, damage):
  source = photos(tmp_path)
  kept = prepared(source, tmp_path)
  whole = contents(kept.directory)
  damage(kept.directory / '00001/003')
  untouched = os.stat(kept.directory / '00001/002').st_mtime_ns
  with caplog.at_level(logging.INFO, logger='absl'):
    write(source, tmp_path)
  assert '1 squares are damaged or missing' in caplog.text
  assert '00001/003' in caplog.text
  assert contents(kept.directory) == whole
  assert os.stat(kept.directory / '00001/002').st_mtime_ns == untouched


@pytest.mark.parametrize('damage', DAMAGES)
def test_preparing_again_makes_damaged_rows(tmp_path, damage):
  source = photos(tmp_path)
  kept = prepared(source, tmp_path)
  whole = contents(kept.directory)
  damage(kept.directory / 'rows')
  write(source, tmp_path)
  assert contents(kept.directory) == whole


@pytest.mark.parametrize('byte', [2, 8])
def test_a_changed_row_is_noticed(tmp_path, byte):
  kept = prepared(photos(tmp_path), tmp_path)
  path = kept.directory / 'rows'
  content = bytearray(path.read_bytes())
  content[5 * 12 + byte] ^= 1  # The check or the label of the sixth square.
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match='00001/001 is damaged or missing'):
    list(evaluation(open_store(tmp_path), 4, 40))


@pytest.mark.parametrize('name', ['store.json', 'rows'])
def test_a_damaged_description_is_named(tmp_path, name):
  kept = prepared(photos(tmp_path), tmp_path)
  path = kept.directory / name
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(errors.UserError, match=f'{name} is damaged'):
    open_store(tmp_path)


def test_another_format_is_refused(tmp_path):
  kept = prepared(photos(tmp_path), tmp_path)
  path = kept.directory / 'store.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'format': 2}))
  with pytest.raises(errors.UserError, match='has format 2, .* reads 3'):
    open_store(tmp_path)


def contents(directory):
  """Returns the files of a store by their names."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in directory.rglob('*')
    if path.is_file()
  }


class StoppedError(Exception):
  pass


@pytest.mark.parametrize('point', [0, 3, 11])
def test_stopped_at_any_point_it_comes_out_equal(tmp_path, monkeypatch, point):
  source = photos(tmp_path)
  whole = contents(prepared(source, tmp_path).directory)
  (tmp_path / 'store').rename(tmp_path / 'whole')

  writes = itertools.count()
  original = pathlib.Path.write_bytes

  def stopping(path, content):
    if next(writes) == point:
      original(path, content[:100])
      raise StoppedError
    return original(path, content)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'write_bytes', stopping)
    with pytest.raises(StoppedError):
      write(source, tmp_path)
  with pytest.raises(errors.UserError, match='holds an unfinished store'):
    open_store(tmp_path)
  directory = tmp_path / 'store/train'
  rows = np.fromfile(directory / 'rows', store._ROW)
  # Squares are written two at a time; the other one may have come through.
  assert np.count_nonzero(rows['check']) in (point // 2 * 2, point // 2 * 2 + 1)
  write(source, tmp_path)
  assert contents(directory) == whole


def test_killed_by_a_signal(tmp_path, monkeypatch):
  monkeypatch.setattr(store, '_BATCH_SIZE', 16)
  program = f"""
from alexnet_jax.input_pipeline import arrays, decoding, store
store._PER_FOLDER, store._BATCH_SIZE = 4, 16
source = arrays.Synthetic('train', 4000, 10, 64)
store.write(source, {str(tmp_path / 'store')!r}, decoding.Options(64))
"""
  directory = tmp_path / 'store/train'
  process = subprocess.Popen(
    [sys.executable, '-c', program], cwd=pathlib.Path(__file__).parents[1]
  )
  deadline = time.monotonic() + 60
  # The last of the first hundred folders.
  while not (directory / '00099').exists() and time.monotonic() < deadline:
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  rows = np.fromfile(directory / 'rows', store._ROW)
  done = np.count_nonzero(rows['check'])
  assert 390 < done < 4000
  times = {p: p.stat().st_mtime_ns for p in directory.glob('?????/*')}
  assert len(times) >= done
  source = arrays.Synthetic('train', 4000, 10, 64)
  write(source, tmp_path, 64)
  kept = sum(path.stat().st_mtime_ns == time for path, time in times.items())
  assert kept == done
  whole = open_store(tmp_path, 64)
  assert_same(evaluation(whole, 500, 64), evaluation(source, 500, 64))


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda data: (data / 'class0/new.jpg').write_bytes(b''), 'num_examples'),
    (lambda data: os.utime(data / 'class0/000.jpg', (1, 1)), 'fingerprint'),
    (lambda data: (data / 'class1').rename(data / 'class7'), 'class_names'),
  ],
)
def test_other_data_are_never_mixed_in(tmp_path, change, words):
  source = photos(tmp_path)
  write(source, tmp_path)
  change(tmp_path / 'data/train')
  changed = folder.open_folder(str(tmp_path / 'data'), 'train')
  with pytest.raises(errors.UserError, match='was begun with') as caught:
    write(changed, tmp_path)
  assert words in str(caught.value) or 'fingerprint' in str(caught.value)


def test_images_decoded_otherwise_are_never_mixed_in(tmp_path):
  source = photos(tmp_path)
  write(source, tmp_path)
  with pytest.raises(errors.UserError, match='begun with image_size 40, now'):
    write(source, tmp_path, 36)
  with pytest.raises(errors.UserError, match='begun with upright False, now'):
    store.write(
      source, str(tmp_path / 'store'), decoding.Options(40, upright=True)
    )


def test_two_writers_at_once_are_refused(tmp_path):
  source = photos(tmp_path)
  directory = tmp_path / 'store/train'
  directory.mkdir(parents=True)
  with (
    store._locked(directory / 'rows'),
    pytest.raises(errors.UserError, match='another process is writing'),
  ):
    write(source, tmp_path)


def statvfs(**changes):
  fields = {'f_frsize': 4096, 'f_bavail': 10, 'f_files': 100, 'f_favail': 90}
  return type('Disk', (), fields | changes)()


def test_the_space_is_said_and_checked_first(tmp_path, monkeypatch, caplog):
  source = photos(tmp_path)
  # 12 images of 4,800 bytes take two blocks each.
  monkeypatch.setattr(os, 'statvfs', lambda path: statvfs(f_bavail=23))
  with pytest.raises(errors.UserError, match=r'9.83e-05 GB and 12 files'):
    write(source, tmp_path)
  monkeypatch.setattr(
    os, 'statvfs', lambda path: statvfs(f_bavail=24, f_favail=11)
  )
  with pytest.raises(errors.UserError, match='room for .* and 11'):
    write(source, tmp_path)
  assert not list((tmp_path / 'store/train').glob('0*'))
  monkeypatch.setattr(os, 'statvfs', lambda path: statvfs(f_bavail=24))
  with caplog.at_level(logging.INFO, logger='absl'):
    write(source, tmp_path)
  assert '12 images of 40x40 to write' in caplog.text
  # What is written is not asked for again.
  monkeypatch.setattr(os, 'statvfs', lambda path: statvfs(f_bavail=0))
  write(source, tmp_path)


def test_a_disk_that_fills_up_is_said_in_words(tmp_path, monkeypatch):
  source = photos(tmp_path)

  def full(path, content):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  with pytest.raises(errors.UserError, match='the disk is full at .*store'):
    write(source, tmp_path)


def test_progress_and_time_left_are_shown(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr('alexnet_jax.progress._SECONDS_BETWEEN_LINES', 0)
  with caplog.at_level(logging.INFO, logger='absl'):
    write(photos(tmp_path), tmp_path)
  shown = [m for m in caplog.messages if m.startswith('Store train: 8 of 12')]
  assert len(shown) == 1
  assert 'ETA' in shown[0]


def test_prepare_keeps_the_statistics_in_the_store(tmp_path):
  source = photos(tmp_path)
  options = decoding.Options(40)
  summary = prepare.run(source, source, options, str(tmp_path / 'store'))
  kept = open_store(tmp_path)
  path = kept.directory / 'statistics-train-40.npz'
  assert summary.statistics_file == path
  loaded = statistics.load_or_compute(kept, options)
  expected = statistics.compute(source, options)
  for key in ('mean_image', 'stdevs', 'eigenvectors', 'unreadable'):
    np.testing.assert_array_equal(getattr(loaded, key), getattr(expected, key))


def test_a_splits_name_is_a_folders_name(tmp_path):
  source = arrays.Synthetic('train[:90%]', 5, 2, 8)
  kept = prepared(source, tmp_path, 8)
  assert kept.directory == tmp_path / 'store' / names.for_file('train[:90%]')
