"""What every layer computes: outputs by tower, joined outputs, one tower mute.

The forward pass of `model.py` layer by layer, at test time, with all towers in
turn. Under `jit` the batch may lie on several devices; the towers do not.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Layer


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
    images: float32 [N, H, W, 3], centred: what `pixels.to_input` returns.
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
  results = {}
  outputs: list[jax.Array] = []
  for layer, outputs in _walk(network, params, images, dtype, silence):
    results[layer.name] = jnp.stack(outputs).astype(jnp.float32)
  logits = _joined(network, network.layers[-1], outputs)
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
    images: float32 [N, H, W, 3], centred.
    layer: a layer's name.
    dtype: of the arithmetic.

  Returns:
    float32 [N, ..., towers * C]: all towers side by side, as a layer that
    reads all of them sees it. Of the last layer: the logits [N, classes].

  Raises:
    UserError: if there is no such layer.
  """
  check_layer(network, layer)
  for current, outputs in _walk(network, params, images, dtype, None):
    if current.name == layer:
      return _joined(network, current, outputs)
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


def _walk(
  network: Architecture,
  params: model.Params,
  images: jax.Array,
  dtype: Any,
  silence: int | None,
) -> Iterator[tuple[Layer, list[jax.Array]]]:
  """Yields each layer with the towers' outputs, [N, ..., C] each."""
  outputs = [images.astype(dtype)] * network.towers
  for i, layer in enumerate(network.layers):
    if i > 0 and layer.reads == 'all':
      heard = [
        jnp.zeros_like(output) if tower == silence else output
        for tower, output in enumerate(outputs)
      ]
      outputs = [model.concatenate(heard, False)] * network.towers
    stage = model.Stage(network, (layer,), dtype)
    outputs = [
      _apply(stage, layer, params, tower, x) for tower, x in enumerate(outputs)
    ]
    yield layer, outputs


def _apply(stage, layer, params, tower, x) -> jax.Array:
  own = {name: value[tower] for name, value in params[layer.name].items()}
  return stage.apply({'params': {layer.name: own}}, x)


def _joined(
  network: Architecture, layer: Layer, outputs: list[jax.Array]
) -> jax.Array:
  joined = model.concatenate(outputs, False).astype(jnp.float32)
  if layer is network.layers[-1]:
    # Units beyond the last class, where the towers cannot share it equally.
    return joined[..., : network.num_classes]
  return joined
