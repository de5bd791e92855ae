"""Where the network runs: which device holds what, and where devices talk.

The network is the same everywhere. Its parameters are stacked by tower, its
batch is a list of examples, and a placement decides which towers, features and
examples are on which device. docs/parallelism.md compares the placements.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import os
from typing import Any, NamedTuple

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from alexnet_jax import errors
from alexnet_jax import onednn
from alexnet_jax import settings
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Dense
from alexnet_jax.architecture import Layer

DATA, TOWER = 'data', 'tower'
# How a network is divided among devices, for `config.parallelism`.
PARALLELISM = ('both', 'towers', 'data', 'one_weird_trick')
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


def compiler_options(mesh: Mesh, dtype: Any) -> dict[str, str | bool]:
  """Returns XLA's compiler options for the network's programs.

  Args:
    mesh: of the devices.
    dtype: of the arithmetic.
  """
  if mesh.devices.flat[0].platform != 'cpu':
    return {}
  return _CPU_OPTIONS | (onednn.OPTIONS if onednn.takes(dtype) else {})


def shard_map(
  function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any
) -> Callable:
  """Runs a function of one device's shard on all devices."""
  return jax.shard_map(
    function, mesh=mesh, in_specs=in_specs, out_specs=out_specs
  )


class Portion(NamedTuple):
  """What a device computes of a stage, inside `shard_map`.

  Attributes:
    positions: int32 [N], the place in the whole batch of each example that the
      stage returns; None at test time.
    first_tower: the number of the first tower at hand.
    part: which part of each tower's features.
    parts: the number of equal parts that they are divided into.
    product: `lax.dot_general` of a fully connected layer's inputs and weights.
  """

  positions: jax.Array | None
  first_tower: jax.Array | int = 0
  part: jax.Array | int = 0
  parts: int = 1
  product: Callable[..., jax.Array] = lax.dot_general


class Whole:
  """All towers, features and examples on the device at hand.

  This is how analyses run a network; the placements override what differs.
  """

  def join(
    self, outputs: Sequence[jax.Array], reader: Layer | None
  ) -> jax.Array:
    """Puts the outputs of all towers side by side.

    Args:
      outputs: of the towers at hand, each [N, ..., C].
      reader: the layer that reads them; None for the loss.

    Returns:
      What the reader needs on this device: [N, ..., towers * C].
    """
    del reader  # Matters only between devices.
    return jnp.concatenate(outputs, axis=-1)

  def portion(self, layer: Layer, positions: jax.Array | None) -> Portion:
    """Returns what this device computes of the stage that a layer begins.

    Args:
      layer: reads the outputs of all towers, or the images.
      positions: int32 [N], the place in the whole batch of each image at hand;
        None at test time.
    """
    del layer
    return Portion(positions)


