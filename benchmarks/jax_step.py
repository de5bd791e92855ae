"""This project's training step, as a contender and as a compiled program."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax.architecture import Architecture
from alexnet_jax.sharding import Placement
from benchmarks import harness
from benchmarks import workload

# --config.compute_dtype, and JAX's own switch for products of float32.
_PRECISIONS = {
  'float32': ('float32', 'highest'),
  'tf32': ('float32', 'tensorfloat32'),
  'bfloat16': ('bfloat16', None),
}


def configure(precision: str, platform: str) -> None:
  """Sets what a process must set before it computes.

  On a CPU this sets nothing that a training run would not set. `precision` is
  'float32', 'tf32' or 'bfloat16', `platform` 'cpu' or 'gpu'.
  """
  if platform == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  else:
    _, products = _PRECISIONS[precision]
    jax.config.update('jax_default_matmul_precision', products)


def paper_recipe(
  network: Architecture, precision: str = 'float32', **changes: Any
) -> train_step.Recipe:
  """Returns the paper's recipe as `configs/imagenet.py` sets it."""
  fields: dict[str, Any] = {
    'schedule': optimizer.plateau_schedule(
      workload.LEARNING_RATE, 10.0, workload.COLOR_NOISE
    ),
    'optimizer': optimizer.momentum_sgd(0.9, 0.0005, 0.0),
    'multipliers': {'bias': 1.0, **{x.name: 1.0 for x in network.layers}},
    'mean': np.array(workload.MEAN, np.float32),
    'dtype': jnp.dtype(_PRECISIONS[precision][0]),
  }
  return train_step.Recipe(**{**fields, **changes})


class Step(harness.Contender):
  """A training step on one batch that stays on the device."""

  def __init__(self, step: Any, state: Any, batch: Any):
    """Keeps a step and its arguments; the first `run` compiles it."""
    super().__init__(self._update, jax.block_until_ready, _peak_memory)
    self._step, self._state, self._batch = step, state, batch
    self._loss = jnp.float32(0)

  def _update(self) -> jax.Array:
    # As in the training loop: one step runs while the next is prepared.
    previous = self._loss
    self._state, self._loss = self._step(self._state, self._batch)
    previous.block_until_ready()
    return self._loss


def _peak_memory() -> int:
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return harness.peak_memory()
  return (device.memory_stats() or {})['peak_bytes_in_use']


def _make_step(placement: Placement, precision: str) -> Any:
  recipe = paper_recipe(placement.network, precision)
  return train_step.make_train_step(placement, recipe)


def random_step(
  preset: str,
  batch_size: int,
  crop_size: int,
  num_classes: int = 0,
  devices: int = 1,
  precision: str = 'float32',
  platform: str = 'cpu',
  cache_dir: str = '',
) -> Step:
  """Returns the paper's step on random images.

  A preset's number of classes can be replaced. Devices are simulated on a CPU.
  `cache_dir` is that of JAX's persistent compilation cache, if any.
  """
  configure(precision, platform)
  if cache_dir:
    # As a run does: whole programs, however quickly they were compiled.
    jax.config.update('jax_compilation_cache_dir', cache_dir)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  sharding.simulate_devices(devices)
  if jax.device_count() < devices:
    raise ValueError(f'{devices} devices needed, {jax.device_count()} found')
  network = workload.network(preset, num_classes)
  placement = sharding.place(network, jax.devices()[:devices])
  batch = workload.random_batch(batch_size, crop_size, network.num_classes)
  return Step(
    _make_step(placement, precision),
    train_state.create(placement, seed=0, crop_size=crop_size),
    train_step.put_batch(batch, 1, placement),
  )


def lower(
  preset: str,
  batch_size: int,
  crop_size: int,
  precision: str,
  devices: Sequence[Any],
  parallelism: str = 'both',
) -> jax.stages.Lowered:
  """Returns the step before compilation, for devices that need not exist."""
  network = workload.network(preset)
  placement = sharding.place(network, devices, parallelism)
  batch = workload.random_batch(batch_size, crop_size, network.num_classes)
  batch['position'] = np.arange(batch_size, dtype=np.int32)
  rows = NamedSharding(placement.mesh, placement.rows(axis=1))
  shapes = {
    name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=rows)
    for name, x in batch.items()
  }
  state = train_state.abstract(placement, crop_size=crop_size)
  return _make_step(placement, precision).lower(state, shapes)


def first_gradient(
  network: Architecture, batch: Mapping[str, np.ndarray], crop_size: int
) -> tuple[dict[str, Any], float, dict[str, Any]]:
  """Returns initial parameters, their loss and its gradient, as numpy arrays.

  Without momentum and weight decay, and at a learning rate of 1, the velocity
  after the first step is the negative gradient, as the compiled step has it.
  """
  placement = sharding.place(network, jax.devices()[:1])
  state = train_state.create(placement, seed=0, crop_size=crop_size)
  params = jax.tree.map(np.array, state.params)
  recipe = paper_recipe(
    network,
    optimizer=optimizer.momentum_sgd(0.0, 0.0, 0.0),
    schedule=optimizer.constant_schedule(1.0, workload.COLOR_NOISE),
  )
  step = train_step.make_train_step(placement, recipe)
  state, loss = step(state, train_step.put_batch(batch, 1, placement))
  return (
    params,
    float(loss),
    jax.tree.map(lambda v: -np.array(v), state.velocity),
  )
