"""Writing a prepared store: stopped anywhere, it goes on and ends the same."""

import logging
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import prepare
from alexnet_jax.input_pipeline import statistics
from alexnet_jax.input_pipeline import storage
from alexnet_jax.input_pipeline import store
from alexnet_jax.input_pipeline import store_writer
from alexnet_jax.input_pipeline import synthetic
from tests import input_pipeline_testing as testing

SOURCE = synthetic.Synthetic(
  split='train', num_examples=18, num_classes=5, image_size=8
)


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch):
  # Waiting for the disk would take most of the time.
  monkeypatch.setattr(storage.os, 'fsync', lambda descriptor: None)


def write(root, source=SOURCE, image_size=8):
  """Writes five shards of 4, 4, 4, 4 and 2 images."""
  store_writer.write(source, str(root), image_size, shard_size=4)
  return root / 'train'


def contents(directory):
  return {
    path.name: path.read_bytes()
    for path in directory.iterdir()
    if not path.name.startswith('statistics')  # An archive with the time in it.
  }


def shards(directory):
  return sorted(directory.glob('images-*.npy'))


def stamps(directory):
  return [(p.stat().st_ino, p.stat().st_mtime_ns) for p in shards(directory)]


def measured(directory):
  with np.load(directory / 'statistics-train-8.npz') as stored:
    return {key: stored[key].tolist() for key in stored}


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  return write(tmp_path_factory.mktemp('reference'))


def test_what_a_store_holds(reference):
  assert sorted(contents(reference)) == [
    'checksums.npy',
    *(f'images-0000{k}-of-00005.npy' for k in range(5)),
    'labels.npy',
    'lock',
    'store.json',
    'unreadable.npy',
  ]
  images = np.concatenate([np.load(path) for path in shards(reference)])
  expected, labels = SOURCE.fetch(np.arange(18))
  np.testing.assert_array_equal(images, expected)
  np.testing.assert_array_equal(np.load(reference / 'labels.npy'), labels)


class Killed(BaseException):
  """Stands for a program that ends on the spot."""


def stop_at(monkeypatch, point):
  """Ends the program at the given call that changes the disk for good.

  An even number stops before the call, an odd one right after it. Nothing is
  tidied up, as after SIGKILL.
  """
  calls = [0]

  def stopping(original):
    def call(*args):
      before, after = calls[0], calls[0] + 1
      calls[0] += 2
      if point == before:
        raise Killed
      result = original(*args)
      if point == after:
        raise Killed
      return result

    return call

  for name in ('fsync', 'replace'):
    original = getattr(storage.os, name)
    monkeypatch.setattr(storage.os, name, stopping(original))
  monkeypatch.setattr(pathlib.Path, 'unlink', lambda self, missing_ok=0: None)


def stopped(root, point):
  """Returns whether writing was stopped at this point."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    stop_at(monkeypatch, point)
    try:
      write(root)
    except Killed:
      return True
  return False


def test_stopped_at_any_point_it_comes_out_equal(reference, tmp_path):
  points = 0
  while stopped(tmp_path / str(points), points):
    directory = tmp_path / str(points) / 'train'
    finished = stamps(directory)
    write(directory.parent)
    assert contents(directory) == contents(reference), points
    assert measured(directory) == measured(reference), points
    # Only the last one may not have been entered in the journal.
    kept = max(len(finished) - 1, 0)
    assert stamps(directory)[:kept] == finished[:kept], points
    points += 1
  # Shards, journals, arrays, statistics and description; three calls each.
  assert points == 2 * 3 * (5 + 6 + 1 + 3 + 1)


@pytest.mark.parametrize('point', [31, 33])
def test_stopped_again_and_again_it_still_ends(reference, tmp_path, point):
  runs = 0
  while stopped(tmp_path, point):
    runs += 1
    assert runs < 20
  write(tmp_path)
  assert contents(tmp_path / 'train') == contents(reference)
  assert runs >= 2


def test_killed_by_a_signal(tmp_path):
  program = f"""
import time
from alexnet_jax.input_pipeline import store_writer, synthetic
cut = synthetic.Synthetic.cut
def slowly(*args):
  time.sleep(0.05)
  return cut(*args)
