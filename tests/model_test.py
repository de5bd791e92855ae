import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax import presets
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense
from alexnet_jax.architecture import Norm

_CROP = 17


def _network(conv1_order, conv2_order):
  """Two towers with every operation, constants that matter, five classes."""
  return architecture.Architecture(
    layers=(
      Conv(
        'conv1', 8, 3, init_std=0.3, init_bias=0.1, padding=(0, 2),
        order=conv1_order,
      ),
      Conv(
        'conv2', 12, 3, init_std=0.3, init_bias=0.2, padding=(1, 1),
        order=conv2_order,
      ),
      Conv(
        'conv3', 8, 3, init_std=0.2, init_bias=0.1, padding=(1, 1),
        reads='all',
      ),
      Conv(
        'conv4', 6, 3, init_std=0.3, init_bias=0.1, padding=(1, 1),
        order=('activation', 'pool'),
      ),
      Dense('fc5', 14, init_std=0.5, init_bias=0.3),
      Dense('fc6', 10, init_std=0.5, init_bias=0.3, reads='own'),
      Dense('fc7', 5, init_std=0.5, order=()),
    ),
    response_norm=Norm(size=3, k=2.0, alpha=0.2, beta=0.75),
    map_norm=Norm(size=3, k=1.0, alpha=0.1, beta=0.75),
    dropout_rate=0.4,
  )  # fmt: skip


_PAPER = _network(
  ('activation', 'response_norm', 'pool'),
  ('activation', 'response_norm', 'pool'),
)
_CUDA_CONVNET = _network(
  ('response_norm', 'pool', 'activation'),
  ('activation', 'response_norm', 'map_norm'),
)


def _convolve(x, kernel, stride, padding):
  """Kernel places, one at a time: [N, H, W, C] by [k, k, C, F]."""
  x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
  size = kernel.shape[0]
  side = (x.shape[1] - size) // stride + 1
  y = np.empty((x.shape[0], side, side, kernel.shape[3]))
  for i in range(side):
    for j in range(side):
      top, left = i * stride, j * stride
      window = x[:, top : top + size, left : left + size]
      y[:, i, j] = np.tensordot(window, kernel, 3)
  return y


def _response_norm(x):
  y = np.empty_like(x)
  for i in range(x.shape[-1]):
    near = x[..., max(0, i - 1) : i + 2]
    y[..., i] = x[..., i] / (2 + 0.2 * (near**2).sum(-1)) ** 0.75
  return y


