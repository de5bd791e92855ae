"""The prepared store: written once, read as the original, never wrong."""

import itertools
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import lock
from alexnet_jax import names
from alexnet_jax.input_pipeline import arrays
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import prepare
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import statistics
from alexnet_jax.input_pipeline import store
from tests import input_pipeline_testing as testing


@pytest.fixture(autouse=True)
def _small_folders(monkeypatch):
  """Folders of four images, written two at a time; no waits."""
  monkeypatch.setattr(store, '_PER_FOLDER', 4)
  monkeypatch.setattr(store, '_BATCH_SIZE', 2)
  monkeypatch.setattr(retry, 'WAITS', (0, 0))


@pytest.fixture(scope='module')
def prepared_once(tmp_path_factory):
  """2 x 5 pictures, another unreadable one per class, and their store."""
  root = tmp_path_factory.mktemp('prepared')
  testing.write_folder(root / 'data/train', 2, 5, (40, 40))
  for label, content in enumerate([b'no image', b'']):
    path = root / f'data/train/class{label}/002_broken.jpg'
    path.write_bytes(content)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(store, '_PER_FOLDER', 4)
    write(open_photos(root), root)
  return root


@pytest.fixture
def source(prepared_once, tmp_path):
  """The pictures, without a store."""
  shutil.copytree(prepared_once / 'data', tmp_path / 'data')
  return open_photos(tmp_path)


@pytest.fixture
def kept(source, prepared_once, tmp_path):
  """The store of `source`."""
  shutil.copytree(prepared_once / 'store', tmp_path / 'store')
  return open_store(tmp_path)


def open_photos(root):
  return folder.open_folder(str(root / 'data'), 'train')


def write(source, tmp_path, image_size=40):
  store.write(source, str(tmp_path / 'store'), decoding.Options(image_size))


def open_store(tmp_path, image_size=40, split='train', name='', **options):
  return store.open_store(
    str(tmp_path / 'store'), split, name, image_size, **options
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
  'changes', [{}, {'shuffle': False, 'crop_chunk': 4, 'start_step': 3}]
)
def test_training_batches_equal_those_of_the_original(source, kept, changes):
  # Three epochs of 5, 5 and 2 images; two images are unreadable.
  ours = list(train(kept, 9, 40, **changes))
  assert_same(ours, train(source, 9, 40, **changes))
  assert sum(batch['unreadable'].sum() for batch in ours[:3]) >= 2


def test_evaluation_batches_equal_those_of_the_original(tmp_path):
  # The JPEG decoder reduces them to half their size.
  testing.write_folder(tmp_path / 'data/train', 2, 5, (90, 120))
  source = open_photos(tmp_path)
  kept = prepared(source, tmp_path)
  ours = list(evaluation(kept, 7, 40))
  assert_same(ours, evaluation(source, 7, 40))
  assert [batch['mask'].sum() for batch in ours] == [7, 3]


def test_gray_arrays(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
  testing.write_idx(tmp_path / 'idx', 'train', images, np.arange(9) % 3)
  source = arrays.open_idx(str(tmp_path / 'idx'), 'train')
  kept = prepared(source, tmp_path, 8)
  assert_same(train(kept, 4, 8), train(source, 4, 8))


def test_squares_are_plain_files_of_bytes(tmp_path, source, kept):
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


def test_opening_names_what_could_not_be_read(tmp_path, kept, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    open_store(tmp_path)
  (message,) = [m for m in caplog.messages if 'when' in m]
  assert '2 of 12 images' in message
  assert message.count('002_broken.jpg') == 2
  assert kept.describe(3).endswith('data/train/class0/002_broken.jpg')
  assert kept.describe(0) == 'data train[0]'


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'split': 'val'}, 'holds no store: run the same command with --mode'),
    ({'name': 'other'}, "name 'data', not 'other'"),
    ({'image_size': 41}, 'image_size 40, not 41'),
    ({'upright': True}, 'upright False, not True'),
  ],
)
@pytest.mark.usefixtures('kept')
def test_another_store_than_wanted_is_refused(tmp_path, changes, words):
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
def test_damage_is_noticed_where_it_is_read_and_named(kept, damage):
  damage(kept.directory / '00001/003')
  first = evaluation(kept, 4, 40)
  assert next(first)['mask'].sum() == 3
  with pytest.raises(
    errors.UserError,
    match='00001/003 is damaged or missing.*: .*--mode=prepare',
  ):
    next(first)