synthetic.Synthetic.cut = slowly
source = synthetic.Synthetic(
  split='train', num_examples=400, num_classes=5, image_size=8
)
store_writer.write(source, {str(tmp_path)!r}, 8, shard_size=4)
"""
  running = subprocess.Popen(
    [sys.executable, '-c', program], cwd=pathlib.Path(__file__).parents[1]
  )
  directory = tmp_path / 'train'
  try:
    end = time.monotonic() + 60
    while len(shards(directory)) < 3:
      assert time.monotonic() < end
      time.sleep(0.01)
  finally:
    running.send_signal(signal.SIGKILL)
    running.wait()
  finished = stamps(directory)
  assert 3 <= len(finished) < 100
  assert not (directory / 'store.json').exists()
  source = synthetic.Synthetic(
    split='train', num_examples=400, num_classes=5, image_size=8
  )
  store_writer.write(source, str(tmp_path), 8, shard_size=4)
  kept = len(finished) - 1
  assert stamps(directory)[:kept] == finished[:kept]
  images = np.concatenate([np.load(path) for path in shards(directory)])
  np.testing.assert_array_equal(images, source.fetch(np.arange(400))[0])


def test_a_complete_store_is_checked_and_left_alone(tmp_path, caplog):
  directory = write(tmp_path)
  before, files = stamps(directory), contents(directory)
  with caplog.at_level(logging.INFO, logger='absl'):
    write(tmp_path)
  assert stamps(directory) == before
  assert contents(directory) == files
  assert 'is complete: 5 of 5 shards intact, checked in 0 s' in caplog.text


@pytest.mark.parametrize('damage', ['flip', 'cut', 'remove'])
def test_a_damaged_shard_alone_is_made_anew(tmp_path, caplog, damage):
  directory = write(tmp_path)
  before, files = stamps(directory), contents(directory)
  path = shards(directory)[3]
  content = path.read_bytes()
  path.unlink()
  if damage == 'flip':
    path.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
  if damage == 'cut':
    path.write_bytes(content[:-5])
  with caplog.at_level(logging.INFO, logger='absl'):
    write(tmp_path)
  assert contents(directory) == files
  after = stamps(directory)
  assert [a == b for a, b in zip(after, before, strict=True)] == [
    True, True, True, False, True
  ]  # fmt: skip
  assert '4 of 5 shards intact' in caplog.text
  assert f'{path} is damaged or missing: making it anew' in caplog.text


def test_a_shard_lost_from_an_unfinished_store_is_made_anew(
  reference, tmp_path
):
  assert stopped(tmp_path, 50)
  directory = tmp_path / 'train'
  finished = stamps(directory)
  assert len(finished) >= 3
  shards(directory)[1].unlink()
  write(tmp_path)
  assert contents(directory) == contents(reference)
  assert stamps(directory)[0] == finished[0]


def test_a_shard_that_comes_out_otherwise_is_refused(tmp_path, monkeypatch):
  directory = write(tmp_path)
  path = shards(directory)[1]
  path.unlink()
  cut = synthetic.Synthetic.cut

  def otherwise(*args):
    images, labels, readable = cut(*args)
    return images ^ 1, labels, readable

  monkeypatch.setattr(synthetic.Synthetic, 'cut', otherwise)
  with pytest.raises(errors.UserError, match='00001-of-00005.*out otherwise'):
    write(tmp_path)
  assert not path.exists()


@pytest.mark.parametrize('point', [50, 1000])
@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'seed': 1}, 'begun with fingerprint'),
    ({'num_examples': 17}, 'begun with num_examples 18, now it is 17'),
    ({'image_size': 9}, 'begun with image_size 8, now it is 9'),
  ],
)
def test_other_data_are_never_mixed_in(tmp_path, point, changes, words):
  stopped(tmp_path, point)
  before = contents(tmp_path / 'train')
  settings = {'split': 'train', 'num_examples': 18, 'num_classes': 5}
  other = synthetic.Synthetic(**(settings | {'image_size': 8} | changes))
  with pytest.raises(errors.UserError, match=words) as caught:
    write(tmp_path, other, other.image_size)
  assert 'delete that folder, or choose another store_dir' in str(caught.value)
  assert contents(tmp_path / 'train') == before


def test_pixels_made_otherwise_are_never_mixed_in(tmp_path, monkeypatch):
  assert stopped(tmp_path, 50)
  monkeypatch.setattr(store_writer, '_PIXELS', 'nearest pixel')
  with pytest.raises(errors.UserError, match='pixels RGB; .* nearest pixel'):
    write(tmp_path)


def test_two_writers_at_once_are_refused(tmp_path):
  write(tmp_path)
  with (
    store_writer.store_journal.alone(tmp_path / 'train'),
    pytest.raises(errors.UserError, match='another process is writing'),
  ):
    write(tmp_path)
  write(tmp_path)


def test_a_disk_that_fills_up_is_said_in_words(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(storage.os, 'fsync', full)
    with pytest.raises(errors.UserError, match='the disk is full at .*run the'):
      write(tmp_path)
  assert not list((tmp_path / 'train').glob('*.partial'))
  write(tmp_path)


@pytest.fixture
def photos(tmp_path):
  for split in ('train', 'val'):
    testing.write_folder(tmp_path / split, classes=2, per_class=3)
  return [folder.open_folder(str(tmp_path), s) for s in ('train', 'val')]


def test_prepare_decodes_once_and_keeps_the_statistics_twice(
  photos, tmp_path, monkeypatch
):
  train, evaluation = photos
  expected = statistics.compute(train, 32)
  monkeypatch.setattr(statistics, 'compute', lambda *args: 1 / 0)
  summary = prepare.run(train, evaluation, 32, str(tmp_path / 'store'))
  for source in photos:
    kept = store.open_store(
      str(tmp_path / 'store'), split=source.split, name='', image_size=32
    )
    assert kept.fingerprint == source.fingerprint
  for place in (tmp_path, tmp_path / 'store/train'):
    assert (place / 'statistics-train-32.npz').is_file()
  for key, value in vars(expected).items():
    np.testing.assert_array_equal(getattr(summary.statistics, key), value)
  again = statistics.load_or_compute(train, 32)
  np.testing.assert_array_equal(again.stdevs, expected.stdevs)


def test_prepare_writes_one_split_once(photos, tmp_path, caplog):
  train = photos[0]
  with caplog.at_level(logging.INFO, logger='absl'):
    prepare.run(train, train, 32, str(tmp_path / 'store'))
  assert [path.name for path in (tmp_path / 'store').iterdir()] == ['train']
  assert 'checked in' not in caplog.text


def test_the_space_is_said_and_checked_first(
  photos, tmp_path, monkeypatch, caplog
):
  usage = prepare.shutil.disk_usage(tmp_path)._replace(free=17_000_000)
  monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: usage)
  root = tmp_path / 'deep/store'
  with pytest.raises(errors.UserError) as caught:
    # 12 squares of 600x600 are 13 MB, and 17 MB beside them.
    prepare.run(photos[0], photos[1], 600, str(root))
  message = str(caught.value)
  assert f'0.02974 GB more but {tmp_path} has 0.017 GB free' in message
  assert not root.exists()
  with caplog.at_level(logging.INFO, logger='absl'):
    prepare.run(photos[0], photos[1], 32, str(root))
  assert 'store of 12 images of 32x32 needs 0.01681 GB more' in caplog.text


def test_space_of_what_is_written_is_not_asked_for_again(
  photos, tmp_path, monkeypatch
):
  root = str(tmp_path / 'store')
  prepare.run(photos[0], photos[1], 32, root)
  usage = prepare.shutil.disk_usage(tmp_path)._replace(free=0)
  monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: usage)
  prepare.run(photos[0], photos[1], 32, root)


def test_imagenet_needs_252_gigabytes(tmp_path):
  imagenet = synthetic.Synthetic(
    split='train', num_examples=1_281_167, num_classes=1000, image_size=256
  )
  needed = prepare._missing_bytes(imagenet, str(tmp_path), 256)
  assert needed == pytest.approx(252e9, rel=0.001)
