"""A training step taken apart: each layer's passes as programs of their own.

The parts come in the order of a step, and each takes the values that the part
before it made. What happens between parts in the whole program, such as changes
of an array's layout, is in none of them.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax import architecture
from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import views
from benchmarks import harness
from benchmarks import jax_step
from benchmarks import workload

_SHORT = {'response_norm': 'norm', 'map_norm': 'map norm'}


class Cost(NamedTuple):
  """What a pass has to do at least.

  Attributes:
    flops: of its weighted sums.
    bytes: of the arrays that it must read and write.
  """

  flops: int
  bytes: int


class LayerPasses:
  """The parts of a step on one device, as a contender."""

  def __init__(
    self,
    preset: str,
    batch_size: int,
    crop_size: int,
    precision: str,
    platform: str,
  ):
    """Builds the parts; the arguments are those of `jax_step.random_step`."""
    jax_step.configure(precision, platform)
    sharding.simulate_devices(1)
    network = workload.network(preset)
    placement = sharding.place(network, jax.devices()[:1])
    self._recipe = jax_step.paper_recipe(network, precision)
    options = sharding.compiler_options(placement.mesh, self._recipe.dtype)
    self._jit = functools.partial(jax.jit, compiler_options=options)
    # (name, forward and backward pass, their costs)
    self._parts: list[tuple[str, list[harness.Contender], list[Cost]]] = []
    state = train_state.create(placement, seed=0, crop_size=crop_size)
    batch = jax.device_put(
      workload.random_batch(batch_size, crop_size, network.num_classes)
    )
    x = self._add_input(batch)
    xs = self._add_layers(network, state.params, x)
    self._add_loss(xs, batch)
    self._add_update(state)

  def costs(self) -> list[tuple[Any, ...]]:
    """Returns name, forward and backward cost of each part."""
    return [(name, *costs) for name, _, costs in self._parts]

  def run(self, count: int) -> None:
    """Runs every pass; the first time compiles it."""
    for _, passes, _ in self._parts:
      for one in passes:
        one.run(count)

  def turn(self, seconds: float) -> list[list[float]]:
    """Returns the seconds of each part's passes, forward first."""

    def measure(one):
      one.run(1)
      count, wall = harness.repeat(one.run, seconds / len(self._parts))
      return wall / count

    return [list(map(measure, passes)) for _, passes, _ in self._parts]

  def _add(self, name, function, params, xs, flops=0, is_first=False):
    """Adds the part of a function of (params, xs); returns its output.

    Args:
      name: of the part.
      function: what it computes.
      params: of the layer, or ().
      xs: inputs.
      flops: of the forward pass.
      is_first: whether the inputs are images, which need no gradient.
    """

    @self._jit
    def forward(params, xs):
      if is_first:
        return jax.vjp(lambda params: function(params, xs), params)
      return jax.vjp(function, params, xs)

    ys, pull = forward(params, xs)
    dys = jax.tree.map(jnp.ones_like, ys)
    backward = self._jit(lambda pull, dys: pull(dys))
    moved = _bytes((params, xs, ys))
    # It reads as much, and writes gradients as large as what they are of.
    written = _bytes(params if is_first else (params, xs))
    backward_flops = flops * (1 if is_first else 2)
    costs = [Cost(flops, moved), Cost(backward_flops, moved + written)]
    self._append(
      name, [lambda: forward(params, xs), lambda: backward(pull, dys)], costs
    )
    return ys

  def _append(self, name, functions, costs):
    passes = [harness.Contender(f, jax.block_until_ready) for f in functions]
    self._parts.append((name, passes, costs))

  def _append_forward(self, name, function, size):
    """Adds a part without a backward pass, which moves so many bytes."""
    self._append(name, [function, lambda: ()], [Cost(0, size), Cost(0, 0)])

  def _add_input(self, batch):
    recipe = self._recipe

    @jax.jit
    def center(images, shift):
      shift = shift * workload.COLOR_NOISE
      return views.to_input(images, recipe.mean, 1.0, shift).astype(
        recipe.dtype
      )

    arguments = batch['image'], batch['lighting']
    x = center(*arguments)
    self._append_forward(
      'input', lambda: center(*arguments), _bytes((arguments, x))
    )
    return x

  def _add_layers(self, network, params, x):
    shapes = architecture.layer_shapes(network, x.shape[1])
    xs = [x] * network.towers
    for layer, shape in zip(network.layers, shapes, strict=True):
      number, is_first = layer.name[-1], layer is network.layers[0]
      shared = is_first or layer.reads == 'all'
      if shared and not is_first:
        joined = self._add(
          f'join {number}', lambda _, xs: jnp.concatenate(xs, -1), (), xs
        )
        xs = [joined] * network.towers
      # An activation that comes first stays with the sum: XLA fuses them.
      fused = 1 if layer.order[:1] == ('activation',) else 0
      xs = self._add(
        layer.name,
        _weighted_sum(network, layer, layer.order[:fused], self._recipe.dtype),
        {layer.name: params[layer.name]},
        # One array where all towers read the same: it is counted once.
        xs[0] if shared else xs,
        flops=2 * shape.multiply_adds * x.shape[0],
        is_first=is_first,
      )
      for operation in layer.order[fused:]:
        name = f'{_SHORT.get(operation, operation)} {number}'
        xs = self._add(name, _operation(network, layer, operation), (), xs)
    return xs

  def _add_loss(self, xs, batch):
    def loss(_, xs):
      logits = jnp.concatenate(xs, -1).astype(jnp.float32)
      arrays = (batch[name] for name in ('label', 'mask', 'unreadable'))
      return metrics.score(jax.nn.log_softmax(logits), *arrays).nll

    self._add('loss', loss, (), xs)

  def _add_update(self, state):
    recipe = self._recipe
    rates = recipe.schedule(state.step, state.plateau)
    rates = optimizer.rate_tree(state.params, rates, recipe.multipliers)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, velocity, gradients):
      updates, velocity = recipe.optimizer.update(
        gradients, velocity, params, rates=rates
      )
      return optax.apply_updates(params, updates), velocity

    gradients = jax.tree.map(jnp.zeros_like, state.params)
    # The other parts keep using the parameters.
    kept = [jax.tree.map(jnp.copy, state.params), state.velocity]

    def unit():
      kept[:] = update(*kept, gradients)
      return kept

    # Parameters and velocity are read and written, gradients read.
    self._append_forward('update', unit, 5 * _bytes(gradients))


