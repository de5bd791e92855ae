import logging
import os
import shutil
import signal
import stat

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import pipeline
from tests import input_pipeline_testing as testing

ODD = os.fsdecode(b'\xff\xfe')  # No text in UTF-8.


@pytest.fixture
def data(tmp_path):
  testing.write_folder(tmp_path / 'train', classes=3, per_class=2)
  return tmp_path


@pytest.fixture
def pictures(tmp_path, monkeypatch):
  """Makes class0/ and class1/ with 000.jpg to 002.jpg, and is there."""
  testing.write_folder(tmp_path, 2, 3)
  (tmp_path / 'class1' / 'notes.txt').write_text('no image')
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def soon():
  """Fails a test that hangs, instead of all of them."""

  def fail(number, frame):
    raise AssertionError('it hangs')

  before = signal.signal(signal.SIGALRM, fail)
  signal.alarm(30)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


def names(source):
  return [source.describe(i) for i in range(source.num_examples)]


def names_and_labels(source, root):
  """Returns what is found under a folder, and the classes it is of."""
  found = [os.path.relpath(name, root) for name in names(source)]
  classes = [source.class_names[label] for label in source.labels]
  return list(zip(found, classes, strict=True))


def messages(caplog):
  return [record.getMessage() for record in caplog.records]


def one_batch(source, image_size=32):
  size = source.num_examples + 2
  (batch,) = pipeline.eval_batches(
    source, batch_size=size, decoder=decoding.Options(image_size)
  )
  return batch


def test_classes_and_labels_follow_sorted_names(data):
  os.rename(data / 'train/class1', data / 'train/Zebra')
  source = folder.open_folder(str(data), 'train')
  assert source.class_names == ('Zebra', 'class0', 'class2')
  assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
  assert source.labels.dtype == np.int32
  assert source.num_examples == 6
  assert source.directory == data
  assert source.name == data.name
  assert source.describe(3) == str(data / 'train/class0/001.jpg')


def test_reads_the_very_bytes(data):
  source = folder.open_folder(str(data), 'train')
  for index, path, expected in (
    (4, 'class2/000.jpg', 2),
    (1, 'class0/001.jpg', 0),
  ):
    content, label = source.read(tf.constant(index, tf.int64))
    assert content.numpy() == (data / 'train' / path).read_bytes()
    assert (label, label.dtype) == (expected, tf.int32)


def test_batches_follow_the_order_of_the_listing(data):
  batch = one_batch(folder.open_folder(str(data), 'train'))
  assert batch['label'].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
  assert batch['mask'].tolist() == [1] * 6 + [0] * 2
  assert not batch['unreadable'].any()
  options = decoding.Options(32)
  for i, path in enumerate(sorted((data / 'train').glob('*/*.jpg'))):
    expected = decoding.square(path.read_bytes(), options)
    np.testing.assert_array_equal(batch['image'][i], expected)


def test_classes_may_be_in_the_data_folder_itself(data):
  source = folder.open_folder(str(data / 'train'), '')
  assert source.num_examples == 6


def test_hidden_and_other_files_are_passed_over_and_nested_ones_found(data):
  one = data / 'train/class0'
  content = (one / '000.jpg').read_bytes()
  (one / 'deeper/still').mkdir(parents=True)
  (one / 'deeper/still/x.PNG').write_bytes(content)
  (one / '.hidden.jpg').write_bytes(content)
  (one / '.thumbnails').mkdir()
  (one / '.thumbnails/y.jpg').write_bytes(content)
  (one / 'readme.txt').write_text('about')
  (data / 'train/.cache').mkdir()
  source = folder.open_folder(str(data), 'train')
  found = [name.rsplit('class0/')[-1] for name in names(source)[:3]]
  assert found == ['000.jpg', '001.jpg', 'deeper/still/x.PNG']
  assert source.num_examples == 7


def test_other_endings_are_counted_in_one_line(data, caplog):
  for number, name in enumerate(['a.heic', 'b.HEIC', 'c.txt', 'd', '.e.txt']):
    (data / f'train/class{number % 3}' / name).write_bytes(b'no image')
  with caplog.at_level(logging.INFO, logger='absl'):
    source = folder.open_folder(str(data), 'train')
  assert source.num_examples == 6
  (line,) = messages(caplog)
  expected = f'{data}/train: skipped 4 files that are not named like images'
  assert line.startswith(expected)
  counted = line.rsplit(': ')[-1].split(', ')
  assert counted[0] == '2 .heic'
  assert sorted(counted[1:]) == ['1 .txt', '1 without an extension']


def test_nothing_is_said_when_nothing_is_passed_over(data, caplog):
  with caplog.at_level(logging.INFO, logger='absl'):
    folder.open_folder(str(data), 'train')
  assert messages(caplog) == []


