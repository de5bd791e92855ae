import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import model
from alexnet_jax.analysis.report import saliency
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense


def test_patch_places_reach_both_ends():
  assert saliency.patch_places(10, 4, 4).tolist() == [0, 4, 6]
  assert saliency.patch_places(10, 4, 3).tolist() == [0, 3, 6]
  assert saliency.patch_places(4, 4, 2).tolist() == [0]


def test_occlusion_finds_a_planted_patch():
  """The answer is the brightness of one 6x6 square, and of nothing else."""
  size, top, left, side = 28, 15, 4, 6
  image = np.full((size, size, 3), 40, np.uint8)
  image[top : top + side, left : left + side] = 200

  def probabilities(crops):
    planted = crops[:, top : top + side, left : left + side]
    bright = planted.mean(axis=(1, 2, 3)) / 255
    return np.stack([bright, 1 - bright], axis=1)

  loss = saliency.occlusion(probabilities, image, np.full(3, 40), 6, 1)
  assert loss.shape == (size, size, 2)
  row, column = np.unravel_index(loss[..., 0].argmax(), (size, size))
  assert top <= row < top + side
  assert left <= column < left + side
  # A pixel in the middle of the square: mean over the 36 places of the share
  # of the square that is covered, (1 + ... + 6 + ... ) / 6 along each axis.
  along = np.array([4, 5, 6, 5, 4, 3]) / 6  # the places that cover row top + 2
  expected = np.outer(along, along).mean() * 160 / 255
  assert loss[top + 2, left + 2, 0] == pytest.approx(expected)
  np.testing.assert_allclose(loss[..., 0], -loss[..., 1], atol=1e-6)
  far = np.s_[: top - side + 1]  # no square reaches from there
  np.testing.assert_allclose(loss[far], 0, atol=1e-6)


def test_occlusion_in_blocks_and_with_a_fill_image():
  random = np.random.default_rng(0)
  image = random.integers(0, 256, (16, 16, 3), np.uint8)
  fill = random.uniform(0, 255, (16, 16, 3)).astype(np.float32)
  weights = random.normal(size=(16 * 16 * 3, 2))

  def linear(crops):
    return crops.reshape(len(crops), -1) @ weights

  found = saliency.occlusion(linear, image, fill, 1, 1)
  # Of a linear function a pixel's share is its own; 256 squares, two blocks.
  difference = image.astype(np.float64) - fill
  expected = difference[..., None] * weights.reshape(16, 16, 3, 2)
  np.testing.assert_allclose(found, expected.sum(axis=2), rtol=1e-3, atol=0.02)


def test_gradient_of_a_linear_function_is_its_weights():
  weights = jax.random.normal(jax.random.key(0), (4 * 4 * 3, 5))
  images = jax.random.normal(jax.random.key(1), (3, 4, 4, 3))
  classes = jnp.array([4, 0, 4])
  found = saliency.gradient(
    lambda x: x.reshape(len(x), -1) @ weights, images, classes
  )
  expected = weights.T[classes].reshape(3, 4, 4, 3)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_guided_relu():
  x = jnp.array([-1.0, 2.0, 3.0, 0.0])
  value, pull = jax.vjp(saliency.guided_relu, x)
  np.testing.assert_array_equal(value, [0, 2, 3, 0])
  (dx,) = pull(jnp.array([5.0, 5.0, -5.0, 5.0]))
  np.testing.assert_array_equal(dx, [0, 5, 0, 0])


def test_guided_gradient_of_dense_layers_by_hand():
  network = architecture.Architecture(
    towers=1,
    layers=(
      Dense('fc6', 9, init_std=0.5, order=('activation',)),
      Dense('fc7', 7, init_std=0.5, order=('activation',)),
      Dense('fc8', 4, init_std=0.5, order=()),
    ),
  )
  params = model.init(network, jax.random.key(0), 2)
  image = jax.random.normal(jax.random.key(1), (1, 2, 2, 3))
  logits = functools.partial(model.forward, network, params)
  found = saliency.gradient(saliency.guided(logits), image, jnp.array([2]))

  w6, w7, w8 = (
    np.asarray(params[name]['kernel'][0], np.float64)
    for name in ('fc6', 'fc7', 'fc8')
  )
  first = np.asarray(image, np.float64).reshape(-1) @ w6
  second = np.maximum(first, 0) @ w7
  signal = np.where(second > 0, np.maximum(w8[:, 2], 0), 0)
  signal = np.where(first > 0, np.maximum(w7 @ signal, 0), 0)
  expected = (w6 @ signal).reshape(1, 2, 2, 3)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  plain = saliency.gradient(logits, image, jnp.array([2]))
  assert np.abs(plain - found).max() > 0.01


def test_guided_leaves_the_answer_alone():
  network = architecture.Architecture(
    layers=(
      Conv('conv1', 4, 3, init_std=0.5, order=('activation', 'pool')),
      Dense('fc2', 3, init_std=0.5, order=()),
    )
  )
  params = model.init(network, jax.random.key(0), 8)
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  logits = functools.partial(model.forward, network, params)
  np.testing.assert_array_equal(saliency.guided(logits)(images), logits(images))


def test_overlay():
  image = np.full((1, 3, 3), 100, np.uint8)
  values = np.array([[1.0, 0.0, -0.5]])
  found = saliency.overlay(image, values, '#ff0000', '#0000ff')
  gray = 55 + 60
  assert found[0, 0].tolist() == [255, 0, 0]
  assert found[0, 1].tolist() == [gray, gray, gray]
  half = round(gray / 2 + 0.01)
  assert found[0, 2].tolist() == [half, half, round((gray + 255) / 2 + 0.01)]
