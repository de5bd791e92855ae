"""Fisher vectors and sparse codes, by definition and from end to end."""

import functools
import math

import jax
import numpy as np
from PIL import Image
import pytest

from alexnet_jax import inference
from alexnet_jax.studies.measures import fisher_vectors
from alexnet_jax.studies.measures import rivals
from alexnet_jax.studies.measures import sparse_codes
from tests import trained_testing


@pytest.mark.parametrize('degrees', [0, 45, 90, 225, 22.5])
def test_sift_of_a_ramp_points_along_it(degrees):
  y, x = np.mgrid[:32, :32]
  angle = np.radians(degrees)
  ramp = 3 * (x * np.cos(angle) + y * np.sin(angle)) + 100
  image = np.repeat(ramp[..., None], 3, axis=2).astype(np.float32)
  found = np.asarray(jax.jit(lambda i: fisher_vectors.sift(i, 3))(image))
  assert found.shape == (11**2, 128)
  # Bins of 45 degrees; between two of them each gets half.
  expected = np.zeros(8)
  expected[int(degrees // 45)] = 1
  if degrees % 45:
    expected[int(degrees // 45) + 1] = 1
  expected /= 4 * np.linalg.norm(expected)
  middle = found.reshape(11, 11, 4, 4, 8)[1:-1, 1:-1]
  np.testing.assert_allclose(
    middle, np.broadcast_to(expected, middle.shape), atol=2e-6
  )


def test_sift_is_what_its_definition_adds_up():
  rng = np.random.default_rng(0)
  image = rng.uniform(0, 255, (20, 20, 3))
  cell, side = 3, 20
  gray = image @ [0.299, 0.587, 0.114]
  places = fisher_vectors.grid(side, cell)
  assert places.tolist() == [0, 2, 4, 6, 8]
  top, left = 2, 6  # the patch in the second row, fourth column
  expected = np.zeros((4, 4, 8))
  for i in range(side):
    for j in range(side):
      dy, dx = (gradient[i, j] for gradient in np.gradient(gray))
      bins = (math.atan2(dy, dx) % (2 * math.pi)) / (math.pi / 4)
      low = int(bins)
      for r in range(4):
        for c in range(4):
          across = abs(i - (top + cell * (r + 0.5) - 0.5)) / cell
          along = abs(j - (left + cell * (c + 0.5) - 0.5)) / cell
          weight = max(0, 1 - across) * max(0, 1 - along) * math.hypot(dy, dx)
          expected[r, c, low % 8] += weight * (1 - bins + low)
          expected[r, c, (low + 1) % 8] += weight * (bins - low)
  expected = expected.ravel()
  expected /= np.linalg.norm(expected) + cell**2
  expected = np.minimum(expected, 0.2)
  expected /= np.linalg.norm(expected)
  found = np.asarray(
    jax.jit(lambda x: fisher_vectors.sift(x, cell))(image.astype(np.float32))
  )
  np.testing.assert_allclose(found[5 + 3], expected, atol=2e-6)


def test_colors_are_the_mean_and_the_deviation_of_each_cell():
  image = np.zeros((16, 16, 3), np.float32)
  image[..., 0] = 51
  image[::2, :, 1] = 255  # Every other row is green besides.
  found = np.asarray(fisher_vectors.colors(image, 2))
  assert found.shape == (5**2, 96)
  expected = np.broadcast_to([0.2, 0.5, 0, 0, 0.5, 0], (25, 16, 6))
  np.testing.assert_allclose(found.reshape(25, 16, 6), expected, atol=1.1e-3)


def test_a_fisher_vector_is_the_gradient_of_the_log_likelihood():
  rng = np.random.default_rng(1)
  count, width, number = 3, 4, 20
  weights = rng.dirichlet(np.ones(count))
  means = rng.normal(size=(count, width))
  sigmas = rng.uniform(0.5, 2, (count, width))
  descriptors = rng.normal(size=(number, width))

  def log_likelihood(means, sigmas):
    scaled = (descriptors[:, None] - means) / sigmas
    densities = np.exp(-(scaled**2) / 2) / sigmas / np.sqrt(2 * np.pi)
    return np.log(densities.prod(axis=2) @ weights).mean()

  def gradient(which):
    found = np.zeros((count, width))
    for place in np.ndindex(count, width):
      step = np.zeros((count, width))
      step[place] = 1e-5
      shift = np.array([step, 0 * step] if which == 0 else [0 * step, step])
      found[place] = (
        log_likelihood(means + shift[0], sigmas + shift[1])
        - log_likelihood(means - shift[0], sigmas - shift[1])
      ) / 2e-5
    return found

  # Times the inverse square root of the Fisher information.
  root = np.sqrt(weights)[:, None]
  expected = np.concatenate(
    [
      (gradient(0) * sigmas / root).ravel(),
      (gradient(1) * sigmas / (root * np.sqrt(2))).ravel(),
    ]
  )
  expected = np.sign(expected) * np.sqrt(np.abs(expected))
  expected /= np.linalg.norm(expected)
  mixture = fisher_vectors.Mixture(
    *(x.astype(np.float32) for x in (weights, means, sigmas**2))
  )
  found = jax.jit(fisher_vectors.fisher_vector)(
    descriptors.astype(np.float32), mixture
  )
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize('side', [3, 32, 130])
def test_descriptors_have_coordinates_at_any_size(side):
  image = np.zeros((side, side, 3), np.uint8)
  for kind in ('sift', 'colors'):
    describe = functools.partial(fisher_vectors.describe, kind)
    described = jax.jit(describe)(image)
    assert len(described) == len(fisher_vectors.coordinates(side))
    assert np.isfinite(described).all()
  if side == 32:  # 13, 11 and 9 patches along a side.
    assert len(described) == 169 + 121 + 81
    found = fisher_vectors.coordinates(side)
    # The first patch of all: its center is at 4 of 32 pixels.
    np.testing.assert_allclose(found[0], 4 / 32 - 0.5)
    np.testing.assert_allclose(found[1], [4 / 32 - 0.5, 6 / 32 - 0.5])


def test_sparse_codes_are_sums_over_quadrants():
  rng = np.random.default_rng(2)
  image = rng.integers(0, 256, (12, 12, 3), np.uint8)
  codes = sparse_codes.Codes(
    mean=rng.normal(size=108).astype(np.float32) / 10,
    whitening=rng.normal(size=(108, 108)).astype(np.float32) / 10,
    dictionary=rng.normal(size=(108, 5)).astype(np.float32) / 10,
    offset=0.5,
    scale=2.0,
  )
  expected = np.zeros((2, 4, 5))
  for i in range(7):
    for j in range(7):
      patch = image[i : i + 6, j : j + 6].astype(np.float64).ravel()
      patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10)
      response = (patch - codes.mean) @ codes.whitening @ codes.dictionary
      # The middle one of seven rows is in the upper half.
      quadrant = 2 * (i > 3) + (j > 3)
      expected[0, quadrant] += np.maximum(response - 0.25, 0)
      expected[1, quadrant] += np.maximum(-response - 0.25, 0)
  found = sparse_codes.encode(codes, image)
  np.testing.assert_allclose(found, 2 * (expected.ravel() - 0.5), rtol=2e-4)


def test_a_dictionary_finds_what_the_data_are_made_of():
  rng = np.random.default_rng(3)
  true = np.linalg.qr(rng.normal(size=(10, 10)))[0][:, :4]
  chosen = rng.integers(0, 4, 2_000)
  sizes = rng.normal(size=2_000) + 0.01
  patches = (sizes * true[:, chosen]).T + 0.01 * rng.normal(size=(2_000, 10))
  found = sparse_codes.omp1(patches.astype(np.float32), 8, rng)
  np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, rtol=1e-5)
  assert np.abs(true.T @ found).max(axis=1).min() > 0.999


def test_the_mixture_that_made_the_data_is_found():
  rng = np.random.default_rng(6)
  means = np.array([[0, 0], [6, 0], [0, 6]], np.float32)
  sigmas = np.array([[1, 2], [0.5, 1], [1, 0.5]])
  chosen = rng.choice(3, 6_000, p=[0.5, 0.3, 0.2])
  samples = rng.normal(means[chosen], sigmas[chosen]).astype(np.float32)
  found = fisher_vectors.fit_mixture(samples, 3)
  places = np.linalg.norm(means[:, None] - found.means, axis=2).argmin(axis=1)
  np.testing.assert_allclose(found.weights[places], [0.5, 0.3, 0.2], atol=0.03)
  np.testing.assert_allclose(found.means[places], means, atol=0.15)
  np.testing.assert_allclose(found.variances[places], sigmas**2, rtol=0.15)


def test_the_classifier_is_the_least_squares_solution():
  rng = np.random.default_rng(4)
  labels = rng.choice([0, 2, 3], 300)  # Of class 1 there is no image.
  encoded = 5 + np.eye(4)[labels] + 0.3 * rng.normal(size=(300, 4))
  found = rivals.train_classifier(encoded.astype(np.float32), labels, 4)
  scores = found(encoded.astype(np.float32))
  assert (scores.argmax(axis=1) == labels).mean() > 0.9
  centered = encoded - encoded.mean(axis=0)
  targets = 2.0 * (labels[:, None] == np.arange(4)) - 1
  gram = centered.T @ centered
  solutions = [
    np.linalg.solve(
      gram + ridge * np.trace(gram) / 4 * np.eye(4), centered.T @ targets
    )
    for ridge in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
  ]
  errors = [np.abs(weights - found.weights).max() for weights in solutions]
  best = solutions[int(np.argmin(errors))]
  assert min(errors) < 1e-5
  expected = centered @ best + targets.mean(axis=0)
  np.testing.assert_allclose(scores, expected, atol=1e-4)


def _write_split(folder, count, rng):
  """Writes two classes: stripes across on reds, stripes along on blues."""
  for label in range(2):
    (folder / str(label)).mkdir(parents=True)
    for i in range(count):
      wave = np.sin(np.arange(32) * rng.uniform(0.5, 2) + rng.uniform(0, 6))
      stripes = np.broadcast_to(wave[:, None] if label else wave, (32, 32))
      color = rng.uniform(0, 1, 3) + [label, 0, 1 - label]
      pixels = 60 * color * (1.5 + stripes[..., None])
      pixels += rng.normal(0, 20, pixels.shape)
      image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
      image.save(folder / str(label) / f'{i}.png')


def test_rivals_beat_chance_on_images_with_an_obvious_class(tmp_path):
  rng = np.random.default_rng(5)
  _write_split(tmp_path / 'data/train', 30, rng)
  _write_split(tmp_path / 'data/test', 15, rng)
  trained_testing.write_run(
    tmp_path / 'run',
    tmp_path / 'data',
    **{'network.fc8.features': 2, 'input.image_size': 32},
  )
  run = inference.open_run(tmp_path / 'run')
  sizes = rivals.Sizes(images=50, sample=20, gaussians=4, codes=16)
  found = {each.variant: each for each in rivals.measure([run], sizes)}
  assert list(found) == ['sparse codes', 'Fisher vectors', 'AlexNet']
  for name in ('sparse codes', 'Fisher vectors'):
    values = found[name].values
    assert found[name].seed == run.setup.settings.seed
    assert values['top1_error'] < 0.15
    assert values['top5_error'] == 0
    assert values['seconds'] > 0
    assert values['test_milliseconds'] > 0
  # A dictionary, its whitening and scales, and two columns of a classifier.
  numbers = 108 + 108**2 + 108 * 16 + 4 * 8 * 16 + 2
  assert found['sparse codes'].values['bytes'] == 4 * numbers
  network = found['AlexNet'].values
  assert network['bytes'] == 4 * sum(map(np.size, jax.tree.leaves(run.params)))
  assert 'seconds' not in network  # The run has no metrics.jsonl.
