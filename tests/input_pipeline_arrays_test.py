import gzip
import os

import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import arrays
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import pipeline
from tests import input_pipeline_testing as testing

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.fixture
def data(tmp_path):
  testing.write_idx(tmp_path, 'train', IMAGES, LABELS)
  testing.write_idx(tmp_path, 't10k', IMAGES[:2], LABELS[:2])
  return tmp_path


def read(source, indices):
  """Reads some examples, all at once."""
  images, labels = source.read(tf.constant(indices, tf.int64))
  assert (images.dtype, labels.dtype) == (tf.uint8, tf.int32)
  return images.numpy(), labels.numpy()


def check_one_is_read_as_many_are(source, indices):
  images, labels = read(source, indices)
  assert images.shape == (len(indices), *source.array_shape, 3)
  for i, index in enumerate(indices):
    image, label = read(source, index)
    np.testing.assert_array_equal(image, images[i])
    assert label == labels[i]
  # The same in a graph, where the sizes are not known beforehand.
  dataset = tf.data.Dataset.from_tensor_slices(np.array(indices, np.int64))
  for step in (dataset.map(source.read), dataset.batch(2).map(source.read)):
    found = [np.atleast_1d(label) for _, label in step.as_numpy_iterator()]
    np.testing.assert_array_equal(np.concatenate(found), labels)


def test_idx_reads_zipped_and_plain_files(data):
  source = arrays.open_idx(str(data), 'train')
  np.testing.assert_array_equal(source.images, IMAGES)
  np.testing.assert_array_equal(source.labels, LABELS)
  assert source.labels.dtype == np.int32
  assert source.class_names == ('0', '1', '2')
  assert (source.name, source.directory) == (data.name, data)
  assert source.describe(3) == f'{data.name} train[3]'
  assert arrays.open_idx(str(data), 'test').num_examples == 2


def test_idx_gray_is_repeated_three_times(data):
  source = arrays.open_idx(str(data), 'train')
  images, labels = read(source, range(6))
  assert images.shape == (6, 5, 4, 3)
  for channel in range(3):
    np.testing.assert_array_equal(images[..., channel], IMAGES)
  np.testing.assert_array_equal(labels, LABELS)


def test_idx_one_is_read_as_many_are(data):
  source = arrays.open_idx(str(data), 'train')
  check_one_is_read_as_many_are(source, [5, 0, 3, 3])


def test_idx_batches_hold_the_very_pixels(tmp_path):
  square = IMAGES[:, :4]
  testing.write_idx(tmp_path, 'train', square, LABELS)
  source = arrays.open_idx(str(tmp_path), 'train')
  first, last = pipeline.eval_batches(
    source, batch_size=4, decoder=decoding.Options(4)
  )
  gray = np.concatenate([first['image'], last['image']])
  np.testing.assert_array_equal(
    gray[:6], np.repeat(square[..., np.newaxis], 3, 3)
  )
  assert not gray[6:].any()
  np.testing.assert_array_equal(first['label'], LABELS[:4])
  assert last['label'].tolist() == [1, 0, 0, 0]
  assert last['mask'].tolist() == [1, 1, 0, 0]
  assert last['index'].tolist() == [4, 5, -1, -1]


def test_idx_class_names_are_given(data):
  names = ('T-shirt', 'Trouser', 'Pullover')
  source = arrays.open_idx(str(data), 'train', class_names=names)
  assert source.class_names == names
  with pytest.raises(errors.UserError, match='label 2 but only 2 class names'):
    arrays.open_idx(str(data), 'train', class_names=names[:2])


def test_idx_fingerprint_follows_the_content(data):
  seen = [arrays.open_idx(str(data), split) for split in ('train', 'test')]
  changed = IMAGES.copy()
  changed[0, 0, 0] ^= 1
  testing.write_idx(data, 'train', changed, LABELS)
  seen.append(arrays.open_idx(str(data), 'train'))
  testing.write_idx(data, 'train', changed, LABELS[::-1] % 2)
  seen.append(arrays.open_idx(str(data), 'train'))
  seen.append(arrays.open_idx(str(data), 'train'))
  fingerprints = [source.fingerprint for source in seen]
  assert len(set(fingerprints)) == 4
  assert fingerprints[-1] == fingerprints[-2]


def test_idx_unknown_split(data):
  with pytest.raises(errors.UserError, match="no split 'val': .*train or test"):
    arrays.open_idx(str(data), 'val')


def test_idx_missing_file(tmp_path):
  with pytest.raises(errors.UserError, match='neither train-images-idx3-ubyte'):
    arrays.open_idx(str(tmp_path), 'train')


@pytest.mark.parametrize('ending', ['', '.gz'])
def test_idx_of_a_fifo_is_refused(tmp_path, ending):
  os.mkfifo(tmp_path / f'train-images-idx3-ubyte{ending}')
  with pytest.raises(errors.UserError, match='not a regular file'):
    arrays.open_idx(str(tmp_path), 'train')


def images_file(folder, content):
  path = folder / 'train-images-idx3-ubyte.gz'
  path.write_bytes(gzip.compress(content))


