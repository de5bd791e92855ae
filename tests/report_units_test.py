import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import model
from alexnet_jax import presets
from alexnet_jax.analysis import activations
from alexnet_jax.analysis.report import units
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense


@pytest.mark.parametrize(
  ('layer', 'jump', 'size'),
  # As published for AlexNet, each after its pooling if it has one.
  [('conv1', 8, 19), ('conv2', 16, 67), ('conv3', 16, 99), ('conv5', 32, 195)],
)
def test_receptive_fields_of_the_paper(layer, jump, size):
  window = units.receptive_field(presets.paper(), layer)
  assert (window.jump, window.size) == (jump, size)


@pytest.mark.parametrize('layer', ['conv1', 'conv2', 'conv3'])
def test_receptive_field_is_where_the_derivative_is(layer):
  network = architecture.Architecture(
    towers=1,
    activation='identity',
    layers=(
      Conv('conv1', 2, 3, init_std=1.0, stride=2, padding=(0, 2)),
      Conv('conv2', 2, 5, init_std=1.0, padding=(2, 2)),
      Conv('conv3', 2, 3, init_std=1.0, padding=(1, 1)),
      Dense('fc4', 3, order=()),
    ),
  )
  side, place = 41, 9
  params = model.init(network, jax.random.key(0), side)

  def unit(image):
    output = activations.layer_output(network, params, image, layer)
    return output[0, place, place, 0]

  image = jax.random.normal(jax.random.key(1), (1, side, side, 3))
  felt = np.abs(jax.grad(unit)(image)).sum(axis=(0, 3)) > 0
  window = units.receptive_field(network, layer)
  expected = np.zeros((side, side), bool)
  seen = units.patch_slice(window, place, side)
  expected[seen, seen] = True
  np.testing.assert_array_equal(felt, expected)


def test_patch_slice_stays_inside():
  window = units.Window(start=-4, jump=4, size=10)
  assert units.patch_slice(window, 2, 28) == slice(4, 14)
  assert units.patch_slice(window, 0, 28) == slice(0, 10)
  assert units.patch_slice(window, 6, 28) == slice(18, 28)
  assert units.patch_slice(window, 1, 8) == slice(0, 8)


def test_peaks_against_numpy():
  outputs = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6))
  values, places = jax.jit(units.peaks)(jnp.asarray(outputs, jnp.float32))
  flat = outputs.reshape(2, 3, 20, 6)
  np.testing.assert_allclose(values, flat.max(axis=2), rtol=1e-6)
  np.testing.assert_array_equal(places, flat.argmax(axis=2))
  dense = jnp.asarray(outputs[:, :, 0, 0], jnp.float32)
  values, places = units.peaks(dense)
  np.testing.assert_array_equal(values, dense)
  assert not np.any(places)


def _peaks(values):
  values = np.asarray(values, np.float32)
  images = np.arange(values.shape[1])
  return units.Peaks(values, np.zeros(values.shape, np.int32), images, 1)


def test_silent_units_and_join():
  first = _peaks([[[0, 1, 0], [0, 2, 0]]])
  second = _peaks([[[0, 0, 3]]])
  assert first.silent().tolist() == [[True, False, True]]
  both = units.join([first, second])
  assert both.silent().tolist() == [[True, False, False]]
  assert both.values.shape == (1, 3, 3)
  assert both.images.tolist() == [0, 1, 0]


def test_selective_prefers_rare_and_strong_answers():
  values = np.full((1, 40, 4), 1.0)  # map 0 answers everything alike
  values[0, :, 1] = 0  # silent
  values[0, :4, 2] = 30  # strong in a tenth of the images
  values[0, :, 3] = 0
  values[0, 0, 3] = 0.01  # rarer still, but next to nothing
  choose = functools.partial(units.selective, _peaks(values), 0, top=4)
  assert choose(1).tolist() == [2]
  # The silent map and the one that hardly answers are passed over.
  assert choose(4).tolist() == [2]