def test_formats_are_read_as_pillow_reads_them(tmp_path):
  """A picture of the square's size as it is; one of twice that, halved."""
  formats = {
    'a.avif': 'AVIF',
    'b.bmp': 'BMP',
    'c.gif': 'GIF',
    'd.jp2': 'JPEG2000',
    'e.png': 'PNG',
    'f.tif': 'TIFF',
    'g.TIFF': 'TIFF',
    'h.webp': 'WEBP',
  }
  for side in (32, 64):
    (tmp_path / f'side{side}').mkdir()
    for number, (name, kind) in enumerate(formats.items()):
      content = testing.encode(testing.smooth(number, side, side), kind)
      (tmp_path / f'side{side}' / name).write_bytes(content)
  source = folder.open_folder(str(tmp_path), '')
  assert [os.path.basename(name) for name in names(source)] == [*formats] * 2
  batch = one_batch(source)
  assert batch['mask'].tolist() == [1] * 16 + [0] * 2
  for index, image in enumerate(batch['image'][:16]):
    expected = Image.open(source.describe(index)).convert('RGB')
    if expected.width == 64:
      expected = expected.reduce(2)
    difference = image.astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1
    assert np.ptp(image) > 100


def test_endings_are_those_that_pillow_decodes():
  known = folder.extensions()
  assert known >= {'.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.gif', '.webp'}
  assert known >= {'.tif', '.tiff', '.avif'}
  # It would need other programs for these, or only writes them.
  assert not known & {'.heic', '.eps', '.mpg', '.wmf', '.h5', '.pdf', '.txt'}


def test_names_that_are_not_utf8_are_read(data):
  os.rename(data / 'train/class2', data / 'train' / ODD)
  path = data / 'train/class0' / f'{ODD}.jpg'
  os.rename(data / 'train/class0/001.jpg', path)
  (data / 'train/class1' / f'{ODD}.png').write_bytes(b'damaged')
  source = folder.open_folder(str(data), 'train')
  assert source.class_names == ('class0', 'class1', ODD)
  assert source.describe(1) == str(path)
  batch = one_batch(source)
  assert batch['label'].tolist() == [0, 0, 1, 1, 0, 2, 2, 0, 0]
  assert batch['mask'].tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 0]
  assert np.flatnonzero(batch['unreadable']).tolist() == [4]
  expected = decoding.square(path.read_bytes(), decoding.Options(32))
  np.testing.assert_array_equal(batch['image'][1], expected)
  # A pattern, and the folder itself, whose name is not UTF-8 either.
  assert folder.open_files([str(data / 'train' / ODD)]).num_examples == 2
  assert folder.open_files([f'{data}/train/{ODD}/*']).num_examples == 2


def test_what_is_no_file_is_named_and_left_out(data, caplog, soon):
  one = data / 'train/class0'
  os.symlink(one / 'gone.jpg', one / 'broken.jpg')
  os.symlink('loop_b.jpg', one / 'loop_a.jpg')
  os.symlink('loop_a.jpg', one / 'loop_b.jpg')
  os.mkfifo(one / 'pipe.jpg')
  os.mknod(one / 'socket.jpg', stat.S_IFSOCK | 0o600)
  os.symlink('/dev/zero', one / 'zero.jpg')
  # A link to a file is a file.
  os.symlink('../class1/000.jpg', one / 'link.jpg')
  with caplog.at_level(logging.WARNING, logger='absl'):
    source = folder.open_folder(str(data), 'train')
  assert [name for name, _ in names_and_labels(source, one)][:3] == [
    '000.jpg', '001.jpg', 'link.jpg',
  ]  # fmt: skip
  assert source.num_examples == 7
  reasons = dict(
    line.removeprefix(f'Left out: {one}/').split(' ', 1)
    for line in messages(caplog)
  )
  assert reasons == {
    'broken.jpg': '(No such file or directory)',
    'loop_a.jpg': '(Too many levels of symbolic links)',
    'loop_b.jpg': '(Too many levels of symbolic links)',
    'pipe.jpg': '(not a regular file)',
    'socket.jpg': '(not a regular file)',
    'zero.jpg': '(not a regular file)',
  }
  assert one_batch(source)['mask'].sum() == 7


@pytest.mark.parametrize('target', ['.', '..', '../..', '../../..'])
@pytest.mark.parametrize('linking', ['class0', 'class2'])
def test_a_link_to_a_folder_above_brings_nothing_in(
  data, caplog, target, linking
):
  """Whatever it leads to: the classes, other splits, or around in a circle."""
  testing.write_folder(data / 'val', classes=3, per_class=1)
  expected = folder.open_folder(str(data), 'train')
  os.symlink(target, data / 'train' / linking / 'up')
  with caplog.at_level(logging.WARNING, logger='absl'):
    source = folder.open_folder(str(data), 'train')
  assert names(source) == names(expected)
  assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
  (line,) = messages(caplog)
  assert f'train/{linking}/up (a folder that was seen before)' in line


