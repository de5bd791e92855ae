import numpy as np
import pytest

from alexnet_jax.analysis.report import invariance

_FILL = np.array([7, 8, 9], np.float32)
_RANDOM = np.random.default_rng(0)


def _images(size):
  return _RANDOM.integers(0, 256, (2, size, size, 3), np.uint8)


@pytest.mark.parametrize(('size', 'crop'), [(28, 28), (32, 28), (33, 28)])
def test_nothing_is_the_center_view(size, crop):
  images, start = _images(size), (size - crop) // 2
  for matrix in (
    invariance.rotation(0),
    invariance.shift(0, 0),
    invariance.scale(1),
  ):
    found = invariance.warp(images, matrix, _FILL, crop)
    expected = images[:, start : start + crop, start : start + crop]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize('quarters', [1, 2, 3, 4])
def test_quarter_turns_are_counterclockwise(quarters):
  images = _images(12)
  found = invariance.warp(images, invariance.rotation(90 * quarters), _FILL, 12)
  expected = np.rot90(images, quarters, axes=(1, 2))
  np.testing.assert_allclose(found, expected, atol=0.01)


def test_shift_moves_down_and_right_and_fills():
  images = _images(12)
  found = invariance.warp(images, invariance.shift(3, 2), _FILL, 12)
  np.testing.assert_allclose(found[:, 3:, 2:], images[:, :-3, :-2], atol=1e-3)
  np.testing.assert_array_equal(
    found[:, :3], np.broadcast_to(_FILL, (2, 3, 12, 3))
  )
  np.testing.assert_array_equal(
    found[:, :, :2], np.broadcast_to(_FILL, (2, 12, 2, 3))
  )


def test_shift_shows_what_the_crop_left_out():
  images = _images(16)
  found = invariance.warp(images, invariance.shift(-2, 1), _FILL, 12)
  np.testing.assert_allclose(found, images[:, 4:16, 1:13], atol=1e-3)


def test_scale_by_two_reads_between_pixels():
  images = _images(8)
  found = np.asarray(invariance.warp(images, invariance.scale(2), _FILL, 8))
  # The crop's corner is at 3.5 from the center: 1.75 from the image's, 1.75.
  corner = images[:, 1:3, 1:3].astype(np.float64)
  weights = np.outer([0.25, 0.75], [0.25, 0.75])[..., None]
  np.testing.assert_allclose(
    found[:, 0, 0], (corner * weights).sum(axis=(1, 2)), rtol=1e-5
  )


def test_desaturate():
  image = np.array([[[100, 50, 200]]], np.uint8)
  luminance = 0.299 * 100 + 0.587 * 50 + 0.114 * 200
  np.testing.assert_allclose(invariance.desaturate(image, 1), image, rtol=1e-6)
  np.testing.assert_allclose(
    invariance.desaturate(image, 0)[0, 0], [luminance] * 3
  )
  np.testing.assert_allclose(
    invariance.desaturate(image, 0.5)[0, 0],
    (np.array([100, 50, 200]) + luminance) / 2,
    rtol=1e-6,
  )
