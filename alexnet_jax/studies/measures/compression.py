"""Test error and size of networks compressed after training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Dense
from alexnet_jax.architecture import Layer
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.studies.measures import scoring
from alexnet_jax.studies.results import Result

_PRUNED = (0.5, 0.8, 0.9, 0.95)
_RANKS = (4, 8, 16)  # the full rank is divided by it
_FLOAT, _INT8 = 4, 1  # bytes of a number
# A relative index of one byte spans up to this many positions (Han, Pool, Tran
# and Dally, "Learning both weights and connections for efficient neural
# networks", 2015, and "Deep compression", 2016).
_REACH = 256

Params = Mapping[str, Mapping[str, np.ndarray]]


class Stored(NamedTuple):
  """A compressed kernel.

  Attributes:
    kernel: float32 [towers, ..., units], the weights that are computed with.
    bytes: storage size.
  """

  kernel: np.ndarray
  bytes: int


def measure(runs: Sequence[TrainedNetwork]) -> Iterable[Result]:
  """Measures networks compressed in one step, without further training.

  Variants, of which each changes the weights and leaves the biases as 4-byte
  numbers:

  * 'as trained': 4 bytes per weight.
  * '50 % pruned', and 80, 90 and 95: in every layer, that share of the weights
    with the smallest magnitudes is zero. Stored are the others, 4 bytes each,
    with a bitmap or, if that is smaller, a relative index of 1 byte each; a gap
    of more than 255 zeros then needs a zero between.
  * 'rank 1/4', and 1/8 and 1/16: every fully connected layer but the
    classifier, whose rank is at most the number of classes, is the product of
    two factors, from its largest singular values; that share of the full rank
    is kept. The towers of a layer that reads all towers are one matrix.
  * '8 bits': 1 byte per weight, symmetric around zero, with a 4-byte scale per
    unit or kernel of a tower.
  * '50 % pruned, 8 bits', and so on: both.

  Values: `bytes` of the parameters; `top1_error`, `top5_error` and `nll` with
  the center view.
  """
  for run in runs:
    seed = run.setup.settings.seed
    for variant, values in _measure(run).items():
      yield Result(variant, seed, values)


def _measure(run: TrainedNetwork) -> dict[str, dict[str, float]]:
  scorer = scoring.Scorer(run)
  where = jax.tree.map(lambda x: x.sharding, run.params)
  sizes, placed = {}, {}
  trained = jax.device_get(run.params)
  for name, params, size in compress(run.setup.network, trained):
    sizes[name] = float(size)
    placed[name] = jax.device_put(params, where)

  def predict(images):
    for name, params in placed.items():
      yield name, scorer.log_probs(params, images, scorer.center)

  scores = scorer(run.splits.eval_source, predict, 'Compressed networks')
  return {name: {**own, 'bytes': sizes[name]} for name, own in scores.items()}


def compress(
  network: Architecture, params: Params
) -> Iterator[tuple[str, Params, int]]:
  """Compresses a network in every way.

  Args:
    network: the architecture.
    params: float32, towers on each leading axis.

  Yields:
    The variant's name (see `measure`), its parameters, and their bytes.
  """
  for name, method in _methods(network, params).items():
    stored = {
      layer.name: method(layer, np.asarray(params[layer.name]['kernel']))
      for layer in network.layers
    }
    compressed = {
      name: {**params[name], 'kernel': own.kernel}
      for name, own in stored.items()
    }
    weights = sum(own.bytes for own in stored.values())
    biases = sum(own['bias'].size for own in params.values())
    yield name, compressed, weights + _FLOAT * biases


def _methods(
  network: Architecture, params: Params
) -> dict[str, Callable[[Layer, np.ndarray], Stored]]:
  """Returns functions of a layer and its kernel, by the variant's name."""
  hidden = [each for each in network.layers[:-1] if isinstance(each, Dense)]
  # Those of the paper's fc6 take a minute.
  factors = {
    each.name: _factors(each, np.asarray(params[each.name]['kernel']))
    for each in hidden
  }

  def whole(layer, kernel):
    del layer
    return Stored(kernel, _FLOAT * kernel.size)

  def pruned(layer, kernel, share):
    del layer
    return _sparse(prune(kernel, share), _FLOAT)

  def quantized(layer, kernel):
    del layer
    values, scales = quantize(kernel)
    return Stored(values, _INT8 * values.size + _FLOAT * scales)

  def both(layer, kernel, share):
    del layer
    values, scales = quantize(prune(kernel, share))
    stored = _sparse(values, _INT8)
    return Stored(values, stored.bytes + _FLOAT * scales)

  def low_rank(layer, kernel, divisor):
    if layer.name not in factors:
      return whole(layer, kernel)
    return _low_rank(layer, kernel, factors[layer.name], divisor)

  shares = {f'{100 * share:.0f} % pruned': share for share in _PRUNED}
  return {
    'as trained': whole,
    **{k: functools.partial(pruned, share=v) for k, v in shares.items()},
    **{f'rank 1/{n}': functools.partial(low_rank, divisor=n) for n in _RANKS},
    '8 bits': quantized,
    **{
      f'{k}, 8 bits': functools.partial(both, share=v)
      for k, v in shares.items()
    },
  }


