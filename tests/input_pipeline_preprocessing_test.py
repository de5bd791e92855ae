import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
from scipy import ndimage
import tensorflow as tf

from alexnet_jax.input_pipeline import preprocessing
from tests import input_pipeline_testing as testing


def square(pixels, image_size):
  central = preprocessing.central_square(tf.constant(pixels))
  reduced = preprocessing.reduce(central, image_size)
  resampled = preprocessing.resample(reduced, image_size)
  return preprocessing.rounded(resampled).numpy()


def bilinear_weights(side, image_size):
  """Float64 weights [image_size, side] of one axis, edges repeated."""
  centers = (np.arange(image_size) + 0.5) * side / image_size
  distance = np.abs(np.arange(-1, side + 1) + 0.5 - centers[:, np.newaxis])
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
  center = pixels[top : top + side, left : left + side].astype(float)
  exact = np.einsum('ih,hwc,jw->ijc', weights, center, weights)
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


def seeds(count, key=(1, 0)):
  """Returns uint32 [count, SEED_WORDS] as an epoch's tables have them."""
  shape = [count, preprocessing.SEED_WORDS]
  return tf.random.stateless_uniform(
    shape, key, minval=None, maxval=None, dtype=tf.uint32, alg='philox'
  )


def positions_of(image, seed, crop_size):
  """Returns the top left corner of crops of an image of (row, column, 0)."""
  crops = preprocessing.random_crop(image, seed, crop_size).numpy()
  return crops[..., 0, 0, :2]


def coordinates(side):
  image = np.zeros((side, side, 3), np.uint8)
  image[..., 0], image[..., 1] = np.mgrid[:side, :side]
  return tf.constant(image)


def test_crops_are_uniform_over_33_by_33():
  n = 60_000
  # Two columns of the crop are enough to tell where it is.
  images = tf.broadcast_to(coordinates(34), [n, 34, 34, 3])
  offsets = positions_of(images, seeds(n), 2)
  counts = np.zeros((33, 33))
  np.add.at(counts, tuple(offsets.T), 1)
  expected = n / 33**2
  chi_square = ((counts - expected) ** 2 / expected).sum()
  # 1088 degrees of freedom, standard deviation 46.6: four of them.
  assert abs(chi_square - 1088) < 190


@pytest.mark.parametrize(
  ('word', 'corner'), [(0, (0, 0)), (2**32 - 1, (4, 4)), (2**31, (2, 2))]
)
def test_crops_reach_both_corners(word, corner):
  seed = tf.constant([word, 0, 0, 0, 0], tf.uint32)
  assert tuple(positions_of(coordinates(20), seed, 16)) == corner


def test_one_image_and_a_batch_are_cut_and_flipped_alike():
  images = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), np.uint8)
  drawn = seeds(40)
  crops = preprocessing.random_crop(tf.constant(images), drawn, 17)
  flipped = preprocessing.random_flip(crops, drawn)
  for i in range(40):
    crop = preprocessing.random_crop(tf.constant(images[i]), drawn[i], 17)
    np.testing.assert_array_equal(crop, crops[i])
    flip = preprocessing.random_flip(crop, drawn[i])
    np.testing.assert_array_equal(flip, flipped[i])
  mirrored = (flipped.numpy() != crops.numpy()).any((1, 2, 3))
  np.testing.assert_array_equal(mirrored, drawn.numpy()[:, 1] & 1)
  np.testing.assert_array_equal(
    flipped.numpy()[mirrored], crops.numpy()[mirrored][:, :, ::-1]
  )


def test_a_crop_of_the_whole_is_the_image():
  images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), np.uint8)
  crops = preprocessing.random_crop(tf.constant(images), seeds(3), 9)
  np.testing.assert_array_equal(crops, images)
  center = preprocessing.center_crop(tf.constant(images), 5)
  np.testing.assert_array_equal(center, images[:, 2:7, 2:7])


def test_flips_are_fair_and_independent_of_crops():
  drawn = seeds(40_000).numpy()
  flips = drawn[:, 1] & 1
  assert abs(flips.mean() - 0.5) < 0.01  # Four standard deviations.
  assert abs(np.corrcoef(flips, drawn[:, 0])[0, 1]) < 0.02


