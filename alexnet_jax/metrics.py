"""Cross-entropy and top-k errors as masked sums, which merge exactly."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


class Sums(flax.struct.PyTreeNode):
  """Sums over examples; divide once, at the end.

  Scalars: float32 on a device, float64 where many batches are added up.

  Attributes:
    examples: how many were counted.
    nll: negative log-likelihoods, in nats.
    top1: examples whose class is not the likeliest.
    top5: examples whose class is not among the five likeliest.
    unreadable: files that could not be read and are not counted.
  """

  examples: jax.Array | np.floating
  nll: jax.Array | np.floating
  top1: jax.Array | np.floating
  top5: jax.Array | np.floating
  unreadable: jax.Array | np.floating

  def __add__(self, other: 'Sums') -> 'Sums':
    return jax.tree.map(jnp.add, self, other)

  def means(self) -> dict[str, float]:
    """Returns `nll`, `top1_error` and `top5_error`; NaN without examples."""
    count = float(self.examples) or float('nan')
    return {
      'nll': float(self.nll) / count,
      'top1_error': float(self.top1) / count,
      'top5_error': float(self.top5) / count,
    }


def zeros() -> Sums:
  """Returns the sums over no examples, each array its own buffer."""
  return Sums(*(jnp.zeros((), jnp.float32) for _ in range(5)))


def score(
  log_probs: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  unreadable: jax.Array,
) -> Sums:
  """Scores predictions against labels.

  Args:
    log_probs: float32 [N, classes].
    labels: int32 [N].
    mask: float32 [N], 1 for an example, 0 for a row that fills up a batch.
    unreadable: float32 [N], 1 for a row whose file could not be read.

  Returns:
    The sums over the rows whose mask is 1.
  """
  own = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
  return Sums(
    examples=jnp.sum(mask),
    # `where`, not a product: a masked row may hold anything, NaN too.
    nll=jnp.sum(jnp.where(mask > 0, -own[:, 0], 0.0)),
    top1=jnp.sum(mask * top_k_error(log_probs, labels, 1)),
    top5=jnp.sum(mask * top_k_error(log_probs, labels, 5)),
    unreadable=jnp.sum(unreadable),
  )


def top_k_error(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """The chance that a label is not among the k highest scores.

  It is 0 or 1 but for ties, which count as if broken at random (2012 code,
  layer_kernels.cu:108-117): a dead network that gives all classes the same
  score is wrong as often as a guess. A row that is not finite is an error.

  Args:
    scores: float [N, classes], higher is likelier.
    labels: int32 [N].
    k: how many guesses are allowed.

  Returns:
    float32 [N].
  """
  own = jnp.take_along_axis(scores, labels[:, None], axis=1)
  higher = jnp.sum(scores > own, axis=1)
  tied = jnp.sum(scores == own, axis=1)
  hit = jnp.clip((k - higher) / jnp.maximum(tied, 1), 0.0, 1.0)
  comparable = ~jnp.any(jnp.isnan(scores), axis=1)
  return 1.0 - jnp.where(comparable, hit, 0.0)
