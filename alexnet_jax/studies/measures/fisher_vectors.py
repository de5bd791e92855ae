"""Dense descriptors and their Fisher vectors, the best of ILSVRC-2010.

As in J. Sanchez and F. Perronnin, High-dimensional signature compression for
large-scale image classification, CVPR 2011: [24] of the paper, the second row
of its Table 1. SIFT (D. Lowe, IJCV 2004) and color statistics are computed on a
dense grid, reduced by principal components, modeled by a mixture of Gaussians
each, and an image is the gradient of their log-likelihood.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ORIENTATIONS = 8  # of SIFT's histograms
CELLS = 4  # of a descriptor, along each side
# Sides of a cell in pixels, for images of up to 127 pixels: patches of 8, 12
# and 16. Those of larger images are larger in proportion, see `_unit`.
_CELL_SIDES = (2, 3, 4)
_STEP = 2  # of the grid, in the same unit
_COMPONENTS = 64  # kept of either descriptor, as in Section 4.1 of that paper
_SAMPLES = 100_000  # descriptors that a mixture is fitted to
_ITERATIONS = 50  # of expectation maximization
# Of a Gaussian: of its part if all were equal, and of the whole variance.
_SMALLEST_SHARE, _SMALLEST_VARIANCE = 0.01, 0.001


class Mixture(NamedTuple):
  """Gaussians with diagonal covariances.

  Attributes:
    weights: float32 [K].
    means: float32 [K, D].
    variances: float32 [K, D].
  """

  weights: Any
  means: Any
  variances: Any


class _Vocabulary(NamedTuple):
  """What turns one kind of descriptor into a Fisher vector."""

  mean: Any  # float32 [128 or 96], of the descriptors
  components: Any  # float32 [128 or 96, D]
  mixture: Mixture  # of the D components and two coordinates


def _unit(side: int) -> int:
  """Returns how many pixels of an image count as one."""
  return max(1, side // 64)


def grid(side: int, cell: int) -> np.ndarray:
  """Returns where the descriptors of one scale begin, in either direction.

  Args:
    side: of the image, pixels.
    cell: side of a cell, pixels.
  """
  room = max(0, side - CELLS * cell)
  step = _STEP * _unit(side)
  return np.arange(room % step // 2, room + 1, step)


def _pooling(side: int, cell: int, reach: float) -> np.ndarray:
  """Returns the weights of pixels in cells: float32 [positions, CELLS, side].

  Args:
    side: of the image, pixels.
    cell: side of a cell, pixels.
    reach: distance from a cell's center, in cells, at which its weight, a
      triangle, is 0. With 1, a pixel is shared by linear interpolation.
  """
  corners = grid(side, cell)[:, None, None]
  centers = corners + (np.arange(CELLS)[:, None] + 0.5) * cell - 0.5
  distance = np.abs(np.arange(side) - centers) / cell
  return np.maximum(0, 1 - distance / reach).astype(np.float32)


def _pool(maps: jax.Array, weights: np.ndarray) -> jax.Array:
  """Sums maps [S, S, C] by patch and cell: [P * P, CELLS, CELLS, C]."""
  cells = jnp.einsum('pki,ijc,qlj->pqklc', weights, maps, weights)
  return cells.reshape(-1, *cells.shape[2:])


def sift(image: jax.Array, cell: int) -> jax.Array:
  """Describes the patches on a grid by their gradients.

  Each of 4 x 4 cells has a histogram of the directions of the gradient,
  weighted by its length; a gradient is shared by the nearest cells and the
  nearest directions in proportion. The vector is scaled to length 1, cut off
  at 0.2, and scaled again (Lowe 2004, Section 6). There is neither a dominant
  direction nor a Gaussian window, as is usual for dense grids.

  Args:
    image: float32 [S, S, 3], gray levels.
    cell: side of a cell, pixels.

  Returns:
    float32 [P * P, 128], the patches row by row, see `grid`; of each its cells
    row by row, of each the directions from the right, clockwise as seen.
  """
  gray = image @ jnp.array([0.299, 0.587, 0.114], image.dtype)  # BT.601
  down, right = jnp.gradient(gray)
  direction = jnp.arctan2(down, right) * (ORIENTATIONS / (2 * np.pi))
  difference = direction[..., None] - jnp.arange(ORIENTATIONS)
  half = ORIENTATIONS / 2
  distance = jnp.abs((difference + half) % ORIENTATIONS - half)
  maps = jnp.hypot(down, right)[..., None] * jnp.maximum(0, 1 - distance)
  found = _pool(maps, _pooling(image.shape[0], cell, 1))
  found = found.reshape(len(found), -1)
  # One gray level of gradient all over a patch is noise.
  found = found / (jnp.linalg.norm(found, axis=1, keepdims=True) + cell**2)
  found = jnp.minimum(found, 0.2)
  return found / (jnp.linalg.norm(found, axis=1, keepdims=True) + 1e-6)


def colors(image: jax.Array, cell: int) -> jax.Array:
  """Describes patches by the mean and deviation of each channel in each cell.

  Args:
    image: float32 [S, S, 3], gray levels.
    cell: side of a cell, pixels.

  Returns:
    float32 [P * P, 96], in units of 255 levels; the patches as those of `sift`.
  """
  weights = _pooling(image.shape[0], cell, 0.75)
  weights /= np.maximum(weights.sum(axis=2, keepdims=True), 1e-6)
  image = image / 255
  moments = _pool(jnp.concatenate([image, image**2], axis=2), weights)
  mean, square = jnp.split(moments, 2, axis=3)
  deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0) + 1e-6)
  return jnp.concatenate([mean, deviation], axis=3).reshape(len(mean), -1)


_DESCRIPTORS = {'sift': sift, 'colors': colors}


def _cells(side: int) -> tuple[int, ...]:
  """Returns the cell sides whose patches fit an image, at least one."""
  fitting = [c * _unit(side) for c in _CELL_SIDES if CELLS * c <= side]
  return tuple(fitting) or (max(1, side // CELLS),)


def describe(kind: str, image: jax.Array) -> jax.Array:
  """Returns the descriptors of an image at all scales, [T, 128 or 96]."""
  image = image.astype(jnp.float32)
  return jnp.concatenate(
    [_DESCRIPTORS[kind](image, cell) for cell in _cells(image.shape[0])]
  )


def coordinates(side: int) -> np.ndarray:
  """Returns where the patches' centers are, float32 [T, 2], -0.5 to 0.5."""
  found = []
  for cell in _cells(side):
    centers = (grid(side, cell) + CELLS * cell / 2) / side - 0.5
    found.append(np.stack(np.meshgrid(centers, centers, indexing='ij'), -1))
  return np.concatenate([f.reshape(-1, 2) for f in found]).astype(np.float32)


