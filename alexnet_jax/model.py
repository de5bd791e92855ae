"""The network: stages as Linen modules, initial values, the forward pass.

The parameters are a plain dict, `{'conv1': {'kernel', 'bias'}, ...}`, in which
every array has the towers on its leading axis. A function here works on what it
is given of them: all on one device, one tower or a part of a layer's features
on each of several.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import re
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax import errors
from alexnet_jax import layers
from alexnet_jax import onednn
from alexnet_jax import sharding
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Layer

Params = dict[str, dict[str, jax.Array]]
_WHOLE = sharding.Whole()
_WITH_NUMBER = re.compile(
  r'(?P<kind>relu\^|floor-)(?P<number>\d{1,3}(\.\d{1,6})?)', re.ASCII
)


class Convolution(nn.Conv):
  """Linen's convolution, with the bias of `onednn.add_bias`."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = super().__call__(x)
    shape = (self.features,)
    bias = self.param('bias', self.bias_init, shape, self.param_dtype)
    return onednn.add_bias(y, bias)


class Stage(nn.Module):
  """The layers from one join to the next, as one tower applies them.

  Towers that read the same input can be computed as one: their maps are
  concatenated, and no window of a normalization crosses from one to the next.

  Attributes:
    network: the network that the stage belongs to.
    layers: the stage's layers.
    dtype: of the arithmetic; parameters, and the logits, stay float32.
    towers: how many towers' maps are concatenated on the last axis.
    summed: whether the input is its first layer's weighted sums instead of that
      layer's inputs.
    parts: into how many equal parts the features are divided among devices.
    product: see `sharding.Portion`.
  """

  network: Architecture
  layers: tuple[Layer, ...]
  dtype: Any = jnp.float32
  towers: int = 1
  summed: bool = False
  parts: int = 1
  product: Callable[..., jax.Array] = lax.dot_general

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    keys: Sequence[jax.Array] = (),
    positions: jax.Array | None = None,
    part: jax.Array | int = 0,
  ) -> tuple[jax.Array, ...]:
    """Applies the stage.

    Args:
      x: what its first layer reads, [N, ..., C].
      keys: in training a PRNG key for each of its towers.
      positions: as for `layers.dropout`.
      part: which of `parts`.

    Returns:
      The output of each layer; the last one is the stage's.
    """
    outputs = []
    for i, layer in enumerate(self.layers):
      if i > 0 or not self.summed:
        x = self._weighted_sum(layer, x)
      for operation in layer.order:
        # Names the compiled program's parts, for profiles and benchmarks.
        with jax.named_scope(operation):
          x = self._apply(operation, layer, x, keys, positions, part)
      outputs.append(x)
    return tuple(outputs)

  def _weighted_sum(self, layer: Layer, x: jax.Array) -> jax.Array:
    features = self.towers * self.network.features_per_tower(layer)
    features //= self.parts
    makes_logits = layer.name == self.network.layers[-1].name
    initial: dict[str, Any] = {
      'kernel_init': nn.initializers.normal(layer.init_std),
      'bias_init': nn.initializers.constant(layer.init_bias),
      'dtype': _logits_dtype(self.dtype) if makes_logits else self.dtype,
      'name': layer.name,
    }
    if isinstance(layer, Conv):
      convolution = Convolution(
        features,
        (layer.kernel, layer.kernel),
        strides=layer.stride,
        padding=(layer.padding, layer.padding),
        use_bias=False,
        conv_general_dilated=onednn.convolution,
        **initial,
      )
      return convolution(x)
    dense = nn.Dense(features, dot_general=self.product, **initial)
    return dense(x.reshape(x.shape[0], -1))

  def _apply(self, operation, layer, x, keys, positions, part):
    network = self.network
    match operation:
      case 'activation':
        return activation(network.activation)(x)
      case 'response_norm':
        apart = x.reshape(*x.shape[:-1], self.towers, -1)
        return layers.response_norm(apart, network.response_norm).reshape(
          x.shape
        )
      case 'map_norm':
        return layers.map_norm(x, network.map_norm)
      case 'pool':
        return layers.max_pool(x, network.pool)
      case 'dropout':
        return self._dropout(layer, x, keys, positions, part)
    raise ValueError(f'{operation!r} is no operation')

  def _dropout(self, layer, x, keys, positions, part):
    rate, scaling = self.network.dropout_rate, self.network.dropout_scaling
    if not keys:
      return layers.dropout(x, rate, scaling)
    # The layer's place is folded into the key: no two layers share a mask.
    place = self.network.layers.index(layer)
    pieces = [
      layers.dropout(
        piece,
        rate,
        scaling,
        jax.random.fold_in(key, place),
        positions,
        part,
        self.parts,
      )
      for piece, key in zip(jnp.split(x, self.towers, -1), keys, strict=True)
    ]
    return jnp.concatenate(pieces, axis=-1)


