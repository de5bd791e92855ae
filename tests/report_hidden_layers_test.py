import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import model
from alexnet_jax import presets
from alexnet_jax.analysis import activations
from alexnet_jax.analysis.report import hidden_layers
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense


@pytest.mark.parametrize(
  ('layer', 'jump', 'size'),
  # As published for AlexNet, each after its pooling if it has one.
  [('conv1', 8, 19), ('conv2', 16, 67), ('conv3', 16, 99), ('conv5', 32, 195)],
)
def test_receptive_fields_of_the_paper(layer, jump, size):
  window = hidden_layers.receptive_field(presets.paper(), layer)
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
  window = hidden_layers.receptive_field(network, layer)
  expected = np.zeros((side, side), bool)
  seen = window.pixels(place, side)
  expected[seen, seen] = True
  np.testing.assert_array_equal(felt, expected)


def test_receptive_fields_are_moved_inside():
  window = hidden_layers.Window(start=-4, jump=4, size=10)
  assert window.pixels(2, 28) == slice(4, 14)
  assert window.pixels(0, 28) == slice(0, 10)
  assert window.pixels(6, 28) == slice(18, 28)
  assert window.pixels(1, 8) == slice(0, 8)


def test_peaks_against_numpy():
  outputs = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6))
  values, places = jax.jit(hidden_layers.peaks)(
    jnp.asarray(outputs, jnp.float32)
  )
  flat = outputs.reshape(2, 3, 20, 6)
  np.testing.assert_allclose(values, flat.max(axis=2).swapaxes(0, 1), rtol=1e-6)
  rows, columns = np.divmod(flat.argmax(axis=2).swapaxes(0, 1), 5)
  np.testing.assert_array_equal(places, np.stack([rows, columns], axis=-1))
  dense = jnp.asarray(outputs[:, :, 0, 0], jnp.float32)
  values, places = hidden_layers.peaks(dense)
  np.testing.assert_array_equal(values, dense.swapaxes(0, 1))
  assert not np.any(places)


def test_inactive_units():
  values = np.array([[[0, 1, 0]], [[0, 2, 0]], [[0, 0, 3]]], np.float32)
  inactive = hidden_layers.inactive_units
  assert inactive(hidden_layers.Peaks(values, values)).tolist() == [
    [True, False, False]
  ]
  assert inactive(hidden_layers.Peaks(values[:2], values)).tolist() == [
    [True, False, True]
  ]


def test_selective_prefers_rare_and_strong_activations():
  values = np.full((40, 4), 1.0)  # unit 0 has the same activation everywhere
  values[:, 1] = 0  # inactive
  values[:4, 2] = 30  # strong in a tenth of the images
  values[:, 3] = 0
  values[0, 3] = 0.01  # rarer still, but next to nothing
  assert hidden_layers.selective(values, 1, top=4).tolist() == [2]
  # The inactive unit and the hardly active one are excluded.
  assert hidden_layers.selective(values, 4, top=4).tolist() == [2]


def test_ablations():
  assert hidden_layers.ablations(1) == {'all towers': None}
  assert hidden_layers.ablations(2) == {
    'all towers': None, 'tower 1 alone': 1, 'tower 2 alone': 0
  }  # fmt: skip
  assert hidden_layers.ablations(4)['without tower 4'] == 3