def test_damage_stops_training(kept):
  damage_a_byte(kept.directory / '00001/003')
  with pytest.raises(errors.UserError, match='00001/003 is damaged or missing'):
    list(train(kept, 3, 40))


def test_preparing_again_writes_what_is_damaged(tmp_path, source, kept, caplog):
  whole = contents(kept.directory)
  for damage, name in zip(
    DAMAGES, ('00000/001', '00001/001', '00001/003', '00002/000'), strict=True
  ):
    damage(kept.directory / name)
  untouched = os.stat(kept.directory / '00001/002').st_mtime_ns
  with caplog.at_level(logging.INFO, logger='absl'):
    write(source, tmp_path)
  assert '4 squares are damaged or missing' in caplog.text
  assert '00000/001' in caplog.text
  assert contents(kept.directory) == whole
  assert os.stat(kept.directory / '00001/002').st_mtime_ns == untouched


def test_preparing_again_tries_what_could_not_be_read(tmp_path, source):
  largest = 30 * 20
  options = decoding.Options(40, max_pixels=largest)
  store.write(source, str(tmp_path / 'store'), options)
  few = open_store(tmp_path)
  store.write(source, str(tmp_path / 'store'), decoding.Options(40))
  all_again = open_store(tmp_path)
  assert len(all_again.unreadable) < len(few.unreadable)
  store.write(source, str(tmp_path / 'other'), decoding.Options(40))
  assert contents(tmp_path / 'store') == contents(tmp_path / 'other')


@pytest.mark.parametrize('damage', DAMAGES[:2])
def test_preparing_again_writes_damaged_rows(tmp_path, source, kept, damage):
  whole = contents(kept.directory)
  damage(kept.directory / 'rows')
  write(source, tmp_path)
  assert contents(kept.directory) == whole


@pytest.mark.parametrize('byte', [2, 8])
def test_a_changed_row_is_noticed(tmp_path, kept, byte):
  path = kept.directory / 'rows'
  content = bytearray(path.read_bytes())
  content[5 * 12 + byte] ^= 1  # The check or the label of the sixth square.
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match='00001/001 is damaged or missing'):
    list(evaluation(open_store(tmp_path), 4, 40))


@pytest.mark.parametrize('name', ['store.json', 'rows'])
def test_a_damaged_description_is_named(tmp_path, kept, name):
  path = kept.directory / name
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(errors.UserError, match=f'{name} is damaged'):
    open_store(tmp_path)


def test_another_format_is_refused(tmp_path, kept):
  path = kept.directory / 'store.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'format': 2}))
  with pytest.raises(errors.UserError, match='has format 2, .* reads 3'):
    open_store(tmp_path)


def contents(directory):
  """Returns the files of a store by name, without the path of its originals."""
  return {
    str(path.relative_to(directory)): re.sub(
      rb'"/[^"]*/data/', b'"data/', path.read_bytes()
    )
    for path in directory.rglob('*')
    if path.is_file()
  }


class StoppedError(Exception):
  pass