def test_idx_wrong_magic(data):
  content = (data / 'train-labels-idx1-ubyte').read_bytes()
  images_file(data, content + bytes(20))
  with pytest.raises(errors.UserError, match='0x00000801, not with 0x00000803'):
    arrays.open_idx(str(data), 'train')


@pytest.mark.parametrize(('change', 'size'), [(-1, 135), (3, 139)])
def test_idx_wrong_size(data, change, size):
  path = data / 'train-images-idx3-ubyte.gz'
  content = gzip.decompress(path.read_bytes())
  content = content[:change] if change < 0 else content + bytes(change)
  images_file(data, content)
  message = rf'{size} bytes, its header \[6, 5, 4\] needs 136'
  with pytest.raises(errors.UserError, match=message):
    arrays.open_idx(str(data), 'train')


def test_idx_header_cut_off(data):
  images_file(data, b'\0\0\x08\x03')
  with pytest.raises(errors.UserError, match='4 bytes, its header alone .* 16'):
    arrays.open_idx(str(data), 'train')


def test_idx_without_images(data):
  testing.write_idx(data, 'train', IMAGES[:0], LABELS[:0])
  with pytest.raises(errors.UserError, match=r'is empty, \[0, 5, 4\]'):
    arrays.open_idx(str(data), 'train')


def test_idx_damaged_gzip(data):
  path = data / 'train-images-idx3-ubyte.gz'
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(errors.UserError, match='is damaged'):
    arrays.open_idx(str(data), 'train')


def test_idx_as_many_labels_as_images(data):
  testing.write_idx(data, 'train', IMAGES[:5], LABELS)
  with pytest.raises(errors.UserError, match='5 images but 6 labels'):
    arrays.open_idx(str(data), 'train')


def make(**changes):
  settings = {
    'split': 'train',
    'num_examples': 300,
    'num_classes': 7,
    'image_size': 33,
    'seed': 0,
  }
  return arrays.Synthetic(**(settings | changes))


def test_made_up_images_are_a_function_of_seed_split_and_index():
  images, labels = read(make(), range(300))
  again, _ = read(make(), range(300))
  np.testing.assert_array_equal(again, images)
  np.testing.assert_array_equal(labels, np.arange(300) % 7)
  for changes in ({'seed': 1}, {'split': 'test'}):
    others, other_labels = read(make(**changes), range(300))
    # Half of each pixel is noise of 128 levels, different in every image.
    assert (others != images).mean((1, 2, 3)).min() > 0.9
    np.testing.assert_array_equal(other_labels, labels)


def test_made_up_images_one_is_read_as_many_are():
  check_one_is_read_as_many_are(make(), [200, 3, 299, 3])


def test_made_up_images_are_distinct():
  images, _ = read(make(num_examples=1000, image_size=8), range(1000))
  assert len(np.unique(images.reshape(1000, -1), axis=0)) == 1000


def test_splits_of_made_up_images_share_the_patterns():
  """The mean over many images leaves the pattern, give or take the noise."""
  means = []
  for split in ('train', 'test'):
    images, labels = read(make(split=split, num_examples=2100), range(2100))
    means.append(np.stack([images[labels == c].mean(0) for c in range(7)]))
  # Noise is uniform over 128 levels: 37 / sqrt(300) = 2.1 around each mean.
  assert np.abs(means[0] - means[1]).max() < 6 * 2.1 * np.sqrt(2)
  assert np.abs(means[0] - np.roll(means[1], 1, axis=0)).mean() > 20


def test_the_nearest_class_mean_tells_the_classes_of_another_split():
  images, labels = read(make(), range(300))
  means = np.stack([images[labels == c].mean(0) for c in range(7)])
  tests, truth = read(make(split='test'), range(100))
  distances = ((tests[:, np.newaxis] - means) ** 2).sum((2, 3, 4))
  assert (distances.argmin(1) == truth).all()


def test_made_up_pixels_use_the_range():
  images, _ = read(make(), range(300))
  assert images.min() < 40
  # Two numbers below 128: their sum cannot pass 254, still less wrap around.
  assert 215 < images.max() <= 254
  assert 90 < images.mean() < 165


def test_fingerprint_is_of_what_is_made():
  fingerprints = {
    make(**changes).fingerprint
    for changes in ({}, {'seed': 1}, {'split': 'x'}, {'num_classes': 3}, {})
  }
  assert len(fingerprints) == 4


@pytest.mark.parametrize('size', ['num_examples', 'num_classes', 'image_size'])
def test_sizes_must_be_positive(size):
  with pytest.raises(ValueError, match='must be positive'):
    make(**{size: 0})


@pytest.mark.parametrize('image_size', [33, 80])
def test_batches_of_made_up_images_are_those_that_are_read(image_size):
  """Small ones go a batch at a time through the graph, large ones alone."""
  source = make(num_examples=5, image_size=image_size)
  steps = pipeline.eval_batches(
    source, batch_size=3, decoder=decoding.Options(image_size)
  )
  images, labels = read(source, range(5))
  first, last = steps
  np.testing.assert_array_equal(first['image'], images[:3])
  np.testing.assert_array_equal(last['image'][:2], images[3:])
  assert not last['image'][2].any()
  assert [*first['label'], *last['label']] == [*labels, 0]
