"""The operations between two joins, each as a function of its own.

A function takes parameters and one array a tower, and returns one array a
tower.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax import architecture
from alexnet_jax import layers
from alexnet_jax import model
from alexnet_jax.architecture import Architecture


def join(_, xs):
  """Puts the towers' arrays side by side; one array."""
  return jnp.concatenate(xs, axis=-1)


def own_operations(layer: architecture.Layer) -> tuple[str, ...]:
  """Returns what follows the layer in a part of its own.

  An activation that comes first stays with the weighted sum: XLA fuses them.
  """
  start = 1 if layer.order[:1] == ('activation',) else 0
  return layer.order[start:]


def weighted(network: Architecture, layer: architecture.Layer, dtype: Any):
  """Returns (params, x or one x a tower) -> one y a tower."""
  own = own_operations(layer)
  alone = dataclasses.replace(
    layer, order=layer.order[: len(layer.order) - len(own)]
  )
  if layer is network.layers[0]:
    first = dataclasses.replace(network, layers=(alone, *network.layers[1:]))
    return lambda params, images: model.first_layer(
      first, {layer.name: params[layer.name]}, images, dtype=dtype
    )
  stage = model.Stage(network, (alone,), dtype)

  def apply(params, xs):
    if not isinstance(xs, Sequence):
      xs = [xs] * network.towers
    return [
      stage.apply({'params': jax.tree.map(lambda p, t=t: p[t], params)}, x)[-1]
      for t, x in enumerate(xs)
    ]

  return apply


def operation(network: Architecture, operation: str):
  """Returns ((), one x a tower) -> one y a tower."""

  def apply(_, xs):
    return [one(x, tower) for tower, x in enumerate(xs)]

  def one(x, tower):
    match operation:
      case 'activation':
        return model.activation(network.activation)(x)
      case 'response_norm':
        return layers.response_norm(x, network.response_norm)
      case 'map_norm':
        return layers.map_norm(x, network.map_norm)
      case 'pool':
        return layers.max_pool(x, network.pool)
      case 'dropout':
        key = jax.random.fold_in(jax.random.key(0), tower)
        rows = jnp.arange(x.shape[0], dtype=jnp.int32)
        return layers.dropout(
          x, network.dropout_rate, network.dropout_scaling, key, rows
        )
    raise ValueError(f'{operation!r} is no operation')

  return apply
