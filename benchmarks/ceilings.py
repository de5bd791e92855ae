"""What the machine can do at best: a large matrix product and a large copy.

A ceiling is the best that JAX and torch reach in the same run as the steps.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import importlib.util
from typing import NamedTuple

import numpy as np

from benchmarks import harness

# Far larger than any cache; the side of the matrices, and bytes to copy.
SIDES = {'cpu': 4096, 'gpu': 8192}
COPY_BYTES = {'cpu': 2**28, 'gpu': 2**31}


class Rates(NamedTuple):
  """What the machine reached.

  Attributes:
    products: operations per second of a matrix product, by precision.
    copy: bytes read and written per second.
  """

  products: Mapping[str, float]
  copy: float

  def lines(self) -> str:
    """Returns a line for each ceiling."""
    found = [
      f'Ceiling, matrix product, {precision}: {rate / 1e12:.4g} TFLOP/s'
      for precision, rate in self.products.items()
    ]
    return '\n'.join([*found, f'Ceiling, copy: {self.copy / 1e9:.4g} GB/s'])


def workers(precisions: Sequence[str]) -> list[harness.Worker]:
  """Returns a worker for each ceiling, for the same race as the steps."""
  platform = harness.platform()
  plans = [('copy', {'platform': platform})]
  for framework in ('jax', 'torch'):
    if importlib.util.find_spec(framework):
      plans += [
        (f'{framework}_product', {'platform': platform, 'precision': precision})
        for precision in precisions
      ]
  return [
    harness.Worker(
      f'{factory} {settings.get("precision", "")}'.strip(),
      f'benchmarks.ceilings:{factory}',
      settings,
      harness.environment(),
    )
    for factory, settings in plans
  ]


def rates(turns: Mapping[str, Sequence[harness.Turn]]) -> Rates:
  """Returns the ceilings: the best of their workers' medians in a race."""
  platform = harness.platform()

  def seconds(name):
    return harness.median(turn.wall for turn in turns.get(name, ()))

  products: dict[str, float] = {}
  for name in turns:
    kind, _, precision = name.partition(' ')
    if kind.endswith('_product'):
      rate = 2 * SIDES[platform] ** 3 / seconds(name)
      products[precision] = max(rate, products.get(precision, 0.0))
  # Every byte is read once and written once.
  return Rates(products, 2 * COPY_BYTES[platform] / seconds('copy'))


def jax_product(precision: str, platform: str) -> harness.Contender:
  """Returns a contender that multiplies two matrices in JAX."""
  from benchmarks import jax_step

  jax_step.configure(precision, platform)
  import jax

  dtype = jax.numpy.bfloat16 if precision == 'bfloat16' else 'float32'
  a, b = (
    jax.random.normal(key, (SIDES[platform],) * 2, dtype)
    for key in jax.random.split(jax.random.key(0))
  )
  product = jax.jit(jax.numpy.matmul)
  return harness.Contender(lambda: product(a, b), jax.block_until_ready)


def torch_product(precision: str, platform: str) -> harness.Contender:
  """Returns a contender that multiplies two matrices in torch."""
  import torch

  from benchmarks import torch_step

  device = torch_step.configure(precision, platform)
  dtype = torch.bfloat16 if precision == 'bfloat16' else torch.float32
  a, b, out = (
    torch.randn((SIDES[platform],) * 2, device=device, dtype=dtype)
    for _ in range(3)
  )
  return torch_step.contender(lambda: torch.matmul(a, b, out=out))


def copy(platform: str) -> harness.Contender:
  """Returns a contender that copies an array."""
  size = COPY_BYTES[platform] // 4
  if platform == 'gpu':
    import jax

    array = jax.numpy.ones(size, 'float32')
    # The compiler could leave out a plain copy.
    negate = jax.jit(lambda x: -x)
    return harness.Contender(lambda: negate(array), jax.block_until_ready)
  # On a CPU into an array that exists, each core its share.
  cores = harness.cores()
  pool = futures.ThreadPoolExecutor(cores)
  shares = np.array_split(np.ones(size, np.float32), cores)
  pairs = [(np.zeros_like(share), share) for share in shares]
  return harness.Contender(
    lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs))
  )