def prune(kernel: np.ndarray, share: float) -> np.ndarray:
  """Returns a kernel whose smallest weights are zero, `share` of them all."""
  flat = kernel.reshape(-1).copy()
  smallest = np.argsort(np.abs(flat), kind='stable')[: round(share * flat.size)]
  flat[smallest] = 0
  return flat.reshape(kernel.shape)


def quantize(kernel: np.ndarray) -> tuple[np.ndarray, int]:
  """Rounds every weight to one of 255 multiples of its unit's scale.

  Args:
    kernel: float32 [towers, ..., units].

  Returns:
    The rounded kernel, in which zeros are still zeros, and the number of
    scales, one per unit of a tower.
  """
  axes = tuple(range(1, kernel.ndim - 1))
  scales = np.abs(kernel).max(axis=axes, keepdims=True) / 127
  divisors = np.where(scales > 0, scales, 1)
  return np.rint(kernel / divisors) * scales, scales.size


def _sparse(kernel: np.ndarray, number: int) -> Stored:
  """Stores the weights that are not zero, by the smaller of two encodings.

  These are an index relative to the previous weight, of one byte, and a bitmap
  of all weights.

  Args:
    kernel: any array.
    number: bytes of a weight.
  """
  gaps = np.diff(np.flatnonzero(kernel), prepend=-1)
  entries = len(gaps) + int(((gaps - 1) // _REACH).sum())
  with_bitmap = len(gaps) * number + math.ceil(kernel.size / 8)
  return Stored(kernel, min(entries * (number + 1), with_bitmap))


_Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def _factors(layer: Dense, kernel: np.ndarray) -> _Factors:
  """Returns the singular value decompositions of a layer's matrices.

  They are U [M, inputs, rank], S [M, rank] and V [M, rank, outputs], with M = 1
  where all towers have the same inputs.
  """
  if layer.reads == 'all':
    kernel = np.concatenate(list(kernel), axis=-1)[np.newaxis]
  return np.linalg.svd(kernel, full_matrices=False)


def _low_rank(
  layer: Dense, kernel: np.ndarray, factors: _Factors, divisor: int
) -> Stored:
  u, s, v = factors
  rank = max(1, s.shape[-1] // divisor)
  left, right = u[..., :rank] * s[:, np.newaxis, :rank], v[:, :rank]
  product = left @ right
  if layer.reads == 'all':
    product = np.stack(np.split(product[0], len(kernel), axis=-1))
  return Stored(product, _FLOAT * (left.size + right.size))
