import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import layers


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def _response_norm(a, norm):
  """Section 3.3, map by map: the windows are cut off at both ends."""
  a = np.asarray(a, np.float64)
  b = np.empty_like(a)
  last = a.shape[-1] - 1
  for i in range(a.shape[-1]):
    total = 0.0
    for j in range(
      max(0, i - norm.size // 2), min(last, i + norm.size // 2) + 1
    ):
      total = total + a[..., j] ** 2
    b[..., i] = a[..., i] / (norm.k + norm.alpha * total) ** norm.beta
  return b


def _map_norm(a, norm):
  """The same, pixel by pixel in each map."""
  a = np.asarray(a, np.float64)
  b = np.empty_like(a)
  reach = norm.size // 2
  for i in range(a.shape[1]):
    for j in range(a.shape[2]):
      window = a[
        :, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1
      ]
      total = (window**2).sum((1, 2))
      b[:, i, j] = a[:, i, j] / (norm.k + norm.alpha * total) ** norm.beta
  return b


def _max_pool(a, pool):
  """Window by window; numpy cuts off what lies past the border."""
  a = np.asarray(a, np.float64)

  def starts(side):
    last = side - 1 if pool.past_border else side - pool.size
    found = list(range(0, last + 1, pool.stride))
    # The first window to reach the border is the last.
    ends = [start for start in found if start + pool.size >= side]
    return [start for start in found if not ends or start <= ends[0]]

  rows, columns = starts(a.shape[1]), starts(a.shape[2])
  b = np.empty((a.shape[0], len(rows), len(columns), a.shape[3]))
  for i, top in enumerate(rows):
    for j, left in enumerate(columns):
      window = a[:, top : top + pool.size, left : left + pool.size]
      b[:, i, j] = window.max((1, 2))
  return b


def _finite_differences(function, x, dy, step=1e-5):
  """The gradient of sum(dy * function(x)), one input at a time."""
  gradient = np.empty_like(x)
  for place in np.ndindex(x.shape):
    above, below = x.copy(), x.copy()
    above[place] += step
    below[place] -= step
    rise = np.sum(dy * (function(above) - function(below)))
    gradient[place] = rise / (2 * step)
  return gradient


def _gradient(function, x, dy):
  return jax.jit(jax.grad(lambda x: jnp.sum(dy * function(x))))(x)


# An alpha of 0.3 makes the window matter; a k below 1 tells it from 1.
_NORMS = [
  architecture.Norm(size, k, 0.3, beta)
  for size, k in ((3, 2.0), (5, 0.5))
  for beta in (0.75, 0.6)
]
_BOTH = [
  (layers.response_norm, _response_norm),
  (layers.map_norm, _map_norm),
]


@pytest.mark.parametrize('norm', _NORMS, ids=str)
@pytest.mark.parametrize(('function', 'reference'), _BOTH)
def test_normalization(function, reference, norm):
  x = _normal(2, 6, 7, 9) * 3
  y = jax.jit(function, static_argnums=1)(x.astype(np.float32), norm)
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, reference(x, norm), rtol=2e-6)


