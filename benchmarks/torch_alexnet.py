"""The same network in torch: the peer of the benchmarks.

Two towers are two groups; normalization stays within a group; dropout is the
paper's. It reads the same architecture; `agreement.py` checks that loss and
gradient are the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Norm


def library_norm(x: torch.Tensor, norm: Norm) -> torch.Tensor:
  """Normalizes by torch's own function, which divides alpha by the size."""
  return functional.local_response_norm(
    x, norm.size, norm.alpha * norm.size, norm.beta, norm.k
  )


def shifted_norm(x: torch.Tensor, norm: Norm) -> torch.Tensor:
  """The same by shifted adds and square roots: faster, in eager mode too."""
  if norm.beta != 0.75:
    raise ValueError(f'beta is {norm.beta}: square roots make 0.75 alone')
  reach = norm.size // 2
  squares = functional.pad(x * x, (0, 0, 0, 0, reach, reach))
  parts = [squares[:, i : i + x.shape[1]] for i in range(norm.size)]
  root = torch.rsqrt(norm.k + norm.alpha * sum(parts[1:], parts[0]))
  return x * (root * root.sqrt())


class AlexNet(nn.Module):
  """Any preset without normalization inside maps, [N, 3, H, W] to logits."""

  def __init__(self, network: Architecture, crop_size: int, norm: Any):
    """Makes the layers; their initial values are torch's.

    Args:
      network: the architecture.
      crop_size: side of the input, pixels.
      norm: `library_norm` or `shifted_norm`.
    """
    super().__init__()
    self.network, self._norm = network, norm
    self.weighted = nn.ModuleDict()
    shape, first = (3, crop_size, crop_size), network.layers[0]
    for layer in network.layers:
      own = layer.reads == 'own' and layer is not first
      groups = network.towers if own else 1
      if isinstance(layer, Conv):
        weighted = nn.Conv2d(
          shape[0], layer.features, layer.kernel, layer.stride,
          padding=min(layer.padding), groups=groups,
        )  # fmt: skip
      elif groups == 1:
        weighted = nn.Linear(int(np.prod(shape)), layer.features)
      else:
        raise ValueError(f'{layer.name}: torch has no grouped dense layer')
      self.weighted[layer.name] = weighted
      with torch.no_grad():
        x = self._layer(layer, torch.zeros(1, *shape))
      shape = x.shape[1:]

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    for layer in self.network.layers:
      x = self._layer(layer, x)
    return x

  def _layer(self, layer, x):
    if isinstance(layer, Conv):
      # What a convolution's own padding, equal on both sides, leaves.
      before, after = (n - min(layer.padding) for n in layer.padding)
      if before or after:
        x = functional.pad(x, (before, after, before, after))
    else:
      x = x.flatten(1)
    x = self.weighted[layer.name](x)
    for operation in layer.order:
      x = self._after(operation, x)
    return x

  def _after(self, operation, x):
    network = self.network
    match operation:
      case 'activation':
        return getattr(functional, network.activation)(x)
      case 'response_norm':
        groups = x.chunk(network.towers, 1)
        return torch.cat(
          [self._norm(group, network.response_norm) for group in groups], 1
        )
      case 'pool':
        pool = network.pool
        return functional.max_pool2d(
          x, pool.size, pool.stride, ceil_mode=pool.past_border
        )
      case 'dropout':
        # torch divides by what is kept; the paper does not.
        kept = functional.dropout(x, network.dropout_rate, self.training)
        return kept * (1 - network.dropout_rate)
    raise ValueError(f'{operation!r} has no counterpart here')


def load(
  model: AlexNet, params: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
  """Copies this project's parameters, towers on their leading axes."""
  maps = 3
  with torch.no_grad():
    # In the network's order, which a pytree's dict need not have.
    for name, weighted in model.weighted.items():
      values = params[name]
      kernel = values['kernel']
      if kernel.ndim == 5:  # tower, height, width, in, out
        kernel = kernel.transpose(0, 4, 3, 1, 2)
      else:
        kernel = _channels_first(kernel, maps).swapaxes(1, 2)
      shape = weighted.weight.shape
      weighted.weight.copy_(torch.from_numpy(kernel.reshape(shape)))
      weighted.bias.copy_(torch.from_numpy(values['bias'].reshape(-1)))
      maps = values['bias'].size


def _channels_first(kernel: np.ndarray, maps: int) -> np.ndarray:
  """Turns rows that stand for places x maps into maps x places.

  A dense kernel is [towers, fan in, out]; after another dense layer there is
  one place, and nothing changes.
  """
  towers, fan_in, out = kernel.shape
  split = kernel.reshape(towers, fan_in // maps, maps, out)
  return split.swapaxes(1, 2).reshape(kernel.shape)