def _bytes(tree: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _alone(network, layer, order):
  """Returns the layer with this order, and the network that has it."""
  alone = dataclasses.replace(layer, order=order)
  layers = tuple(alone if one is layer else one for one in network.layers)
  return alone, dataclasses.replace(network, layers=layers)


def _weighted_sum(network, layer, order, dtype):
  """Returns (params, x or one x per tower) -> one y per tower."""
  is_first = layer is network.layers[0]
  layer, network = _alone(network, layer, order)
  if is_first:
    return functools.partial(model.first_layer, network, dtype=dtype)
  stage = model.Stage(network, (layer,), dtype)

  def apply(params, xs):
    if not isinstance(xs, list):
      xs = [xs] * network.towers
    return [
      stage.apply({'params': jax.tree.map(lambda p, t=t: p[t], params)}, x)[0]
      for t, x in enumerate(xs)
    ]

  return apply


def _operation(network, layer, operation):
  """Returns ((), one x per tower) -> one y per tower, in training."""
  layer, network = _alone(network, layer, (operation,))
  stage = model.Stage(network, (layer,), summed=True)

  def apply(_, xs):
    positions = jnp.arange(xs[0].shape[0], dtype=jnp.int32)
    keys = jax.random.split(jax.random.key(0), len(xs))
    return [
      stage.apply({}, x, (key,), positions)[0]
      for x, key in zip(xs, keys, strict=True)
    ]

  return apply