def test_folders_that_link_to_each_other_are_entered_once(data):
  one = data / 'train/class0'
  for name, other in (('a', 'b'), ('b', 'a')):
    (one / name).mkdir()
    shutil.copy(one / '000.jpg', one / name / 'x.jpg')
    os.symlink(f'../{other}', one / name / 'other')
  source = folder.open_folder(str(data), 'train')
  found = [name for name, _ in names_and_labels(source, one)][:4]
  assert found == ['000.jpg', '001.jpg', 'a/other/x.jpg', 'a/x.jpg']
  assert source.num_examples == 8


def test_a_class_may_be_a_link_to_a_folder_elsewhere(data, tmp_path):
  elsewhere = tmp_path / 'elsewhere'
  os.rename(data / 'train/class1', elsewhere)
  os.symlink(elsewhere, data / 'train/class1')
  source = folder.open_folder(str(data), 'train')
  assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
  assert source.describe(2) == str(data / 'train/class1/000.jpg')


def test_classes_may_share_a_folder(data):
  """A folder is entered once for a class, not once and for all."""
  os.symlink('class0', data / 'train/alias')
  os.symlink('../class1', data / 'train/class0/more')
  source = folder.open_folder(str(data), 'train')
  assert names_and_labels(source, data / 'train') == [
    ('alias/000.jpg', 'alias'),
    ('alias/001.jpg', 'alias'),
    ('alias/more/000.jpg', 'alias'),
    ('alias/more/001.jpg', 'alias'),
    ('class0/000.jpg', 'class0'),
    ('class0/001.jpg', 'class0'),
    ('class0/more/000.jpg', 'class0'),
    ('class0/more/001.jpg', 'class0'),
    ('class1/000.jpg', 'class1'),
    ('class1/001.jpg', 'class1'),
    ('class2/000.jpg', 'class2'),
    ('class2/001.jpg', 'class2'),
  ]


@pytest.mark.parametrize('where', ['train', 'train/class1', 'train/class1/in'])
def test_a_folder_that_cannot_be_listed(data, monkeypatch, where):
  (data / 'train/class1/in').mkdir()
  scandir = os.scandir

  def refuse(path):
    if os.fspath(path) == str(data / where):
      raise PermissionError(13, 'Permission denied')
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(errors.UserError) as caught:
    folder.open_folder(str(data), 'train')
  message = str(caught.value)
  assert f'{data / where} cannot be listed (Permission denied): ' in message
  assert '\n' not in message


def test_fingerprint_follows_the_files(data):
  def fingerprint():
    return folder.open_folder(str(data), 'train').fingerprint

  path = data / 'train/class0/000.jpg'
  os.utime(path, (1000, 1000))
  seen = [fingerprint()]
  assert fingerprint() == seen[0]
  os.utime(path, (1000, 1001))
  seen.append(fingerprint())
  path.write_bytes(path.read_bytes() + b'\0')
  os.utime(path, (1000, 1001))
  seen.append(fingerprint())
  path.rename(data / 'train/class0/0000.jpg')
  seen.append(fingerprint())
  (data / 'train/class0/001.jpg').unlink()
  seen.append(fingerprint())
  assert len(set(seen)) == 5


def test_fingerprint_is_the_same_where_the_data_has_moved(data):
  before = folder.open_folder(str(data), 'train').fingerprint
  os.rename(data / 'train', data / 'other')
  assert folder.open_folder(str(data), 'other').fingerprint == before


def test_missing_folder(tmp_path):
  with pytest.raises(errors.UserError, match='no data folder .*absent.*set'):
    folder.open_folder(str(tmp_path / 'absent'), 'train')
  with pytest.raises(errors.UserError, match='data_dir is empty'):
    folder.open_folder('', 'train')


def test_missing_split_names_those_there(data):
  with pytest.raises(errors.UserError, match=r"'val'.*, only 'train': "):
    folder.open_folder(str(data), 'val')


def test_a_data_folder_without_folders(tmp_path):
  with pytest.raises(errors.UserError, match=r'train/<class>/<file>\.jpg'):
    folder.open_folder(str(tmp_path), 'train')


def test_folder_without_classes(tmp_path):
  (tmp_path / 'train').mkdir()
  with pytest.raises(errors.UserError, match='no class folders'):
    folder.open_folder(str(tmp_path), 'train')


def test_class_without_images(data):
  (data / 'train/class9').mkdir()
  (data / 'train/class9/notes.txt').write_text('none yet')
  with pytest.raises(errors.UserError, match='class9 holds no images'):
    folder.open_folder(str(data), 'train')


