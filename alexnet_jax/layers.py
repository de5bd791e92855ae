"""The layers that make AlexNet AlexNet, as pure functions.

Images are [N, H, W, C], channels last. Each function states its equation with
the paper's section; `tests/layers_test.py` holds each against a float64 numpy
reference, and each hand-written derivative against finite differences.
"""

import dataclasses
import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp

from alexnet_jax.architecture import Norm
from alexnet_jax.architecture import Pool


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


# Sum and power are float32 at least: in bfloat16 the factor of the 2012 nets
# would take a handful of values.
def _normalize_fwd(x, axes, norm):
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  denominator = norm.k + norm.alpha * _window_sum(wide * wide, axes, norm.size)
  factor = _negative_power(denominator, norm.beta)
  return (wide * factor).astype(x.dtype), (x, denominator, factor)


def _normalize_bwd(axes, norm, residuals, dy):
  # With s = k + alpha * W(x^2) and y = x s^-beta, where the window sum W is its
  # own transpose: dx = dy s^-beta - 2 alpha beta x W(dy x s^-beta / s).
  x, denominator, factor = residuals
  wide, dy = (a.astype(factor.dtype) for a in (x, dy))
  inner = _window_sum(dy * wide * factor / denominator, axes, norm.size)
  dx = dy * factor - 2 * norm.alpha * norm.beta * wide * inner
  return (dx.astype(x.dtype),)


_normalize.defvjp(_normalize_fwd, _normalize_bwd)


def _window_sum(x: jax.Array, axes: tuple[int, ...], size: int) -> jax.Array:
  """Sums over a centred window along each axis, zeros beyond the ends."""
  reach = size // 2
  window = [size if axis in axes else 1 for axis in range(x.ndim)]
  beyond = [
    (reach, reach) if axis in axes else (0, 0) for axis in range(x.ndim)
  ]
  strides = [1] * x.ndim
  return lax.reduce_window(x, 0.0, lax.add, window, strides, beyond)


def _negative_power(x: jax.Array, beta: float) -> jax.Array:
  """X ** -beta for x > 0; the paper's 3/4 by two square roots, not by a log."""
  if beta == 0.75:
    root = lax.rsqrt(x)
    return root * jnp.sqrt(root)
  return x**-beta


def max_pool(x: jax.Array, pool: Pool) -> jax.Array:
  """Max-pooling, overlapping when size > stride (paper, Section 3.4).

  Where several inputs of a window are the maximum, `pool.ties` tells which of
  them get its gradient. cuda-convnet gives all of them the whole of it, which
  adds up below float32: in bfloat16 every fifth window after conv5 ties at the
  start of training. So there, they always share it.

  Args:
    x: maps, [N, H, W, C].
    pool: the windows, and the rule for ties.

  Returns:
    Pooled maps, [N, pool.windows(H), pool.windows(W), C].
  """
  if jnp.finfo(x.dtype).bits < 32:
    pool = dataclasses.replace(pool, ties='shared')
  return _max_pool(x, pool, x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, pool: Pool, sides: tuple[int, int]) -> jax.Array:
  return _max_pool_fwd(x, pool, sides)[0]


def _max_pool_fwd(x, pool, sides):
  y = functools.reduce(jnp.maximum, _window_slices(x, pool, sides))
  return y, (x, y)


def _max_pool_bwd(pool, sides, residuals, dy):
  # Seen from an input, not from a window: a pixel lies `offset` rows into the
  # block of `stride` rows that its last window begins, and further into the
  # windows before. So dx is a sum of few terms that nothing has to scatter.
  x, y = residuals
  if pool.ties == 'shared':
    equal = [a == y for a in _window_slices(x, pool, sides)]
    dy = dy / sum(a.astype(dy.dtype) for a in equal)
  size, stride = pool.size, pool.stride
  blocks = [-(-side // stride) for side in sides]
  reach = -(-size // stride) - 1
  pixels = _split_in_blocks(x, blocks, stride)
  maxima, shares = (_pad_windows(a, blocks, reach) for a in (y, dy))
  rows = jnp.arange(stride)[:, None, None, None]
  columns = jnp.arange(stride)[:, None]
  zero = jnp.zeros((), dy.dtype)
  dx = zero
  for back in itertools.product(range(reach + 1), repeat=2):
    inside = (rows + back[0] * stride < size) & (
      columns + back[1] * stride < size
    )
    start = [reach - places for places in back]
    is_maximum = pixels == _windows_from(maxima, start, blocks)
    share = _windows_from(shares, start, blocks)
    dx += jnp.where(inside & is_maximum, share, zero)
  height, width = (count * stride for count in blocks)
  dx = dx.reshape(x.shape[0], height, width, x.shape[3])
  return (dx[:, : sides[0], : sides[1]],)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _window_slices(x, pool, sides):
  """Returns the size^2 strided slices whose maximum is the pooled map."""
  reached = [(pool.windows(side) - 1) * pool.stride + 1 for side in sides]
  beyond = [
    max(0, length + pool.size - 1 - side)
    for length, side in zip(reached, sides, strict=True)
  ]
  if any(beyond):
    pads = ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
  height, width = reached
  return [
    x[:, top : top + height : pool.stride, left : left + width : pool.stride]
    for top in range(pool.size)
    for left in range(pool.size)
  ]


def _split_in_blocks(x, blocks, stride):
  """Returns [N, rows, stride, columns, stride, C], zeros where x ends."""
  missing = [
    (0, count * stride - side)
    for count, side in zip(blocks, x.shape[1:3], strict=True)
  ]
  padded = jnp.pad(x, ((0, 0), *missing, (0, 0)))
  return padded.reshape(
    x.shape[0], blocks[0], stride, blocks[1], stride, x.shape[3]
  )


def _pad_windows(y, blocks, reach):
  """Pads by `reach` windows before the first and up to the last block's."""
  missing = [
    (reach, count - side)
    for count, side in zip(blocks, y.shape[1:3], strict=True)
  ]
  return jnp.pad(y, ((0, 0), *missing, (0, 0)))


def _windows_from(padded, start, blocks):
  """Returns one window for each block, as [N, rows, 1, columns, 1, C]."""
  rows, columns = (
    slice(first, first + count)
    for first, count in zip(start, blocks, strict=True)
  )
  return padded[:, rows, None, columns, None]


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
