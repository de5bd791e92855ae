import os

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import chosen
from alexnet_jax.input_pipeline import files
from alexnet_jax.input_pipeline import folder
from tests import input_pipeline_testing as testing


@pytest.fixture
def pictures(tmp_path, monkeypatch):
  """Makes class0/ and class1/ with 000.jpg to 002.jpg, and is there."""
  testing.write_folder(tmp_path, 2, 3)
  (tmp_path / 'class1' / 'notes.txt').write_text('no image')
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_a_file_a_folder_and_a_pattern(pictures):
  one = files.open_files(['class1/001.jpg'])
  assert one.paths == ('class1/001.jpg',)
  # A file is taken at its word, whatever it is called.
  assert files.open_files(['class1/notes.txt']).num_examples == 1
  every = files.open_files(['.'])
  assert [os.path.normpath(path) for path in every.paths] == [
    f'class{c}/00{i}.jpg' for c in (0, 1) for i in (0, 1, 2)
  ]
  some = files.open_files(['class*/*1.jpg'])
  assert some.paths == ('class0/001.jpg', 'class1/001.jpg')
  deep = files.open_files(['**/*2.jpg'])
  assert deep.paths == ('class0/002.jpg', 'class1/002.jpg')
  # In the order that they are asked for, and nothing twice.
  both = files.open_files(['class1/002.jpg', 'class1/*.jpg'])
  assert both.paths == (
    'class1/002.jpg', 'class1/000.jpg', 'class1/001.jpg',
  )  # fmt: skip


def test_brackets_in_a_name_are_no_pattern(pictures):
  os.rename('class0/000.jpg', 'class0/[0].jpg')
  assert files.open_files(['class0/[0].jpg']).paths == ('class0/[0].jpg',)


@pytest.mark.parametrize('pattern', ['*.png', 'nothing.jpg', 'empty'])
def test_nothing_found_is_a_mistake_in_one_line(pictures, pattern):
  os.mkdir('empty')
  with pytest.raises(errors.UserError) as caught:
    files.open_files(['class0/000.jpg', pattern])
  assert f"'{pattern}'" in str(caught.value)
  assert '\n' not in str(caught.value)


def test_pixels_are_those_of_the_same_files_in_a_split(pictures):
  labelled = folder.open_folder(str(pictures), '')
  plain = files.open_files(['.'])
  (expected,), (actual,) = (
    batches.eval_batches(source, batch_size=8, image_size=32)
    for source in (labelled, plain)
  )
  for key in ('image', 'mask', 'unreadable', 'index'):
    np.testing.assert_array_equal(actual[key], expected[key])
  assert actual['label'][:6].tolist() == [files.NO_LABEL] * 6


def test_the_fingerprint_is_of_the_files(pictures):
  before = files.open_files(['class0'])
  again = files.open_files(['class0'])
  assert before.fingerprint == again.fingerprint
  assert before.fingerprint != files.open_files(['class1']).fingerprint
  first = before.fingerprint
  os.utime('class0/001.jpg', (1, 1))
  assert before.fingerprint != first


def test_chosen_examples_of_a_source(pictures):
  source = folder.open_folder(str(pictures), '')
  some = chosen.Chosen(source, np.array([5, 0, 5]))
  assert some.num_examples == 3
  assert some.class_names == source.class_names
  assert some.describe(0).endswith('class1/002.jpg')
  (every,) = batches.eval_batches(source, batch_size=6, image_size=32)
  (batch,) = batches.eval_batches(some, batch_size=3, image_size=32)
  np.testing.assert_array_equal(batch['image'], every['image'][[5, 0, 5]])
  assert batch['label'].tolist() == [1, 0, 1]
  other = chosen.Chosen(source, np.array([5, 0, 4]))
  assert len({s.fingerprint for s in (source, some, other)}) == 3