def test_a_file_a_folder_and_a_pattern(pictures):
  one = folder.open_files(['class1/001.jpg'])
  assert names(one) == ['class1/001.jpg']
  assert (one.class_names, one.directory) == ((), None)
  # A file is taken at its word, whatever it is called.
  assert folder.open_files(['class1/notes.txt']).num_examples == 1
  every = folder.open_files(['.'])
  assert [os.path.normpath(name) for name in names(every)] == [
    f'class{c}/00{i}.jpg' for c in (0, 1) for i in (0, 1, 2)
  ]
  some = folder.open_files(['class*/*1.jpg'])
  assert names(some) == ['class0/001.jpg', 'class1/001.jpg']
  deep = folder.open_files(['**/*2.jpg'])
  assert names(deep) == ['class0/002.jpg', 'class1/002.jpg']
  # In the order that they are asked for, and nothing twice.
  both = folder.open_files(['class1/002.jpg', 'class1/*.jpg'])
  assert names(both) == ['class1/002.jpg', 'class1/000.jpg', 'class1/001.jpg']


@pytest.mark.parametrize(
  ('patterns', 'classes'),
  [
    (['class0', 'class0'], 1),
    (['.', 'class0'], 2),
    (['class0', '.'], 2),
    (['class0', 'class0/*'], 1),
    (['class*/*.jpg', 'class0/', './class1'], 2),
    (['class0/001.jpg', './class0/001.jpg', 'class1/../class0', 'class0'], 1),
  ],
)
def test_overlapping_patterns_give_each_file_once(pictures, patterns, classes):
  source = folder.open_files(patterns)
  assert sorted(map(os.path.realpath, names(source))) == [
    str(pictures / f'class{c}/00{i}.jpg')
    for c in range(classes)
    for i in range(3)
  ]


def test_the_home_folder_has_a_short_name(pictures, monkeypatch):
  monkeypatch.setenv('HOME', str(pictures))
  assert folder.open_files(['~/class0']).num_examples == 3


def test_brackets_in_a_name_are_no_pattern(pictures):
  os.rename('class0/000.jpg', 'class0/[0].jpg')
  assert names(folder.open_files(['class0/[0].jpg'])) == ['class0/[0].jpg']


@pytest.mark.parametrize(
  'pattern',
  ['*.png', 'nothing.jpg', 'empty', 'broken.jpg', '*/notes'],
)
def test_nothing_found_is_a_mistake_in_one_line(pictures, pattern):
  os.mkdir('empty')
  os.symlink('gone.jpg', 'broken.jpg')
  with pytest.raises(errors.UserError) as caught:
    folder.open_files(['class0/000.jpg', pattern])
  assert f"no images match '{pattern}'" in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('name', 'reason'),
  [
    ('pipe.jpg', 'is not a regular file'),
    ('socket.jpg', 'is not a regular file'),
    ('/dev/zero', 'is not a regular file'),
    ('loop', 'cannot be opened'),
    ('s3://bucket/a.jpg', 'is not a local folder'),
  ],
)
def test_what_is_named_and_no_file_is_refused(pictures, name, reason, soon):
  os.mkfifo('pipe.jpg')
  os.mknod('socket.jpg', stat.S_IFSOCK | 0o600)
  os.symlink('loop', 'loop')
  with pytest.raises(errors.UserError, match=f'--query={name} {reason}'):
    folder.open_files(['class0/000.jpg', name], '--query')


def test_a_pattern_takes_the_files_among_what_it_matches(
  pictures, caplog, soon
):
  os.mkfifo('class0/003.jpg')
  os.mkdir('class0/004.jpg')
  with caplog.at_level(logging.WARNING, logger='absl'):
    source = folder.open_files(['class0/*.jpg'])
  assert names(source) == [f'class0/00{i}.jpg' for i in (0, 1, 2)]
  assert messages(caplog) == ['Left out: class0/003.jpg (not a regular file)']


def test_pixels_are_those_of_the_same_files_in_a_split(pictures):
  labeled = one_batch(folder.open_folder(str(pictures), ''))
  plain = one_batch(folder.open_files(['.']))
  for key in ('image', 'mask', 'unreadable', 'index'):
    np.testing.assert_array_equal(plain[key], labeled[key])
  assert plain['label'].tolist() == [folder.NO_LABEL] * 6 + [0, 0]


def test_the_fingerprint_is_of_the_files(pictures):
  before = folder.open_files(['class0']).fingerprint
  assert folder.open_files(['class0']).fingerprint == before
  assert folder.open_files(['class1']).fingerprint != before
  os.utime('class0/001.jpg', (1, 1))
  assert folder.open_files(['class0']).fingerprint != before
