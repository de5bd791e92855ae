import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import onednn
from alexnet_jax import presets
from alexnet_jax import sharding

_NUMBERS = ('NHWC', 'HWIO', 'NHWC')
# Size, stride, padding and side of the image.
_CASES = [(3, 1, (1, 1), 7), (5, 1, (2, 2), 8), (3, 1, (1, 0), 6)]
_STRIDED = [(11, 4, (0, 3), 40), (3, 2, (1, 1), 9), (4, 3, (0, 0), 11)]


def _exact(size, stride, padding, side):
  """Small whole numbers, of which no sum in float32 needs rounding."""
  rng = np.random.default_rng(0)
  x = rng.integers(-2, 3, (2, side, side, 3)).astype(np.float32)
  kernel = rng.integers(-2, 3, (size, size, 3, 4)).astype(np.float32)
  outputs = (side + sum(padding) - size) // stride + 1
  dy = rng.integers(-2, 3, (2, outputs, outputs, 4)).astype(np.float32)

  def convolve(x, kernel):
    pads, strides = (padding, padding), (stride, stride)
    return lax.conv_general_dilated(
      x, kernel, strides, pads, dimension_numbers=_NUMBERS
    )

  return x, kernel, dy, jax.vjp(convolve, x, kernel)[1](dy)


@pytest.mark.parametrize(('size', 'stride', 'padding', 'side'), _CASES)
def test_gradient_of_the_input(size, stride, padding, side):
  _, kernel, dy, (expected, _) = _exact(size, stride, padding, side)
  found = jax.jit(onednn.input_gradient, static_argnums=2)(kernel, dy, padding)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('size', 'stride', 'padding', 'side'), _CASES + _STRIDED
)
def test_gradient_of_the_kernel(size, stride, padding, side):
  x, _, dy, (_, expected) = _exact(size, stride, padding, side)
  gradient = jax.jit(onednn.kernel_gradient, static_argnums=(2, 3, 4))
  found = gradient(x, dy, size, stride, padding)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('size', 'stride', 'padding', 'side'), _CASES + _STRIDED
)
@pytest.mark.parametrize('is_there', [True, False])
def test_derivatives(is_there, size, stride, padding, side, monkeypatch):
  monkeypatch.setattr(onednn, 'is_there', lambda: is_there)
  x, kernel, dy, expected = _exact(size, stride, padding, side)

  def total(x, kernel):
    pads, strides = (padding, padding), (stride, stride)
    y = onednn.convolution(x, kernel, strides, pads, dimension_numbers=_NUMBERS)
    return (y.astype(jnp.float32) * dy).sum()

  given = (jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))
  found = jax.jit(jax.grad(total, (0, 1)))(*given)
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == jnp.bfloat16
    np.testing.assert_array_equal(one, other.astype(jnp.bfloat16))


def test_bias(monkeypatch):
  monkeypatch.setattr(onednn, 'is_there', lambda: True)
  rng = np.random.default_rng(0)
  y = jnp.asarray(rng.standard_normal((4, 9, 9, 6)), jnp.bfloat16)
  dy = jnp.asarray(rng.standard_normal(y.shape), jnp.bfloat16)
  bias = jnp.asarray(rng.standard_normal(6), jnp.float32)
  added, pull = jax.vjp(onednn.add_bias, y, bias)
  np.testing.assert_array_equal(added, y + bias.astype(jnp.bfloat16))
  by_y, by_bias = pull(dy)
  np.testing.assert_array_equal(by_y, dy)
  assert by_bias.dtype == jnp.float32
  exact = np.asarray(dy, np.float64).sum((0, 1, 2))
  np.testing.assert_allclose(by_bias, exact, rtol=1e-5)


def test_float32_is_left_alone(monkeypatch):
  monkeypatch.setattr(onednn, 'is_there', lambda: True)
  assert onednn.takes(jnp.bfloat16)
  assert not onednn.takes(jnp.float32)
  mesh = sharding.place(presets.small(), jax.devices()[:1]).mesh
  assert onednn.OPTIONS.items() <= (
    sharding.compiler_options(mesh, jnp.bfloat16).items()
  )
  assert not (
    onednn.OPTIONS.keys() & sharding.compiler_options(mesh, jnp.float32).keys()
  )


def test_xla_knows_the_options():
  double = jax.jit(lambda x: 2 * x, compiler_options=onednn.OPTIONS)
  assert double(jnp.ones(())) == 2


@pytest.mark.parametrize(
  ('info', 'version', 'expected'),
  [
    ('flags: avx2 amx_bf16 amx_tile', (0, 12, 0), True),
    ('flags: avx2 amx_bf16 amx_tile', (0, 10, 2), False),
    ('flags: avx2 amx_bf16\nbugs:', (0, 12, 0), True),
    ('flags: avx2 avx512f', (0, 12, 0), False),
    (None, (0, 12, 0), False),
  ],
)
def test_is_there(info, version, expected, tmp_path, monkeypatch):
  path = tmp_path / 'cpuinfo'
  if info is not None:
    path.write_text(info)
  monkeypatch.setattr(onednn, '_CPU_INFO', path)
  monkeypatch.setattr(jax, '__version_info__', version)
  assert onednn.is_there.__wrapped__() == expected


@pytest.mark.skipif(not onednn.is_there(), reason='jax 0.12 and AMX')
def test_all_convolutions_of_a_step_are_onednns():
  mesh = sharding.place(presets.small(), jax.devices()[:1]).mesh

  def total(x, kernels):
    for kernel in kernels:
      x = onednn.convolution(
        x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=_NUMBERS
      )
    return x.astype(jnp.float32).sum()

  kernels = [jnp.ones((3, 3, 32, 32), jnp.bfloat16) for _ in range(3)]
  program = jax.jit(
    jax.grad(total, (0, 1)),
    compiler_options=sharding.compiler_options(mesh, jnp.bfloat16),
  )
  x = jnp.ones((8, 13, 13, 32), jnp.bfloat16)
  text = program.lower(x, kernels).compile().as_text()
  calls = text.count('custom_call_target="__onednn$convolution"')
  assert calls == 3 * len(kernels) - 1  # nobody needs the last one's output
