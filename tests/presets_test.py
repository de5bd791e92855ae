import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import presets
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step

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

# (name, output, multiply-adds) of net 147, whose paddings and pooling differ.
_NET_147 = [
  ('conv1', (55, 55, 96), 105_415_200),
  ('conv2', (26, 26, 256), 26**2 * 307_200),
  ('conv3', (13, 13, 384), 149_520_384),
  ('conv4', (13, 13, 384), 112_140_288),
  ('conv5', (11, 11, 256), 11**2 * 442_368),
  ('fc6', (4096,), 37_748_736),
  ('fc7', (4096,), 16_777_216),
  ('fc8', (1000,), 4_096_000),
]

_PARAMETERS = {
  'paper': 60_965_224,
  'cuda_convnet': 60_965_224,
  'one_gpu': 59_798_312,
  'net_145_half': 59_798_312,
  'net_147': 60_965_224,
  'net_148': 60_965_224,
  'no_communication': 60_714_408,
  'ungrouped': 62_378_344,
  'torchvision': 61_100_840,
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
  # Sides 28 -> conv1 27 -> pool 13 -> pool 6 -> conv5 5 -> pool 2.
  'study': (
    (5 * 5 * 3 * 32 + 32)
    + (3 * 3 * 16 * 64 + 64)
    + (3 * 3 * 64 * 64 + 64)
    + 2 * (3 * 3 * 32 * 64 + 64)
    + (2 * 2 * 64 * 256 + 256)
    + (256 * 256 + 256)
    + (256 * 10 + 10)
  ),
  # Sides 32 -> pool 16 -> pool 8 -> pool 4.
  'four_layer': (
    (5 * 5 * 3 * 32 + 32)
    + (5 * 5 * 32 * 32 + 32)
    + (5 * 5 * 32 * 64 + 64)
    + (4 * 4 * 64 * 10 + 10)
  ),
}
# (neurons, multiply-adds).
_NEURONS_AND_WORK = {
  'paper': (659_272, 724_406_816),
  'cuda_convnet': (659_272, 724_406_816),
  'one_gpu': (355_864, 391_514_384),
  'net_145_half': (355_864, 391_514_384),
  'net_148': (659_272, 724_406_816),
  # 64 more maps of conv2, 4,096 more units of fc6.
  'no_communication': (659_272 + 27 * 27 * 64 + 4_096, 724_323_872),
  'ungrouped': (659_272, 1_135_256_096),
}


def _crop_size(name):
  return {'small': 28, 'study': 28, 'four_layer': 32}.get(name, 224)


@pytest.mark.parametrize('name', ['paper', 'cuda_convnet'])
def test_table_of_two_towers(name):
  rows = architecture.layer_shapes(presets.get(name), 224)
  assert [dataclasses.astuple(row) for row in rows] == _TWO_TOWERS


def test_table_of_net_147():
  rows = architecture.layer_shapes(presets.net_147(), 224)
  actual = [(row.name, row.output, row.multiply_adds) for row in rows]
  assert actual == _NET_147
  # By the override alone, which leaves the paddings: the same maps for conv3
  # and fc6, by another way.
  network = presets.paper()
  pool = dataclasses.replace(network.pool, size=2)
  rows = architecture.layer_shapes(dataclasses.replace(network, pool=pool), 224)
  assert [row.output[0] for row in rows[:5]] == [55, 27, 13, 13, 13]
  assert rows[5].weights == 6 * 6 * 256 * 4096


def test_a_study_of_overlap_changes_no_shape():
  network = presets.study()
  pool = dataclasses.replace(network.pool, size=2)
  apart = dataclasses.replace(network, pool=pool)
  rows = architecture.layer_shapes(network, 28)
  assert architecture.layer_shapes(apart, 28) == rows
  assert [row.output[0] for row in rows[:5]] == [27, 13, 6, 6, 5]


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


@pytest.mark.parametrize(
  ('name', 'sums', 'passed'),
  [
    *(
      (name, (55, 27, 13, 13, 13), (27, 13, 13, 13, 6))
      for name in ('paper', 'cuda_convnet', 'one_gpu', 'net_148', 'torchvision')
    ),
    ('net_147', (55, 26, 13, 13, 11), (28, 13, 13, 13, 6)),
  ],
)
def test_sides_of_the_real_modules(name, sums, passed):
  network = presets.get(name)
  maps = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

  def apply(layer, x):
    stage = model.Stage(network, (layer,))
    return jax.eval_shape(stage.init_with_output, jax.random.key(0), x)[0][0]

  summed, passed_on = [], []
  for layer in network.layers[:5]:
    bare = dataclasses.replace(layer, order=())
    summed.append(apply(bare, maps).shape[1:3])
    maps = apply(layer, maps)
    passed_on.append(maps.shape[1:3])
  assert summed == [(s, s) for s in sums]
  assert passed_on == [(s, s) for s in passed]


