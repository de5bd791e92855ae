"""Where the network runs: the mesh, the shardings, and the joins.

One device runs all towers in turn; two run one each; more run copies of that
pair on shares of the batch. The network is the same in all cases: its
parameters are stacked by tower, and a placement only decides which device holds
which slice.
"""

from collections.abc import Callable
import os
from typing import Any

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import PartitionSpec
import numpy as np

from alexnet_jax import errors
from alexnet_jax import onednn

DATA, TOWER = 'data', 'tower'
# The operations that YNNPACK runs: all but the convolutions. XLA's own are up
# to twice as fast for the paper's layers, forward and backward.
_CPU_OPTIONS = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  )
}
_SIMULATE = '--xla_force_host_platform_device_count'


def simulate_devices(count: int) -> None:
  """Gives the CPU so many devices, if JAX has not touched any yet.

  `XLA_FLAGS`, where it asks for a number of devices, has precedence.
  """
  if count > 1:
    # All simulated devices share one pool of threads, by default one per core.
    # A collective blocks a thread while it waits for the other devices: on few
    # cores they could occupy the whole pool and deadlock. A device runs one
    # collective at a time, and the last one does not wait. More threads only
    # cost time: 4 instead of 3 on two cores is 3 % of a step.
    threads = (os.cpu_count() or 1) + count - 1
    os.environ.setdefault('PJRT_NPROC', str(threads))
  if _SIMULATE in os.environ.get('XLA_FLAGS', ''):
    return
  try:
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:
    # The devices exist already; the caller checks their number.
    logging.debug('JAX is running already: its number of devices stays')


def make_mesh(towers: int, devices: list[jax.Device]) -> Mesh:
  """Returns the mesh ('data', 'tower') that these devices make.

  The tower axis is as long as the towers can fill: 1 device is (1, 1), 2 are
  (1, 2), 4 are (2, 2), for two towers.

  Raises:
    UserError: if the towers cannot be shared equally.
  """
  count = len(devices)
  if count % towers and towers % count:
    options = [
      n for n in range(1, 2 * towers + 1) if not (n % towers and towers % n)
    ]
    raise errors.UserError(
      f'{towers} towers cannot be divided equally among {count} devices: set'
      f' --config.devices to one of {", ".join(map(str, options))}, ...'
    )
  across = min(towers, count)
  grid = np.array(devices).reshape(count // across, across)
  return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto,) * 2)


def compiler_options(mesh: Mesh, dtype: Any) -> dict[str, str | bool]:
  """Returns XLA's compiler options for the network's programs.

  Args:
    mesh: of the devices.
    dtype: of the arithmetic.
  """
  if mesh.devices.flat[0].platform != 'cpu':
    return {}
  return _CPU_OPTIONS | (onednn.OPTIONS if onednn.takes(dtype) else {})


def _axis(mesh: Mesh, name: str) -> str | None:
  """Returns the axis's name, or None where one device makes it trivial.

  Collectives over a single device would still copy their operands.
  """
  return name if mesh.shape[name] > 1 else None


def _spec(*axes: str | None) -> PartitionSpec:
  # P(None) and P() mean the same, but jit compiles once for each.
  return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def by_tower(mesh: Mesh) -> PartitionSpec:
  """How parameters are sharded: the stacked towers over the tower axis."""
  return _spec(_axis(mesh, TOWER))


def by_example(mesh: Mesh) -> PartitionSpec:
  """How batches are sharded: examples over the data axis."""
  return _spec(_axis(mesh, DATA))


def by_piece(mesh: Mesh) -> PartitionSpec:
  """`by_example` for batches of shape [pieces, examples, ...]."""
  return _spec(None, _axis(mesh, DATA))


def shard_map(
  function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any
) -> Callable:
  """Runs a function of one device's shard on all devices."""
  return jax.shard_map(
    function, mesh=mesh, in_specs=in_specs, out_specs=out_specs
  )


def make_join(mesh: Mesh) -> Callable[[Any, bool], jax.Array]:
  """Returns the join for use inside `shard_map` (see `model.Join`).

  The logits are marked as equal on all towers' devices, so that the loss needs
  no further communication and their gradient is a slice.
  """
  axis = _axis(mesh, TOWER)

  def join(outputs, is_logits):
    local = jnp.concatenate(outputs, axis=-1)
    if axis is None:
      return local
    # Gathered on a leading axis: on the last one, XLA would lay out the arrays
    # before and after it to suit the collective, maps first.
    every = lax.all_gather(
      local, axis, to='invarying' if is_logits else 'varying'
    )
    return jnp.concatenate(list(every), axis=-1)

  return join


def first_tower(mesh: Mesh, towers: int) -> jax.Array | int:
  """Returns the number of this device's first tower, inside `shard_map`."""
  axis = _axis(mesh, TOWER)
  if axis is None:
    return 0
  return lax.axis_index(axis) * (towers // mesh.shape[TOWER])


def sum_over_data(values: Any, mesh: Mesh) -> Any:
  """Adds up a pytree over the shares of the batch, inside `shard_map`."""
  axis = _axis(mesh, DATA)
  return values if axis is None else lax.psum(values, axis)


def check_batch(batch_size: int, pieces: int, mesh: Mesh) -> None:
  """Checks that the batch divides among accumulation pieces and devices.

  Raises:
    UserError: if it does not.
  """
  shares = mesh.shape[DATA] * pieces
  if batch_size % shares:
    nearest = batch_size // shares * shares or shares
    raise errors.UserError(
      f'--config.batch_size={batch_size} is not divisible by'
      f' {mesh.shape[DATA]} copies of the network times'
      f' --config.accumulation={pieces}: set --config.batch_size={nearest}'
    )
