import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import views
from alexnet_jax.identity import Statistics


def test_ten_views_are_the_papers():
  # Four corners and the center of 224 in 256, then mirrored (Section 4.1).
  expected = [
    (0, 0, False),
    (0, 32, False),
    (16, 16, False),
    (32, 0, False),
    (32, 32, False),
    (0, 0, True),
    (0, 32, True),
    (16, 16, True),
    (32, 0, True),
    (32, 32, True),
  ]
  ten = views.ten_views(256, 224)
  assert [(v.top, v.left, v.mirror) for v in ten] == expected
  assert views.center_view(256, 224) == (views.View(16, 16, False),)


def test_cut_with_traced_offsets():
  images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
  cut = jax.jit(views.cut, static_argnums=4)
  for view in views.ten_views(9, 6) + (views.View(1, 2, True),):
    expected = images[:, view.top : view.top + 6, view.left : view.left + 6]
    if view.mirror:
      expected = np.flip(expected, axis=2)
    crops = cut(images, view.top, view.left, view.mirror, 6)
    assert crops.dtype == jnp.uint8
    np.testing.assert_array_equal(crops, expected)
  # The views are arguments of one function, not one function each.
  assert cut._cache_size() == 1


def test_mean():
  image = np.arange(8 * 8 * 3, dtype=np.float64).reshape(8, 8, 3)
  statistics = Statistics(
    mean_image=image,
    channel_mean=np.array([1.0, 2.0, 3.0]),
    stdevs=np.ones(3),
    eigenvectors=np.eye(3),
    num_examples=1,
    unreadable=0,
    fingerprint='',
  )
  center = views.mean('pixel', statistics, 4)
  assert center.dtype == np.float32
  np.testing.assert_array_equal(center, image[2:6, 2:6])
  # It lies where the center view lies, also when that cannot be the middle.
  view = views.center_view(8, 5)[0]
  center = views.mean('pixel', statistics, 5)
  assert (view.top, view.left) == (1, 1)
  np.testing.assert_array_equal(center, image[1:6, 1:6])
  by_channel = views.mean('channel', statistics, 4)
  assert by_channel.dtype == np.float32
  np.testing.assert_array_equal(by_channel, [1, 2, 3])
  np.testing.assert_array_equal(views.mean('none', statistics, 4), [0, 0, 0])


def test_to_input():
  images = np.zeros((2, 2, 2, 3), np.uint8)
  images[0, 0, 0] = [10, 20, 30]
  images[1] = 255
  mean = np.array([1.0, 2.0, 3.0], np.float32)
  shift = np.array([[0.5, 0.0, -0.5], [100.0, 0.0, 0.0]], np.float32)
  x = views.to_input(jnp.asarray(images), mean, 0.5, shift)
  assert x.dtype == jnp.float32
  np.testing.assert_array_equal(x[0, 0, 0], [4.75, 9.0, 13.25])
  np.testing.assert_array_equal(x[0, 1, 1], [-0.25, -1.0, -1.75])
  # Nothing wraps round at 255 or is clipped there.
  np.testing.assert_array_equal(x[1, 1, 0], [177.0, 126.5, 126.0])
  without = views.to_input(jnp.asarray(images), mean, 1.0)
  np.testing.assert_array_equal(without[1, 0, 0], [254, 253, 252])


def test_to_input_subtracts_a_mean_image_pixel_by_pixel():
  images = np.full((1, 2, 2, 3), 7, np.uint8)
  mean = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
  x = views.to_input(jnp.asarray(images), mean, 1.0)
  np.testing.assert_array_equal(x[0], 7 - mean)