@pytest.mark.parametrize(
  ('name', 'middle_std'), [('paper', 0.01), ('cuda_convnet', 0.03)]
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
  source = {layer.name: layer.order for layer in presets.cuda_convnet().layers}
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


def test_nets_147_148_and_150_differ_from_145_by_what_they_leave_out():
  source = presets.cuda_convnet()

  def without(network, *fields):
    layers = [
      {k: v for k, v in dataclasses.asdict(layer).items() if k not in fields}
      for layer in network.layers
    ]
    return layers, {**dataclasses.asdict(network), 'layers': None}

  assert without(presets.net_148(), 'order') == without(source, 'order')
  orders = {layer.name: layer.order for layer in presets.net_148().layers}
  assert orders['conv1'] == orders['conv5'] == ('pool', 'activation')
  assert orders['conv2'] == ('activation', 'pool')
  no_communication = presets.no_communication()
  changed = ('reads', 'features')
  assert without(no_communication, *changed) == without(source, *changed)
  reads = [
    layer.name for layer in no_communication.layers if layer.reads == 'all'
  ]
  assert reads == ['fc8']
  layers, fields = without(presets.net_147(), 'padding')
  expected = without(source, 'padding')
  assert layers == expected[0]
  assert fields['pool'] == {
    'size': 2, 'stride': 2, 'past_border': True, 'ties': 'whole',
  }  # fmt: skip
  half = presets.net_145_half()
  assert [x.features for x in half.layers] == [
    48, 128, 192, 192, 256, 4096, 4096, 1000,
  ]  # fmt: skip
  assert [x.order for x in half.layers] == [x.order for x in source.layers]
  assert [x.init_std for x in half.layers] == [
    x.init_std for x in source.layers
  ]


def test_tied_maxima_are_treated_as_in_2012_by_the_2012_nets_alone():
  ties = {name: presets.get(name).pool.ties for name in presets.PRESETS}
  whole = {name for name, rule in ties.items() if rule == 'whole'}
  assert whole == {
    'cuda_convnet', 'net_145_half', 'net_147', 'net_148', 'no_communication',
    'four_layer',
  }  # fmt: skip


def test_constants_of_the_normalizations():
  norms = presets.paper().response_norm, presets.cuda_convnet().response_norm
  assert [dataclasses.astuple(n) for n in norms] == [
    (5, 2.0, pytest.approx(1e-4), 0.75),
    (5, 2.0, pytest.approx(2e-5), 0.75),
  ]
  assert dataclasses.astuple(presets.cuda_convnet().map_norm) == (
    5, 1.0, pytest.approx(4e-5), 0.75,
  )  # fmt: skip


def _train_step(placement):
  layers = placement.network.layers
  recipe = train_step.Recipe(
    schedule=optimizer.constant_schedule(0.01, 0.1),
    # Without decay, so that the velocity is the gradient's alone.
    optimizer=optimizer.momentum_sgd(0.9, 0.0, 0.0),
    multipliers={'bias': 2.0, **{x.name: 1.0 for x in layers}},
    mean=np.float32([127, 120, 105]),
  )
  return train_step.make_train_step(placement, recipe)


def _batch(crop_size):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (4, crop_size, crop_size, 3), np.uint8),
    'label': np.arange(4, dtype=np.int32),
    'mask': np.ones(4, np.float32),
    'unreadable': np.zeros(4, np.float32),
    'lighting': np.zeros((4, 3), np.float32),
  }


@pytest.mark.parametrize('name', list(presets.PRESETS))
def test_a_step_of_every_preset_keeps_the_shapes_of_its_state(name):
  network, crop_size = presets.get(name), _crop_size(name)
  placement = sharding.place(network, jax.devices()[:1])
  before = jax.eval_shape(
    lambda: train_state.create(placement, seed=0, crop_size=crop_size)
  )
  batch = train_step.put_batch(_batch(crop_size), 1, placement)
  after, loss = jax.eval_shape(_train_step(placement), before, batch)
  shapes = [
    [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    for state in (before, after)
  ]
  assert shapes[0] == shapes[1]
  assert loss.shape == ()


# Their operations are those of all: pooling past the border, both
# normalizations and both rules for ties; none, and scaling in training.
@pytest.mark.parametrize('name', ['cuda_convnet', 'torchvision'])
def test_a_step_reaches_every_parameter(name):
  network, crop_size = presets.get(name), 67
  network = dataclasses.replace(
    network,
    dropout_rate=0.0,
    layers=tuple(
      dataclasses.replace(layer, features=min(layer.features, 32))
      for layer in network.layers
    ),
  )
  placement = sharding.place(network, jax.devices()[:1])
  state = train_state.create(placement, seed=0, crop_size=crop_size)
  batch = train_step.put_batch(_batch(crop_size), 1, placement)
  state, loss = _train_step(placement)(state, batch)
  assert np.isfinite(loss)
  # A gradient may be too small to move a bias of 1 in float32: the velocity
  # shows it.
  assert all(x.any() for x in jax.tree.leaves(state.velocity))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_an_unknown_preset_is_named_with_those_that_there_are():
  with pytest.raises(errors.UserError) as caught:
    presets.get('vgg')
  message = str(caught.value)
  assert '\n' not in message
  assert "'vgg'" in message
  assert [name for name in presets.PRESETS if name not in message] == []
