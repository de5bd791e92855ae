"""Normalization, pooling, dropout and ReLU, as pure functions.

Images are [N, H, W, C], channels last. Each function states its equation with
the paper's section; `tests/layers_test.py` compares each with a float64 numpy
reference, and each hand-written derivative with finite differences.
"""

import dataclasses
import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.architecture import Norm
from alexnet_jax.architecture import Pool


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
  """Rectified linear unit, max(x, 0) (paper, Section 3.1)."""
  return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
  # Computed from the output: cuDNN's convolutions apply the ReLU to what they
  # write, so that the sums never reach memory. XLA would turn `y > 0` into a
  # test of the sums.
  y = relu(*primals)
  (dx,) = tangents
  return y, jnp.where(y != 0, dx, 0)


# Where the slope of a power below 1, which is infinite at 0, stops growing.
_LEAST = 1e-6


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def rectified_power(x: jax.Array, exponent: float) -> jax.Array:
  """x^n above zero and 0 below.

  The derivative is n x^(n - 1) above zero and 0 elsewhere. Of an exponent below
  1 it would grow without bound towards zero: for 0 < x < 1e-6 it is the
  derivative at 1e-6, which is 500 for n = 0.5.

  Args:
    x: sums, of any shape.
    exponent: n, above 0.

  Returns:
    An array like `x`.
  """
  return jnp.maximum(x, 0) ** exponent


@rectified_power.defjvp
def _rectified_power_jvp(exponent, primals, tangents):
  (x,), (dx,) = primals, tangents
  least = _LEAST if exponent < 1 else 0
  slope = exponent * jnp.maximum(x, least) ** (exponent - 1)
  return rectified_power(x, exponent), jnp.where(x > 0, slope * dx, 0)


def floored(x: jax.Array, depth: float) -> jax.Array:
  """max(x, -depth): a ReLU whose lower bound is not 0.

  The derivative at the bound is 0, as that of `relu` is.
  """
  return jnp.where(x <= -depth, -depth, x)


def response_norm(x: jax.Array, norm: Norm) -> jax.Array:
  """Local response normalization across maps (paper, Section 3.3).

  b[i] = a[i] / (k + alpha * sum_j a[j]^2)^beta, where j runs over the `size`
  maps around i, cut off at the first and the last map. The maps are those of
  one tower: windows do not cross towers.

  Args:
    x: activations, [..., C].
    norm: its constants; `alpha` is not divided by `size`.

  Returns:
    An array like `x`.
  """
  # Of two axes, on which the compiler's loops are simplest.
  y = _normalize(x.reshape(-1, x.shape[-1]), (1,), norm)
  return y.reshape(x.shape)


def map_norm(x: jax.Array, norm: Norm) -> jax.Array:
  """Normalization within each map, over size x size pixels cut at the border.

  The second normalization after conv2 in the 2012 code (layer cnorm2).

  Args:
    x: activations, [N, H, W, C].
    norm: its constants; `alpha` is not divided by the number of pixels.

  Returns:
    An array like `x`.
  """
  return _normalize(x, (1, 2), norm)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalize(x: jax.Array, axes: tuple[int, ...], norm: Norm) -> jax.Array:
  return _normalize_fwd(x, axes, norm)[0]


def _normalize_fwd(x, axes, norm):
  wide = _widen(x)
  root = _root(wide, axes, norm)
  factor, _ = _powers(root, norm.beta)
  return (wide * factor).astype(x.dtype), (x, root)


def _normalize_bwd(axes, norm, residuals, dy):
  # A CPU keeps the roots: recomputing them takes longer.
  dx = lax.platform_dependent(
    *residuals,
    dy,
    cpu=lambda *args: _normalize_dx(axes, norm, *args),
    default=lambda x, _, dy: _normalize_dx_again(axes, norm, x, dy),
  )
  return (dx,)


def _normalize_dx(axes, norm, x, root, dy, passed_on=lambda terms: terms):
  # With s = k + alpha * W(x^2) and y = x s^-beta, where the window sum W is its
  # own transpose: dx = dy s^-beta - 2 alpha beta x W(dy x s^-beta / s).
  wide, dy = _widen(x), _widen(dy)
  factor, over_s = _powers(root, norm.beta)
  inner = _window_sum(_widen(passed_on(dy * wide * over_s)), axes, norm.size)
  dx = dy * factor - 2 * norm.alpha * norm.beta * wide * inner
  return dx.astype(x.dtype)


def _normalize_dx_again(axes, norm, x, dy):
  """`_normalize_dx` with less memory traffic, which limits a GPU.

  The roots are recomputed, behind a barrier that keeps the compiler from
  reusing them, and the terms pass from one kernel to the next in x's dtype.
  """
  x = lax.optimization_barrier(x)
  root = _root(_widen(x), axes, norm)

  def narrow(terms):
    return lax.optimization_barrier(terms.astype(x.dtype))

  return _normalize_dx(axes, norm, x, root, dy, narrow)


_normalize.defvjp(_normalize_fwd, _normalize_bwd)


