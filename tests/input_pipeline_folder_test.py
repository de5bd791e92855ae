import os

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import folder
from tests import input_pipeline_testing as testing


@pytest.fixture
def data(tmp_path):
  testing.write_folder(tmp_path / 'train', classes=3, per_class=2)
  return tmp_path


def test_classes_and_labels_follow_sorted_names(data):
  os.rename(data / 'train/class1', data / 'train/Zebra')
  source = folder.open_folder(str(data), 'train')
  assert source.class_names == ('Zebra', 'class0', 'class2')
  assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
  assert source.labels.dtype == np.int32
  assert source.num_examples == 6
  assert source.directory == data
  assert source.describe(3) == str(data / 'train/class0/001.jpg')


def test_reads_the_very_bytes(data):
  source = folder.open_folder(str(data), 'train')
  paths, labels = source.fetch(np.array([4, 1]))
  content, label = source.read((paths[0], labels[0]))
  assert content.numpy() == (data / 'train/class2/000.jpg').read_bytes()
  assert label == 2


def test_classes_may_lie_in_the_data_folder_itself(data):
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
  names = [source.describe(i).rsplit('class0/')[-1] for i in range(3)]
  assert names == ['000.jpg', '001.jpg', 'deeper/still/x.PNG']
  assert source.num_examples == 7


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


def test_missing_folder(tmp_path):
  with pytest.raises(errors.UserError, match='no data folder .*absent.*set'):
    folder.open_folder(str(tmp_path / 'absent'), 'train')
  with pytest.raises(errors.UserError, match="no data folder ''"):
    folder.open_folder('', 'train')


def test_missing_split_names_those_there(data):
  with pytest.raises(errors.UserError, match=r"'val', only \['train'\]"):
    folder.open_folder(str(data), 'val')


def test_folder_without_classes(tmp_path):
  (tmp_path / 'train').mkdir()
  with pytest.raises(errors.UserError, match='no class folders'):
    folder.open_folder(str(tmp_path), 'train')


def test_class_without_images(data):
  (data / 'train/class9').mkdir()
  (data / 'train/class9/notes.txt').write_text('none yet')
  with pytest.raises(errors.UserError, match='class9 holds no images'):
    folder.open_folder(str(data), 'train')