def test_lighting_scale():
  stdevs = np.array([20.0, 40.0, 120.0])
  np.testing.assert_array_equal(
    preprocessing.lighting_scale(stdevs, 'cuda_convnet'), stdevs
  )
  # Pixels on 0..1 have variance (120 / 255)^2 = 0.22145; times 255: 56.47.
  paper = preprocessing.lighting_scale(stdevs, 'paper')
  np.testing.assert_allclose(paper, [1.568627, 6.274510, 56.470588], rtol=1e-6)
  assert not preprocessing.lighting_scale(stdevs, 'none').any()
  with pytest.raises(ValueError, match='papre'):
    preprocessing.lighting_scale(stdevs, 'papre')


def test_lighting_has_the_covariance_of_the_pixels():
  random = np.random.default_rng(0)
  covariance = np.cov(random.normal(size=(3, 50)) * [[70], [60], [80]])
  variances, eigenvectors = np.linalg.eigh(covariance)
  shift = preprocessing.pca_lighting(
    seeds(200_000), np.sqrt(variances), eigenvectors
  ).numpy()
  assert shift.dtype == np.float32
  np.testing.assert_allclose(shift.mean(0), 0, atol=0.8)
  np.testing.assert_allclose(np.cov(shift.T), covariance, atol=60)


def test_lighting_is_normal():
  normals = preprocessing.pca_lighting(seeds(100_000), np.ones(3), np.eye(3))
  normals = np.sort(normals.numpy().ravel())
  quantiles = [0.001, 0.0228, 0.1587, 0.5, 0.8413, 0.9772, 0.999]
  expected = [-3.09, -2, -1, 0, 1, 2, 3.09]
  np.testing.assert_allclose(
    np.quantile(normals, quantiles), expected, atol=0.06
  )
  for word in (0, 2**32 - 1):  # The least and the largest are finite.
    seed = tf.constant([0, 0, word, word, word], tf.uint32)
    extreme = preprocessing.pca_lighting(seed, np.ones(3), np.eye(3)).numpy()
    np.testing.assert_allclose(np.abs(extreme), 6.34, atol=0.01)


def test_lighting_reads_components_from_columns():
  eigenvectors = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
  half, above = 2**31, round(0.841344746 * 2**32)  # 0 and 1 deviations above.
  words = [[0, 0, above, half, half], [0, 0, half, half, above]]
  shift = preprocessing.pca_lighting(
    tf.constant(words, tf.uint32), np.array([2, 3, 5]), eigenvectors
  )
  np.testing.assert_allclose(shift, [[0, 2, 0], [5, 0, 0]], atol=1e-5)


def fields(count, side, alpha, sigma):
  """Returns displacements of some seeds, float32 [count, 2, side, side]."""
  draw = tf.function(
    lambda seed: preprocessing.displacements(seed, side, alpha, sigma)
  )
  return np.stack([draw(seed) for seed in seeds(count)])


@pytest.mark.parametrize(('side', 'alpha', 'sigma'), [(32, 34, 4), (9, 5, 0.7)])
def test_displacements_are_smoothed_uniform_numbers(side, alpha, sigma):
  reach = int(np.ceil(3 * sigma))
  for seed in seeds(3):
    key = tf.cast(seed[:2], tf.int64)
    shape = [2, side + 2 * reach, side + 2 * reach]
    drawn = tf.random.stateless_uniform(shape, key, -1, 1, alg='philox').numpy()
    assert drawn.min() < -0.95
    assert drawn.max() > 0.95
    smooth = ndimage.gaussian_filter(
      drawn.astype(float), sigma, axes=(1, 2), radius=reach
    )
    inside = slice(reach, -reach)
    np.testing.assert_allclose(
      preprocessing.displacements(seed, side, alpha, sigma),
      alpha * smooth[:, inside, inside],
      atol=1e-5,
    )


