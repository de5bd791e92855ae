import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import preprocessing
from tests import input_pipeline_testing as testing


def window(pixels, image_size, size=None, offset=(0, 0)):
  size = size or image_size
  where = preprocessing.geometry(
    tf.constant(pixels.shape[:2]), tf.constant(offset), image_size, size
  )
  region = decoding.region(tf.constant(pixels), where.box)
  return preprocessing.window(region, where, size).numpy()


def triangle_weights(source, image_size, extent):
  """Float64 weights [image_size, source] of one axis of the centre square."""
  scale = image_size / extent
  reach = max(1.0, 1 / scale)
  overhang = (source * scale - image_size) / 2
  centres = (np.arange(image_size) + 0.5 + overhang) / scale
  distance = np.abs(np.arange(source) + 0.5 - centres[:, np.newaxis]) / reach
  weights = np.maximum(0, 1 - distance)
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
  'shape', [(375, 500), (500, 333), (64, 90), (30, 41), (200, 64), (65, 64)]
)
def test_resize_equals_float64_reference(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  rows = triangle_weights(shape[0], 64, min(shape))
  columns = triangle_weights(shape[1], 64, min(shape))
  exact = np.einsum(
    'ih,hwc,jw->ijc', rows, pixels.astype(float), columns, optimize=True
  )
  assert np.abs(window(pixels, 64) - exact).max() < 0.502


def test_resize_equals_pillow():
  pixels = testing.smooth(0, 384, 512)
  theirs = Image.fromarray(pixels).resize(
    (256, 256), Image.Resampling.BILINEAR, box=(64, 0, 448, 384)
  )
  difference = np.abs(window(pixels, 256) - np.asarray(theirs).astype(int))
  # Pillow rounds between its two passes, hence a level of freedom. Its box
  # also cuts off what the outermost columns should see of their neighbours.
  assert difference[:, 2:-2].max() <= 1
  assert difference.max() <= 8


@pytest.mark.parametrize('shape', [(64, 64), (64, 96), (80, 64), (64, 65)])
def test_image_of_the_right_size_is_not_resampled(shape):
  pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
  ours = window(pixels, 64)
  top, left = (shape[0] - 64) / 2, (shape[1] - 64) / 2
  if top % 1 or left % 1:
    assert ours.shape == (64, 64, 3)
  else:
    top, left = int(top), int(left)
    expected = pixels[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize('shape', [(375, 500), (256, 256), (90, 61)])
@pytest.mark.parametrize('offset', [(0, 0), (16, 16), (32, 5), (31, 32)])
def test_window_is_a_crop_of_the_square(shape, offset):
  pixels = testing.smooth(2, *shape)
  row, column = offset
  whole = window(pixels, 256).astype(int)
  crop = window(pixels, 256, 224, offset).astype(int)
  difference = np.abs(crop - whole[row : row + 224, column : column + 224])
  # Positions are float32; a value next to .5 may round the other way.
  assert difference.max() <= 1
  assert (difference > 0).mean() < 1e-3


def test_white_stays_white_and_black_black():
  for value in (0, 255):
    pixels = np.full((301, 407, 3), value, np.uint8)
    assert (window(pixels, 256) == value).all()


def test_mirror():
  pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  mirrored = preprocessing.mirror(tf.constant(pixels), tf.constant(True))
  np.testing.assert_array_equal(mirrored, pixels[:, ::-1])
  kept = preprocessing.mirror(tf.constant(pixels), tf.constant(False))
  np.testing.assert_array_equal(kept, pixels)


def draw(indices, places=None, **changes):
  settings = {
    'seed': 1,
    'epoch': 0,
    'image_size': 256,
    'crop_size': 224,
    'random_crop': True,
    'flip': True,
    'crop_chunk': 1,
  }
  places = np.arange(len(indices)) if places is None else places
  return preprocessing.random_draws(indices, places, **(settings | changes))


def test_crops_are_uniform_over_33_by_33():
  n = 60_000
  offsets = draw(np.arange(n)).offsets
  assert offsets.dtype == np.int32
  counts = np.zeros((33, 33))
  np.add.at(counts, tuple(offsets.T), 1)
  expected = n / 33**2
  chi_square = ((counts - expected) ** 2 / expected).sum()
  # 1088 degrees of freedom, standard deviation 46.6: four of them.
  assert abs(chi_square - 1088) < 190


def test_draws_are_of_the_example_and_not_of_its_place():
  indices = np.array([5, 900, 17])
  alone = draw(indices, np.array([40, 2, 77]))
  among = draw(np.arange(1000))
  for one, many in zip(alone, among, strict=True):
    np.testing.assert_array_equal(one, many[indices])


def test_crop_and_flip_of_a_chunk_are_one_draw():
  n = 32 * 200
  indices = np.random.default_rng(0).permutation(n)
  draws = draw(indices, crop_chunk=32)
  offsets = draws.offsets.reshape(200, 32, 2)
  flips = draws.flips.reshape(200, 32)
  assert (offsets == offsets[:, :1]).all()
  assert (flips == flips[:, :1]).all()
  assert len(np.unique(offsets[:, 0], axis=0)) > 150
  assert 70 < flips[:, 0].sum() < 130
  # The colour shift stays one an image, and is not touched by chunks.
  np.testing.assert_array_equal(draws.normals, draw(indices).normals)
  # A chunk goes by the place in the epoch, wherever the batch begins.
  later = draw(indices[48:80], np.arange(48, 80), crop_chunk=32)
  np.testing.assert_array_equal(later.offsets, draws.offsets[48:80])


def test_crop_and_flip_can_be_switched_off():
  draws = draw(np.arange(100), random_crop=False, flip=False)
  assert (draws.offsets == 16).all()
  assert not draws.flips.any()
  np.testing.assert_array_equal(draws.normals, draw(np.arange(100)).normals)


def test_color_scale():
  stdevs = np.array([20.0, 40.0, 120.0])
  np.testing.assert_array_equal(
    preprocessing.color_scale(stdevs, 'source'), stdevs
  )
  # Pixels on 0..1 have variance (120 / 255)^2 = 0.22145; times 255: 56.47.
  paper = preprocessing.color_scale(stdevs, 'paper')
  np.testing.assert_allclose(paper, [1.568627, 6.274510, 56.470588], rtol=1e-6)
  assert not preprocessing.color_scale(stdevs, 'none').any()
  with pytest.raises(ValueError, match='papre'):
    preprocessing.color_scale(stdevs, 'papre')


def test_color_shift_has_the_covariance_of_the_pixels():
  random = np.random.default_rng(0)
  covariance = np.cov(random.normal(size=(3, 50)) * [[70], [60], [80]])
  variances, eigenvectors = np.linalg.eigh(covariance)
  normals = draw(np.arange(200_000)).normals
  shift = preprocessing.color_shift(normals, np.sqrt(variances), eigenvectors)
  assert shift.dtype == np.float32
  np.testing.assert_allclose(shift.mean(0), 0, atol=0.8)
  np.testing.assert_allclose(np.cov(shift.T), covariance, atol=60)


def test_color_shift_reads_components_from_columns():
  eigenvectors = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
  normals = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
  shift = preprocessing.color_shift(normals, np.array([2, 3, 5]), eigenvectors)
  np.testing.assert_array_equal(shift, [[0, 2, 0], [5, 0, 0]])
