"""What the machine can do at best: a large matrix product, a large copy.

The ceiling of a table is the best of what jax and torch reach, measured in the
same run as the steps.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import importlib.util
from typing import NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks import report
from benchmarks import serving

# Far beyond any cache.
_COPY_BYTES = {'cpu': 2**28, 'gpu': 2**31}
_SIDES = {'cpu': 4096, 'gpu': 8192}


class Rates(NamedTuple):
  """What the machine reached.

  Attributes:
    products: operations a second of a matrix product, by precision.
    copy: bytes read and written a second.
  """

  products: Mapping[str, float]
  copy: float

  def lines(self) -> list[str]:
    """Returns a line for each ceiling."""
    found = [
      f'Ceiling, matrix product, {precision}: {rate / 1e12:.4g} TFLOP/s'
      for precision, rate in self.products.items()
    ]
    return [*found, f'Ceiling, copy: {self.copy / 1e9:.4g} GB/s']


def start(
  precisions: Sequence[str],
  platform: str,
  environment: Mapping[str, str],
  side: int = 0,
) -> list[harness.Worker]:
  """Starts a worker for every ceiling; see `read`.

  Args:
    precisions: of the products, see `ours.configure`.
    platform: 'cpu' or 'gpu'.
    environment: of the processes.
    side: of the matrices; 0 for 4096 on a CPU, 8192 on a GPU.
  """
  side = side or _SIDES[platform]
  factories = ['JaxProduct']
  if importlib.util.find_spec('torch'):
    factories.append('TorchProduct')
  plans = [
    (
      f'product, {precision}, {factory}',
      factory,
      {'side': side, 'precision': precision, 'platform': platform},
    )
    for precision in precisions
    for factory in factories
  ]
  copy = 'JaxCopy' if platform == 'gpu' else 'NumpyCopy'
  plans.append(('copy', copy, {'size': _COPY_BYTES[platform]}))
  return [
    harness.Worker(
      name, f'benchmarks.ceilings:{factory}', settings, environment
    )
    for name, factory, settings in plans
  ]


def read(
  turns: Mapping[str, Sequence[serving.Turn]], platform: str, side: int = 0
) -> Rates:
  """Returns the best of each ceiling's medians.

  Args:
    turns: by worker's name, of `start`'s workers among others.
    platform: as for `start`.
    side: as for `start`.
  """
  operations = 2 * (side or _SIDES[platform]) ** 3
  products: dict[str, float] = {}
  for name, taken in turns.items():
    kind, _, rest = name.partition(', ')
    if kind == 'product' and taken:
      precision = rest.rpartition(', ')[0]
      rate = operations / harness.median([turn.wall for turn in taken])
      products[precision] = max(rate, products.get(precision, 0.0))
  copying = harness.median([turn.wall for turn in turns['copy']])
  # Every byte is read once and written once.
  return Rates(products, 2 * _COPY_BYTES[platform] / copying)


class JaxProduct:
  """A product of two side x side matrices, in jax."""

  def __init__(self, side: int, precision: str, platform: str):
    # Settings of the process: imported and set where it works.
    from benchmarks import ours

    ours.configure(precision, platform)
    import jax

    dtype = jax.numpy.bfloat16 if precision == 'bfloat16' else 'float32'
    keys = jax.random.split(jax.random.key(0))
    self._a, self._b = (
      jax.random.normal(key, (side, side), dtype) for key in keys
    )
    self._product = jax.jit(jax.numpy.matmul)
    self._result = self._product(self._a, self._b)

  def run(self, count: int) -> None:
    for _ in range(count):
      self._result = self._product(self._a, self._b)
    self._result.block_until_ready()


class TorchProduct:
  """The same in torch."""

  def __init__(self, side: int, precision: str, platform: str):
    from benchmarks import torch_step

    device = torch_step.configure(precision, platform)
    import torch

    dtype = torch.bfloat16 if precision == 'bfloat16' else torch.float32
    self._torch, self._device = torch, device
    self._a, self._b = (
      torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)
    )
    self._out = torch.empty_like(self._a)
    self.run(1)

  def run(self, count: int) -> None:
    for _ in range(count):
      self._torch.matmul(self._a, self._b, out=self._out)
    if self._device.type == 'cuda':
      self._torch.cuda.synchronize()


class JaxCopy:
  """Writes an array of `size` bytes from another; for GPUs."""

  def __init__(self, size: int):
    import jax

    self._array = jax.numpy.ones(size // 4, 'float32')
    # A plain copy could be left out by the compiler.
    self._copy = jax.jit(lambda x: -x)
    self._result = self._copy(self._array)

  def run(self, count: int) -> None:
    for _ in range(count):
      self._result = self._copy(self._array)
    self._result.block_until_ready()


class NumpyCopy:
  """The same on a CPU, into an array that exists, each core its share."""

  def __init__(self, size: int):
    cores = report.cores()
    self._pool = futures.ThreadPoolExecutor(cores)
    origin = np.ones(size // 4, np.float32)
    self._parts = [
      (np.zeros_like(part), part) for part in np.array_split(origin, cores)
    ]
    self.run(1)  # touches every page

  def run(self, count: int) -> None:
    for _ in range(count):
      list(self._pool.map(lambda part: np.copyto(*part), self._parts))