def _moments(
  descriptors: jax.Array, mixture: Mixture
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the means of g, g x and g x^2 over descriptors x: [K, 1 or D].

  g is the posterior probability of a Gaussian. Both the gradients of the
  likelihood and the steps of expectation maximization follow from them.
  """
  weights, means, variances = mixture
  precision = 1 / variances
  exponent = (
    descriptors**2 @ precision.T
    - 2 * (descriptors @ (means * precision).T)
    + jnp.sum(means**2 * precision + jnp.log(variances), axis=1)
  )
  posteriors = jax.nn.softmax(jnp.log(weights) - exponent / 2, axis=1)
  count = len(descriptors)
  zeroth = jnp.sum(posteriors, axis=0)[:, None] / count
  first = posteriors.T @ descriptors / count
  second = posteriors.T @ descriptors**2 / count
  return zeroth, first, second


def fisher_vector(descriptors: jax.Array, mixture: Mixture) -> jax.Array:
  """Returns the normalized Fisher vector of an image's descriptors.

  With posteriors g_t(k) of T descriptors x_t,

    1 / (T sqrt(w_k))    sum_t g_t(k) (x_t - mu_k) / sigma_k             and
    1 / (T sqrt(2 w_k))  sum_t g_t(k) [(x_t - mu_k)^2 / sigma_k^2 - 1],

  then signed square roots, then length 1 (F. Perronnin, J. Sanchez and T.
  Mensink, Improving the Fisher kernel for large-scale image classification,
  ECCV 2010, Sections 2 and 3).

  Args:
    descriptors: float32 [T, D].
    mixture: of K Gaussians.

  Returns:
    float32 [2 * K * D], all means before all variances.
  """
  weights, means, variances = mixture
  zeroth, first, second = _moments(descriptors, mixture)
  by_mean = (first - zeroth * means) / jnp.sqrt(variances)
  square = second - 2 * first * means + zeroth * means**2
  by_variance = (square / variances - zeroth) / np.sqrt(2).astype(np.float32)
  scale = jax.lax.rsqrt(weights)[:, None]
  vector = jnp.concatenate([by_mean * scale, by_variance * scale]).ravel()
  vector = jnp.sign(vector) * jnp.sqrt(jnp.abs(vector))
  return vector / (jnp.linalg.norm(vector) + 1e-12)


@functools.partial(jax.jit, static_argnames='count')
def fit_mixture(samples: jax.Array, count: int) -> Mixture:
  """Fits Gaussians by expectation maximization.

  Args:
    samples: float32 [N, D], in random order: the first are the first means.
    count: of Gaussians.
  """
  spread = samples.var(axis=0)

  def step(_, mixture):
    zeroth, first, second = _moments(samples, mixture)
    share = jnp.maximum(zeroth, _SMALLEST_SHARE / count)
    means = first / share
    variances = second / share - means**2
    # A Gaussian around a few equal descriptors would have no width.
    variances = jnp.maximum(variances, _SMALLEST_VARIANCE * spread + 1e-9)
    return Mixture(share[:, 0] / share.sum(), means, variances)

  first = Mixture(
    jnp.full(count, 1 / count),
    samples[:count],
    jnp.broadcast_to(spread + 1e-9, (count, len(spread))),
  )
  return jax.lax.fori_loop(0, _ITERATIONS, step, first)


def _project(kind: str, vocabulary: Any, image: jax.Array) -> jax.Array:
  """Returns the principal components of descriptors with their coordinates.

  The coordinates stand for a spatial pyramid (J. Sanchez, F. Perronnin and T.
  de Campos, Modeling the spatial layout of images beyond spatial pyramids,
  Pattern Recognition Letters 2012).
  """
  mean, components = vocabulary[:2]
  reduced = (describe(kind, image) - mean) @ components
  return jnp.concatenate([reduced, coordinates(image.shape[0])], axis=1)


def encode(vocabularies: dict[str, Any], image: jax.Array) -> jax.Array:
  """Returns the Fisher vectors of both descriptors of an image.

  Args:
    vocabularies: from `learn`.
    image: uint8 [S, S, 3].

  Returns:
    float32 [D].
  """
  return jnp.concatenate(
    [
      fisher_vector(_project(kind, each, image), each.mixture)
      for kind, each in sorted(vocabularies.items())
    ]
  )


def learn(images: np.ndarray, count: int, seed: int) -> dict[str, Any]:
  """Learns principal components and a mixture for either descriptor.

  Args:
    images: uint8 [N, S, S, 3], some of the training images.
    count: how many Gaussians each mixture has.
    seed: of the descriptors that are drawn, and of the mixture's first state.
  """
  return {
    kind: _learn_vocabulary(kind, images, count, seed) for kind in _DESCRIPTORS
  }


def _learn_vocabulary(
  kind: str, images: np.ndarray, count: int, seed: int
) -> _Vocabulary:
  rng = np.random.default_rng(seed)
  per_image = len(coordinates(images.shape[1]))
  taken = min(per_image, -(-_SAMPLES // len(images)))
  places = np.stack([rng.choice(per_image, taken, False) for _ in images])

  def drawn(function):
    """Returns what a function has for the places drawn of every image."""
    result = jax.jit(
      lambda images, places: jax.lax.map(
        lambda each: function(each[0])[each[1]], (images, places), batch_size=16
      )
    )(images, places)
    return np.asarray(result).reshape(-1, result.shape[-1])

  described = drawn(functools.partial(describe, kind))
  mean = described.mean(axis=0)
  described = described - mean
  _, vectors = np.linalg.eigh(described.T @ described)
  reduction = (mean, vectors[:, ::-1][:, :_COMPONENTS])
  samples = drawn(functools.partial(_project, kind, reduction))
  samples = rng.permutation(samples)
  mixture = fit_mixture(samples, min(count, len(samples)))
  return _Vocabulary(*reduction, jax.tree.map(np.asarray, mixture))
