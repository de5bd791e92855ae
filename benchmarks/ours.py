"""This project's training step as a contender."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step
from benchmarks import collectives
from benchmarks import networks
from benchmarks import random_batch
from benchmarks import usage

# By what --config.compute_dtype and JAX's own switch make of float32 products.
_PRECISIONS = {
  'float32': ('float32', 'highest'),
  'tf32': ('float32', 'tensorfloat32'),
  'bfloat16': ('bfloat16', None),
}


def configure(precision: str, platform: str) -> None:
  """Sets what a process must before it computes.

  On a CPU this sets nothing that a training run would not set.

  Args:
    precision: 'float32', 'tf32' or 'bfloat16'.
    platform: 'cpu' or 'gpu'.
  """
  if platform == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  else:
    _, products = _PRECISIONS[precision]
    jax.config.update('jax_default_matmul_precision', products)


def dtype_of(precision: str) -> Any:
  """Returns `config.compute_dtype` as a dtype."""
  return jnp.dtype(_PRECISIONS[precision][0])


def make_recipe(
  network: architecture.Architecture, **fields: Any
) -> train_step.Recipe:
  """Returns the paper's recipe, as `configs/imagenet.py` makes it."""
  defaults: dict[str, Any] = {
    'schedule': optimizer.plateau_schedule(
      random_batch.RATE, 10.0, random_batch.NOISE
    ),
    'optimizer': optimizer.momentum_sgd(0.9, 0.0005, 0.0),
    'multipliers': {'bias': 1.0, **{x.name: 1.0 for x in network.layers}},
    'mean': np.array(random_batch.MEAN, np.float32),
  }
  return train_step.Recipe(**{**defaults, **fields})


def lower(
  network: architecture.Architecture,
  devices: Sequence[Any],
  *,
  batch_size: int,
  crop_size: int,
  precision: str,
) -> jax.stages.Lowered:
  """Returns the step before compilation, for devices that need not be here.

  Args:
    network: the architecture.
    devices: on which it runs.
    batch_size: images a step.
    crop_size: side of the images, pixels.
    precision: see `configure`.
  """
  mesh = sharding.make_mesh(network.towers, list(devices))
  step: Any = train_step.make_train_step(
    network, mesh, make_recipe(network, dtype=dtype_of(precision))
  )
  state = train_state.abstract(network, mesh, crop_size=crop_size)
  batch = random_batch.make(batch_size, crop_size, network.num_classes)
  batch['position'] = np.arange(batch_size, dtype=np.int32)
  placement = NamedSharding(mesh, sharding.by_piece(mesh))
  shapes = {
    name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=placement)
    for name, x in batch.items()
  }
  return step.lower(state, shapes)


class Step:
  """Forward pass, backward pass and update of one batch that stays put."""

  def __init__(
    self,
    *,
    preset: str = 'paper',
    batch_size: int,
    crop_size: int = 224,
    num_classes: int = 0,
    devices: int = 1,
    precision: str = 'float32',
    platform: str = 'cpu',
    cache_dir: str = '',
  ):
    """Builds the step; the first `run` compiles it.

    Args:
      preset: of the network.
      batch_size: images a step.
      crop_size: side of the images, pixels.
      num_classes: other than the preset's; 0 for those.
      devices: on which it runs, simulated ones on a CPU.
      precision: see `configure`.
      platform: 'cpu' or 'gpu'.
      cache_dir: of JAX's persistent compilation cache; '' for none.
    """
    configure(precision, platform)
    if cache_dir:
      # As a run does: whole programs, however quickly they were compiled.
      jax.config.update('jax_compilation_cache_dir', cache_dir)
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    sharding.simulate_devices(devices)
    if len(jax.devices()) < devices:
      raise ValueError(f'{devices} devices wanted, {jax.device_count()} there')
    network = networks.get(preset, num_classes)
    self._mesh = sharding.make_mesh(network.towers, jax.devices()[:devices])
    mesh = self._mesh
    self._state = train_state.create(network, mesh, seed=0, crop_size=crop_size)
    self._step: Any = train_step.make_train_step(
      network, mesh, make_recipe(network, dtype=dtype_of(precision))
    )
    batch = random_batch.make(batch_size, crop_size, network.num_classes)
    self._batch = train_step.put_batch(batch, 1, mesh)

  def run(self, count: int) -> None:
    loss = jnp.float32(0)
    for _ in range(count):
      # As in the training loop: one step runs while the next is prepared.
      previous, (self._state, loss) = loss, self._step(self._state, self._batch)
      previous.block_until_ready()
    loss.block_until_ready()

  def memory(self) -> int:
    """Returns the most bytes in use so far: the process's, or the GPU's."""
    return peak_memory()

  def exchanges(self) -> tuple[int, int]:
    """Returns bytes a device sends to other towers, and to other copies.

    They are read off the compiled step.
    """
    text = self._step.lower(self._state, self._batch).compile().as_text()
    found = collectives.read(text)
    return collectives.sent_between(found, self._mesh.shape[sharding.TOWER])


def peak_memory() -> int:
  """Returns the most bytes that JAX's GPU, or else the process, has held."""
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return usage.peak_memory()
  statistics: Mapping[str, int] = device.memory_stats() or {}
  return statistics['peak_bytes_in_use']


def first_gradient(
  network: architecture.Architecture,
  batch: Mapping[str, np.ndarray],
  crop_size: int,
) -> tuple[dict[str, Any], float, dict[str, Any]]:
  """Returns initial parameters, their loss and its gradient, as numpy.

  Without momentum and decay and at a rate of 1, the velocity after the first
  step is the negative gradient: the compiled step itself gives it away.
  """
  mesh = sharding.make_mesh(network.towers, jax.devices()[:1])
  state = train_state.create(network, mesh, seed=0, crop_size=crop_size)
  params = jax.tree.map(np.array, state.params)
  recipe = make_recipe(
    network,
    optimizer=optimizer.momentum_sgd(0.0, 0.0, 0.0),
    schedule=optimizer.constant_schedule(1.0, random_batch.NOISE),
  )
  step = train_step.make_train_step(network, mesh, recipe)
  state, loss = step(state, train_step.put_batch(batch, 1, mesh))
  gradient = jax.tree.map(lambda v: -np.array(v), state.velocity)
  return params, float(loss), gradient
