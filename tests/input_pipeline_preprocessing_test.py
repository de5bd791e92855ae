import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from alexnet_jax.input_pipeline import preprocessing
from tests import input_pipeline_testing as testing


def square(pixels, image_size):
  central = preprocessing.central_square(tf.constant(pixels))
  reduced = preprocessing.reduce(central, image_size)
  return preprocessing.resample(reduced, image_size).numpy()


def bilinear_weights(side, image_size):
  """Float64 weights [image_size, side] of one axis, edges repeated."""
  centres = (np.arange(image_size) + 0.5) * side / image_size
  distance = np.abs(np.arange(-1, side + 1) + 0.5 - centres[:, np.newaxis])
  weights = np.maximum(0, 1 - distance)
  weights[:, 1] += weights[:, 0]
  weights[:, -2] += weights[:, -1]
  return weights[:, 1:-1]


@pytest.mark.parametrize(
  'shape', [(90, 127), (127, 101), (64, 90), (30, 41), (70, 64), (65, 64)]
)
def test_resampling_equals_float64_reference(shape):
  pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  side = min(shape)
  top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
  weights = bilinear_weights(side, 64)
  centre = pixels[top : top + side, left : left + side].astype(float)
  exact = np.einsum('ih,hwc,jw->ijc', weights, centre, weights)
  assert np.abs(square(pixels, 64) - exact).max() < 0.502


@pytest.mark.parametrize(
  ('side', 'factor'), [(127, 1), (128, 2), (191, 2), (192, 3), (640, 10)]
)
def test_large_squares_are_first_reduced_by_whole_blocks(side, factor):
  pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
  reduced = preprocessing.reduce(tf.constant(pixels), 64).numpy()
  count = side // factor
  whole = pixels[: count * factor, : count * factor].astype(float)
  blocks = whole.reshape(count, factor, count, factor, 3).mean((1, 3))
  np.testing.assert_array_equal(reduced, np.floor(blocks + 0.5))
  # Every pixel that is left counts in what follows.
  assert (bilinear_weights(count, 64).sum(0) > 0).all()


def test_square_is_close_to_pillow():
  pixels = testing.smooth(0, 384, 512)
  theirs = Image.fromarray(pixels).resize(
    (256, 256), Image.Resampling.BILINEAR, box=(64, 0, 448, 384)
  )
  difference = np.abs(square(pixels, 256) - np.asarray(theirs).astype(int))
  # Pillow's filter is wider where the image shrinks.
  assert difference.mean() < 1


@pytest.mark.parametrize('shape', [(64, 64), (64, 96), (80, 64), (64, 65)])
def test_image_of_the_right_size_is_not_resampled(shape):
  pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
  top, left = (shape[0] - 64) // 2, (shape[1] - 64) // 2
  expected = pixels[top : top + 64, left : left + 64]
  np.testing.assert_array_equal(square(pixels, 64), expected)


def test_white_stays_white_and_black_black():
  for value in (0, 255):
    pixels = np.full((301, 407, 3), value, np.uint8)
    assert (square(pixels, 256) == value).all()


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
