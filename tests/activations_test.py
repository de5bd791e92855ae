import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax.analysis import activations
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense

_SIDE = 13
_FLOAT = jnp.float32
# Every operation, layers that read their own tower and all; five classes, which
# two towers cannot share equally.
_NETWORK = architecture.Architecture(
  layers=(
    Conv(
      'conv1', 8, 3, init_std=0.3, init_bias=0.1, padding=(0, 2),
      order=('response_norm', 'pool', 'activation'),
    ),
    Conv(
      'conv2', 12, 3, init_std=0.3, init_bias=0.2, padding=(1, 1),
      order=('activation', 'map_norm'),
    ),
    Conv(
      'conv3', 8, 3, init_std=0.2, init_bias=0.1, padding=(1, 1),
      reads='all', order=('activation', 'pool'),
    ),
    Dense('fc4', 14, init_std=0.5, init_bias=0.3),
    Dense('fc5', 10, init_std=0.5, init_bias=0.3, reads='own'),
    Dense('fc6', 5, init_std=0.5, order=()),
  )
)  # fmt: skip
_NAMES = ['conv1', 'conv2', 'conv3', 'fc4', 'fc5', 'fc6']


@functools.cache
def _params(towers=2):
  network = dataclasses.replace(_NETWORK, towers=towers)
  init = jax.jit(model.init, static_argnums=(0, 2))
  return init(network, jax.random.key(3), _SIDE)


def _images():
  rng = np.random.default_rng(0)
  return rng.standard_normal((4, _SIDE, _SIDE, 3)).astype(np.float32)


_layer_outputs = jax.jit(activations.layer_outputs, static_argnums=(0, 3, 4))
_layer_output = jax.jit(activations.layer_output, static_argnums=(0, 3))
_forward = jax.jit(model.forward, static_argnums=0)


@pytest.mark.parametrize('towers', [1, 2])
def test_logits_are_those_of_the_network(towers):
  network = dataclasses.replace(_NETWORK, towers=towers)
  params = _params(towers)
  results = _layer_outputs(network, params, _images())
  assert list(results) == [*_NAMES, 'logits', 'probabilities']
  expected = np.asarray(_forward(network, params, _images()))
  np.testing.assert_allclose(results['logits'], expected, atol=1e-5)
  exps = np.exp(expected.astype(np.float64))
  np.testing.assert_allclose(
    results['probabilities'], exps / exps.sum(1, keepdims=True), atol=1e-6
  )
  assert results['conv3'].shape == (towers, 4, 2, 2, 8 // towers)
  assert results['fc5'].shape == (towers, 4, 10 // towers)


@pytest.mark.parametrize('i', range(len(_NAMES)), ids=_NAMES)
def test_a_layers_output_is_that_of_the_network_cut_off_after_it(i):
  layers = _NETWORK.layers[: i + 1]
  # Its last layer is then what `model.forward` calls the logits, and cuts to
  # the number of features: along the rows of maps, which are fewer.
  expected = _forward(
    dataclasses.replace(_NETWORK, layers=layers), _params(), _images()
  )
  actual = _layer_output(_NETWORK, _params(), _images(), _NAMES[i])
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  assert actual.shape[-1] == layers[-1].features
  assert np.std(actual) > 0.01
  by_tower = _layer_outputs(_NETWORK, _params(), _images())[_NAMES[i]]
  joined = np.concatenate(list(by_tower), axis=-1)
  np.testing.assert_allclose(joined[..., : actual.shape[-1]], actual, atol=1e-5)


@pytest.mark.parametrize('ablated', [0, 1])
def test_an_ablated_tower_is_one_whose_activations_have_no_weight(ablated):
  params = jax.tree.map(np.array, _params())
  # Inputs of the layers that read all towers: the ablated tower's channels on
  # the last axis of the joined activations.
  for name, channels in (('conv3', 12), ('fc4', 8), ('fc6', 10)):
    kernel = params[name]['kernel']
    half = channels // 2
    shape = kernel.shape
    kernel = kernel.reshape(2, -1, channels, shape[-1])
    kernel[:, :, ablated * half : (ablated + 1) * half] = 0
    params[name]['kernel'] = kernel.reshape(shape)
  expected = _forward(_NETWORK, params, _images())
  results = _layer_outputs(_NETWORK, _params(), _images(), _FLOAT, ablated)
  np.testing.assert_allclose(results['logits'], expected, atol=1e-5)
  everyone = _layer_outputs(_NETWORK, _params(), _images())
  assert np.abs(everyone['logits'] - expected).max() > 0.1
  # Nothing changes before the first join.
  np.testing.assert_array_equal(results['conv2'], everyone['conv2'])


def test_bfloat16_is_returned_as_float32():
  results = _layer_outputs(_NETWORK, _params(), _images(), jnp.bfloat16)
  assert {str(value.dtype) for value in results.values()} == {'float32'}
  exact = _forward(_NETWORK, _params(), _images())
  difference = np.abs(results['logits'] - exact).max() / np.abs(exact).max()
  assert 1e-6 < difference < 0.1


def test_an_unknown_layer_or_tower_is_a_mistake_in_one_line():
  with pytest.raises(errors.UserError) as caught:
    activations.layer_output(_NETWORK, _params(), _images(), 'fc9')
  assert "'fc9'" in str(caught.value)
  assert ', '.join(_NAMES) in str(caught.value)
  assert '\n' not in str(caught.value)
  with pytest.raises(errors.UserError, match='towers 0 to 1'):
    activations.layer_outputs(_NETWORK, _params(), _images(), ablated_tower=2)