@pytest.mark.parametrize('point', [0, 3, 11])
def test_stopped_at_any_point_it_comes_out_equal(
  tmp_path, source, prepared_once, monkeypatch, point
):
  whole = contents(prepared_once / 'store/train')
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
source = arrays.Synthetic('train', 2000, 10, 32)
store.write(source, {str(tmp_path / 'store')!r}, decoding.Options(32))
"""
  directory = tmp_path / 'store/train'
  process = subprocess.Popen(
    [sys.executable, '-c', program], cwd=pathlib.Path(__file__).parents[1]
  )
  deadline = time.monotonic() + 60
  # One of five hundred folders.
  while not (directory / '00049').exists() and time.monotonic() < deadline:
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  rows = np.fromfile(directory / 'rows', store._ROW)
  done = np.count_nonzero(rows['check'])
  assert 0 < done < 2000
  times = {p: p.stat().st_mtime_ns for p in directory.glob('?????/*')}
  assert len(times) >= done
  source = arrays.Synthetic('train', 2000, 10, 32)
  write(source, tmp_path, 32)
  kept = sum(path.stat().st_mtime_ns == time for path, time in times.items())
  assert kept == done
  whole = open_store(tmp_path, 32)
  assert_same(evaluation(whole, 500, 32), evaluation(source, 500, 32))


@pytest.mark.parametrize(
  'change',
  [
    lambda data: (data / 'class0/new.jpg').write_bytes(b''),
    lambda data: os.utime(data / 'class0/000.jpg', (1, 1)),
    lambda data: (data / 'class1').rename(data / 'class7'),
  ],
)
@pytest.mark.usefixtures('kept')
def test_other_data_are_never_mixed_in(tmp_path, change):
  change(tmp_path / 'data/train')
  with pytest.raises(errors.UserError, match='was begun with .* now it is'):
    write(open_photos(tmp_path), tmp_path)


@pytest.mark.usefixtures('kept')
def test_images_decoded_otherwise_are_never_mixed_in(tmp_path, source):
  with pytest.raises(errors.UserError, match='begun with image_size 40, now'):
    write(source, tmp_path, 36)
  with pytest.raises(errors.UserError, match='begun with upright False, now'):
    store.write(
      source, str(tmp_path / 'store'), decoding.Options(40, upright=True)
    )


def test_two_writers_at_once_are_refused(tmp_path, source):
  directory = tmp_path / 'store/train'
  directory.mkdir(parents=True)
  with (
    lock.held(directory / 'lock', 'stop it'),
    pytest.raises(errors.UserError, match='is in use by process .*: wait for'),
  ):
    write(source, tmp_path)


def statvfs(**changes):
  fields = {'f_frsize': 4096, 'f_bavail': 10, 'f_files': 100, 'f_favail': 90}
  return type('Disk', (), fields | changes)()


def test_the_space_is_logged_and_checked_first(
  tmp_path, source, monkeypatch, caplog
):
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


def test_a_disk_that_fills_up_is_the_users_error(tmp_path, source, monkeypatch):
  def full(path, content):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  with pytest.raises(errors.UserError, match='the disk is full at .*store'):
    write(source, tmp_path)


def test_a_store_that_vanishes_while_it_is_written(
  tmp_path, source, prepared_once, monkeypatch
):
  original = pathlib.Path.write_bytes

  def vanishing(path, content):
    if path.name == '003' and not (tmp_path / 'away').exists():
      (tmp_path / 'store').rename(tmp_path / 'away')
    return original(path, content)

  monkeypatch.setattr(pathlib.Path, 'write_bytes', vanishing)
  # 'File exists' where a thread is between mkdir's refusal and its look.
  reason = '.(No such file|File exists)'
  with pytest.raises(errors.UserError, match=f'cannot be written {reason}'):
    write(source, tmp_path)
  (tmp_path / 'away').rename(tmp_path / 'store')
  monkeypatch.undo()
  monkeypatch.setattr(store, '_PER_FOLDER', 4)
  write(source, tmp_path)
  ours = contents(tmp_path / 'store/train')
  assert ours == contents(prepared_once / 'store/train')


def test_progress_and_eta_are_shown(tmp_path, source, monkeypatch, caplog):
  monkeypatch.setattr('alexnet_jax.progress._SECONDS_BETWEEN_LINES', 0)
  with caplog.at_level(logging.INFO, logger='absl'):
    write(source, tmp_path)
  shown = [m for m in caplog.messages if m.startswith('Store train: 8 of 12')]
  assert len(shown) == 1
  assert 'ETA' in shown[0]


def test_prepare_keeps_the_statistics_in_the_store(tmp_path, source):
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
