"""Atomic writes, and JSON that every parser reads."""

import csv
import json
import math
import os
import pathlib
import pwd
import stat

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import names
from tests import files_testing


def test_place_is_beside_the_data(tmp_path):
  assert files.beside(tmp_path, 'x.npz') == tmp_path / 'x.npz'


def test_place_is_in_the_cache_where_data_cannot_be_written(
  tmp_path, monkeypatch
):
  home = tmp_path / 'home'
  monkeypatch.setattr(os, 'access', lambda path, mode: path == tmp_path)
  monkeypatch.setenv('HOME', str(home))
  cache = home / '.cache/alexnet_jax'
  folders = [tmp_path / 'one', tmp_path / 'two']
  # A folder whose name is not UTF-8 has a place too.
  folders.append(tmp_path / os.fsdecode(b'\xff\xfe'))
  for folder in folders:
    folder.mkdir()
  places = [files.beside(folder, 'x.npz') for folder in folders]
  assert len(set(places)) == 3
  assert all(place.is_relative_to(cache) for place in places)
  (folders[0] / 'x.npz').touch()
  assert files.beside(folders[0], 'x.npz') == folders[0] / 'x.npz'


def test_there_may_be_no_place_at_all(tmp_path, monkeypatch, homeless, caplog):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  assert files.beside(tmp_path, 'x.npz') is None
  (line,) = caplog.messages
  assert line == (
    f'Neither {tmp_path} nor ~/.cache can be written: x.npz is not kept'
  )


def test_what_is_beside_the_data_is_a_file(tmp_path):
  os.mkfifo(tmp_path / 'x.npz')
  with pytest.raises(errors.UserError, match='x.npz is not a regular file'):
    files.beside(tmp_path, 'x.npz')


def test_a_path_may_begin_with_a_home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  root = pathlib.Path(pwd.getpwuid(0).pw_dir)
  for text, expected in {
    '~': tmp_path,
    '~/x y/z': tmp_path / 'x y/z',
    '~root/x': root / 'x',
    './~/x': pathlib.Path('~/x'),
    'runs/a~': pathlib.Path('runs/a~'),
    '.': pathlib.Path('.'),
    'a:b': pathlib.Path('a:b'),
    '*.jpg': pathlib.Path('*.jpg'),
  }.items():
    assert files.user_path(text, '--images') == expected


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('', 'is empty'),
    (' ', 'is empty'),
    ('gs://bucket/x', 'is not a local folder: mount the bucket or copy it'),
    ('s3://x', 'is not a local folder'),
    ('abfs+ssl://x', 'is not a local folder'),
    ('file:///tmp', 'is not a local folder'),
    ('~nobody-here/x', 'home folder that is not known'),
    ('a\0b', 'cannot be opened'),
    ('\ud800', 'cannot be opened'),
    ('file/x', r'cannot be opened \(Not a directory\)'),
    ('n' * 256, 'cannot be opened .File name too long'),
    ('new/' + '猫' * 86, 'cannot be opened .File name too long'),
    ('x/' * 3000, 'cannot be opened .File name too long'),
    ('loop/x', 'cannot be opened .Too many levels'),
  ],
)
def test_what_is_no_local_path_is_a_mistake_in_one_line(
  tmp_path, monkeypatch, text, words
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').touch()
  (tmp_path / 'loop').symlink_to('loop')
  with pytest.raises(errors.UserError, match=words) as caught:
    files.user_path(text, '--output')
  message = str(caught.value)
  assert '--output' in message
  assert len(message) < 1000
  assert sorted(os.listdir()) == ['file', 'loop']


@pytest.mark.parametrize('text', ['~', '~/x'])
def test_without_a_home_no_path_begins_with_it(homeless, monkeypatch, text):
  with pytest.raises(errors.UserError, match='that is not known'):
    files.user_path(text, '--output')
  monkeypatch.setenv('HOME', '')
  with pytest.raises(errors.UserError, match='that is not known'):
    files.user_path(text, '--output')


def test_a_folder_is_no_file(tmp_path):
  (tmp_path / 'file').touch()
  os.mkfifo(tmp_path / 'pipe')
  (tmp_path / 'link').symlink_to('gone')
  for name, kind in {'file': 'file', 'pipe': 'file', 'link': 'broken'}.items():
    with pytest.raises(errors.UserError, match=f'is a {kind}.*not a folder'):
      files.user_folder(str(tmp_path / name), '--workdir')
  assert files.user_folder(str(tmp_path / 'new'), '--workdir').name == 'new'


def test_a_read_only_folder_is_a_mistake_in_one_line(tmp_path):
  with files_testing.read_only(tmp_path):
    assert not files.is_writable(tmp_path / 'a/b')
    for folder in (tmp_path, tmp_path / 'a/b'):
      with pytest.raises(errors.UserError, match='Read-only .*with --output'):
        files.check_writable(folder, '--output')
      with pytest.raises(errors.UserError, match='Read-only .*with --output'):
        files.write_text(folder / 'x.txt', '')
  files.check_writable(tmp_path / 'a/b', '--output')
  assert list(tmp_path.iterdir()) == []


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
  (tmp_path / 'x.csv').mkdir()
  with pytest.raises(errors.UserError, match='cannot be written'):
    files.write_csv(tmp_path / 'x.csv', ['a'], [])
  assert [path.name for path in tmp_path.iterdir()] == ['x.csv']


def test_no_cell_is_a_formula(tmp_path):
  formulas = ['=1+1', '+1-x', '-x', '@SUM(1)', '\t=1', '\r=1', '\n=1', '＝1']
  others = ['x=1', '', "'", '-1.5', '+2', -1.5, -3, None, np.float32(-0.5)]
  path = tmp_path / 'x.csv'
  files.write_csv(path, formulas, [formulas, others])
  with path.open(newline='', encoding='utf-8') as file:
    header, first, second = csv.reader(file)
  assert header == first == ["'" + names.printable(x) for x in formulas]
  assert second == [
    'x=1', '', "'", '-1.5', '+2', '-1.5', '-3', '', '-0.5',
  ]  # fmt: skip


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
