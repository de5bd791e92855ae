"""Sparse codes of whitened patches, summed in quadrants.

As in A. Coates and A. Ng, The importance of encoding versus training with
sparse coding and vector quantization, ICML 2011: a dictionary by orthogonal
matching pursuit with one code per patch (their OMP-1), and codes by a soft
threshold, the first step of iterative shrinkage. It represents
reference [2] of the paper, sparse coding, the first row of its Table 1.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PATCH = 6  # side, pixels
_SAMPLES = 400_000  # patches that the dictionary is learned from
_ITERATIONS = 10
_THRESHOLD = 0.25  # their alpha for CIFAR-10


class Codes(NamedTuple):
  """What turns patches into codes.

  Attributes:
    mean: float32 [108], of the normalized patches.
    whitening: float32 [108, 108].
    dictionary: float32 [108, K], columns of length 1.
    offset: float32 [8 * K], mean of an image's features.
    scale: float32 [8 * K], to a deviation of 1 / sqrt(8 * K).
  """

  mean: Any
  whitening: Any
  dictionary: Any
  offset: Any
  scale: Any


def _patches(image: jax.Array) -> jax.Array:
  """Returns all patches of an image, of zero mean and unit deviation.

  Args:
    image: uint8 [S, S, 3]; of 128 pixels or more it is reduced by block means
      to a side between 64 and 128.

  Returns:
    float32 [P, P, 108].
  """
  side = image.shape[0]
  block = max(1, side // 64)
  kept = side // block * block
  image = image[:kept, :kept].astype(jnp.float32)
  image = image.reshape(kept // block, block, kept // block, block, 3)
  image = image.mean(axis=(1, 3))
  # Sixteen thousand positions would be eighteen times those of CIFAR-10.
  step = max(1, len(image) // 32)
  size = min(_PATCH, len(image))
  starts = np.arange(0, len(image) - size + 1, step)
  places = starts[:, None] + np.arange(size)
  found = image[places][:, :, places]  # [P, size, P, size, 3]
  found = found.transpose(0, 2, 1, 3, 4).reshape(len(starts), len(starts), -1)
  found = found - found.mean(axis=2, keepdims=True)
  variance = found.var(axis=2, keepdims=True)
  return found * jax.lax.rsqrt(variance + 10)  # their constant


def _pooled(codes: Any, image: jax.Array) -> jax.Array:
  """Returns the sums of an image's codes in four quadrants: [8 * K]."""
  patches = _patches(image)
  count = len(patches)
  white = (patches.reshape(count**2, -1) - codes.mean) @ codes.whitening
  response = white @ codes.dictionary
  halves = np.arange(count) * 2 // count
  quadrants = (halves[:, None] * 2 + halves).ravel()
  members = (np.arange(4)[:, None] == quadrants).astype(np.float32)
  return jnp.concatenate(
    [
      (members @ jnp.maximum(sign * response - _THRESHOLD, 0)).ravel()
      for sign in (1, -1)
    ]
  )


def encode(codes: Codes, image: jax.Array) -> jax.Array:
  """Returns the standardized sums of an image's codes in its four quadrants.

  Positive and negative codes are separate features.

  Args:
    codes: from `learn`.
    image: uint8 [S, S, 3].

  Returns:
    float32 [8 * K].
  """
  return (_pooled(codes, image) - codes.offset) * codes.scale


def learn(images: np.ndarray, count: int, seed: int) -> Codes:
  """Learns whitening, a dictionary, and the scale of the features.

  Args:
    images: uint8 [N, S, S, 3], some of the training images.
    count: of the dictionary's entries.
    seed: of the patches that are drawn, and of the dictionary's first state.
  """
  rng = np.random.default_rng(seed)
  sample = _draw(images, rng)
  mean = sample.mean(axis=0)
  sample -= mean
  # ZCA whitening with their constant.
  values, vectors = np.linalg.eigh(sample.T @ sample / len(sample))
  whitening = (vectors / np.sqrt(values + 0.1)) @ vectors.T
  dictionary = omp1(sample @ whitening, count, rng)
  codes = Codes(mean, whitening, dictionary, 0, 1)
  pooled = jax.jit(
    lambda images: jax.lax.map(
      functools.partial(_pooled, codes), images, batch_size=16
    )
  )
  features = np.asarray(pooled(images))
  deviation = np.sqrt(features.var(axis=0) + 0.01)  # their constant
  scale = 1 / (deviation * math.sqrt(features.shape[1]))
  return codes._replace(offset=features.mean(axis=0), scale=scale)


def _draw(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns normalized patches of random places, float32 [N, 108]."""
  positions = len(jax.eval_shape(_patches, images[0])) ** 2
  per_image = min(positions, -(-_SAMPLES // len(images)))
  places = np.stack([rng.choice(positions, per_image, False) for _ in images])

  def one(each):
    patches = _patches(each[0])
    return patches.reshape(positions, -1)[each[1]]

  found = jax.jit(lambda *each: jax.lax.map(one, each, batch_size=16))(
    images, places
  )
  return np.array(found).reshape(-1, found.shape[-1])[:_SAMPLES]


def omp1(
  patches: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Learns a dictionary whose best entry alone approximates each patch.

  Args:
    patches: float32 [N, D], whitened.
    count: of entries, K.
    rng: draws the first entries, and those that replace unused ones.

  Returns:
    float32 [D, K], columns of length 1.
  """

  def unit(entries):
    lengths = np.linalg.norm(entries, axis=0, keepdims=True)
    return entries / np.maximum(lengths, 1e-6)

  def drawn(count):
    return rng.standard_normal((patches.shape[1], count), np.float32)

  dictionary = unit(drawn(count))
  for _ in range(_ITERATIONS):
    sums = np.zeros((count, patches.shape[1]), np.float32)
    used = np.zeros(count, bool)
    for block in np.array_split(patches, -(-len(patches) // 10_000)):
      response = block @ dictionary
      best = np.abs(response).argmax(axis=1)
      rows = np.arange(len(block))
      codes = np.zeros_like(response)
      codes[rows, best] = response[rows, best]
      sums += codes.T @ block
      used[best] = True
    dictionary = unit(sums.T)
    dictionary[:, ~used] = unit(drawn(int((~used).sum())))
  return dictionary
