import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import sources
from tests import input_pipeline_testing as testing


def synthetic(split='train', num_classes=3):
  return sources.open_source(
    'synthetic',
    split=split,
    num_examples=7,
    num_classes=num_classes,
    image_size=16,
  )


def test_every_kind_opens_and_is_read(tmp_path):
  testing.write_folder(tmp_path / 'photos/train', classes=2, per_class=2)
  images = np.zeros((3, 16, 16), np.uint8)
  testing.write_idx(tmp_path / 'digits', 'train', images, np.arange(3))
  opened = [
    sources.open_source(
      'folder', split='train', data_dir=str(tmp_path / 'photos')
    ),
    sources.open_source(
      'idx', split='train', data_dir=str(tmp_path / 'digits')
    ),
    synthetic(),
  ]
  assert [source.name for source in opened] == ['photos', 'digits', 'synthetic']
  assert [source.num_examples for source in opened] == [4, 3, 7]
  assert [len(source.class_names) for source in opened] == [2, 3, 3]
  for source in opened:
    (step,) = batches.eval_batches(source, batch_size=8, image_size=16)
    assert step['mask'].sum() == source.num_examples


def test_unknown_kind():
  with pytest.raises(errors.UserError, match="'webdataset': choose folder"):
    sources.open_source('webdataset', split='train')


def test_classes_must_agree():
  sources.check_same_classes(synthetic(), synthetic('test'))
  with pytest.raises(errors.UserError) as caught:
    sources.check_same_classes(synthetic(), synthetic('test', num_classes=2))
  message = str(caught.value)
  assert "2 classes and synthetic 'train' has 3" in message
  assert "missing ['class2'], surplus []" in message
