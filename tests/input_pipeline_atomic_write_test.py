import errno
import os
import pathlib
import re
import stat

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import atomic_write


def test_place_is_beside_the_data(tmp_path):
  assert atomic_write.place(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_place_is_in_the_cache_where_data_cannot_be_written(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  monkeypatch.setattr(pathlib.Path, 'home', lambda: tmp_path / 'home')
  cache = tmp_path / 'home/.cache/alexnet_jax'
  one = atomic_write.place(tmp_path / 'one', 'x.npz')
  two = atomic_write.place(tmp_path / 'two', 'x.npz')
  assert one != two
  assert one.is_relative_to(cache)
  assert two.is_relative_to(cache)
  assert atomic_write.place(None, 'x.npz').is_relative_to(cache)
  # A folder whose name is not UTF-8 has a place too.
  odd = tmp_path / os.fsdecode(b'\xff\xfe')
  assert atomic_write.place(odd, 'x.npz').is_relative_to(cache)
  (tmp_path / 'x.npz').touch()
  assert atomic_write.place(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_save_arrays_is_complete_and_readable_by_others(tmp_path):
  path = tmp_path / 'new/folder/x.npz'
  atomic_write.save_arrays(path, a=np.arange(3), b=np.array('text'))
  with np.load(path) as stored:
    assert stored['a'].tolist() == [0, 1, 2]
    assert stored['b'].item() == 'text'
  assert stat.S_IMODE(path.stat().st_mode) == 0o644
  assert list(path.parent.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
  """A program that is killed meanwhile leaves it, and a hidden file."""
  path = tmp_path / 'x'
  path.write_bytes(b'old')
  with atomic_write.replacing(path) as file:
    file.write(b'half')
    file.flush()
    assert path.read_bytes() == b'old'
    others = [other.name for other in tmp_path.iterdir() if other != path]
    assert [name[0] for name in others] == ['.']
    file.write(b' and half')
  assert path.read_bytes() == b'half and half'
  assert list(tmp_path.iterdir()) == [path]


def test_what_is_replaced_is_on_the_disk_first(tmp_path, monkeypatch):
  done = []
  fsync, replace = os.fsync, os.replace

  def note_fsync(handle):
    done.append(os.fstat(handle).st_size)
    fsync(handle)

  def note_replace(old, new):
    done.append(new)
    replace(old, new)

  monkeypatch.setattr(os, 'fsync', note_fsync)
  monkeypatch.setattr(os, 'replace', note_replace)
  with atomic_write.replacing(tmp_path / 'x') as file:
    file.write(bytes(1234))
  assert done[:2] == [1234, tmp_path / 'x']


@pytest.mark.parametrize(
  'error', [OSError('disk trouble'), KeyboardInterrupt(), ValueError('no')]
)
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, error):
  path = tmp_path / 'x.npz'
  atomic_write.save_arrays(path, a=np.arange(3))
  before = path.read_bytes()

  def fail(file, **options):
    file.write(b'half')
    raise error

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(type(error)) as caught:
    atomic_write.save_arrays(path, a=np.arange(4))
  assert caught.value is error
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_in_words(tmp_path):
  with (
    pytest.raises(
      errors.UserError, match=f'disk is full at {tmp_path}/x: make'
    ),
    atomic_write.replacing(tmp_path / 'x'),
  ):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  assert list(tmp_path.iterdir()) == []


def test_a_split_as_a_part_of_a_name():
  names = [
    atomic_write.split_name(split)
    for split in ('train', 'train[:90%]', 'train[90%:]', 'a/b', '', 'x-1.0')
  ]
  assert all(re.fullmatch(r'[\w.-]+', name) for name in names)
  assert (names[0], names[-1]) == ('train', 'x-1.0')
  # Both halves of a set are often in one folder.
  assert len(set(names)) == len(names)
