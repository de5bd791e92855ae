"""The layers that make AlexNet AlexNet, as pure functions.

Images are [N, H, W, C], channels last. Each function states its equation with
the paper's section; `tests/layers_test.py` holds each against a float64 numpy
reference, and each hand-written derivative against finite differences.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.architecture import Norm


def response_norm(x: jax.Array, norm: Norm) -> jax.Array:
  """Local response normalization across maps (paper, Section 3.3).

  b[i] = a[i] / (k + alpha * sum_j a[j]^2)^beta, where j runs over the `size`
  maps around i, cut off at the first and the last map. The maps are those of
  one tower: windows do not cross towers.

  Args:
    x: activities, [..., C].
    norm: its constants; `alpha` is not divided by `size`.

  Returns:
    An array like `x`.
  """
  axes = (x.ndim - 1,)
  return _normalize(x, axes, norm)


def map_norm(x: jax.Array, norm: Norm) -> jax.Array:
  """The same within each map, over size x size pixels, cut off at the border.

  The second normalization after conv2 in the 2012 source (layer cnorm2).

  Args:
    x: activities, [N, H, W, C].
    norm: its constants; `alpha` is not divided by the number of pixels.

  Returns:
    An array like `x`.
  """
  return _normalize(x, (1, 2), norm)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalize(x: jax.Array, axes: tuple[int, ...], norm: Norm) -> jax.Array:
  return _normalize_fwd(x, axes, norm)[0]


def _normalize_fwd(x, axes, norm):
  denominator = norm.k + norm.alpha * _window_sum(x * x, axes, norm.size)
  factor = _negative_power(denominator, norm.beta)
  return x * factor, (x, denominator, factor)


def _normalize_bwd(axes, norm, residuals, dy):
  # With s = k + alpha * W(x^2) and y = x s^-beta, where the window sum W is its
  # own transpose: dx = dy s^-beta - 2 alpha beta x W(dy x s^-beta / s).
  x, denominator, factor = residuals
  inner = _window_sum(dy * x * factor / denominator, axes, norm.size)
  return (dy * factor - 2 * norm.alpha * norm.beta * x * inner,)


_normalize.defvjp(_normalize_fwd, _normalize_bwd)


def _window_sum(x: jax.Array, axes: tuple[int, ...], size: int) -> jax.Array:
  """Sums over a centred window along each axis, zeros beyond the ends.

  Shifted adds: one pass that fuses, where `reduce_window` would not.
  """
  reach = size // 2
  for axis in axes:
    length = x.shape[axis]
    pads = [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)]
    padded = jnp.pad(x, pads)
    parts = [
      lax.slice_in_dim(padded, shift, shift + length, axis=axis)
      for shift in range(size)
    ]
    x = functools.reduce(jnp.add, parts)
  return x


def _negative_power(x: jax.Array, beta: float) -> jax.Array:
  """X ** -beta for x > 0; the paper's 3/4 by two square roots, not by a log."""
  if beta == 0.75:
    root = lax.rsqrt(x)
    return root * jnp.sqrt(root)
  return x**-beta


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
  """Max-pooling, overlapping when size > stride (paper, Section 3.4).

  Windows lie wholly inside the image: side -> (side - size) // stride + 1.
  Where several inputs of a window are the maximum, each gets the whole
  gradient, as in the 2012 source.

  Args:
    x: maps, [N, H, W, C].
    size: side of the window.
    stride: distance between windows.

  Returns:
    Pooled maps, [N, H', W', C].
  """
  return _max_pool_fwd(x, size, stride)[0]


def _max_pool_fwd(x, size, stride):
  y = functools.reduce(jnp.maximum, _window_slices(x, size, stride))
  return y, (x, y)


def _max_pool_bwd(size, stride, residuals, dy):
  x, y = residuals
  zero = jnp.zeros((), dy.dtype)
  dx = jnp.zeros_like(x)
  offsets = [(i, j) for i in range(size) for j in range(size)]
  slices = _window_slices(x, size, stride)
  for (top, left), part in zip(offsets, slices, strict=True):
    share = jnp.where(part == y, dy, zero)
    dx += lax.pad(share, zero, _scatter(x, y, top, left, stride))
  return (dx,)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _window_slices(x, size, stride):
  """Returns the size^2 strided slices whose maximum is the pooled map."""
  height, width = (
    ((side - size) // stride) * stride + 1 for side in x.shape[1:3]
  )
  return [
    x[:, top : top + height : stride, left : left + width : stride]
    for top in range(size)
    for left in range(size)
  ]


def _scatter(x, y, top, left, stride):
  """Returns the padding that puts a slice of `x` back where it came from."""

  def axis(side, pooled, start):
    end = side - start - ((pooled - 1) * stride + 1)
    return (start, end, stride - 1)

  rows = axis(x.shape[1], y.shape[1], top)
  columns = axis(x.shape[2], y.shape[2], left)
  return ((0, 0, 0), rows, columns, (0, 0, 0))


def dropout(
  x: jax.Array,
  rate: float,
  scaling: str,
  key: jax.Array | None = None,
  positions: jax.Array | None = None,
) -> jax.Array:
  """Dropout (paper, Section 4.2; 2012 source, layer.cu:1126-1134).

  In training every output is zeroed with probability `rate` and the rest left
  alone; at test time all are multiplied by 1 - rate. (`scaling='train'`, later
  practice, divides in training instead: the activations are another network's.)

  Args:
    x: outputs, [N, ...].
    rate: probability of a zero.
    scaling: 'test' (the paper) or 'train'.
    key: a PRNG key in training; None at test time.
    positions: int32 [N], each example's place in the whole batch. A mask is a
      function of the key and that place, so it does not depend on how many
      devices or pieces the batch is divided among.

  Returns:
    An array like `x`.
  """
  keep = 1.0 - rate
  if key is None:
    return x * keep if scaling == 'test' else x
  masks = jax.vmap(
    lambda place: jax.random.bernoulli(
      jax.random.fold_in(key, place), keep, x.shape[1:]
    )
  )(positions)
  kept = jnp.where(masks, x, jnp.zeros((), x.dtype))
  return kept if scaling == 'test' else kept / keep