@dataclasses.dataclass(frozen=True)
class Placement(Whole):
  """Copies of the network, each on the devices that share its towers.

  Attributes:
    network: the architecture.
    mesh: the devices by (copy, towers of a copy).
  """

  network: Architecture
  mesh: Mesh

  @property
  def batch_axes(self) -> tuple[str, ...]:
    """The axes of the mesh over which a batch is divided."""
    return self._used(DATA)

  @property
  def shares(self) -> int:
    """The number of equal shares into which a batch is divided."""
    return math.prod(self.mesh.shape[axis] for axis in self.batch_axes)

  def params(self) -> Mapping[str, Mapping[str, PartitionSpec]]:
    """How parameters are sharded: the stacked towers over the tower axis."""
    towers = PartitionSpec(*self._used(TOWER))
    return {
      layer.name: {'kernel': towers, 'bias': towers}
      for layer in self.network.layers
    }

  def rows(self, axis: int = 0) -> PartitionSpec:
    """How arrays are sharded that have the examples of a batch on this axis."""
    # P(None) and P() mean the same, but jit compiles once for each.
    if not self.batch_axes:
      return PartitionSpec()
    return PartitionSpec(*[None] * axis, self.batch_axes)

  def add_up(self, values: Any) -> Any:
    """Adds up a pytree over the shares of the batch, inside `shard_map`."""
    return lax.psum(values, self.batch_axes) if self.batch_axes else values

  def join(
    self, outputs: Sequence[jax.Array], reader: Layer | None
  ) -> jax.Array:
    """See `Whole.join`.

    The logits are marked as equal on all towers' devices, so that the loss
    needs no further communication and their gradient is a slice.
    """
    local = jnp.concatenate(outputs, axis=-1)
    if not self._used(TOWER):
      return local
    # Gathered on a leading axis: on the last one, XLA would lay out the arrays
    # before and after it to suit the collective, maps first.
    every = lax.all_gather(
      local, TOWER, to='invarying' if reader is None else 'varying'
    )
    return jnp.concatenate(list(every), axis=-1)

  def portion(self, layer: Layer, positions: jax.Array | None) -> Portion:
    return Portion(positions, self._first_tower())

  def _first_tower(self) -> jax.Array | int:
    if not self._used(TOWER):
      return 0
    per_device = self.network.towers // self.mesh.shape[TOWER]
    return lax.axis_index(TOWER) * per_device

  def _used(self, *axes: str) -> tuple[str, ...]:
    """Returns the axes that have more than one device.

    Collectives over a single device would still copy their operands.
    """
    return tuple(axis for axis in axes if self.mesh.shape[axis] > 1)

  def check_batch(self, batch_size: int, pieces: int) -> None:
    """Checks that the batch divides among accumulation pieces and devices.

    Raises:
      UserError: if it does not.
    """
    divisor = self.shares * pieces
    if batch_size % divisor:
      nearest = batch_size // divisor * divisor or divisor
      raise errors.UserError(
        f'--config.batch_size={batch_size} is not divisible by {self.shares}'
        f' shares of the devices times --config.accumulation={pieces}: set'
        f' --config.batch_size={nearest}'
      )

  def local_rows(
    self, batch_size: int, pieces: int = 1, process: int | None = None
  ) -> np.ndarray:
    """Returns the places in a batch whose examples a process must provide.

    Args:
      batch_size: rows of the whole batch.
      pieces: in which it is computed; see `train_step.put_batch`.
      process: its number; None for this one.

    Returns:
      int64 [N], increasing; with one process, all of them. Processes whose
      devices share the towers of a copy need the same rows.
    """
    process = jax.process_index() if process is None else process
    places = np.arange(batch_size).reshape(pieces, self.shares, -1)
    return places[:, self._shares_of[process]].reshape(-1)

  def all_rows(self, local: int) -> int:
    """Returns the rows of a batch of which this process has so many."""
    return local * self.shares // len(self._shares_of[jax.process_index()])

  def put(self, rows: np.ndarray, axis: int = 0) -> jax.Array:
    """Makes one array, sharded over all devices, of all processes' rows.

    Args:
      rows: those of this process (see `local_rows`), with the examples on
        `axis`.
      axis: of the examples.

    Returns:
      The array of all rows.
    """
    local = self._shares_of[jax.process_index()]
    size, rest = divmod(rows.shape[axis], len(local))
    if rest:
      raise ValueError(f'{rows.shape[axis]} rows for {len(local)} shares')
    before = (slice(None),) * axis

    def shard(index):
      first = local.index((index[axis].start or 0) // size) * size
      return rows[*before, first : first + size]

    shape = (*rows.shape[:axis], size * self.shares, *rows.shape[axis + 1 :])
    return jax.make_array_from_callback(
      shape, NamedSharding(self.mesh, self.rows(axis)), shard
    )

  @functools.cached_property
  def _shares_of(self) -> Mapping[int, Sequence[int]]:
    """The numbers of the shares on each process's devices, increasing."""
    sides = [
      side if axis in self.batch_axes else 1
      for axis, side in self.mesh.shape.items()
    ]
    shares = np.arange(self.shares).reshape(sides)
    shares = np.broadcast_to(shares, self.mesh.devices.shape)
    found = collections.defaultdict(set)
    for share, device in zip(shares.flat, self.mesh.devices.flat, strict=True):
      found[device.process_index].add(int(share))
    return {process: sorted(own) for process, own in found.items()}


@dataclasses.dataclass(frozen=True)
class OneWeirdTrick(Placement):
  """Convolutions by example, fully connected layers by feature.

  Krizhevsky, "One weird trick for parallelizing convolutional neural networks"
  (2014, arXiv 1404.5997), scheme (a). Every device has all convolutions and a
  share of the batch. It has a part of the features of every fully connected
  layer, which it computes for the whole batch; of the last layer it has the
  weights that read its own features, and sums over devices give each device the
  logits of its share of the batch. So the loss is computed by example again,
  and the classes need not divide among the devices.
  """

  # A device's share of a batch, and its part of a layer's features, in the
  # order of the arrays: features of one tower are neighbors.
  _EXAMPLES, _FEATURES = (DATA, TOWER), (TOWER, DATA)

  def __post_init__(self):
    """Checks the network.

    Raises:
      UserError: if its layers cannot be divided in this way.
    """
    dense = self._dense
    if len(dense) < 2 or len(dense) == len(self.network.layers):
      raise errors.UserError(
        '--config.parallelism=one_weird_trick needs convolutions and at least'
        f' two fully connected layers after them, not {len(dense)} of'
        f' {len(self.network.layers)} layers: set --config.parallelism=data'
      )
    parts = self.mesh.shape[DATA]
    for layer in dense:
      flag = f'--config.network.{layer.name}'
      if layer.reads != 'all':
        raise errors.UserError(
          '--config.parallelism=one_weird_trick divides every fully connected'
          f' layer among all devices, and {flag}.reads={layer.reads}: set'
          f' {flag}.reads=all, or --config.parallelism=both'
        )
      width = self.network.features_per_tower(layer)
      if layer is not dense[-1] and width % parts:
        raise errors.UserError(
          '--config.parallelism=one_weird_trick cannot divide the'
          f' {flag}.features={layer.features} of {self.network.towers} towers'
          f' equally among {self.mesh.size} devices: set --config.devices to'
          ' another number, or --config.parallelism=both'
        )

  @property
  def _dense(self) -> list[Dense]:
    return [x for x in self.network.layers if isinstance(x, Dense)]

  @property
  def batch_axes(self) -> tuple[str, ...]:
    return self._EXAMPLES

  def params(self) -> Mapping[str, Mapping[str, PartitionSpec]]:
    """Hidden dense layers by feature, the last one by what it reads."""
    everywhere = PartitionSpec()
    specs = {
      layer.name: {'kernel': everywhere, 'bias': everywhere}
      for layer in self.network.layers
    }
    *hidden, last = self._dense
    for layer in hidden:
      specs[layer.name] = {
        'kernel': PartitionSpec(TOWER, None, DATA),
        'bias': PartitionSpec(TOWER, DATA),
      }
    specs[last.name]['kernel'] = PartitionSpec(None, self._FEATURES)
    return specs

  def join(
    self, outputs: Sequence[jax.Array], reader: Layer | None
  ) -> jax.Array:
    local = jnp.concatenate(outputs, axis=-1)
    first, *between, _ = self._dense
    if reader == first:
      return lax.all_gather(local, self._EXAMPLES, tiled=True)
    if reader in between:
      every = lax.all_gather(local, self._FEATURES)
      return jnp.moveaxis(every, 0, -2).reshape(len(local), -1)
    # Convolutions and the loss have all maps and classes at hand, and the last
    # layer needs no other features than this device's.
    return local

  def portion(self, layer: Layer, positions: jax.Array | None) -> Portion:
    *hidden, last = self._dense
    if layer == last:
      return Portion(positions, product=self._add_products)
    if layer not in hidden:
      return Portion(positions)
    if positions is not None:
      positions = lax.all_gather(positions, self._EXAMPLES, tiled=True)
    return Portion(
      positions,
      self._first_tower(),
      lax.axis_index(DATA),
      self.mesh.shape[DATA],
    )

  def _add_products(self, *args: Any, **options: Any) -> jax.Array:
    """Adds up all devices' products; each keeps its own share of the batch."""
    return lax.psum_scatter(
      lax.dot_general(*args, **options), self._EXAMPLES, tiled=True
    )


def place(
  network: Architecture,
  devices: Sequence[jax.Device],
  parallelism: str = 'both',
) -> Placement:
  """Returns the placement of a network on devices.

  The towers of a copy are on neighboring devices. For two towers, 'both' makes
  meshes of 1x1, 1x2, 2x2, 4x2 ... devices.

  Args:
    network: the architecture.
    devices: in the order of their processes.
    parallelism: one of `PARALLELISM`.

  Raises:
    UserError: if the network cannot be divided among the devices in this way.
  """
  settings.check_option('parallelism', parallelism, PARALLELISM)
  count, towers = len(devices), network.towers
  across = 1
  if parallelism != 'data':
    _check_count(count, towers, parallelism)
    across = min(towers, count)
  grid = np.array(devices).reshape(count // across, across)
  mesh = Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto,) * 2)
  if parallelism == 'one_weird_trick' and count > 1:
    return OneWeirdTrick(network, mesh)
  return Placement(network, mesh)


def _check_count(count: int, towers: int, parallelism: str) -> None:
  """Raises a UserError if so many devices cannot share the towers equally."""
  options = [n for n in range(1, towers + 1) if towers % n == 0]
  if parallelism == 'towers':
    if count not in options:
      raise errors.UserError(
        f'--config.parallelism=towers divides {towers} towers equally, one'
        f' device per tower at most, and there are {count} devices: set'
        f' --config.devices to one of {", ".join(map(str, options))}, or'
        ' --config.parallelism to both or data'
      )
  elif count % towers and towers % count:
    raise errors.UserError(
      f'{towers} towers cannot be divided equally among {count} devices: set'
      f' --config.devices to one of {", ".join(map(str, options))},'
      f' {2 * towers}, ..., or --config.parallelism=data'
    )