def _widen(x):
  """Converts to float32 at least, in which sum and power are computed.

  In bfloat16 the factor of the 2012 nets would have a handful of values.
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _root(wide, axes, norm):
  """Returns the root from which all powers of s = k + alpha * W(x^2) follow.

  For the paper's beta of 3/4 that is s^-1/4: its third and seventh powers are
  the two that are needed. For any other beta it is s.
  """
  s = norm.k + norm.alpha * _window_sum(wide * wide, axes, norm.size)
  return jnp.sqrt(lax.rsqrt(s)) if norm.beta == 0.75 else s


def _powers(root, beta):
  """Returns s^-beta, and s^-beta / s."""
  if beta == 0.75:
    cube = root * root * root
    return cube, cube * cube * root
  factor = root**-beta
  return factor, factor / root


def _window_sum(x: jax.Array, axes: tuple[int, ...], size: int) -> jax.Array:
  """Sums over a centered window along each axis, zeros beyond the ends."""
  reach = size // 2
  window = [size if axis in axes else 1 for axis in range(x.ndim)]
  beyond = [
    (reach, reach) if axis in axes else (0, 0) for axis in range(x.ndim)
  ]
  strides = [1] * x.ndim
  return lax.reduce_window(x, 0.0, lax.add, window, strides, beyond)


def max_pool(x: jax.Array, pool: Pool) -> jax.Array:
  """Max-pooling, overlapping when size > stride (paper, Section 3.4).

  If several inputs of a window are the maximum, `pool.ties` decides how its
  gradient is divided among them. cuda-convnet gives each of them all of it,
  which adds up below float32: in bfloat16 every fifth window after conv5 ties
  at the start of training. So below float32 they always share it.

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
  return functools.reduce(jnp.maximum, _window_slices(x, pool, sides))


def _max_pool_fwd(x, pool, sides):
  # A CPU compares float32: of bfloat16 it would round every single maximum.
  slices = _window_slices(_widen(x), pool, sides)
  y = functools.reduce(jnp.maximum, slices)
  # One bit per input says whether it is the maximum of a window: a 3x3 window
  # takes one word of two bytes, instead of reading the inputs again. The
  # barrier keeps XLA from reading them nonetheless.
  words = [
    functools.reduce(
      jnp.bitwise_or,
      [
        (a == y).astype(jnp.uint16) << bit
        for bit, a in enumerate(slices[start : start + _WORD_BITS])
      ],
    )
    for start in range(0, len(slices), _WORD_BITS)
  ]
  return lax.optimization_barrier((y.astype(x.dtype), words))


def _max_pool_bwd(pool, sides, words, dy):
  # Indexed by input rather than by window: a pixel is `offset` rows into the
  # block of `stride` rows that its last window begins, and further into the
  # windows before. So dx is a sum of few terms, without a scatter.
  if pool.ties == 'shared':
    ties = sum(lax.population_count(word).astype(dy.dtype) for word in words)
    dy = dy / ties
  blocks = [-(-side // pool.stride) for side in sides]
  reach = -(-pool.size // pool.stride) - 1
  shares = _pad_windows(dy, blocks, reach)
  words = [_pad_windows(word, blocks, reach) for word in words]
  dx = jnp.zeros((), jnp.promote_types(dy.dtype, jnp.float32))
  for back in itertools.product(range(reach + 1), repeat=2):
    start = [reach - places for places in back]
    share = _widen(_windows_from(shares, start, blocks))
    for number, word in enumerate(words):
      bits = _pixel_bits(pool, back, number)
      is_maximum = (_windows_from(word, start, blocks) & bits) != 0
      dx += jnp.where(is_maximum, share, 0)
  height, width = (count * pool.stride for count in blocks)
  dx = dx.reshape(dy.shape[0], height, width, dy.shape[3])
  return (dx[:, : sides[0], : sides[1]].astype(dy.dtype),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
_WORD_BITS = 16


def _pixel_bits(pool: Pool, back: tuple[int, ...], number: int) -> np.ndarray:
  """Returns the bit of each pixel of a block in a word of one of its windows.

  Args:
    pool: the windows.
    back: how many windows before the block's own one, down and across.
    number: of the word.

  Returns:
    uint16 [stride, 1, stride, 1]; 0 where the word has no bit of the pixel.
  """
  rows, columns = (
    np.arange(pool.stride) + places * pool.stride for places in back
  )
  rows, columns = rows[:, None, None, None], columns[:, None]
  inside = (rows < pool.size) & (columns < pool.size)
  bits = rows * pool.size + columns - number * _WORD_BITS
  inside &= (bits >= 0) & (bits < _WORD_BITS)
  return np.where(inside, 1 << np.where(inside, bits, 0), 0).astype(np.uint16)


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
  part: jax.Array | int = 0,
  parts: int = 1,
) -> jax.Array:
  """Dropout (paper, Section 4.2; 2012 code, layer.cu:1126-1134).

  In training every output is zeroed with probability `rate` and the rest left
  unchanged; at test time all are multiplied by 1 - rate. (`scaling='train'`,
  later practice, divides in training instead.)

  Args:
    x: outputs, [N, ...].
    rate: probability of a zero.
    scaling: 'test' (the paper) or 'train'.
    key: a PRNG key in training; None at test time.
    positions: int32 [N], each example's place in the whole batch. A mask is a
      function of the key and that place, so it does not depend on how many
      devices or pieces the batch is divided among.
    part: which part of all features `x` holds; it gets that part of the mask.
    parts: the number of equal parts of the last axis.

  Returns:
    An array like `x`.
  """
  keep = 1.0 - rate
  if key is None:
    return x * keep if scaling == 'test' else x
  *sides, features = x.shape[1:]
  masks = jax.vmap(
    lambda place: jax.random.bernoulli(
      jax.random.fold_in(key, place), keep, (*sides, parts * features)
    )
  )(positions)
  if parts > 1:
    masks = lax.dynamic_slice_in_dim(masks, part * features, features, axis=-1)
  kept = jnp.where(masks, x, jnp.zeros((), x.dtype))
  return kept if scaling == 'test' else kept / keep
