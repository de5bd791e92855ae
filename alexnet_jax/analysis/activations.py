"""What every layer computes: outputs by tower, joined outputs, one tower mute.

What `model.walk` yields at test time, with all towers on one device. Under
`jit` the batch may lie on several devices; the towers do not.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax.architecture import Architecture


def forward_all(
  network: Architecture,
  params: model.Params,
  images: jax.Array,
  dtype: Any = jnp.float32,
  *,
  silence: int | None = None,
) -> dict[str, jax.Array]:
  """Computes the outputs of all layers.

  Args:
    network: the architecture.
    params: of all towers, on each leading axis.
    images: float32 [N, H, W, 3], centered: what `views.to_input` returns.
    dtype: of the arithmetic.
    silence: a tower whose maps the others, and the classifier, read as zeros;
      None for no tower. What it computes itself is returned all the same. Its
      classes stay: its share of the last layer reads the other towers.

  Returns:
    In order: by each layer's name its output after the operations of its
    `order`, float32 [towers, N, ...]; 'logits' and 'probabilities', float32
    [N, classes].

  Raises:
    UserError: if there is no such tower.
  """
  if silence is not None and not 0 <= silence < network.towers:
    raise errors.UserError(
      f'tower {silence} cannot be silenced: the network has towers 0 to'
      f' {network.towers - 1}'
    )

  def join(outputs: Sequence[jax.Array], is_logits: bool) -> jax.Array:
    heard = [
      jnp.zeros_like(output) if tower == silence else output
      for tower, output in enumerate(outputs)
    ]
    return model.concatenate(heard, is_logits)

  results = {}
  outputs: list[jax.Array] = []
  walk = model.walk(network, params, images, dtype=dtype, join=join)
  for layer, outputs in walk:
    results[layer.name] = jnp.stack(outputs).astype(jnp.float32)
  logits = model.join_logits(network, outputs, model.concatenate)
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
  """Computes one layer's output, and nothing that comes after it.

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
  for current, outputs in model.walk(network, params, images, dtype=dtype):
    if current.name != layer:
      continue
    if current is network.layers[-1]:
      return model.join_logits(network, outputs, model.concatenate)
    return model.concatenate(outputs, False).astype(jnp.float32)
  raise AssertionError(layer)


def check_layer(network: Architecture, layer: str) -> None:
  """Checks that the network has a layer of this name.

  Raises:
    UserError: if not, naming those it has.
  """
  names = [each.name for each in network.layers]
  if layer not in names:
    raise errors.UserError(
      f"the network has no layer '{layer}': use one of {', '.join(names)}"
    )
