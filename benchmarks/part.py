"""One part of a training step: its passes, their costs and their times."""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax import sharding


class Cost(NamedTuple):
  """What a pass must do at least.

  Attributes:
    flops: of its weighted sums.
    bytes: of the arrays it must read and write.
  """

  flops: int
  bytes: int


@dataclasses.dataclass
class Part:
  """One part of a step.

  Attributes:
    name: the layer or operation, with the layer's number.
    forward: runs the forward pass.
    backward: runs the backward pass; None where there is none.
    forward_cost: of the first.
    backward_cost: of the second.
  """

  name: str
  forward: Callable[[], Any]
  backward: Callable[[], Any] | None
  forward_cost: Cost
  backward_cost: Cost


def size(tree: Any) -> int:
  """Returns the bytes of all arrays."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def differentiable(
  name: str,
  function: Callable[[Any, Any], Any],
  params: Any,
  xs: Any,
  *,
  flops: int = 0,
  is_first: bool = False,
) -> tuple[Part, Any]:
  """Returns the part that a function of (params, xs) makes, and its output.

  Args:
    name: of the part.
    function: what it computes.
    params: differentiated by.
    xs: inputs; differentiated by unless `is_first`.
    flops: of the forward pass.
    is_first: whether the inputs are images, which need no gradient.
  """
  options = sharding.compiler_options(
    sharding.make_mesh(1, jax.devices()[:1]),
    jnp.result_type(*jax.tree.leaves(xs)),
  )

  @functools.partial(jax.jit, compiler_options=options)
  def forward(params, xs):
    if is_first:
      return jax.vjp(lambda params: function(params, xs), params)
    return jax.vjp(function, params, xs)

  ys, pull = forward(params, xs)
  dys = jax.tree.map(jnp.ones_like, ys)
  backward = jax.jit(lambda pull, dys: pull(dys), compiler_options=options)
  moved = size(params) + size(xs) + size(ys)
  # Besides reading the same, it writes gradients as large as what they are of.
  written = size(params) + (0 if is_first else size(xs))
  one = Part(
    name,
    lambda: forward(params, xs),
    lambda: backward(pull, dys),
    Cost(flops, moved),
    Cost(flops * (1 if is_first else 2), moved + written),
  )
  return one, ys


def timed(run: Callable[[], Any] | None, seconds: float) -> float:
  """Returns the seconds of one run, of as many as fit in the time given."""
  if run is None:
    return 0.0
  started = time.perf_counter()
  jax.block_until_ready(run())
  count = int(seconds / (time.perf_counter() - started))
  if count == 0:
    return time.perf_counter() - started
  started = time.perf_counter()
  result = None
  for _ in range(count):
    result = run()
  jax.block_until_ready(result)
  return (time.perf_counter() - started) / count