@pytest.mark.parametrize('norm', _NORMS, ids=str)
@pytest.mark.parametrize(('function', 'reference'), _BOTH)
def test_gradient_of_normalization(function, reference, norm):
  x, dy = _normal(2, 4, 3, 6) * 2, _normal(2, 4, 3, 6, seed=1)
  with jax.enable_x64(True):
    dx = _gradient(lambda x: function(x, norm), x, dy)
  assert dx.dtype == np.float64
  expected = _finite_differences(lambda x: reference(x, norm), x, dy)
  np.testing.assert_allclose(dx, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(('function', 'reference'), _BOTH)
def test_normalization_of_bfloat16_rounds_the_result_alone(function, reference):
  # The 2012 nets' constants, at activations of their size: the factors are
  # within 4 % of each other, where bfloat16 has ten values.
  norm = architecture.Norm(size=5, k=2.0, alpha=2e-5, beta=0.75)
  x = jnp.asarray(20 * _normal(2, 6, 7, 9), jnp.bfloat16)
  dy = jnp.asarray(_normal(2, 6, 7, 9, seed=1), jnp.bfloat16)
  wide, wide_dy = (np.asarray(a, np.float64) for a in (x, dy))
  y = jax.jit(function, static_argnums=1)(x, norm)
  dx = _gradient(lambda x: function(x, norm), x, dy)
  assert y.dtype == dx.dtype == jnp.bfloat16
  with jax.enable_x64(True):
    exact = _gradient(lambda x: function(x, norm), wide, wide_dy)
  # bfloat16 has 8 bits: half a unit in the last place is at most 2^-8.
  np.testing.assert_allclose(
    np.asarray(y, np.float64), reference(wide, norm), rtol=2**-8 * 1.001
  )
  np.testing.assert_allclose(
    np.asarray(dx, np.float64), exact, rtol=2**-8 * 1.001
  )


@pytest.mark.parametrize('alpha', [2e-5, 1e-4])
@pytest.mark.parametrize('axes', [(3,), (1, 2)])
def test_gradient_of_normalization_computed_again(axes, alpha):
  # What a GPU computes, here on a CPU: equal in float32; in bfloat16 the terms
  # of the window sums are rounded once more.
  norm = architecture.Norm(size=5, k=2.0, alpha=alpha, beta=0.75)
  x, dy = 20 * _normal(2, 6, 7, 9), _normal(2, 6, 7, 9, seed=1)

  @functools.partial(jax.jit, static_argnames='dtype')
  def both(x, dy, dtype):
    x, dy = x.astype(dtype), dy.astype(dtype)
    y, residuals = layers._normalize_fwd(x, axes, norm)
    again = layers._normalize_dx_again(axes, norm, x, dy)
    return layers._normalize_dx(axes, norm, *residuals, dy), again, y

  kept, again, _ = both(x, dy, 'float32')
  np.testing.assert_allclose(again, kept, rtol=1e-5, atol=1e-6)
  kept, again, _ = (np.asarray(a, np.float64) for a in both(x, dy, 'bfloat16'))
  # Rounded once more is half a unit in the last place of each term and result.
  scale = np.abs(kept).max()
  np.testing.assert_allclose(again, kept, rtol=2**-7, atol=2**-9 * scale)


def _band(length, size):
  """1 where two places are in one window, else 0."""
  places = np.arange(length)
  return (abs(places[:, None] - places) <= size // 2).astype(np.float64)


@pytest.mark.parametrize('norm', _NORMS, ids=str)
def test_gradient_of_normalization_is_that_of_the_equation(norm):
  x, dy = _normal(2, 6, 7, 9) * 3, _normal(2, 6, 7, 9, seed=1)

  def across_maps(x):
    total = jnp.einsum('nhwc,cd->nhwd', x**2, _band(9, norm.size))
    return x / (norm.k + norm.alpha * total) ** norm.beta

  def within_maps(x):
    bands = _band(6, norm.size), _band(7, norm.size)
    total = jnp.einsum('nhwc,hi,wj->nijc', x**2, *bands)
    return x / (norm.k + norm.alpha * total) ** norm.beta

  with jax.enable_x64(True):
    for function, naive in (
      (layers.response_norm, across_maps),
      (layers.map_norm, within_maps),
    ):
      actual = _gradient(lambda x, f=function: f(x, norm), x, dy)
      np.testing.assert_allclose(actual, _gradient(naive, x, dy), rtol=1e-10)


def test_windows_of_ones_are_counted_not_averaged():
  # Two, then three maps in a window: alpha is divided by neither.
  norm = architecture.Norm(size=3, k=2.0, alpha=0.5, beta=0.75)
  expected = [3**-0.75, 3.5**-0.75, 3.5**-0.75, 3**-0.75]
  y = layers.response_norm(jnp.ones((1, 1, 1, 4)), norm)
  np.testing.assert_allclose(y[0, 0, 0], expected, rtol=1e-6)
  # Four pixels in a corner, six at an edge, nine inside.
  y = layers.map_norm(jnp.ones((1, 3, 3, 1)), norm)
  counts = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
  np.testing.assert_allclose(
    y[0, :, :, 0], (2 + 0.5 * counts) ** -0.75, rtol=1e-6
  )


def test_a_window_wider_than_the_maps():
  norm = architecture.Norm(size=5, k=2.0, alpha=0.3, beta=0.75)
  x = _normal(2, 2, 1, 2)
  for function, reference in _BOTH:
    y = jax.jit(function, static_argnums=1)(x.astype(np.float32), norm)
    np.testing.assert_allclose(y, reference(x, norm), rtol=2e-6)


# Windows reach the last row at 7 and, of size 3, not at 6 and 8. A last one may
# reach past it; windows of 2 by steps of 3 leave rows out.
_POOLS = [
  (architecture.Pool(size, stride, past_border, ties), height, width)
  for size, stride in ((3, 2), (2, 2), (2, 3))
  for past_border, ties in (
    (False, 'shared'),
    (True, 'shared'),
    (True, 'whole'),
  )
  for height, width in ((7, 7), (8, 5))
]


@pytest.mark.parametrize(('pool', 'height', 'width'), _POOLS, ids=str)
def test_max_pool(pool, height, width):
  # Negative too, so that zeros past the border would show.
  x = _normal(2, height, width, 3).astype(np.float32) - 1
  y = jax.jit(layers.max_pool, static_argnums=1)(x, pool)
  expected = _max_pool(x, pool)
  assert y.shape == expected.shape
  assert y.shape[1:3] == (pool.windows(height), pool.windows(width))
  np.testing.assert_array_equal(y, expected)


def test_windows_past_the_border_are_those_of_cuda_convnet():
  # 1 + ceil((side - size) / stride): 55, 26 and 11 pixels of net 147.
  pool = architecture.Pool(2, 2, past_border=True)
  assert [pool.windows(side) for side in (55, 26, 11, 2, 1)] == [
    28,
    13,
    6,
    1,
    1,
  ]
  pool = architecture.Pool(3, 2, past_border=True)
  assert [pool.windows(side) for side in (55, 27, 13, 32)] == [27, 13, 6, 16]
  pool = architecture.Pool(3, 2)
  assert [pool.windows(side) for side in (55, 32, 3, 2, 1)] == [27, 15, 1, 0, 0]


@pytest.mark.parametrize(('pool', 'height', 'width'), _POOLS, ids=str)
def test_gradient_of_max_pool(pool, height, width):
  # Values 0.01 apart: no ties, and no step across one.
  shape = (1, height, width, 2)
  order = np.random.default_rng(0).permutation(int(np.prod(shape)))
  x = order.reshape(shape) * 0.01
  with jax.enable_x64(True):
    dy = _normal(1, pool.windows(height), pool.windows(width), 2)
    dx = _gradient(lambda x: layers.max_pool(x, pool), x, dy)
  expected = _finite_differences(lambda x: _max_pool(x, pool), x, dy)
  np.testing.assert_allclose(dx, expected, atol=1e-8)


@pytest.mark.parametrize(('size', 'height', 'width'), [(3, 7, 7), (2, 8, 5)])
def test_gradient_of_max_pool_is_that_of_jax(size, height, width):
  x = _normal(2, height, width, 3)

  def naive(x):
    window, strides = (1, size, size, 1), (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, 'VALID')

  with jax.enable_x64(True):
    dy = _normal(*naive(x).shape)
    pool = architecture.Pool(size, 2)
    dx = _gradient(lambda x: layers.max_pool(x, pool), x, dy)
    # Where windows overlap, the order of the sum is free.
    np.testing.assert_allclose(dx, _gradient(naive, x, dy), atol=1e-14)
  # Rows and columns that no window reaches learn nothing.
  rows, columns = (n - (n - size) % 2 for n in (height, width))
  assert not dx[:, rows:].any()
  assert not dx[:, :, columns:].any()


# A dead map: 5x5 zeros, as ReLUs leave behind, in 2x2 windows of 3x3.
_DEAD = np.array(
  [
    [1, 1, 11, 10, 10],
    [1, 1, 11, 10, 10],
    [101, 101, 1111, 1010, 1010],
    [100, 100, 1100, 1000, 1000],
    [100, 100, 1100, 1000, 1000],
  ]
)


@pytest.mark.parametrize(('ties', 'share'), [('whole', 1.0), ('shared', 1 / 9)])
def test_tied_inputs_of_a_window(ties, share):
  # Each pixel gets its share of the gradient of every window that holds it.
  dy = np.array([[1.0, 10.0], [100.0, 1000.0]], np.float32)
  dx = _gradient(
    lambda x: layers.max_pool(x, architecture.Pool(3, 2, ties=ties)),
    np.zeros((1, 5, 5, 1), np.float32),
    dy.reshape(1, 2, 2, 1),
  )
  np.testing.assert_allclose(dx[0, :, :, 0], share * _DEAD, rtol=1e-6)


def test_below_float32_tied_inputs_share_whatever_the_network_says():
  dy = jnp.array([[1.0, 2.0], [4.0, 8.0]], jnp.bfloat16).reshape(1, 2, 2, 1)
  x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16)
  for ties in ('whole', 'shared'):
    pool = architecture.Pool(2, 2, ties=ties)
    dx = _gradient(lambda x, p=pool: layers.max_pool(x, p), x, dy)
    assert dx.dtype == jnp.bfloat16
    expected = np.kron(np.array([[1, 2], [4, 8]]), np.ones((2, 2))) / 4
    np.testing.assert_array_equal(dx[0, :, :, 0].astype(np.float32), expected)


@pytest.mark.parametrize(('ties', 'share'), [('whole', 1.0), ('shared', 0.5)])
def test_tied_maxima_share_nothing_with_the_rest(ties, share):
  x = np.array([[3.0, 1, 2, 0], [1, 3, 2, -1]], np.float32)
  dx = _gradient(
    lambda x: layers.max_pool(x, architecture.Pool(2, 2, ties=ties)),
    x.reshape(1, 2, 4, 1),
    np.array([5.0, 7.0], np.float32).reshape(1, 1, 2, 1),
  )
  expected = share * np.array([[5, 0, 7, 0], [0, 5, 7, 0]])
  np.testing.assert_array_equal(dx[0, :, :, 0], expected)


_SEED = 5


@functools.partial(jax.jit, static_argnums=(1, 2))
def _dropout(x, rate, scaling, positions, seed=_SEED):
  return layers.dropout(x, rate, scaling, jax.random.key(seed), positions)


@pytest.mark.parametrize('rate', [0.5, 0.25])
def test_dropout_zeroes_its_share_and_leaves_the_rest_alone(rate):
  x = _normal(16, 1000).astype(np.float32)
  y = np.asarray(_dropout(x, rate, 'test', np.arange(16)))
  zero = y == 0
  # Five standard errors; the rows must each keep to it, too.
  error = (rate * (1 - rate) / x.size) ** 0.5
  assert abs(zero.mean() - rate) < 5 * error
  assert np.all(abs(zero.mean(axis=1) - rate) < 5 * error * 4)
  assert abs(zero.mean(axis=0) - rate).max() < 0.75
  np.testing.assert_array_equal(y[~zero], x[~zero])


@pytest.mark.parametrize('rate', [0.5, 0.25])
def test_dropout_scales_in_training_if_asked(rate):
  x = _normal(4, 50).astype(np.float32)
  plain, scaled = (
    np.asarray(_dropout(x, rate, scaling, np.arange(4)))
    for scaling in ('test', 'train')
  )
  np.testing.assert_allclose(scaled, plain.astype(np.float64) / (1 - rate))
  np.testing.assert_array_equal(scaled == 0, plain == 0)


def test_dropout_at_test_time():
  x = _normal(4, 50).astype(np.float32)
  halved = layers.dropout(jnp.asarray(x), 0.5, 'test')
  np.testing.assert_array_equal(halved, x * np.float32(0.5))
  three_quarters = layers.dropout(jnp.asarray(x), 0.25, 'test')
  np.testing.assert_array_equal(three_quarters, x * np.float32(0.75))
  untouched = layers.dropout(jnp.asarray(x), 0.5, 'train')
  np.testing.assert_array_equal(untouched, x)


def _mask(positions, seed=_SEED):
  ones = np.ones((len(positions), 4, 3, 8), np.float32)
  return np.asarray(_dropout(ones, 0.5, 'test', np.array(positions), seed))


def test_masks_depend_on_the_place_in_the_whole_batch_alone():
  whole = _mask(range(8))
  pieces = [_mask([0, 1, 2]), _mask([3]), _mask([4, 5, 6, 7])]
  np.testing.assert_array_equal(np.concatenate(pieces), whole)
  np.testing.assert_array_equal(_mask([6, 2, 2]), whole[[6, 2, 2]])
  # 96 fair coins agree twice once in 2 ** 96.
  assert len({row.tobytes() for row in whole}) == 8


def test_another_key_draws_other_masks():
  share = np.mean(_mask(range(8)) == _mask(range(8), seed=6))
  assert 0.4 < share < 0.6


@pytest.mark.parametrize('scaling', ['test', 'train'])
def test_gradient_of_dropout(scaling):
  x, dy = (_normal(8, 40, seed=s).astype(np.float32) for s in (0, 1))

  def dropout(x):
    return _dropout(x, 0.5, scaling, np.arange(8))

  factor = np.asarray(dropout(np.ones_like(x)))
  assert set(factor.ravel()) == {0.0, 1.0 if scaling == 'test' else 2.0}
  np.testing.assert_array_equal(_gradient(dropout, x, dy), dy * factor)
  # At test time: the factor that the forward pass applies.
  dx = _gradient(lambda x: layers.dropout(x, 0.5, scaling), x, dy)
  half = np.float32(0.5 if scaling == 'test' else 1)
  np.testing.assert_array_equal(dx, dy * half)
