"""A training step taken apart: each layer's passes as programs of their own.

The parts are what the network is made of, in the order of a step; each takes
the values that the part before it made. What happens between parts in the
whole program, such as changes of an array's layout, is in none of them.
"""

import jax
import jax.numpy as jnp
import optax

from alexnet_jax import architecture
from alexnet_jax import metrics
from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import views
from benchmarks import networks
from benchmarks import operations
from benchmarks import ours
from benchmarks import part
from benchmarks import random_batch

_SHORT = {'response_norm': 'norm', 'map_norm': 'map norm'}


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
    sharding.simulate_devices(1)
    network = networks.get(preset)
    self._parts: list[part.Part] = []
    mesh = sharding.make_mesh(network.towers, jax.devices()[:1])
    state = train_state.create(network, mesh, seed=0, crop_size=crop_size)
    batch = random_batch.make(batch_size, crop_size, network.num_classes)
    batch = jax.device_put(batch)
    recipe = ours.make_recipe(network, dtype=ours.dtype_of(precision))
    xs = self._input(batch, recipe)
    xs = self._network(network, state.params, xs, recipe.dtype, crop_size)
    self._loss(xs, batch)
    self._update(state, recipe)
    self.round(0.0)  # Compiles what has not run yet.

  def costs(self) -> list[tuple[str, part.Cost, part.Cost]]:
    """Returns name, forward and backward cost of each part."""
    return [
      (one.name, one.forward_cost, one.backward_cost) for one in self._parts
    ]

  def round(self, seconds: float) -> list[tuple[float, float]]:
    """Runs every pass for about so long; returns its seconds, forward first."""
    return [
      (part.timed(one.forward, seconds), part.timed(one.backward, seconds))
      for one in self._parts
    ]

  def _add(self, name, function, params, xs, **settings):
    one, ys = part.differentiable(name, function, params, xs, **settings)
    self._parts.append(one)
    return ys

  def _input(self, batch, recipe):
    @jax.jit
    def center(images, shift):
      images = views.to_input(
        images, recipe.mean, 1.0, shift * random_batch.NOISE
      )
      return images.astype(recipe.dtype)

    arguments = batch['image'], batch['lighting']
    x = center(*arguments)
    cost = part.Cost(0, part.size(arguments) + x.nbytes)
    none = part.Cost(0, 0)
    self._parts.append(
      part.Part('input', lambda: center(*arguments), None, cost, none)
    )
    return x

  def _network(self, network, params, x, dtype, crop_size):
    shapes = architecture.layer_shapes(network, crop_size)
    first = network.layers[0]
    xs = [x] * network.towers
    for layer, shape in zip(network.layers, shapes, strict=True):
      number = layer.name[-1]
      if layer.reads == 'all' and layer is not first:
        joined = self._add(f'join {number}', operations.join, (), xs)
        xs = [joined] * network.towers
      is_first = layer is first
      xs = self._add(
        layer.name,
        operations.weighted(network, layer, dtype),
        {layer.name: params[layer.name]},
        # One array where all towers read the same: it is counted once.
        xs[0] if is_first or layer.reads == 'all' else xs,
        flops=2 * shape.multiply_adds * x.shape[0],
        is_first=is_first,
      )
      for operation in operations.own_operations(layer):
        name = f'{_SHORT.get(operation, operation)} {number}'
        xs = self._add(name, operations.operation(network, operation), (), xs)
    return xs

  def _loss(self, xs, batch):
    def loss(_, xs):
      logits = operations.join((), xs).astype(jnp.float32)
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
    cost = part.Cost(0, 5 * part.size(gradients))
    self._parts.append(
      part.Part('update', forward, None, cost, part.Cost(0, 0))
    )
