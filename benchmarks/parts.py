"""A training step taken apart: each layer's passes as programs of their own.

The parts are what the network is made of, in the order of a step; each takes
the values that the part before it made. What happens between parts in the
whole program, such as changes of an array's layout, is in none of them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax import architecture
from alexnet_jax import layers
from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import pixels
from alexnet_jax import towers
from alexnet_jax import train_state
from alexnet_jax.architecture import Architecture
from benchmarks import networks
from benchmarks import ours
from benchmarks import random_batch

_SHORT = {'response_norm': 'norm', 'map_norm': 'map norm'}


class Cost(NamedTuple):
  """What a pass must do at least.

  Attributes:
    flops: of its weighted sums.
    bytes: of the arrays it must read and write.
  """

  flops: int
  bytes: int


@dataclasses.dataclass
class Part:
  """One part of a step.

  Attributes:
    name: the layer or operation, with the layer's number.
    forward: runs the forward pass.
    backward: runs the backward pass; None where there is none.
    forward_cost: of the first.
    backward_cost: of the second.
  """

  name: str
  forward: Callable[[], Any]
  backward: Callable[[], Any] | None
  forward_cost: Cost
  backward_cost: Cost


def _bytes(tree: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _differentiable(
  name: str,
  function: Callable[[Any, Any], Any],
  params: Any,
  xs: Any,
  *,
  flops: int = 0,
  is_first: bool = False,
) -> tuple[Part, Any]:
  """Returns the part that a function of (params, xs) makes, and its output.

  Args:
    name: of the part.
    function: what it computes.
    params: differentiated by.
    xs: inputs; differentiated by unless `is_first`.
    flops: of the forward pass.
    is_first: whether the inputs are images, which need no gradient.
  """

  @jax.jit
  def forward(params, xs):
    if is_first:
      return jax.vjp(lambda params: function(params, xs), params)
    return jax.vjp(function, params, xs)

  ys, pull = forward(params, xs)
  dys = jax.tree.map(jnp.ones_like, ys)
  backward = jax.jit(lambda pull, dys: pull(dys))
  moved = _bytes(params) + _bytes(xs) + _bytes(ys)
  # Besides reading the same, it writes gradients as large as what they are of.
  written = _bytes(params) + (0 if is_first else _bytes(xs))
  part = Part(
    name,
    lambda: forward(params, xs),
    lambda: backward(pull, dys),
    Cost(flops, moved),
    Cost(flops * (1 if is_first else 2), moved + written),
  )
  return part, ys


class Parts:
  """The parts of a step on one device, as a contender."""

  def __init__(
    self,
    *,
    preset: str,
    batch_size: int,
    crop_size: int,
    precision: str,
    platform: str,
  ):
    """Builds and compiles the parts; the arguments are those of `ours.Step`."""
    ours.configure(precision, platform)
    towers.simulate_devices(1)
    network = networks.get(preset)
    self._parts: list[Part] = []
    mesh = towers.make_mesh(network.towers, jax.devices()[:1])
    state = train_state.create(
      network, mesh, seed=0, crop_size=crop_size, learning_rate=0.01
    )
    batch = random_batch.make(batch_size, crop_size, network.num_classes)
    batch = jax.device_put(batch)
    recipe = ours.make_recipe(network, dtype=ours.dtype_of(precision))
    xs = self._input(batch, recipe)
    xs = self._network(network, state.params, xs, recipe.dtype, crop_size)
    self._loss(xs, batch)
    self._update(state, recipe)
    for part in self._parts:  # Compiles what has not run yet.
      jax.block_until_ready(part.forward())
      if part.backward:
        jax.block_until_ready(part.backward())

  def costs(self) -> list[tuple[str, Cost, Cost]]:
    """Returns name, forward and backward cost of each part."""
    return [
      (part.name, part.forward_cost, part.backward_cost) for part in self._parts
    ]

  def round(self, seconds: float) -> list[tuple[float, float]]:
    """Runs every pass for about so long; returns its seconds, forward first."""
    return [
      (_timed(part.forward, seconds), _timed(part.backward, seconds))
      for part in self._parts
    ]

  def _add(self, name, function, params, xs, **settings):
    part, ys = _differentiable(name, function, params, xs, **settings)
    self._parts.append(part)
    return ys

  def _input(self, batch, recipe):
    @jax.jit
    def centre(images, shift):
      images = pixels.to_input(
        images, recipe.mean, 1.0, shift * random_batch.NOISE
      )
      return images.astype(recipe.dtype)

    arguments = batch['image'], batch['shift']
    x = centre(*arguments)
    cost = Cost(0, _bytes(arguments) + x.nbytes)
    none = Cost(0, 0)
    self._parts.append(
      Part('input', lambda: centre(*arguments), None, cost, none)
    )
    return x

  def _network(self, network, params, x, dtype, crop_size):
    shapes = architecture.layer_shapes(network, crop_size)
    first = network.layers[0]
    xs = [x] * network.towers
    for layer, shape in zip(network.layers, shapes, strict=True):
      number = layer.name[-1]
      if layer.reads == 'all' and layer is not first:
        joined = self._add(f'join {number}', _join, (), xs)
        xs = [joined] * network.towers
      is_first = layer is first
      xs = self._add(
        layer.name,
        _weighted(network, layer, dtype),
        {layer.name: params[layer.name]},
        # One array where all towers read the same: it is counted once.
        xs[0] if is_first or layer.reads == 'all' else xs,
        flops=2 * shape.multiply_adds * x.shape[0],
        is_first=is_first,
      )
      for operation in _own_operations(layer):
        name = f'{_SHORT.get(operation, operation)} {number}'
        xs = self._add(name, _operation(network, operation), (), xs)
    return xs

  def _loss(self, xs, batch):
    def loss(_, xs):
      logits = _join((), xs).astype(jnp.float32)
      sums = metrics.score(
        jax.nn.log_softmax(logits),
        batch['label'],
        batch['mask'],
        batch['unreadable'],
      )
      return sums.nll

    self._add('loss', loss, (), xs)

  def _update(self, state, recipe):
    rates = recipe.schedule(state.step, state.plateau)
    rates = optimizer.rate_tree(state.params, rates, recipe.multipliers)

    def update(params, velocity, gradients):
      updates, velocity = recipe.optimizer.update(
        gradients, velocity, params, rates=rates
      )
      return optax.apply_updates(params, updates), velocity

    donating = jax.jit(update, donate_argnums=(0, 1))
    gradients = jax.tree.map(jnp.zeros_like, state.params)
    # The other parts go on using the parameters.
    kept = [jax.tree.map(jnp.copy, state.params), state.velocity]

    def forward():
      kept[:] = donating(*kept, gradients)
      return kept

    # Parameters and velocity are read and written, gradients read.
    cost = Cost(0, 5 * _bytes(gradients))
    self._parts.append(Part('update', forward, None, cost, Cost(0, 0)))


def _timed(run: Callable[[], Any] | None, seconds: float) -> float:
  """Returns the seconds of one run, of as many as fit in the time given."""
  if run is None:
    return 0.0
  started = time.perf_counter()
  jax.block_until_ready(run())
  count = int(seconds / (time.perf_counter() - started))
  if count == 0:
    return time.perf_counter() - started
  started = time.perf_counter()
  result = None
  for _ in range(count):
    result = run()
  jax.block_until_ready(result)
  return (time.perf_counter() - started) / count


def _join(_, xs):
  return jnp.concatenate(xs, axis=-1)


def _own_operations(layer: architecture.Layer) -> tuple[str, ...]:
  """Returns what follows the layer in a part of its own.

  An activation that comes first stays with the weighted sum: XLA fuses them.
  """
  start = 1 if layer.order[:1] == ('activation',) else 0
  return layer.order[start:]


def _weighted(network: Architecture, layer: architecture.Layer, dtype: Any):
  """Returns (params, x or one x a tower) -> one y a tower."""
  own = _own_operations(layer)
  alone = dataclasses.replace(
    layer, order=layer.order[: len(layer.order) - len(own)]
  )
  stage = model.Stage(network, (alone,), dtype)

  def apply(params, xs):
    if not isinstance(xs, Sequence):
      xs = [xs] * network.towers
    return [
      stage.apply({'params': jax.tree.map(lambda p, t=t: p[t], params)}, x)
      for t, x in enumerate(xs)
    ]

  return apply


def _operation(network: Architecture, operation: str):
  """Returns ((), one x a tower) -> one y a tower."""

  def apply(_, xs):
    return [one(x, tower) for tower, x in enumerate(xs)]

  def one(x, tower):
    match operation:
      case 'activation':
        return model.activation(network.activation)(x)
      case 'response_norm':
        return layers.response_norm(x, network.response_norm)
      case 'map_norm':
        return layers.map_norm(x, network.map_norm)
      case 'pool':
        return layers.max_pool(x, network.pool.size, network.pool.stride)
      case 'dropout':
        key = jax.random.fold_in(jax.random.key(0), tower)
        rows = jnp.arange(x.shape[0], dtype=jnp.int32)
        return layers.dropout(
          x, network.dropout_rate, network.dropout_scaling, key, rows
        )
    raise ValueError(f'{operation!r} is no operation')

  return apply
