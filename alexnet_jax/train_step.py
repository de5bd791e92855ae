"""One update: (state, batch) -> (state, loss), jitted and sharded."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import views
from alexnet_jax.epochs import Epochs
from alexnet_jax.sharding import Placement
from alexnet_jax.train_state import TrainState

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The parameters of a training step besides the network.

  Attributes:
    schedule: yields the learning rates of a step.
    optimizer: the update rule, `optimizer.momentum_sgd` or `optimizer.lars`.
    multipliers: learning-rate multipliers, see `optimizer.rate_tree`.
    mean: float32 [crop, crop, 3] or [3], gray levels to subtract.
    pixel_scale: multiplies centered pixels.
    divide_by_noise: divide shifted images by 1 + magnitude, as the 2012 code
      does to keep the scale of the test images (convdata_jpeg.py:179).
    accumulation: pieces in which a batch is computed.
    dtype: of the arithmetic.
    log_every: steps per window of the log.
    epochs: how steps are counted in epochs.
  """

  schedule: optimizer.Schedule
  optimizer: optax.GradientTransformationExtraArgs
  multipliers: Mapping[str, float]
  mean: np.ndarray
  pixel_scale: float = 1.0
  divide_by_noise: bool = False
  accumulation: int = 1
  dtype: Any = jnp.float32
  log_every: int = 20
  epochs: Epochs = Epochs(1)


def make_loss(
  placement: Placement, recipe: Recipe
) -> Callable[..., tuple[jax.Array, metrics.Sums]]:
  """Returns loss(params, batch, key, color_noise) over all devices.

  The result is the sum of the cross-entropies of the batch and its metrics;
  `batch` holds the pipeline's arrays and `position`: int32 [N], the place of
  each example in the whole batch. `key` is the raw data of the key of the
  dropout masks; None computes the network as at test time.

  Differentiate it from outside: `shard_map` knows which parameters are
  replicated and adds their gradients itself.
  """

  def local_loss(params, batch, key, color_noise):
    lighting = batch['lighting'] * color_noise
    scale = jnp.float32(recipe.pixel_scale)
    if recipe.divide_by_noise:
      scale = scale / (1 + color_noise)
    images = views.to_input(batch['image'], recipe.mean, scale, lighting)
    logits = model.forward(
      placement.network,
      params,
      images,
      placement=placement,
      key=None if key is None else jax.random.wrap_key_data(key),
      positions=batch['position'],
      dtype=recipe.dtype,
    )
    sums = metrics.score(
      jax.nn.log_softmax(logits),
      batch['label'],
      batch['mask'],
      batch['unreadable'],
    )
    sums = placement.add_up(sums)
    return sums.nll, sums

  everywhere = PartitionSpec()
  return sharding.shard_map(
    local_loss,
    placement.mesh,
    in_specs=(placement.params(), placement.rows(), everywhere, everywhere),
    out_specs=everywhere,
  )


def make_gradient(
  placement: Placement, recipe: Recipe
) -> Callable[..., tuple[model.Params, metrics.Sums]]:
  """Returns gradient(params, batch, key, color_noise) of the mean loss.

  The batch is [pieces, N / pieces, ...]; pieces are computed one after another
  and their gradients added, so that only one piece's activations are in memory.
  """
  loss = make_loss(placement, recipe)
  value_and_grad = jax.value_and_grad(loss, has_aux=True)

  def gradient(params, batch, key, color_noise):
    def piece(i):
      part = {name: value[i] for name, value in batch.items()}
      (_, sums), gradients = value_and_grad(params, part, key, color_noise)
      return gradients, sums

    total = piece(0)
    for i in range(1, recipe.accumulation):
      # The barrier keeps the pieces in sequence, which is what saves memory.
      params, batch, total = jax.lax.optimization_barrier(
        (params, batch, total)
      )
      total = jax.tree.map(jnp.add, total, piece(i))
    gradients, sums = total
    # A batch may hold fewer examples than rows: the mean is over examples.
    count = jnp.maximum(sums.examples, 1.0)
    return jax.tree.map(lambda g: g / count, gradients), sums

  return gradient


def make_train_step(
  placement: Placement, recipe: Recipe
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
  """Returns the jitted step; it donates the state it is given.

  Args:
    placement: of the network.
    recipe: the rest.

  Returns:
    step(state, batch) -> (state, mean loss of the batch). The batch is what
    `put_batch` makes.
  """
  gradient = make_gradient(placement, recipe)

  def step(state, batch):
    place = recipe.epochs.place(state.step)
    rates = recipe.schedule(place, state.plateau)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    gradients, sums = gradient(
      state.params, batch, jax.random.key_data(key), rates.color_noise
    )
    with jax.named_scope('update'):
      updates, velocity = recipe.optimizer.update(
        gradients,
        state.velocity,
        state.params,
        rates=optimizer.rate_tree(state.params, rates, recipe.multipliers),
      )
      params = optax.apply_updates(state.params, updates)
    loss = sums.nll / jnp.maximum(sums.examples, 1.0)
    bad = (state.bad_step < 0) & ~jnp.isfinite(loss)
    state = state.replace(
      step=state.step + 1,
      params=params,
      velocity=velocity,
      window=_restart(state.window, state.step, recipe.log_every) + sums,
      epoch=_restart(state.epoch, place, recipe.epochs.steps) + sums,
      bad_step=jnp.where(bad, state.step, state.bad_step),
    )
    return state, loss

  mesh = placement.mesh
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.jit(
    step,
    donate_argnums=0,
    compiler_options=sharding.compiler_options(mesh, recipe.dtype),
    out_shardings=(train_state.shardings(placement), everywhere),
  )


def _restart(sums, step, every):
  """Returns the sums, or zeros where `step` begins a new window."""
  fresh = step % every == 0
  return jax.tree.map(lambda x: jnp.where(fresh, 0.0, x), sums)


def put_batch(
  batch: Mapping[str, np.ndarray], accumulation: int, placement: Placement
) -> Batch:
  """Puts a batch of the pipeline on the devices, as the step expects it.

  Args:
    batch: this process's rows (see `Placement.local_rows`): image uint8
      [N, H, W, 3], label int32 [N], mask, unreadable float32 [N] and lighting
      float32 [N, 3].
    accumulation: the number of pieces.
    placement: of the network.

  Returns:
    The same arrays of all processes as [pieces, N / pieces, ...] on the
    devices, and `position`.
  """
  positions = placement.local_rows(
    placement.all_rows(len(batch['label'])), accumulation
  )
  batch = {**batch, 'position': positions.astype(np.int32)}
  return {
    name: placement.put(
      value.reshape(accumulation, -1, *value.shape[1:]), axis=1
    )
    for name, value in batch.items()
  }