def test_the_distribution_of_displacements():
  sigma, alpha = 2.0, 10.0
  drawn = fields(4000, 12, alpha, sigma)
  expected = alpha / (2 * np.sqrt(3 * np.pi) * sigma)
  # The same at the border as in the middle: five deviations of 4000 draws.
  np.testing.assert_allclose(drawn.std(0), expected, rtol=0.06)
  np.testing.assert_allclose(drawn.mean(0), 0, atol=0.08 * expected)
  # Smooth: the correlation of neighbors at a distance d is exp(-d^2/4 sigma^2),
  # and the two directions have none.
  for distance in (1, 3):
    for a, b in (
      (drawn[..., distance:], drawn[..., :-distance]),
      (drawn[..., distance:, :], drawn[..., :-distance, :]),
    ):
      correlation = (a * b).mean() / expected**2
      target = np.exp(-(distance**2) / (4 * sigma**2))
      assert abs(correlation - target) < 0.03
  assert abs((drawn[:, 0] * drawn[:, 1]).mean() / expected**2) < 0.03
  # A mean of many numbers is nearly normal.
  shares = [(abs(drawn) > k * expected).mean() for k in (1, 2)]
  np.testing.assert_allclose(shares, [0.317, 0.0455], rtol=0.06)


@pytest.mark.parametrize(('side', 'alpha', 'sigma'), [(32, 34, 4), (8, 40, 2)])
def test_warps_equal_scipys_bilinear_interpolation(side, alpha, sigma):
  images = np.random.default_rng(0).integers(
    0, 256, (3, side, side, 3), np.uint8
  )
  for image, seed in zip(images, seeds(3), strict=True):
    warped = preprocessing.displace(tf.constant(image), seed, alpha, sigma)
    assert warped.dtype == tf.uint8
    shift = preprocessing.displacements(seed, side, alpha, sigma).numpy()
    assert abs(shift).max() > 1
    places = np.clip(np.mgrid[:side, :side] + shift.astype(float), 0, side - 1)
    exact = np.stack(
      [
        ndimage.map_coordinates(
          channel.astype(float), places, order=1, mode='nearest'
        )
        for channel in np.moveaxis(image, 2, 0)
      ],
      axis=-1,
    )
    assert np.abs(warped.numpy() - exact).max() < 0.501


def test_a_warp_moves_places_by_the_field():
  # On a ramp a pixel's value says where it came from.
  image = np.zeros((40, 40, 3), np.uint8)
  image[..., 0], image[..., 1] = 4 * np.mgrid[:40, :40]
  (seed,) = seeds(1)
  warped = preprocessing.displace(tf.constant(image), seed, 20.0, 3.0)
  shift = preprocessing.displacements(seed, 40, 20.0, 3.0).numpy()
  moved = np.moveaxis(warped.numpy() - image.astype(float), 2, 0)[:2] / 4
  inside = np.s_[:, 8:-8, 8:-8]
  np.testing.assert_allclose(moved[inside], shift[inside], atol=0.126)


def test_a_warp_is_a_function_of_image_and_seed():
  images = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), np.uint8)
  images[3], drawn = images[0], seeds(5)
  warp = tf.function(lambda i, s: preprocessing.displace(i, s, 30.0, 4.0))
  batch = warp(tf.constant(images), drawn).numpy()
  assert batch.shape == images.shape
  for image, seed, expected in zip(images, drawn, batch, strict=True):
    for _ in range(2):
      np.testing.assert_array_equal(warp(tf.constant(image), seed), expected)
  assert (batch[3] != batch[0]).any()
  # Color shifts do not depend on what a warp draws.
  other = np.array(drawn)
  other[:, 2:] += 1
  np.testing.assert_array_equal(warp(tf.constant(images), other), batch)


def test_no_displacement_is_the_identity():
  images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
  same = preprocessing.displace(tf.constant(images), seeds(2), 0.0, 4.0)
  np.testing.assert_array_equal(same, images)
  for value in (0, 255):  # Nor does a warp leave the range.
    flat = tf.fill([2, 9, 9, 3], tf.constant(value, tf.uint8))
    warped = preprocessing.displace(flat, seeds(2), 1e4, 4.0)
    np.testing.assert_array_equal(warped, flat)


def test_large_squares_are_reduced_in_little_memory():
  # As floats the whole would take 400 MB at once.
  program = """
import resource
import numpy as np
import tensorflow as tf
from alexnet_jax.input_pipeline import preprocessing
pixels = tf.zeros([5800, 5800, 3], tf.uint8)
preprocessing.reduce(pixels[:600, :600], 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
preprocessing.reduce(pixels, 64)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
  finished = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    check=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  assert int(finished.stdout) < 2.5 * 5800**2 * 3
