"""Averages of several networks' probabilities: errors, and weights."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import metrics

# Steps of the search for weights (2012 code, avg-valid.py:49-71).
_STEP = 0.05
# Averages measured at once, and how many numbers they may hold (64 MB).
_AVERAGES = 16
_NUMBERS = 2**24


class Errors(NamedTuple):
  """Of several averages; float64 [S] each.

  Attributes:
    top1: share of examples whose class is not the likeliest.
    top5: share of examples whose class is not among the five likeliest.
    nll: mean negative log-likelihood, in nats.
  """

  top1: np.ndarray
  top5: np.ndarray
  nll: np.ndarray


def measure(
  log_probs: np.ndarray,
  labels: np.ndarray,
  weights: np.ndarray,
  on_progress: Callable[[int], None] = lambda count: None,
) -> Errors:
  """Measures weighted averages of networks.

  Args:
    log_probs: float32 [networks, N, classes], logarithms of probabilities; it
      is the probabilities that are averaged.
    labels: int32 [N].
    weights: [S, networks], none negative, none of the S all zero; each is
      divided by its sum.
    on_progress: called with how many examples are done.

  Returns:
    The errors of the S averages; NaN of no examples.
  """
  weights = np.asarray(weights, np.float64)
  shares = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
  networks, examples, classes = log_probs.shape
  rows = max(1, min(examples, _NUMBERS // (_AVERAGES * classes)))
  sums = np.zeros((3, len(shares)))
  for start in range(0, examples, rows):
    own = log_probs[:, start : start + rows]
    block = np.zeros((networks, rows, classes), np.float32)
    block[:, : own.shape[1]] = own
    block_labels = np.zeros(rows, np.int32)
    block_labels[: own.shape[1]] = labels[start : start + rows]
    mask = (np.arange(rows) < own.shape[1]).astype(np.float32)
    there = jax.device_put((block, block_labels, mask))
    for first in range(0, len(shares), _AVERAGES):
      some = shares[first : first + _AVERAGES]
      # Filled up, so that one compilation serves all.
      filled = np.resize(some, (_AVERAGES, networks))
      part = _sums(*there, filled)[:, : len(some)]
      sums[:, first : first + len(some)] += np.asarray(part, np.float64)
    on_progress(own.shape[1])
  return Errors(*(sums / (examples or math.nan)))


@jax.jit
def _sums(
  log_probs: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  shares: jax.Array,
) -> jax.Array:
  """Returns top-1, top-5 and log-likelihood sums: float32 [3, S]."""
  # Beside the largest of the networks, so that small ones do not vanish.
  largest = jnp.max(log_probs, axis=0)
  mean = jnp.einsum(
    'sr,rnc->snc',
    shares,
    jnp.exp(log_probs - largest),
    precision=lax.Precision.HIGHEST,
  )
  # What still vanishes has a share e^87 times smaller than another network's.
  logs = largest + jnp.log(jnp.maximum(mean, jnp.finfo(jnp.float32).tiny))
  score = jax.vmap(metrics.score, (0, None, None, None))
  result = score(logs, labels, mask, jnp.zeros_like(mask))
  return jnp.stack([result.top1, result.top5, result.nll])


def search_weights(
  log_probs: np.ndarray, labels: np.ndarray, by: str
) -> np.ndarray:
  """Finds weights by coordinate search, as the authors did in 2012.

  From equal weights: each network in turn gets the weight of 0, 0.05, ..., 1
  that makes the error lowest, the others' held; round and round until no change
  helps. Of equal errors the lower negative log-likelihood is better.

  Args:
    log_probs: float32 [networks, N, classes], of examples to search on.
    labels: int32 [N].
    by: the error to lower: 'top1' or 'top5' (the 2012 code's).

  Returns:
    float64 [networks], with a sum of 1.
  """
  networks = len(log_probs)
  weights = np.ones(networks)
  values = np.round(np.arange(0, 1 + _STEP / 2, _STEP), 2)
  best = _judged(measure(log_probs, labels, weights[None]), by)[0]
  unchanged, network = 0, 0
  while unchanged < networks:
    tried = np.repeat(weights[None], len(values), axis=0)
    tried[:, network] = values
    tried = tried[tried.sum(axis=1) > 0]
    judged = _judged(measure(log_probs, labels, tried), by)
    lowest = min(range(len(tried)), key=lambda i: judged[i])
    if judged[lowest] < best:
      best, weights, unchanged = judged[lowest], tried[lowest], 0
    unchanged += 1
    network = (network + 1) % networks
  return weights / weights.sum()


def line(errors: Errors, i: int) -> dict[str, float]:
  """Returns the errors of one average by name."""
  return {
    'top1_error': float(errors.top1[i]),
    'top5_error': float(errors.top5[i]),
    'nll': float(errors.nll[i]),
  }


def _judged(errors: Errors, by: str) -> list[tuple[float, float]]:
  return list(
    zip(getattr(errors, by).tolist(), errors.nll.tolist(), strict=True)
  )


def search_and_measure(
  log_probs: np.ndarray, labels: np.ndarray, by: str
) -> dict[str, Any]:
  """Searches weights on every other example and measures them on the rest.

  Args:
    log_probs: float32 [networks, N, classes].
    labels: int32 [N].
    by: see `search_weights`.

  Returns:
    The weights, the error they were searched by, and for both halves the
    errors with equal weights and with these.
  """
  halves = {
    'searched_on': (log_probs[:, ::2], labels[::2]),
    'measured_on': (log_probs[:, 1::2], labels[1::2]),
  }
  logging.info('Searching weights on %d images', len(labels[::2]))
  weights = search_weights(*halves['searched_on'], by)
  result: dict[str, Any] = {'by': f'{by}_error', 'weights': weights.tolist()}
  pair = np.stack([np.ones(len(weights)), weights])
  for name, half in halves.items():
    measured = measure(*half, pair)
    result[name] = {
      'examples': len(half[1]),
      'equal': line(measured, 0),
      'weighted': line(measured, 1),
    }
  return result
