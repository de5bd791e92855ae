import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax import presets

# (name, output, weights, biases, multiply-adds) of two towers, per image.
_TWO_TOWERS = [
  ('conv1', (55, 55, 96), 34_848, 96, 105_415_200),
  ('conv2', (27, 27, 256), 307_200, 256, 223_948_800),
  ('conv3', (13, 13, 384), 884_736, 384, 149_520_384),
  ('conv4', (13, 13, 384), 663_552, 384, 112_140_288),
  ('conv5', (13, 13, 256), 442_368, 256, 74_760_192),
  ('fc6', (4096,), 37_748_736, 4_096, 37_748_736),
  ('fc7', (4096,), 16_777_216, 4_096, 16_777_216),
  ('fc8', (1000,), 4_096_000, 1_000, 4_096_000),
]

_PARAMETERS = {
  'paper': 60_965_224,
  'source': 60_965_224,
  'one_gpu': 59_798_312,
  'ungrouped': 62_378_344,
  'torchvision': 61_100_840,
  # conv3, fc6 and fc7 read one tower: half the weights of `paper`.
  'no_communication': (
    (11 * 11 * 3 * 96 + 96)
    + (5 * 5 * 48 * 256 + 256)
    + (3 * 3 * 128 * 384 + 384)
    + (3 * 3 * 192 * 384 + 384)
    + (3 * 3 * 192 * 256 + 256)
    + (6 * 6 * 128 * 4096 + 4096)
    + (2048 * 4096 + 4096)
    + (4096 * 1000 + 1000)
  ),
  # Sides 28 -> pool 13 -> pool 6 -> pool 2.
  'small': (
    (5 * 5 * 3 * 32 + 32)
    + (5 * 5 * 16 * 64 + 64)
    + (3 * 3 * 64 * 96 + 96)
    + (3 * 3 * 48 * 96 + 96)
    + (3 * 3 * 48 * 64 + 64)
    + (2 * 2 * 64 * 256 + 256)
    + (256 * 256 + 256)
    + (256 * 10 + 10)
  ),
}
# (neurons, multiply-adds).
_NEURONS_AND_WORK = {
  'paper': (659_272, 724_406_816),
  'source': (659_272, 724_406_816),
  'one_gpu': (355_864, 391_514_384),
  'ungrouped': (659_272, 1_135_256_096),
}


def _crop_size(name):
  return 28 if name == 'small' else 224


@pytest.mark.parametrize('name', ['paper', 'source'])
def test_table_of_two_towers(name):
  rows = architecture.layer_shapes(presets.get(name), 224)
  assert [dataclasses.astuple(row) for row in rows] == _TWO_TOWERS


@pytest.mark.parametrize('name', list(presets.PRESETS))
def test_parameters(name):
  rows = architecture.layer_shapes(presets.get(name), _crop_size(name))
  assert sum(row.weights + row.biases for row in rows) == _PARAMETERS[name]


@pytest.mark.parametrize('name', list(_NEURONS_AND_WORK))
def test_neurons_and_multiply_adds(name):
  rows = architecture.layer_shapes(presets.get(name), 224)
  neurons = sum(int(np.prod(row.output)) for row in rows)
  work = sum(row.multiply_adds for row in rows)
  assert (neurons, work) == _NEURONS_AND_WORK[name]


def test_share_of_the_convolutions():
  rows = architecture.layer_shapes(presets.paper(), 224)[:5]
  assert sum(row.weights + row.biases for row in rows) == 2_334_080
  assert sum(row.multiply_adds for row in rows) == 665_784_864


@pytest.mark.parametrize('name', list(presets.PRESETS))
def test_initial_arrays_agree_with_the_table(name):
  network, crop_size = presets.get(name), _crop_size(name)
  params = jax.eval_shape(
    lambda: model.init(network, jax.random.key(0), crop_size)
  )
  rows = architecture.layer_shapes(network, crop_size)
  assert set(params) == {row.name for row in rows}
  for row in rows:
    layer = params[row.name]
    assert set(layer) == {'kernel', 'bias'}
    assert {x.dtype for x in layer.values()} == {jnp.dtype('float32')}
    assert layer['kernel'].shape[0] == layer['bias'].shape[0] == network.towers
    assert layer['kernel'].shape[-1] == row.output[-1] // network.towers
    assert (layer['kernel'].size, layer['bias'].size) == (
      row.weights,
      row.biases,
    )