def _map_norm(x):
  y = np.empty_like(x)
  for i in range(x.shape[1]):
    for j in range(x.shape[2]):
      near = x[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
      total = (near**2).sum((1, 2))
      y[:, i, j] = x[:, i, j] / (1 + 0.1 * total) ** 0.75
  return y


def _pool(x):
  side = (x.shape[1] - 3) // 2 + 1
  y = np.empty((x.shape[0], side, side, x.shape[3]))
  for i in range(side):
    for j in range(side):
      window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
      y[:, i, j] = window.max((1, 2))
  return y


_OPERATIONS = {
  'activation': lambda x: np.maximum(x, 0),
  'response_norm': _response_norm,
  'map_norm': _map_norm,
  'pool': _pool,
  'dropout': lambda x: 0.6 * x,  # at test time, for the rate 0.4
}


def _reference(network, params, images):
  """The whole network, both towers, at test time, in float64."""
  towers = [np.asarray(images, np.float64)] * 2
  for index, layer in enumerate(network.layers):
    if index > 0 and layer.reads == 'all':
      towers = [np.concatenate(towers, axis=-1)] * 2
    outputs = []
    for tower in (0, 1):
      x = towers[tower]
      kernel = np.asarray(params[layer.name]['kernel'][tower], np.float64)
      bias = np.asarray(params[layer.name]['bias'][tower], np.float64)
      if kernel.ndim == 4:
        x = _convolve(x, kernel, layer.stride, layer.padding) + bias
      else:
        x = x.reshape(len(x), -1) @ kernel + bias
      for operation in layer.order:
        x = _OPERATIONS[operation](x)
      outputs.append(x)
    towers = outputs
  # Five classes on two towers: the sixth unit belongs to none.
  return np.concatenate(towers, axis=-1)[:, :5]


def _init(network, seed=1):
  init = jax.jit(model.init, static_argnums=(0, 2))
  return init(network, jax.random.key(seed), _CROP)


def _images():
  rng = np.random.default_rng(0)
  return rng.standard_normal((3, _CROP, _CROP, 3)).astype(np.float32)


@pytest.mark.parametrize(
  'network', [_PAPER, _CUDA_CONVNET], ids=['paper', 'cuda_convnet']
)
def test_forward(network):
  params = _init(network)
  logits = jax.jit(model.forward, static_argnums=0)(network, params, _images())
  expected = _reference(network, params, _images())
  assert logits.shape == (3, 5)
  assert logits.dtype == jnp.float32
  # Logits that all look alike would prove little.
  assert expected.std(axis=0).min() > 1e-3
  error = np.abs(logits - expected).max() / np.abs(expected).max()
  assert error < 1e-5


def test_towers_share_one_convolution_of_the_images():
  params = _init(_PAPER)
  forward = jax.jit(model.forward, static_argnums=0)
  program = forward.lower(_PAPER, params, _images()).as_text()
  # The first layer's once for both towers, the others' once for each.
  others = sum(isinstance(layer, Conv) for layer in _PAPER.layers[1:])
  assert others > 1
  assert program.count('stablehlo.convolution') == 1 + 2 * others


@pytest.mark.parametrize('platform', ['cpu', 'default'])
def test_the_first_layer_of_both_towers(platform, monkeypatch):
  # Side by side, as on a GPU, no window of the normalization leaves a tower,
  # and each tower has the masks of its key.
  monkeypatch.setattr(
    lax, 'platform_dependent', lambda *args, **ways: ways[platform](*args)
  )
  first = dataclasses.replace(
    _PAPER.layers[0], order=('activation', 'response_norm', 'pool', 'dropout')
  )
  network = dataclasses.replace(_PAPER, layers=(first, *_PAPER.layers[1:]))
  params = _init(network)
  positions = np.arange(len(_images()), dtype=np.int32)
  keys = tuple(jax.random.key(n) for n in range(2))
  both = model.first_layer(network, params, _images(), keys, positions)
  stage = model.Stage(network, (first,))
  for tower in (0, 1):
    own = {'conv1': jax.tree.map(lambda p, t=tower: p[t], params['conv1'])}
    alone = stage.apply(
      {'params': own}, _images(), keys[tower : tower + 1], positions
    )
    np.testing.assert_allclose(both[tower], alone[0], rtol=1e-5, atol=1e-5)
    assert 0.3 < np.mean(np.asarray(both[tower]) == 0) < 0.7


@pytest.mark.parametrize(
  'network', [_PAPER, _CUDA_CONVNET], ids=['paper', 'cuda_convnet']
)
def test_gradient_along_a_direction(network):
  params = _init(network)
  images, labels = _images(), np.array([0, 3, 4])

  def loss(params):
    logits = model.forward(network, params, images)
    return -jax.nn.log_softmax(logits)[np.arange(3), labels].sum()

  def reference_loss(params):
    logits = _reference(network, params, images)
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return (log_sums - logits[np.arange(3), labels]).sum()

  gradient = jax.jit(jax.grad(loss))(params)
  rng = np.random.default_rng(2)
  # One layer at a time, so that no large gradient hides a small one.
  for name in gradient:
    direction = {
      k: rng.standard_normal(v.shape) for k, v in params[name].items()
    }

    def moved(step, name=name, direction=direction):
      layer = {
        k: np.asarray(v, np.float64) + step * direction[k]
        for k, v in params[name].items()
      }
      return reference_loss({**params, name: layer})

    expected = (moved(1e-7) - moved(-1e-7)) / 2e-7
    actual = sum(
      np.sum(np.asarray(gradient[name][k], np.float64) * direction[k])
      for k in direction
    )
    np.testing.assert_allclose(
      actual, expected, rtol=2e-4, atol=1e-6, err_msg=name
    )


def test_conv1_of_224_is_that_of_227_with_zeros_at_the_right_and_bottom():
  network = presets.paper()
  conv1 = dataclasses.replace(network.layers[0], order=())
  stage = model.Stage(network, (conv1,))
  images = np.random.default_rng(0).standard_normal((1, 224, 224, 3))
  images = images.astype(np.float32)
  kernel = np.random.default_rng(1).standard_normal((11, 11, 3, 48))
  kernel = kernel.astype(np.float32)
  maps = stage.apply(
    {'params': {'conv1': {'kernel': kernel, 'bias': np.zeros(48)}}}, images
  )[0]
  wider = np.pad(images, ((0, 0), (0, 3), (0, 3), (0, 0)))
  expected = lax.conv_general_dilated(
    wider, kernel, (4, 4), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  assert maps.shape == (1, 55, 55, 48)
  np.testing.assert_allclose(maps, expected, atol=1e-4)
  # The first window lies on the image's first pixel; the last reaches 3 past
  # its last.
  first = np.tensordot(images[0, :11, :11].astype(np.float64), kernel, 3)
  last = np.tensordot(images[0, 216:, 216:], kernel[:8, :8], 3)
  np.testing.assert_allclose(maps[0, 0, 0], first, atol=1e-4)
  np.testing.assert_allclose(maps[0, 54, 54], last, atol=1e-4)


def test_initial_values_are_a_function_of_the_key_alone():
  first, again, other = (_init(_PAPER, seed) for seed in (1, 1, 2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert (first['conv1']['kernel'] != other['conv1']['kernel']).all()
  # No layer, and no tower, repeats another's numbers.
  kernels = [
    np.sort(np.ravel(kernel))[:3].tobytes()
    for layer in first.values()
    for kernel in layer['kernel']
  ]
  assert len(set(kernels)) == 2 * len(_PAPER.layers)


def test_the_unit_beyond_the_last_class_has_no_say():
  params = _init(_PAPER)
  forward = jax.jit(model.forward, static_argnums=0)
  logits = forward(_PAPER, params, _images())
  # Six units of fc7 for five classes: the last of the second tower.
  assert params['fc7']['kernel'].shape == (2, 10, 3)
  params['fc7'] = jax.tree.map(
    lambda x: x.at[1, ..., 2].set(1e6), params['fc7']
  )
  np.testing.assert_array_equal(forward(_PAPER, params, _images()), logits)


@pytest.mark.parametrize('towers', [1, 2, 4])
@pytest.mark.parametrize('classes', [5, 101])
def test_any_number_of_classes_on_any_number_of_towers(towers, classes):
  layers = _PAPER.layers[:1] + (Dense('fc', classes, order=()),)
  network = dataclasses.replace(_PAPER, layers=layers, towers=towers)
  key = jax.random.key(0)
  params = jax.eval_shape(lambda: model.init(network, key, _CROP))
  logits = jax.eval_shape(
    lambda p: model.forward(network, p, jnp.zeros((2, _CROP, _CROP, 3))), params
  )
  assert logits.shape == (2, classes)
  rows = architecture.layer_shapes(network, _CROP)
  assert params['fc']['bias'].shape == (towers, -(-classes // towers))
  assert params['fc']['kernel'].size == rows[-1].weights


def test_bfloat16_arithmetic_keeps_the_logits_float32():
  params = _init(_PAPER)
  exact, rounded = (
    jax.jit(functools.partial(model.forward, _PAPER, dtype=dtype))(
      params, _images()
    )
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert rounded.dtype == jnp.float32
  # bfloat16 has 8 bits: rounding is seen, and is small.
  error = np.abs(rounded - exact).max() / np.abs(exact).max()
  assert 1e-6 < error < 0.03


def test_activation():
  x = jnp.array([-1.0, 0.0, 2.0])
  np.testing.assert_array_equal(model.activation('relu')(x), [0, 0, 2])
  np.testing.assert_allclose(model.activation('tanh')(x), np.tanh(x), rtol=1e-6)
  with pytest.raises(errors.UserError) as caught:
    model.activation('rectifier')
  assert '\n' not in str(caught.value)
  assert "'rectifier'" in str(caught.value)
  assert 'relu' in str(caught.value)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ('name', 'function', 'slope'),
  [
    ('relu^2', lambda x: x * x * (x > 0), lambda x: 2 * x * (x > 0)),
    (
      'relu^0.5',
      lambda x: np.sqrt(np.maximum(x, 0)),
      lambda x: 0.5 / np.sqrt(np.where(x > 0, x, np.inf)),
    ),
    (
      'relu^1.25',
      lambda x: np.exp(1.25 * np.log(np.where(x > 0, x, 1e-300))),
      lambda x: 1.25 * np.maximum(x, 0) ** 0.25,
    ),
    ('relu^1', lambda x: np.maximum(x, 0), lambda x: x > 0),
    ('floor-1', lambda x: np.maximum(x, -1), lambda x: x > -1),
    ('floor-0.5', lambda x: np.maximum(x, -0.5), lambda x: x > -0.5),
  ],
)
def test_activations_with_a_number(name, function, slope, dtype):
  drawn = np.random.default_rng(0).normal(0, 2, 500)
  x = jnp.asarray(np.append(drawn, [0, -1, -0.5, 1e-5, 30]), dtype)
  exact = np.asarray(x, np.float64)
  apply = jax.jit(model.activation(name))
  tolerance = 3e-6 if dtype == jnp.float32 else 0.02
  y, pull = jax.vjp(apply, x)
  assert y.dtype == dtype
  np.testing.assert_allclose(
    np.asarray(y, np.float64), function(exact), tolerance, 1e-30
  )
  (dx,) = pull(jnp.full_like(x, 3))
  np.testing.assert_allclose(
    np.asarray(dx, np.float64), 3 * slope(exact), tolerance
  )
  assert np.isnan(apply(jnp.full(1, jnp.nan, dtype))).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', ['relu^0.5', 'relu^0.000001', 'relu^2'])
def test_powers_have_finite_gradients_at_zero(name, dtype):
  x = jnp.asarray([0.0, -0.0, 1e-45, 1e-38, 1e-30, 1e-7, -1e-38], dtype)
  dx = jax.grad(lambda x: model.activation(name)(x).sum())(x)
  assert np.isfinite(dx).all()
  assert not np.asarray(dx, np.float32)[[0, 1, 6]].any()
  assert np.abs(dx).max() <= 501


@pytest.mark.parametrize('name', ['relu^0.5', 'relu^2', 'floor-1'])
def test_every_parameter_learns_with_finite_gradients(name):
  network = dataclasses.replace(_PAPER, activation=name)
  params = _init(network)
  # With no weights every sum of the first layers is exactly 0.
  blank = jax.tree.map(jnp.zeros_like, params)
  loss = jax.jit(
    jax.grad(lambda p: (model.forward(network, p, _images()) ** 2).sum())
  )
  for each in (params, blank):
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(loss(each)))
  assert all(np.any(layer['kernel']) for layer in loss(params).values())


@pytest.mark.parametrize(
  'name',
  [
    'relu^', 'relu^0', 'relu^0.0', 'relu^-1', 'relu^nan', 'relu^1e3', 'relu2',
    'relu^2 ', 'relu**2', 'floor', 'floor-', 'floor--1', 'floor1', 'floor-0',
    'relu^\u0662', 'glu', 'one_hot', 'logsumexp', 'initializers',
  ],
)  # fmt: skip
def test_a_mistyped_activation_is_one_line_with_the_choices(name):
  with pytest.raises(errors.UserError) as caught:
    model.activation(name)
  message = str(caught.value)
  assert '\n' not in message
  for word in (f"activation='{name}'", 'relu^n', 'floor-i', 'tanh'):
    assert word in message


def test_the_gradient_of_relu_is_zero_at_zero():
  # 2012 code, neuron.cuh:167-172.
  assert jax.grad(model.activation('relu'))(0.0) == 0
