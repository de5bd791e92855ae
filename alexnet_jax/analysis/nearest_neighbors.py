"""The features nearest to some queries, exactly (paper, Figure 4, right)."""

import numpy as np

# Numbers in a block of features, and at most in its distances: 16 MB.
_BLOCK = 2**22


def nearest(
  features: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k nearest features of each query.

  Distances are Euclidean, and equal to those of brute force in float64. The
  squared distances are estimated as |f|^2 - 2 f.q + |q|^2, one float32 matrix
  product per block, which is inexact where they are small beside the norms; so
  every feature that may be among the nearest is measured in float64.

  Args:
    features: float32 [N, D], finite; a memory map will do.
    queries: float32 [Q, D].
    k: how many; all N where there are fewer.

  Returns:
    Distances, float64 [Q, k], ascending, and the indices of their features,
    int64 [Q, k]. Of equal distances the feature that comes first is nearer.
  """
  count, width = features.shape
  k = min(k, count)
  queries = np.asarray(queries, np.float32)
  lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
  squares = np.full((len(queries), k), np.inf)
  indices = np.zeros((len(queries), k), np.int64)
  rows = max(1, _BLOCK // max(width, len(queries)))
  for start in range(0, count, rows):
    block = np.asarray(features[start : start + rows], np.float32)
    # |q|^2 is the same for all features, and left out of the comparison.
    own = np.einsum('nd,nd->n', block, block)
    estimates = own - 2 * (block @ queries.T).T
    # A sum of D products is wrong by at most D u sum|products|, u = 2^-24
    # (Higham, Accuracy and Stability of Numerical Algorithms, Section 3.1).
    error = (width + 16) * 2.0**-24 * (lengths + np.sqrt(own.max())) ** 2
    limits = squares[:, -1] - lengths**2
    if len(block) >= k:
      last = np.partition(estimates, k - 1, axis=1)[:, k - 1]
      limits = np.minimum(limits, last + error)
    near = estimates <= (limits + error)[:, None]
    for q in np.flatnonzero(near.any(axis=1)):
      places = np.flatnonzero(near[q])
      difference = block[places].astype(np.float64) - queries[q]
      exact = (difference * difference).sum(axis=1)
      # Stable, and in the features' order: of equals the first is kept.
      exact = np.concatenate([squares[q], exact])
      best = np.argsort(exact, kind='stable')[:k]
      squares[q] = exact[best]
      indices[q] = np.concatenate([indices[q], start + places])[best]
  return np.sqrt(squares), indices