@pytest.mark.parametrize('name', ['paper', 'source', 'one_gpu', 'torchvision'])
def test_sides_of_the_real_modules(name):
  network = presets.get(name)
  maps = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

  def apply(layer, x):
    stage = model.Stage(network, (layer,))
    return jax.eval_shape(stage.init_with_output, jax.random.key(0), x)[0]

  summed, passed_on = [], []
  for layer in network.layers[:5]:
    bare = dataclasses.replace(layer, order=())
    summed.append(apply(bare, maps).shape[1:3])
    maps = apply(layer, maps)
    passed_on.append(maps.shape[1:3])
  assert summed == [(s, s) for s in (55, 27, 13, 13, 13)]
  assert passed_on == [(s, s) for s in (27, 13, 13, 13, 6)]


@pytest.mark.parametrize(
  ('name', 'middle_std'), [('paper', 0.01), ('source', 0.03)]
)
def test_initial_values(name, middle_std):
  stds = dict.fromkeys(('conv1', 'conv2', 'fc6', 'fc7', 'fc8'), 0.01)
  stds |= dict.fromkeys(('conv3', 'conv4', 'conv5'), middle_std)
  biases = dict.fromkeys(('conv1', 'conv3', 'fc8'), 0.0)
  biases |= dict.fromkeys(('conv2', 'conv4', 'conv5', 'fc6', 'fc7'), 1.0)
  # At 67 pixels fc6 has one place instead of 36. With that and fewer units,
  # which no deviation depends on, the test is quick.
  network = presets.get(name)
  layers = [
    dataclasses.replace(x, features=512) if x.name in ('fc6', 'fc7') else x
    for x in network.layers
  ]
  network = dataclasses.replace(network, layers=tuple(layers))
  params = jax.jit(model.init, static_argnums=(0, 2))(
    network, jax.random.key(3), 67
  )
  for layer, std in stds.items():
    np.testing.assert_array_equal(params[layer]['bias'], biases[layer])
    kernel = np.asarray(params[layer]['kernel'], np.float64).reshape(2, -1)
    # Five standard errors of the mean, of the standard deviation, and of the
    # share within one deviation, which tells a normal from other shapes.
    n = kernel.size
    assert abs(kernel.mean()) < 5 * std / n**0.5
    assert abs(kernel.std() - std) < 5 * std / (2 * n) ** 0.5
    share = np.mean(np.abs(kernel) < std)
    assert abs(share - 0.682689) < 5 * (0.682689 * 0.317311 / n) ** 0.5
    # Towers start out different, or they would stay alike.
    together = np.corrcoef(*kernel)[0, 1]
    assert abs(together) < 5 / (n / 2) ** 0.5


def test_torchvision_draws_as_wide_as_the_uniform_it_replaces():
  # U(-b, b) with b = fan_in ** -0.5 has the variance b^2 / 3.
  network = presets.torchvision()
  fan_in = [11 * 11 * 3, 25 * 64, 9 * 192, 9 * 384, 9 * 256, 9216, 4096, 4096]
  variances = [layer.init_std**2 for layer in network.layers]
  np.testing.assert_allclose(variances, 1 / (3 * np.array(fan_in)), rtol=1e-12)
  assert network.dropout_scaling == 'train'
  # Dropout comes before fc6 and fc7, and nothing is normalized.
  with_dropout = [x.name for x in network.layers if 'dropout' in x.order]
  assert with_dropout == ['conv5', 'fc6']
  orders = {op for layer in network.layers for op in layer.order}
  assert orders == {'activation', 'pool', 'dropout'}


def test_order_of_operations():
  paper = {layer.name: layer.order for layer in presets.paper().layers}
  source = {layer.name: layer.order for layer in presets.source().layers}
  assert paper['conv1'] == paper['conv2']
  assert paper['conv1'] == ('activation', 'response_norm', 'pool')
  assert paper['conv5'] == ('activation', 'pool')
  assert source['conv1'] == ('response_norm', 'pool', 'activation')
  assert source['conv2'] == (
    'activation', 'response_norm', 'map_norm', 'pool',
  )  # fmt: skip
  assert source['conv5'] == ('pool', 'activation')
  for orders in (paper, source):
    assert orders['conv3'] == orders['conv4'] == ('activation',)
    assert orders['fc6'] == orders['fc7'] == ('activation', 'dropout')
    assert orders['fc8'] == ()


def test_constants_of_the_normalizations():
  norms = presets.paper().response_norm, presets.source().response_norm
  assert [dataclasses.astuple(n) for n in norms] == [
    (5, 2.0, pytest.approx(1e-4), 0.75),
    (5, 2.0, pytest.approx(2e-5), 0.75),
  ]
  assert dataclasses.astuple(presets.source().map_norm) == (
    5, 1.0, pytest.approx(4e-5), 0.75,
  )  # fmt: skip


def test_an_unknown_preset_is_named_with_those_that_there_are():
  with pytest.raises(errors.UserError) as caught:
    presets.get('vgg')
  message = str(caught.value)
  assert '\n' not in message
  assert "'vgg'" in message
  assert [name for name in presets.PRESETS if name not in message] == []
