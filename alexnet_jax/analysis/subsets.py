"""Errors of the averages of subsets of networks, and of subsets of a size."""

from collections.abc import Sequence
import itertools
import math
from typing import Any

import numpy as np

from alexnet_jax import progress
from alexnet_jax.analysis import averaging

# Up to so many networks, all subsets are measured; of more, so many a size.
_ALL_UP_TO = 10
_OF_A_SIZE = 100


def choose(networks: int) -> dict[int, list[tuple[int, ...]]]:
  """Returns subsets of the networks by their size: all, or a fixed sample.

  Args:
    networks: how many there are.

  Returns:
    For each size from 1 on, subsets as rising numbers, none of them twice.
  """
  return {size: _of_size(networks, size) for size in range(1, networks + 1)}


def _of_size(networks: int, size: int) -> list[tuple[int, ...]]:
  few = math.comb(networks, size) <= _OF_A_SIZE
  if networks <= _ALL_UP_TO or few:
    return list(itertools.combinations(range(networks), size))
  rng = np.random.default_rng([networks, size])
  chosen: set[tuple[int, ...]] = set()
  while len(chosen) < _OF_A_SIZE:
    members = rng.choice(networks, size, replace=False)
    chosen.add(tuple(sorted(members.tolist())))
  return sorted(chosen)


def membership(chosen: Sequence[tuple[int, ...]], networks: int) -> np.ndarray:
  """Returns weights [S, networks]: 1 for a member of a subset, 0 for others."""
  weights = np.zeros((len(chosen), networks))
  for row, members in zip(weights, chosen, strict=True):
    row[list(members)] = 1
  return weights


def measure(log_probs: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
  """Measures the averages of subsets, from single networks to all of them.

  Args:
    log_probs: float32 [networks, N, classes].
    labels: int32 [N].

  Returns:
    For each subset its `members` (numbers) and its errors.
  """
  count = len(log_probs)
  chosen = [members for some in choose(count).values() for members in some]
  done = progress.Progress(f'Averaging {len(chosen)} subsets', len(labels))
  weights = membership(chosen, count)
  measured = averaging.measure(log_probs, labels, weights, done.add)
  return [
    {'members': list(members), **averaging.line(measured, i)}
    for i, members in enumerate(chosen)
  ]


def summarize(
  subsets: Sequence[dict[str, Any]], networks: int
) -> list[dict[str, Any]]:
  """Returns mean and spread of the errors for each number of networks."""
  sizes = []
  for size in range(1, networks + 1):
    some = [each for each in subsets if len(each['members']) == size]
    line: dict[str, Any] = {
      'networks': size,
      'subsets': len(some),
      'of': math.comb(networks, size),
    }
    for key in ('top1_error', 'top5_error', 'nll'):
      values = np.array([each[key] for each in some])
      line[key] = {
        'mean': float(values.mean()),
        'standard_deviation': float(values.std()),
        'lowest': float(values.min()),
        'highest': float(values.max()),
      }
    sizes.append(line)
  return sizes
