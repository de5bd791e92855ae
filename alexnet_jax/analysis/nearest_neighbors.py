"""The nearest features to some others, exactly (paper, Figure 4, right).

Distances are Euclidean and exact. The device ranks all features by a lower
bound of the distance, one matrix product a block; the best few are measured in
float64. Where the bounds do not prove that no other can be nearer, which takes
many near-equal distances, all features are measured so.
"""

from collections.abc import Iterator
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Features ranked at once: 16 MB of float32; and queries, 64 MB of distances.
_BLOCK = 2**22
_QUERIES = 1024
# Candidates measured in float64, beyond the k that are wanted.
_SLACK = 32


def nearest(
  features: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k nearest features of each query.

  Args:
    features: float32 [N, D], finite; a memory map will do.
    queries: float32 [Q, D].
    k: how many; all N where there are fewer.

  Returns:
    Distances, float64 [Q, k], rising, and which features they are of, int64
    [Q, k]. Of equal distances the feature that comes first is nearer.
  """
  k = min(k, len(features))
  count = min(k + _SLACK, len(features))
  distances = np.empty((len(queries), k))
  indices = np.empty((len(queries), k), np.int64)
  for start in range(0, len(queries), _QUERIES):
    some = np.asarray(queries[start : start + _QUERIES], np.float32)
    bounds, candidates = _candidates(features, some, count)
    for i, query in enumerate(some):
      chosen = np.sort(candidates[i])
      squares = _squares(features[chosen], query)
      best = np.argsort(squares, stable=True)[:k]
      found, squares = chosen[best], squares[best]
      # Whatever is no candidate is at least as far as the last bound.
      if count < len(features) and not squares[-1] < bounds[i, -1]:
        squares, found = _exhaustive(features, query, k)
      distances[start + i], indices[start + i] = np.sqrt(squares), found
  return distances, indices


def _squares(features: np.ndarray, query: np.ndarray) -> np.ndarray:
  """Returns the squared distances in float64, [N]."""
  difference = features.astype(np.float64) - query.astype(np.float64)
  return (difference * difference).sum(axis=1)


def _blocks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the features in equal pieces, and the number of each one's first."""
  rows = max(1, _BLOCK // features.shape[1])
  for start in range(0, len(features), rows):
    yield start, np.asarray(features[start : start + rows])


def _candidates(
  features: np.ndarray, queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the lowest bounds, rising, and their features, [Q, count] each."""
  bounds = np.full((len(queries), 0), np.inf)
  indices = np.zeros((len(queries), 0), np.int64)
  queries_there = jax.device_put(queries)
  rows = 0
  for start, block in _blocks(features):
    rows = max(rows, len(block))
    # The last block is filled up, so that one compilation serves all.
    filled = np.pad(block, ((0, rows - len(block)), (0, 0)))
    lower, places = _lowest(filled, queries_there, len(block), min(count, rows))
    bounds = np.concatenate([bounds, lower], axis=1)
    indices = np.concatenate([indices, start + np.asarray(places)], axis=1)
    kept = np.argsort(bounds, axis=1, stable=True)[:, :count]
    bounds = np.take_along_axis(bounds, kept, axis=1)
    indices = np.take_along_axis(indices, kept, axis=1)
  return bounds, indices


@functools.partial(jax.jit, static_argnames='count')
def _lowest(
  features: jax.Array, queries: jax.Array, valid: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the `count` lowest bounds on squared distances, and their places.

  |f - q|^2 = |f|^2 - 2 f.q + |q|^2, less what rounding may have added: a sum
  of D products in float32 is wrong by at most D u sum|products|, u = 2^-24
  (Higham, Accuracy and Stability of Numerical Algorithms, Section 3.1).

  Args:
    features: float32 [N, D].
    queries: float32 [Q, D].
    valid: how many features are none that fill up the block.
    count: how many to return.

  Returns:
    float32 [Q, count], rising, and int32 [Q, count].
  """
  products = jnp.matmul(queries, features.T, precision=lax.Precision.HIGHEST)
  own = jnp.sum(features * features, axis=1)
  others = jnp.sum(queries * queries, axis=1, keepdims=True)
  unit = (features.shape[1] + 16) * 2.0**-24
  slack = unit * (jnp.sqrt(own) + jnp.sqrt(others)) ** 2
  lower = own - 2 * products + others - slack
  lower = jnp.where(jnp.arange(len(features)) < valid, lower, jnp.inf)
  values, places = lax.top_k(-lower, count)
  return -values, places


def _exhaustive(
  features: np.ndarray, query: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the k least squared distances, and whose they are, [k] each."""
  squares, indices = np.zeros(0), np.zeros(0, np.int64)
  for start, block in _blocks(features):
    squares = np.concatenate([squares, _squares(block, query)])
    indices = np.concatenate([indices, np.arange(start, start + len(block))])
    # Stable, and in the features' order: of equals the first is kept.
    best = np.argsort(squares, stable=True)[:k]
    squares, indices = squares[best], indices[best]
  return squares, indices
