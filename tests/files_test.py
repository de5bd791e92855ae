"""Atomic writes, and JSON that every parser reads."""

import json
import math
import os
import pathlib
import stat

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import files


def test_place_is_beside_the_data(tmp_path):
  assert files.beside(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_place_is_in_the_cache_where_data_cannot_be_written(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  monkeypatch.setattr(pathlib.Path, 'home', lambda: tmp_path / 'home')
  cache = tmp_path / 'home/.cache/alexnet_jax'
  one = files.beside(tmp_path / 'one', 'x.npz')
  two = files.beside(tmp_path / 'two', 'x.npz')
  assert one != two
  assert one.is_relative_to(cache)
  assert two.is_relative_to(cache)
  assert files.beside(None, 'x.npz').is_relative_to(cache)
  # A folder whose name is not UTF-8 has a place too.
  odd = tmp_path / os.fsdecode(b'\xff\xfe')
  assert files.beside(odd, 'x.npz').is_relative_to(cache)
  (tmp_path / 'x.npz').touch()
  assert files.beside(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_save_arrays_is_complete_and_readable_by_others(tmp_path):
  path = tmp_path / 'new/folder/x.npz'
  files.save_arrays(path, a=np.arange(3), b=np.array('text'))
  with np.load(path) as stored:
    assert stored['a'].tolist() == [0, 1, 2]
    assert stored['b'].item() == 'text'
  assert stat.S_IMODE(path.stat().st_mode) == 0o644
  assert list(path.parent.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
  """A program that is killed meanwhile leaves it, and a hidden file."""
  path = tmp_path / 'x'
  path.write_bytes(b'old')
  with files.replacing(path) as file:
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
  with files.replacing(tmp_path / 'x') as file:
    file.write(bytes(1234))
  assert done[:2] == [1234, tmp_path / 'x']


@pytest.mark.parametrize(
  'error', [OSError('disk trouble'), KeyboardInterrupt(), ValueError('no')]
)
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, error):
  path = tmp_path / 'x.npz'
  files.save_arrays(path, a=np.arange(3))
  before = path.read_bytes()

  def fail(file, **options):
    file.write(b'half')
    raise error

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(type(error)) as caught:
    files.save_arrays(path, a=np.arange(4))
  assert caught.value is error
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('number', list(files.DISK_ERRORS))
def test_errors_of_a_disk_are_said_in_words(tmp_path, number):
  words = f'{files.DISK_ERRORS[number][0]} at {tmp_path}/x: '
  with (
    pytest.raises(errors.UserError, match=f'{words}.* the same command again$'),
    files.replacing(tmp_path / 'x'),
  ):
    raise OSError(number, os.strerror(number))
  assert list(tmp_path.iterdir()) == []


def _refuse(constant):
  raise AssertionError(constant)


def test_what_is_not_finite_is_null():
  value = {
    'a': math.nan,
    'b': [math.inf, -math.inf, 0.5, 3, True, None],
    'c': {'d': (np.float64('nan'), np.float64(2.5))},
  }
  text = files.dumps(value)
  assert json.loads(text, parse_constant=_refuse) == {
    'a': None,
    'b': [None, None, 0.5, 3, True, None],
    'c': {'d': [None, 2.5]},
  }


def test_names_are_printable():
  text = files.dumps({'\udcff': 'a\udcfe\n猫'}, indent=2)
  assert json.loads(text) == {r'\xff': 'a\\xfe\\n猫'}


def test_files_of_older_runs_are_read():
  text = '{"a": NaN, "b": [Infinity, -Infinity, 1.5]}'
  assert files.loads(text) == {'a': None, 'b': [None, None, 1.5]}
  with pytest.raises(json.JSONDecodeError):
    files.loads('{"a": ')


def test_a_folder_that_is_a_file_is_a_mistake_in_one_line(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(errors.UserError, match='cannot be written .*--output'):
    files.write_text(tmp_path / 'file' / 'x.txt', '')


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
  (tmp_path / 'x').mkdir()
  with pytest.raises(errors.UserError, match=f'{tmp_path}/x cannot be written'):
    files.write_text(tmp_path / 'x', 'text')
  assert list(tmp_path.iterdir()) == [tmp_path / 'x']


def test_a_name_that_is_too_long_is_named(tmp_path):
  with pytest.raises(errors.UserError, match='cannot be written .*too long'):
    files.write_text(tmp_path / ('x' * 300) / 'y', 'text')