def _logits_dtype(dtype: Any) -> Any:
  """Returns what the logits are computed in: float32 at least."""
  return jnp.promote_types(dtype, jnp.float32)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  """Returns the activation function that has this name.

  Args:
    name: relu; relu^n, x^n above zero and 0 below; floor-i, max(x, -i), where n
      and i are decimal numbers above 0; or a function of `jax.nn`.

  Raises:
    UserError: if there is none.
  """
  if name == 'relu':
    return layers.relu
  match = _WITH_NUMBER.fullmatch(name)
  if match and (number := float(match['number'])):
    powers = match['kind'] == 'relu^'
    function = layers.rectified_power if powers else layers.floored
    return lambda x: function(x, number)
  function = getattr(jax.nn, name, None)
  if function is None or not _keeps_shapes(function):
    raise errors.UserError(
      f"--config.network.activation='{name}' is not a choice: set"
      ' --config.network.activation to relu, relu^n (such as relu^2 or'
      ' relu^0.5), floor-i (such as floor-1) or a function of jax.nn (tanh,'
      ' gelu, ...)'
    )
  return function


def _keeps_shapes(function: Any) -> bool:
  """Returns whether a function maps an array to one of the same shape.

  `jax.nn` also has functions of several arrays, and `glu` halves the maps.
  """
  sums = jax.ShapeDtypeStruct((2, 4), jnp.float32)
  try:
    return jax.eval_shape(function, sums).shape == sums.shape
  except (AttributeError, TypeError, ValueError):
    return False


def first_layer(
  network: Architecture,
  params: Params,
  images: jax.Array,
  keys: Sequence[jax.Array] = (),
  positions: jax.Array | None = None,
  dtype: Any = jnp.float32,
) -> list[jax.Array]:
  """Computes the first layer of all towers at hand together.

  All towers read the same image, so one convolution makes the maps of all: its
  receptive fields are gathered once, which costs more than multiplying them.

  Args:
    network: the architecture.
    params: of the towers at hand, on each leading axis.
    images: [N, H, W, 3].
    keys: as for `Stage`.
    positions: as for `Stage`.
    dtype: of the arithmetic.

  Returns:
    The layer's output in each tower, [N, ..., C].
  """
  layer = network.layers[0]
  own = params[layer.name]
  towers = own['bias'].shape[0]
  joined = {
    name: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)
    for name, x in own.items()
  }
  convolution = dataclasses.replace(layer, order=())
  stage = Stage(network, (convolution,), dtype, towers)
  (sums,) = _apply(stage, {layer.name: joined}, images)
  stage = Stage(network, (layer,), dtype, summed=True)

  def together(sums):
    both = stage.clone(towers=towers)
    (y,) = _apply(both, {}, sums, keys, positions)
    return jnp.split(y, towers, axis=-1)

  def apart(sums):
    pieces = jnp.split(sums, towers, axis=-1)
    return [
      _apply(stage, {}, piece, keys[t : t + 1], positions)[-1]
      for t, piece in enumerate(pieces)
    ]

  # A GPU would have to write every piece to memory; a CPU is faster on pieces.
  return lax.platform_dependent(sums, cpu=apart, default=together)


