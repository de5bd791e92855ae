import os
import pathlib
import stat

import numpy as np
import pytest

from alexnet_jax.input_pipeline import storage


def test_place_is_beside_the_data(tmp_path):
  assert storage.place(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_place_is_in_the_cache_where_data_cannot_be_written(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  monkeypatch.setattr(pathlib.Path, 'home', lambda: tmp_path / 'home')
  cache = tmp_path / 'home/.cache/alexnet_jax'
  one = storage.place(tmp_path / 'one', 'x.npz')
  two = storage.place(tmp_path / 'two', 'x.npz')
  assert one != two
  assert one.is_relative_to(cache)
  assert two.is_relative_to(cache)
  assert storage.place(None, 'x.npz').is_relative_to(cache)
  (tmp_path / 'x.npz').touch()
  assert storage.place(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_save_arrays_is_complete_and_readable_by_others(tmp_path):
  path = tmp_path / 'new/folder/x.npz'
  storage.save_arrays(path, a=np.arange(3), b=np.array('text'))
  with np.load(path) as stored:
    assert stored['a'].tolist() == [0, 1, 2]
    assert stored['b'].item() == 'text'
  assert stat.S_IMODE(path.stat().st_mode) == 0o644
  assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'x.npz'
  storage.save_arrays(path, a=np.arange(3))
  before = path.read_bytes()

  def fail(file, **options):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(OSError, match='disk full'):
    storage.save_arrays(path, a=np.arange(4))
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]
