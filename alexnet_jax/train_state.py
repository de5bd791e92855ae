"""The state of a training run, as one pytree: all that resuming needs."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax.architecture import Architecture
from alexnet_jax.sharding import Placement


class TrainState(flax.struct.PyTreeNode):
  """The state of a run after `step` updates.

  Attributes:
    step: int32 [], updates made.
    params: float32, towers on each leading axis.
    velocity: the momentum's velocity, like `params`.
    plateau: the state of the plateau rule.
    key: uint32 [...], the raw data of the key of the dropout masks.
    window: sums over the steps since the last line in the log.
    epoch: sums over the steps of this epoch.
    validated: int32 [], the step of the last validation; -1 before the first.
    bad_step: int32 [], the first update with a non-finite loss; -1 if none.
  """

  step: jax.Array
  params: model.Params
  velocity: model.Params
  plateau: optimizer.PlateauState
  key: jax.Array
  window: metrics.Sums
  epoch: metrics.Sums
  validated: jax.Array
  bad_step: jax.Array


def shardings(placement: Placement) -> TrainState:
  """Returns the sharding of each field, as a prefix of the state's tree.

  Parameters and velocity are where the placement has them, the rest is
  replicated.
  """
  mesh = placement.mesh
  params = jax.tree.map(
    lambda spec: NamedSharding(mesh, spec), placement.params()
  )
  everywhere = NamedSharding(mesh, PartitionSpec())
  fields: dict[str, Any] = {
    field.name: everywhere for field in dataclasses.fields(TrainState)
  }
  prefix: Any = TrainState  # of shardings, where a state has arrays
  return prefix(**{**fields, 'params': params, 'velocity': params})


def create(placement: Placement, *, seed: int, crop_size: int) -> TrainState:
  """Returns the state before the first step, created on its devices.

  Args:
    placement: of the network.
    seed: of initial values and dropout masks.
    crop_size: side of the input images, pixels.
  """
  make = _maker(placement.network, seed, crop_size)
  return jax.jit(make, out_shardings=shardings(placement))()


def abstract(placement: Placement, *, crop_size: int) -> TrainState:
  """Returns the shapes, dtypes and shardings of a state; computes nothing.

  Args:
    placement: of the network.
    crop_size: side of the input images, pixels.
  """
  shapes = jax.eval_shape(_maker(placement.network, 0, crop_size))
  where = jax.tree.broadcast(shardings(placement), shapes)
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    where,
  )


def _maker(
  network: Architecture, seed: int, crop_size: int
) -> Callable[[], TrainState]:
  def make():
    params_key, mask_key = jax.random.split(jax.random.key(seed))
    params = model.init(network, params_key, crop_size)
    return TrainState(
      step=jnp.int32(0),
      params=params,
      velocity=jax.tree.map(jnp.zeros_like, params),
      plateau=optimizer.plateau_init(),
      key=jax.random.key_data(mask_key),
      window=metrics.zeros(),
      epoch=metrics.zeros(),
      validated=jnp.int32(-1),
      bad_step=jnp.int32(-1),
    )

  return make


def without_params(state: TrainState) -> dict[str, Any]:
  """Returns the fields of a state, or of an abstract one, but `params`."""
  return {
    field.name: getattr(state, field.name)
    for field in dataclasses.fields(state)
    if field.name != 'params'
  }