def init(network: Architecture, key: jax.Array, crop_size: int) -> Params:
  """Draws the initial parameters (paper, Section 5).

  Weights are normal with each layer's `init_std`, biases constant. The values
  are a function of the key only, not of where the towers will run.

  Args:
    network: the architecture.
    key: a PRNG key.
    crop_size: side of the input images.

  Returns:
    Parameters, float32, towers on each leading axis.
  """
  params = {}
  x = jnp.zeros((1, crop_size, crop_size, 3))
  for i, stage_layers in enumerate(network.stages):
    stage = Stage(network, stage_layers)
    keys = jax.random.split(jax.random.fold_in(key, i), network.towers)
    outputs, variables = jax.vmap(stage.init_with_output, (0, None))(keys, x)
    params |= variables['params']
    # The next stage needs only the shape.
    x = jnp.zeros_like(jnp.concatenate(list(outputs[-1]), axis=-1))
  return params


def forward(
  network: Architecture,
  params: Params,
  images: jax.Array,
  *,
  placement: sharding.Whole = _WHOLE,
  **options: Any,
) -> jax.Array:
  """Computes the logits.

  Args:
    network: the architecture.
    params: what this device holds of them.
    images: float32 [N, H, W, 3], centered.
    placement: what this device computes, and with whom it exchanges what.
    **options: the others of `walk`.

  Returns:
    float32 [N, classes]; devices that were given the same images get the same.
  """
  *_, (_, outputs) = walk(
    network, params, images, placement=placement, **options
  )
  return join_logits(network, outputs, placement)


def walk(
  network: Architecture,
  params: Params,
  images: jax.Array,
  *,
  placement: sharding.Whole = _WHOLE,
  key: jax.Array | None = None,
  positions: jax.Array | None = None,
  dtype: Any = jnp.float32,
) -> Iterator[tuple[Layer, list[jax.Array]]]:
  """The forward pass of training, evaluation and every analysis.

  A caller that needs no later layer stops iterating; under `jit`, outputs that
  are not used are not computed.

  Args:
    network: the architecture.
    params: what this device holds of them; the towers at hand are on each
      leading axis.
    images: float32 [N, H, W, 3], centered.
    placement: what this device computes, and with whom it exchanges what.
    key: a PRNG key in training, None at test time.
    positions: int32 [N], each example's place in the whole batch; in training.
    dtype: of the arithmetic.

  Yields:
    Each layer, and what it passes on in each tower at hand, [N, ..., C].
  """

  def portion_and_keys(layer):
    portion = placement.portion(layer, positions)
    towers = range(len(params[layer.name]['kernel']))
    if key is None:
      return portion, [()] * len(towers)
    first = portion.first_tower
    return portion, [(jax.random.fold_in(key, first + t),) for t in towers]

  first, *_ = network.layers
  portion, keys = portion_and_keys(first)
  images, own_keys = images.astype(dtype), sum(keys, ())
  xs = first_layer(network, params, images, own_keys, portion.positions, dtype)
  yield first, xs
  (_, *rest), *later = network.stages
  for i, stage_layers in enumerate([tuple(rest), *later]):
    if i > 0:
      reader = stage_layers[0]
      portion, keys = portion_and_keys(reader)
      xs = [placement.join(xs, reader)] * len(keys)
    parts, product = portion.parts, portion.product
    stage = Stage(network, stage_layers, dtype, parts=parts, product=product)
    own = {layer.name: params[layer.name] for layer in stage_layers}
    by_tower = [
      _apply(stage, _tower(own, t), x, keys[t], portion.positions, portion.part)
      for t, x in enumerate(xs)
    ]
    for layer, *xs in zip(stage_layers, *by_tower, strict=True):
      yield layer, xs


def join_logits(
  network: Architecture,
  outputs: Sequence[jax.Array],
  placement: sharding.Whole = _WHOLE,
) -> jax.Array:
  """Returns the logits of all classes, float32 [N, classes].

  Units beyond the last class, where towers cannot share them equally, are cut
  off.
  """
  logits = placement.join(outputs, None).astype(jnp.float32)
  return logits[..., : network.num_classes]


def _tower(params: Params, tower: int) -> Params:
  """Returns one tower's parameters."""
  return jax.tree.map(lambda x: x[tower], params)


def _apply(
  stage, params, x, keys=(), positions=None, part=0
) -> tuple[jax.Array, ...]:
  return stage.apply({'params': params}, x, keys, positions, part)
