"""bfloat16 convolutions on a CPU, written so that oneDNN runs all of them.

XLA passes a convolution's forward pass to oneDNN, which on a processor with AMX
runs it ten times as fast as XLA's own. It does not recognize the two
derivatives as convolutions; here they are written as forward passes too.
"""

from collections.abc import Callable, Sequence
import functools
import pathlib
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

# For `jax.jit`; jax 0.10 ignores them.
OPTIONS = {
  'xla_cpu_use_onednn': True,
  'xla_cpu_experimental_onednn_custom_call': True,
}
_CPU_INFO = pathlib.Path('/proc/cpuinfo')


@functools.cache
def is_there() -> bool:
  """Whether this jax has oneDNN's convolutions and the processor has AMX.

  Without both, the formulations here would be slower than XLA's derivatives of
  a convolution.
  """
  try:
    has_amx = 'amx_bf16' in _CPU_INFO.read_text().split()
  except OSError:
    has_amx = False
  return has_amx and jax.__version_info__ >= (0, 12)


def takes(dtype: Any) -> bool:
  """Whether oneDNN runs the convolutions in this dtype."""
  return jnp.dtype(dtype) == jnp.bfloat16 and is_there()


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Convolves as `lax.conv_general_dilated` does; passed to `nn.Conv`.

  Args:
    x: [N, H, W, C].
    kernel: [size, size, C, C'].
    window_strides: the same down and across.
    padding: pixels before and after, the same down and across.
    **options: the others of `lax.conv_general_dilated`.

  Returns:
    Weighted sums, [N, H', W', C'].
  """
  convolve = functools.partial(
    lax.conv_general_dilated,
    window_strides=tuple(window_strides),
    padding=tuple(padding),
    **options,
  )
  if takes(x.dtype):
    return _convolve(*_varying_alike(x, kernel), convolve)
  return convolve(x, kernel)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns y + bias.

  Below float32 the bias's gradient is summed in float32: more exact, and twenty
  times as fast as XLA's sum, which widens every number first.

  Args:
    y: [..., C].
    bias: float32 [C].
  """
  if takes(y.dtype):
    return _add_bias(*_varying_alike(y, bias))
  return y + bias.astype(y.dtype)


@jax.custom_vjp
def _add_bias(y, bias):
  return y + bias.astype(y.dtype)


def _add_bias_bwd(_, dy):
  return dy, dy.astype(jnp.float32).sum(range(dy.ndim - 1))


_add_bias.defvjp(lambda y, bias: (_add_bias(y, bias), None), _add_bias_bwd)


def _varying_alike(*arrays):
  """Marks arrays inside a `shard_map` as varying over the axes of any of them.

  All derivatives then vary over the same axes; this marking is what adds the
  sums over devices where they are needed.
  """
  axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  union = frozenset().union(*axes)
  return [
    lax.pcast(x, tuple(union - own), to='varying')
    for x, own in zip(arrays, axes, strict=True)
  ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, convolve: Callable) -> jax.Array:
  return convolve(x, kernel)


def _convolve_fwd(x, kernel, convolve):
  return convolve(x, kernel), (x, kernel)


def _convolve_bwd(convolve, residuals, dy):
  def own(x, kernel, dy):
    return jax.vjp(convolve, x, kernel)[1](dy)

  def forward(x, kernel, dy):
    (stride, _), (padding, _) = (
      convolve.keywords[name] for name in ('window_strides', 'padding')
    )
    dkernel = kernel_gradient(x, dy, kernel.shape[0], stride, padding)
    if stride == 1:
      return input_gradient(kernel, dy, padding), dkernel
    # Images need none, and only their layer has a stride.
    (dx,) = jax.vjp(lambda x: convolve(x, kernel), x)[1](dy)
    return dx, dkernel

  return lax.platform_dependent(*residuals, dy, cpu=forward, default=own)


_convolve.defvjp(_convolve_fwd, _convolve_bwd)
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def input_gradient(
  kernel: jax.Array, dy: jax.Array, padding: tuple[int, int]
) -> jax.Array:
  """Returns dx for a stride of 1: dy convolved with the kernel turned around.

  Args:
    kernel: [size, size, C, C'].
    dy: [N, H', W', C'].
    padding: what the forward pass padded, before and after.

  Returns:
    [N, H, W, C].
  """
  last = kernel.shape[0] - 1
  beyond = last - padding[0], last - padding[1]
  return lax.conv_general_dilated(
    dy,
    kernel[::-1, ::-1].swapaxes(2, 3),
    (1, 1),
    [beyond, beyond],
    dimension_numbers=_LAYOUT,
  )


def kernel_gradient(
  x: jax.Array,
  dy: jax.Array,
  size: int,
  stride: int,
  padding: tuple[int, int],
) -> jax.Array:
  """Returns the kernel's gradient: x convolved with dy, summed over images.

  Images are the features to sum over, and dy [H', W', N, C'] is the kernel. A
  result that is only `size` pixels wide would leave most of a matrix unit idle:
  so the C maps of a pixel become adjacent places of one row, and the kernel
  takes every C-th place. With a stride, each square of pixels is a map too.

  Args:
    x: [N, H, H, C].
    dy: [N, H', H', C'].
    size: of the kernel.
    stride: of the forward pass.
    padding: of the forward pass, before and after.

  Returns:
    [size, size, C, C'].
  """
  count, side, _, maps = x.shape
  outputs, features = dy.shape[1], dy.shape[3]
  reach = -(-size // stride)  # blocks of stride x stride pixels
  blocks = outputs - 1 + reach
  pads = (padding[0], blocks * stride - side - padding[0], 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), pads, pads, (0, 0, 0)))
  x = x.reshape(count, blocks, stride, blocks, stride, maps)
  x = x.transpose(1, 3, 2, 4, 5, 0).reshape(1, blocks, -1, count)
  gradient = lax.conv_general_dilated(
    x,
    dy.transpose(1, 2, 0, 3),
    (1, 1),
    'VALID',
    rhs_dilation=(1, stride * stride * maps),
    dimension_numbers=_LAYOUT,
  )
  gradient = gradient.reshape(reach, reach, stride, stride, maps, features)
  gradient = gradient.transpose(0, 2, 1, 3, 4, 5)
  whole = reach * stride
  return gradient.reshape(whole, whole, maps, features)[:size, :size]
