"""Files that vanish while they are read, and come back or do not."""

import errno
import itertools
import logging
import os
import pathlib
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import store
from tests import input_pipeline_testing as testing

SIZE = 40
NEVER = (0.01, 0.01)  # Waits in which nothing comes back.
LONG = (0.05,) * 600  # Waits in which everything does.
FORBIDDEN = (3600.0,)


def unnoticed_damage() -> bytes:
  """Returns a JPEG that the graph decodes and that Pillow's path refuses."""
  options = decoding.Options(SIZE)
  whole = testing.encode(testing.smooth(7, 60, 60), 'JPEG', quality=95)
  for place, bit in itertools.product(range(700, len(whole) - 40), range(8)):
    content = bytearray(whole)
    content[place] ^= 1 << bit
    try:
      decoding.native_square(tf.constant(bytes(content)), options)
    except tf.errors.OpError:
      continue
    try:
      decoding.square(bytes(content), options)
    except decoding.UnreadableError:
      return bytes(content)
  raise AssertionError('every change was noticed by both or by none')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """Returns a folder of 2 x 10 files of every kind; it is always there."""
  root = tmp_path_factory.mktemp('pictures')
  testing.write_folder(root, 2, 7)
  pixels = testing.smooth(9, 50, 60)
  for name, content in {
    'class0/x.png': testing.encode(pixels, 'PNG'),
    'class0/y.png': testing.encode(pixels, 'PNG', 'RGBA'),
    'class0/z.jpg': testing.encode(pixels, 'JPEG', 'CMYK'),
    'class1/x.jpg': unnoticed_damage(),
    'class1/y.jpg': testing.encode(testing.smooth(5, 200, 170), 'JPEG'),
    'class1/z.jpg': b'no image',
  }.items():
    (root / name).write_bytes(content)
  return root


@pytest.fixture
def data(pictures, tmp_path):
  """Returns a copy of the folder that may be moved."""
  path = tmp_path / 'data'
  path.mkdir()
  for source in pictures.rglob('*.*'):
    copy = path / source.relative_to(pictures)
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(source.read_bytes())
  return path


def train(source):
  return itertools.islice(testing.train_batches(source, SIZE), 6)


def evaluate(source):
  return pipeline.eval_batches(
    source, batch_size=8, decoder=decoding.Options(SIZE)
  )


def assert_same(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key], err_msg=key)


class Outage:
  """Moves a file or a folder away, and back when a wait has begun."""

  def __init__(self, path: pathlib.Path, caplog: pytest.LogCaptureFixture):
    self._path, self._away = path, path.with_name('away')
    self._caplog = caplog
    self._thread = threading.Thread(target=self._end)
    os.rename(self._path, self._away)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *exception):
    self._thread.join()

  def _end(self):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not self.warnings():
      time.sleep(0.01)
    time.sleep(0.1)
    os.rename(self._away, self._path)

  def warnings(self):
    return [m for m in list(self._caplog.messages) if 'trying again' in m]


@pytest.mark.parametrize('make', [train, evaluate])
def test_a_folder_that_comes_back_changes_no_pixel(
  data, monkeypatch, caplog, make
):
  source = folder.open_folder(str(data), '')
  expected = list(make(source))
  assert sum(batch['unreadable'].sum() for batch in expected) >= 1
  monkeypatch.setattr(retry, 'WAITS', LONG)
  caplog.clear()
  batches = make(source)
  ours = [next(batches)] if make is train else []
  with caplog.at_level(logging.INFO, 'absl'), Outage(data, caplog) as outage:
    ours += batches
  assert_same(ours, expected)
  (warning,) = outage.warnings()
  assert f'{data}/class' in warning
  assert 'cannot be read (No such file or directory)' in warning
  assert warning.endswith('trying again for 30 s')
  assert 'could be read again after' in caplog.text
  # What is no image is named and counted as ever.
  assert caplog.text.count('left out: ') == 1
  assert f'left out: {data}/class1/z.jpg (' in caplog.text


@pytest.mark.parametrize('make', [train, evaluate])
def test_a_folder_that_stays_away_stops_the_run(
  data, monkeypatch, caplog, make
):
  monkeypatch.setattr(retry, 'WAITS', NEVER)
  batches = make(folder.open_folder(str(data), ''))
  os.rename(data, data.with_name('away'))
  with pytest.raises(errors.UserError) as caught:
    list(batches)
  message = str(caught.value)
  assert message.startswith(f'{data}/class')
  for words in (
    'cannot be read (No such file or directory, tried for 0 s): ',
    '--config.data.data_dir',
    'run the same command again',
  ):
    assert words in message
  assert '\n' not in message
  assert len([m for m in caplog.messages if 'trying again' in m]) == 1
  assert 'left out' not in caplog.text


