"""What devices send one another per step, and what that costs on a cluster.

  python -m benchmarks.communication --devices=2,4,8 --batch_sizes=128,1024
  python -m benchmarks.communication --predict

The first command compiles, never runs, the training step for simulated devices
and reads its exchanges off the program; it compares the bytes that a device
sends with a count by hand and exits with 1 if they differ. The second predicts
step times from the count, from stated link speeds and from a stated time of
computation; nothing of that is measured. docs/parallelism.md explains both.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import itertools
import math
from typing import NamedTuple

from absl import app
from absl import flags
import jax

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import sharding
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Dense
from benchmarks import harness
from benchmarks import hlo
from benchmarks import jax_step
from benchmarks import workload

_PREDICT = flags.DEFINE_bool('predict', False, 'Predict times of clusters.')
_FLOAT_BYTES = 4
_METRICS = 5  # Sums of a batch, added up together with the gradients.


class Groups(NamedTuple):
  """Who takes part in an exchange.

  Attributes:
    size: the devices of a group, which exchange with one another.
    count: the groups, all of which do so at the same time.
    neighbors: whether the devices of a group are next to one another.
  """

  size: int
  count: int = 1
  neighbors: bool = False


class Exchange(NamedTuple):
  """An exchange between devices, counted by hand.

  Attributes:
    reader: the layer that reads the result, 'loss', 'masks' or 'gradients'.
    kind: as `hlo.Exchange` has it.
    bytes: of the whole array that is gathered, scattered or added up.
    groups: who takes part.
  """

  reader: str
  kind: str
  bytes: int
  groups: Groups

  @property
  def sent(self) -> float:
    """The bytes that a device sends; see `hlo.ring_bytes`."""
    return hlo.ring_bytes(self.kind, self.bytes, self.groups.size)


def count(
  network: Architecture,
  crop_size: int,
  batch_size: int,
  parallelism: str,
  devices: int,
  float_bytes: int = _FLOAT_BYTES,
) -> list[Exchange]:
  """Returns the exchanges of a training step.

  Args:
    network: the architecture.
    crop_size: side of the images, pixels.
    batch_size: images on all devices together.
    parallelism: one of `sharding.PARALLELISM`.
    devices: their number.
    float_bytes: of an activation; logits and gradients are float32.
  """
  floats = workload.join_floats(network, crop_size)
  arrays = {  # bytes per image, of all towers together
    reader: network.towers * number * float_bytes
    for reader, number in floats.items()
  }
  arrays['loss'] = network.towers * floats['loss'] * _FLOAT_BYTES
  if parallelism == 'one_weird_trick':
    exchanges = _one_weird_trick(
      network, crop_size, arrays, batch_size, Groups(devices)
    )
    return [one for one in exchanges if one.groups.size > 1]
  across = 1 if parallelism == 'data' else min(network.towers, devices)
  copies = devices // across
  joins = Groups(across, copies, neighbors=True)
  found = []
  for reader, size in arrays.items():
    found += _there_and_back(reader, size * batch_size // copies, joins)
  found.pop()  # Every tower has the whole loss: its gradient is a slice.
  floats = held_floats(network, crop_size, parallelism, devices) + _METRICS
  found.append(_added(floats, Groups(copies, across)))
  return [one for one in found if one.groups.size > 1]


def _one_weird_trick(
  network: Architecture,
  crop_size: int,
  arrays: dict[str, int],
  batch_size: int,
  everyone: Groups,
) -> Iterator[Exchange]:
  *hidden, _ = _dense(network)
  # The first dense layer gathers maps, each later one features; backward, the
  # gradients of both are added up and scattered.
  for layer in hidden:
    whole = arrays[layer.name] * batch_size
    yield from _there_and_back(layer.name, whole, everyone)
  # The examples' places in the batch, int32, of which masks are a function.
  yield Exchange('masks', 'all-gather', batch_size * 4, everyone)
  # The other way round: logits are added up, and their gradients gathered.
  yield from _there_and_back('loss', arrays['loss'] * batch_size, everyone)
  shapes = architecture.layer_shapes(network, crop_size)
  dense = {layer.name for layer in _dense(network)}
  floats = sum(x.weights + x.biases for x in shapes if x.name not in dense)
  yield _added(floats + shapes[-1].biases + _METRICS, everyone)


def _dense(network: Architecture) -> list[Dense]:
  return [layer for layer in network.layers if isinstance(layer, Dense)]


def _there_and_back(
  reader: str, size: int, groups: Groups
) -> tuple[Exchange, Exchange]:
  """Returns the exchanges of an array of so many bytes and of its gradient."""
  return (
    Exchange(reader, 'all-gather', size, groups),
    Exchange(reader, 'reduce-scatter', size, groups),
  )


def _added(floats: int, groups: Groups) -> Exchange:
  return Exchange('gradients', 'all-reduce', floats * _FLOAT_BYTES, groups)


def held_floats(
  network: Architecture, crop_size: int, parallelism: str, devices: int
) -> int:
  """Returns the number of parameters that a device holds, nearly exactly.

  With 'one_weird_trick' it holds all biases of the last layer.
  """
  shapes = architecture.layer_shapes(network, crop_size)
  dense = {layer.name for layer in _dense(network)}
  divided = sum(x.weights + x.biases for x in shapes if x.name in dense)
  total = sum(x.weights + x.biases for x in shapes)
  if parallelism == 'one_weird_trick':
    return total - divided + divided // devices
  if parallelism == 'data':
    return total
  return total // min(network.towers, devices)


def sums(exchanges: Iterable[Exchange | hlo.Exchange]) -> tuple[float, float]:
  """Returns the bytes a device sends of activations, and to add gradients."""
  activations = gradients = 0.0
  for one in exchanges:
    if one.kind == 'all-reduce':
      gradients += one.sent
    else:
      activations += one.sent
  return activations, gradients


def cases(network: Architecture) -> Iterator[tuple[str, int]]:
  """Yields the kinds of parallelism and numbers of devices that are possible.

  A single device is the same in all kinds.
  """
  for parallelism in sharding.PARALLELISM:
    for devices in map(int, harness.DEVICES.value):
      if devices == 1 and parallelism != 'both':
        continue
      try:
        sharding.place(network, jax.devices()[:devices], parallelism)
      except errors.UserError:
        continue
      yield parallelism, devices


def compare() -> tuple[str, bool]:
  """Returns the table of what programs send, and whether it is as counted."""
  preset, crop_size = harness.PRESET.value, harness.CROP_SIZE.value
  batch_sizes = [int(size) for size in harness.BATCH_SIZES.value]
  network = workload.network(preset)
  rows, all_equal = [], True
  for parallelism, devices in cases(network):
    cells, kinds = [], collections.Counter()
    for batch_size in batch_sizes:
      lowered = jax_step.lower(
        preset, batch_size, crop_size, 'float32', jax.devices()[:devices],
        parallelism,
      )  # fmt: skip
      exchanges = hlo.exchanges(lowered.compile().as_text() or '')
      kinds = collections.Counter(one.kind for one in exchanges)
      found = sums(exchanges)
      counted = sums(
        count(network, crop_size, batch_size, parallelism, devices)
      )
      for a, b in zip(found, counted, strict=True):
        all_equal &= math.isclose(a, b, abs_tol=1)
      cells.append(' + '.join(f'{x / 1e6:,.1f}' for x in found))
    names = ', '.join(f'{number} {kind}' for kind, number in kinds.items())
    rows.append([parallelism, str(devices), *cells, names])
  header = ('parallelism', 'devices', *(f'{n:,} images' for n in batch_sizes))
  return harness.table((*header, 'exchanges'), rows), all_equal


class Cluster(NamedTuple):
  """Links and devices.

  Attributes:
    name: in the table.
    link: bytes per second that a device sends to another of its host.
    network: bytes per second that a host sends, all its devices together.
    latency: seconds of an exchange for every doubling of its group.
    fixed: seconds of computation per step of one device, for any batch, with
      all parameters: mainly the update.
    image: seconds of computation per image on one device.
    float_bytes: of an activation.
  """

  name: str
  link: float
  network: float
  latency: float
  fixed: float = 700e-6
  image: float = 9.1e-6
  float_bytes: int = 2


HOST = 8  # devices
# Data sheets, per direction: NVLink of an H100, 16 lanes of PCIe 4, a 400 Gb/s
# InfiniBand port. Latencies are round numbers. The computation is an H100's in
# bfloat16: the line through the bounds of 128 and 256 images on one device in
# docs/performance.md, 1,868 and 3,036 us.
CLUSTERS = (
  Cluster('NVLink, 8 x InfiniBand', 450e9, 8 * 50e9, 5e-6),
  Cluster('PCIe, 1 x InfiniBand', 32e9, 50e9, 5e-6),
  Cluster('PCIe, 10 Gb Ethernet', 32e9, 1.25e9, 30e-6),
)
# Krizhevsky 2014, Table 1: 8 K20 in one host, 98.05 hours of 90 epochs on one;
# float32. The rate of PCIe 2 there is an estimate.
K20 = Cluster(
  'K20', 6e9, 6e9, 20e-6, 0.0, 98.05 * 3600 / (90 * 1281167), _FLOAT_BYTES
)
K20_SPEEDUPS = {2: 1.95, 4: 3.74, 8: 6.25}


def seconds(
  cluster: Cluster,
  network: Architecture,
  crop_size: int,
  batch_size: int,
  parallelism: str,
  devices: int,
) -> tuple[float, float]:
  """Predicts a step's seconds of computation and of exchanges.

  A ring of exchanging devices enters and leaves each host once, so a host's
  network carries what one device sends, once for each group. Nothing overlaps.

  Args:
    cluster: the links.
    network: the architecture.
    crop_size: side of the images, pixels.
    batch_size: images on all devices together.
    parallelism: one of `sharding.PARALLELISM`.
    devices: their number.
  """
  computing = cluster.image * batch_size / devices
  held = held_floats(network, crop_size, parallelism, devices)
  whole = held_floats(network, crop_size, 'data', 1)
  computing += cluster.fixed * held / whole
  exchanging = 0.0
  for one in count(
    network, crop_size, batch_size, parallelism, devices, cluster.float_bytes
  ):
    size, groups, neighbors = one.groups
    rate = cluster.link
    if devices > HOST and not (neighbors and size <= HOST):
      rate = min(rate, cluster.network / groups)
    exchanging += one.sent / rate + cluster.latency * math.log2(size)
  return computing, exchanging


def predict() -> str:
  """Returns the table of predicted steps, in milliseconds."""
  network = workload.network(harness.PRESET.value)
  crop_size = harness.CROP_SIZE.value
  kinds = ('data', 'both', 'one_weird_trick')
  rows = []
  # A batch of 1,024 images, and one of 128 images on each device.
  for cluster, grows, devices in itertools.product(
    CLUSTERS, (False, True), (8, 64, 512)
  ):
    batch_size, alone = (128 * devices, 128) if grows else (1024, 1024)
    steps = [
      seconds(cluster, network, crop_size, batch_size, kind, devices)
      for kind in kinds
    ]
    fastest = min(map(sum, steps))
    one = sum(seconds(cluster, network, crop_size, alone, 'data', 1))
    cells = [f'{1e3 * a:.2f} + {1e3 * b:.2f}' for a, b in steps]
    images = f'{batch_size / fastest:,.0f}'
    times = f'{batch_size / alone * one / fastest:.2f}'
    batch = f'{batch_size:,}' + (' (128 each)' if grows else '')
    rows.append([cluster.name, str(devices), batch, *cells, images, times])
  header = (
    'links', 'devices', 'batch', *kinds, 'images/s of the fastest',
    'times one device',
  )  # fmt: skip
  return harness.table(header, rows)


def look_back() -> str:
  """Returns the same prediction for the machine of Krizhevsky 2014."""
  network = workload.network('torchvision')
  rows = []
  for devices, measured in K20_SPEEDUPS.items():
    batch_size = 128 * devices
    times = [
      K20.image * batch_size
      / sum(seconds(K20, network, 224, batch_size, parallelism, devices))
      for parallelism in ('data', 'one_weird_trick')
    ]  # fmt: skip
    rows.append([str(devices), *(f'{x:.2f}' for x in (*times, measured))])
  header = (
    'devices', 'data, predicted', 'one_weird_trick, predicted',
    'one_weird_trick, Krizhevsky',
  )  # fmt: skip
  return harness.table(header, rows)


def main(argv: Sequence[str]) -> int:
  """Prints the tables; returns 1 if the bytes are not as counted."""
  del argv
  jax_step.configure('float32', 'cpu')
  # Compiled sooner; XLA's own passes, which place the exchanges, stay.
  jax.config.update('jax_disable_most_optimizations', True)
  sharding.simulate_devices(max(map(int, harness.DEVICES.value)))
  harness.print_header()
  if _PREDICT.value:
    print('Predicted ms per step, computing + exchanging\n')
    print(predict(), end='\n\n')
    print('Times one device, 128 images on each\n')
    print(look_back())
    return 0
  print('MB that a device sends per step, of activations + of gradients\n')
  table, equal = compare()
  verdict = 'equal' if equal else 'NOT equal'
  print(table, end='\n\n')
  print(f'Bytes of the compiled step and counted by hand: {verdict}')
  return 0 if equal else 1


if __name__ == '__main__':
  app.run(main)
