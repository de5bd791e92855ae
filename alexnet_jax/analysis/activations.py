"""Outputs of every layer at test time, and with a tower ablated.

All towers are on one device. Under `jit` the batch may be spread over several
devices, and what is not used is not computed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax import sharding
from alexnet_jax.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class _Ablated(sharding.Whole):
  """All towers on one device, one of which no layer hears.

  Attributes:
    tower: its number; None for no tower.
  """

  tower: int | None

  def join(self, outputs, reader):
    if reader is None:
      return super().join(outputs, reader)
    kept = [
      jnp.zeros_like(output) if tower == self.tower else output
      for tower, output in enumerate(outputs)
    ]
    return super().join(kept, reader)


def layer_outputs(
  network: Architecture,
  params: model.Params,
  images: jax.Array,
  dtype: Any = jnp.float32,
  ablated_tower: int | None = None,
) -> dict[str, jax.Array]:
  """Computes the outputs of all layers.

  Args:
    network: the architecture.
    params: of all towers, on each leading axis.
    images: float32 [N, H, W, 3], centered: what `views.to_input` returns.
    dtype: of the arithmetic.
    ablated_tower: a tower whose activations the layers that read all towers
      see as zeros; None for no tower. Its own outputs are returned as they are,
      and its share of the classes stays.

  Returns:
    In order: by each layer's name its output after the operations of its
    `order`, float32 [towers, N, ...]; 'logits' and 'probabilities', float32
    [N, classes].

  Raises:
    UserError: if there is no such tower.
  """
  if ablated_tower is not None and not 0 <= ablated_tower < network.towers:
    raise errors.UserError(
      f'there is no tower {ablated_tower} to ablate: the network has towers 0'
      f' to {network.towers - 1}'
    )

  results = {}
  outputs: list[jax.Array] = []
  placement = _Ablated(ablated_tower)
  walk = model.walk(network, params, images, dtype=dtype, placement=placement)
  for layer, outputs in walk:
    results[layer.name] = jnp.stack(outputs).astype(jnp.float32)
  logits = model.join_logits(network, outputs, placement)
  results['logits'] = logits
  results['probabilities'] = jax.nn.softmax(logits)
  return results


def layer_output(
  network: Architecture,
  params: model.Params,
  images: jax.Array,
  layer: str,
  dtype: Any = jnp.float32,
) -> jax.Array:
  """Computes one layer's output.

  Args:
    network: the architecture.
    params: of all towers, on each leading axis.
    images: float32 [N, H, W, 3], centered.
    layer: a layer's name.
    dtype: of the arithmetic.

  Returns:
    float32 [N, ..., towers * C]: all towers side by side, as a layer that
    reads all of them sees it. Of the last layer: the logits [N, classes].

  Raises:
    UserError: if there is no such layer.
  """
  check_layer(network, layer)
  outputs = layer_outputs(network, params, images, dtype)
  if layer == network.layers[-1].name:
    return outputs['logits']
  return jnp.concatenate(list(outputs[layer]), axis=-1)


def check_layer(network: Architecture, layer: str) -> None:
  """Checks that the network has a layer of this name.

  Raises:
    UserError: if not, naming those it has.
  """
  names = [each.name for each in network.layers]
  if layer not in names:
    raise errors.UserError(
      f"the network has no layer '{layer}': set --layer to one of"
      f' {", ".join(names)}'
    )
