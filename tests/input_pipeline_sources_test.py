import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import opening
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import sources
from tests import input_pipeline_testing as testing


def synthetic():
  return opening.open_source(
    'synthetic',
    opening.Options('train', num_examples=7, num_classes=3, image_size=16),
  )


def one_batch(source, batch_size):
  (batch,) = pipeline.eval_batches(
    source, batch_size=batch_size, decoder=decoding.Options(16)
  )
  return batch


def test_every_kind_opens_and_is_read(tmp_path):
  testing.write_folder(tmp_path / 'photos/train', classes=2, per_class=2)
  images = np.zeros((3, 16, 16), np.uint8)
  testing.write_idx(tmp_path / 'digits', 'train', images, np.arange(3))
  opened = [
    opening.open_source(
      'folder', opening.Options('train', data_dir=str(tmp_path / 'photos'))
    ),
    opening.open_source(
      'idx', opening.Options('train', data_dir=str(tmp_path / 'digits'))
    ),
    synthetic(),
  ]
  assert [source.name for source in opened] == ['photos', 'digits', 'synthetic']
  assert [source.num_examples for source in opened] == [4, 3, 7]
  assert [len(source.class_names) for source in opened] == [2, 3, 3]
  for source in opened:
    step = one_batch(source, 8)
    assert step['mask'].sum() == source.num_examples
    assert not step['unreadable'].any()


def test_unknown_kind():
  with pytest.raises(errors.UserError, match="source='webdataset' .* folder"):
    opening.open_source('webdataset', opening.Options('train'))


def test_a_subset_of_files(tmp_path):
  testing.write_folder(tmp_path, 2, 3)
  source = folder.open_folder(str(tmp_path), '')
  some = sources.Subset(source, np.array([5, 0, 5]))
  assert some.num_examples == 3
  assert some.class_names == source.class_names
  assert (some.name, some.split) == (source.name, source.split)
  assert some.directory == source.directory
  assert (some.array_shape, some.is_fetched) == (None, False)
  assert some.describe(0).endswith('class1/002.jpg')
  every, batch = one_batch(source, 6), one_batch(some, 3)
  np.testing.assert_array_equal(batch['image'], every['image'][[5, 0, 5]])
  assert batch['label'].tolist() == [1, 0, 1]
  assert batch['index'].tolist() == [0, 1, 2]
  other = sources.Subset(source, np.array([5, 0, 4]))
  assert len({s.fingerprint for s in (source, some, other)}) == 3
  again = sources.Subset(source, np.array([5, 0, 5], np.int32))
  assert again.fingerprint == some.fingerprint


def test_a_subset_of_arrays_is_read_one_by_one_and_together():
  source = synthetic()
  some = sources.Subset(source, np.array([6, 2, 2, 0]))
  assert some.array_shape == (16, 16)
  images, labels = some.read(tf.constant([3, 0], tf.int64))
  expected, expected_labels = source.read(tf.constant([0, 6], tf.int64))
  np.testing.assert_array_equal(images, expected)
  np.testing.assert_array_equal(labels, expected_labels)
  image, label = some.read(tf.constant(3, tf.int64))
  np.testing.assert_array_equal(image, images[0])
  assert label == labels[0]


def test_a_subset_of_a_subset():
  source = synthetic()
  inner = sources.Subset(source, np.array([6, 2, 4, 0]))
  outer = sources.Subset(inner, np.array([3, 1]))
  assert [outer.describe(i)[-3:] for i in (0, 1)] == ['[0]', '[2]']
  every, batch = one_batch(source, 8), one_batch(outer, 2)
  np.testing.assert_array_equal(batch['image'], every['image'][[0, 2]])


def test_a_subset_without_examples_has_no_batches():
  some = sources.Subset(synthetic(), np.array([], np.int64))
  batches = pipeline.eval_batches(
    some, batch_size=2, decoder=decoding.Options(16)
  )
  assert list(batches) == []


def many(count=1000):
  return opening.open_source(
    'synthetic',
    opening.Options('train', num_examples=count, num_classes=3, image_size=8),
  )


def test_samples_are_nested_and_never_change():
  source = many()
  small, large = (sources.sample(source, n) for n in (10, 400))
  # The errors of two runs are compared by these very numbers.
  assert small.indices.tolist() == TEN_OF_A_THOUSAND
  assert set(small.indices) < set(large.indices)
  assert (np.diff(large.indices) > 0).all()
  assert (large.num_examples, len(set(large.indices))) == (400, 400)
  # Drawn from the whole: 40 of every hundred, with a deviation of 4.6.
  counts = np.histogram(large.indices, 10, (0, 1000))[0]
  assert abs(counts - 40).max() < 20
  assert len({s.fingerprint for s in (source, small, large)}) == 3
  assert small.split == 'train[10 at random]'
  assert small.class_names == source.class_names
  assert small.describe(0) == source.describe(small.indices[0])


TEN_OF_A_THOUSAND = [66, 162, 185, 207, 318, 322, 431, 664, 670, 998]


def test_a_sample_of_all_is_the_source():
  source = many()
  assert sources.sample(source, 0) is source
  assert sources.sample(source, 1000) is source
  with pytest.raises(
    errors.UserError,
    match=r"num_train=1001 .* 1000 images of synthetic 'train': set --config",
  ):
    sources.sample(source, 1001)


def test_a_sample_is_read_like_its_examples():
  source = synthetic()
  some = sources.sample(source, 4)
  every, batch = one_batch(source, 7), one_batch(some, 4)
  for key in ('image', 'label'):
    np.testing.assert_array_equal(batch[key], every[key][some.indices])


def test_what_the_graph_reads_is_not_fetched():
  with pytest.raises(TypeError, match='Synthetic is read in the graph'):
    synthetic().fetch(np.array([0]))
