import numpy as np
import pytest

from alexnet_jax.input_pipeline import synthetic


def make(**changes):
  settings = {
    'split': 'train',
    'num_examples': 300,
    'num_classes': 7,
    'image_size': 33,
    'seed': 0,
  }
  return synthetic.Synthetic(**(settings | changes))


def test_images_are_a_function_of_seed_split_and_index():
  images, labels = make().fetch(np.arange(300))
  some, some_labels = make().fetch(np.array([200, 3]))
  np.testing.assert_array_equal(some, images[[200, 3]])
  np.testing.assert_array_equal(some_labels, labels[[200, 3]])
  assert len(np.unique(images.reshape(300, -1), axis=0)) == 300
  for changes in ({'seed': 1}, {'split': 'test'}):
    others, other_labels = make(**changes).fetch(np.arange(300))
    assert not np.array_equal(others, images)
    np.testing.assert_array_equal(other_labels, labels)


def test_the_nearest_class_mean_tells_the_classes_of_another_split():
  images, labels = make().fetch(np.arange(300))
  means = np.stack([images[labels == c].mean(0) for c in range(7)])
  tests, truth = make(split='test').fetch(np.arange(100))
  distances = ((tests[:, np.newaxis] - means) ** 2).sum((2, 3, 4))
  assert (distances.argmin(1) == truth).all()


def test_pixels_use_the_range():
  images, _ = make().fetch(np.arange(300))
  assert images.min() < 40
  assert images.max() > 215
  assert 90 < images.mean() < 165


def test_fingerprint_is_of_what_is_made():
  fingerprints = {
    make(**changes).fingerprint
    for changes in ({}, {'seed': 1}, {'split': 'x'}, {'num_classes': 3}, {})
  }
  assert len(fingerprints) == 4


def test_sizes_must_be_positive():
  with pytest.raises(ValueError, match='must be positive'):
    make(num_classes=0)