def test_files_share_the_waits(tmp_path, monkeypatch):
  testing.write_folder(tmp_path / 'data', 2, 64, (8, 8))
  source = folder.open_folder(str(tmp_path / 'data'), '')
  os.rename(tmp_path / 'data', tmp_path / 'away')
  monkeypatch.setattr(retry, 'WAITS', (0.5, 0.5))
  begun = time.monotonic()
  with pytest.raises(errors.UserError):
    next(testing.train_batches(source, SIZE, batch_size=128))
  assert time.monotonic() - begun < 20  # One by one: two minutes.


def remove(path):
  path.unlink()


def in_a_circle(path):
  path.unlink()
  path.symlink_to(path)


def replace_by_folder(path):
  path.unlink()
  path.mkdir()


def fail_in_the_middle(path):
  path.unlink()
  # It can be opened; reading it is an input/output error.
  path.symlink_to('/proc/self/mem')


@pytest.mark.parametrize(
  ('fail', 'code'),
  [
    (remove, errno.ENOENT),
    (in_a_circle, errno.ELOOP),
    (replace_by_folder, errno.EISDIR),
    pytest.param(
      fail_in_the_middle,
      errno.EIO,
      marks=pytest.mark.skipif(
        not pathlib.Path('/proc/self/mem').exists(), reason='Linux only'
      ),
    ),
  ],
)
def test_one_file_that_fails(data, monkeypatch, fail, code):
  monkeypatch.setattr(retry, 'WAITS', NEVER)
  source = folder.open_folder(str(data), '')
  fail(data / 'class1/003.jpg')
  with pytest.raises(errors.UserError) as caught:
    list(evaluate(source))
  reason = os.strerror(code)
  expected = f'{data}/class1/003.jpg cannot be read ({reason}, tried for 0 s)'
  assert expected in str(caught.value)


def test_no_permission(data, monkeypatch):
  monkeypatch.setattr(retry, 'WAITS', NEVER)
  source = folder.open_folder(str(data), '')
  (data / 'class0').chmod(0)
  user = os.geteuid()
  if not user:  # Root may read everything.
    os.seteuid(65534)
  try:
    with pytest.raises(errors.UserError, match=r'\(Permission denied, tried'):
      list(evaluate(source))
  finally:
    os.seteuid(user)
    (data / 'class0').chmod(0o755)


def test_photographs_of_a_user_are_left_out_at_once(data, monkeypatch, caplog):
  source = folder.open_files([str(data / 'class0')])
  (data / 'class0/003.jpg').unlink()
  monkeypatch.setattr(retry, 'WAITS', FORBIDDEN)
  batches = list(evaluate(source))
  unreadable = np.concatenate([batch['unreadable'] for batch in batches])
  assert np.flatnonzero(unreadable).tolist() == [3]
  (warning,) = [r for r in caplog.messages if '003.jpg' in r]
  assert warning == (
    f'Unreadable, left out: {data}/class0/003.jpg (No such file or directory)'
  )


@pytest.fixture
def kept(data, tmp_path):
  """Returns the store of the folder."""
  source = folder.open_folder(str(data), '')
  options = decoding.Options(SIZE)
  store.write(source, str(tmp_path / 'store'), options)
  return store.open_store(str(tmp_path / 'store'), '', '', SIZE)


@pytest.mark.parametrize('make', [train, evaluate])
def test_a_store_that_comes_back_changes_no_pixel(
  kept, monkeypatch, caplog, make
):
  expected = list(make(kept))
  monkeypatch.setattr(retry, 'WAITS', LONG)
  file = kept.directory / '00000/005'
  for path in (kept.directory.parent, file):
    caplog.clear()
    batches = make(kept)
    with Outage(path, caplog) as outage:
      assert_same(batches, expected)
    (warning,) = outage.warnings()
    assert 'is damaged or missing (No such file or directory): ' in warning


def test_a_square_that_stays_short_stops_the_run(kept, monkeypatch):
  monkeypatch.setattr(retry, 'WAITS', NEVER)
  os.truncate(kept.directory / '00000/005', 100)
  with pytest.raises(errors.UserError) as caught:
    list(evaluate(kept))
  assert (
    '00000/005 is damaged or missing (100 of 4,800 bytes, tried for 0 s): run'
    ' the same command with --mode=prepare'
  ) in str(caught.value)


def test_other_bytes_in_a_store_are_not_waited_for(kept, monkeypatch):
  path = kept.directory / '00000/005'
  content = bytearray(path.read_bytes())
  content[9] ^= 1
  path.write_bytes(content)
  monkeypatch.setattr(retry, 'WAITS', FORBIDDEN)
  with pytest.raises(errors.UserError, match='005 is damaged or missing: run'):
    list(evaluate(kept))


def test_waits_grow_and_end():
  slept = []

  def attempt():
    raise retry.UnavailableError('a/b\n', 'gone')

  with pytest.raises(errors.UserError, match=r'^a/b\\n cannot be read \(gone,'):
    retry.call(attempt, slept.append)
  assert slept == [1, 2, 4, 8, 16, 32]


def test_nothing_is_waited_for_when_nothing_fails(caplog):
  assert retry.call(lambda: 7, lambda seconds: 1 / 0) == 7
  assert not caplog.messages
