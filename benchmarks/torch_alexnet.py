"""The same network and update in torch: the peer of the benchmarks.

Two towers are two groups; normalization stays within a group; dropout is the
paper's. It reads the same architecture and takes the same batches, and
`train_step.py` checks that loss and gradient agree.
"""

from collections.abc import Mapping
import functools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_jax import presets
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Norm
from benchmarks import harness
from benchmarks import random_batch


def configure(precision: str, platform: str) -> torch.device:
  """Sets what a process must before it computes, and returns the device.

  Args:
    precision: 'float32', 'tf32', 'bfloat16' (autocast) or 'pure_bfloat16'.
    platform: 'cpu' or 'gpu'.
  """
  torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
  torch.backends.cudnn.allow_tf32 = precision == 'tf32'
  torch.backends.cudnn.benchmark = True
  return torch.device('cuda' if platform == 'gpu' else 'cpu')


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
        return functional.max_pool2d(x, network.pool.size, network.pool.stride)
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


def mean_loss(
  model: nn.Module,
  images: torch.Tensor,
  labels: torch.Tensor,
  shift: torch.Tensor,
) -> torch.Tensor:
  """Returns the mean cross-entropy of uint8 images [N, 3, H, W]."""
  mean = torch.tensor(random_batch.MEAN, device=images.device)
  offset = random_batch.NOISE * shift - mean
  x = images.float() + offset[:, :, None, None]
  logits = model(x.to(next(model.parameters()).dtype))
  return functional.cross_entropy(logits.float(), labels)


def tensors(
  batch: Mapping[str, np.ndarray], device: torch.device, layout: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
  """Returns images [N, 3, H, W] in this memory format, labels and shifts."""
  images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2)
  return (
    images.to(device).contiguous(memory_format=layout),
    torch.from_numpy(batch['label']).long().to(device),
    torch.from_numpy(batch['shift']).to(device),
  )


class Step:
  """Forward pass, backward pass and update of one batch that stays put."""

  def __init__(
    self,
    *,
    preset: str = 'paper',
    batch_size: int,
    crop_size: int = 224,
    precision: str = 'float32',
    platform: str = 'cpu',
    norm: str = 'library_norm',
    channels_last: bool = False,
    compile_mode: str = '',
  ):
    """Builds the step.

    Args:
      preset: of the network.
      batch_size: images a step.
      crop_size: side of the images, pixels.
      precision: see `configure`.
      platform: 'cpu' or 'gpu'.
      norm: 'library_norm' or 'shifted_norm'.
      channels_last: the memory format of images and kernels.
      compile_mode: of torch.compile; '' for eager.
    """
    self._device = configure(precision, platform)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = presets.get(preset)
    norms = {'library_norm': library_norm, 'shifted_norm': shifted_norm}
    self._model = AlexNet(network, crop_size, norms[norm])
    self._model.to(self._device, memory_format=layout)
    if precision == 'pure_bfloat16':
      self._model.to(torch.bfloat16)
    self._autocast = functools.partial(
      torch.autocast, self._device.type, torch.bfloat16,
      enabled=precision == 'bfloat16',
    )  # fmt: skip
    batch = random_batch.make(batch_size, crop_size, network.num_classes)
    self._batch = tensors(batch, self._device, layout)
    self._loss = functools.partial(mean_loss, self._model)
    if compile_mode:
      self._loss = torch.compile(self._loss, mode=compile_mode)
    weights, biases = [], []
    for name, value in self._model.named_parameters():
      (biases if name.endswith('bias') else weights).append(value)
    self._optimizer = torch.optim.SGD(
      [{'params': weights}, {'params': biases, 'weight_decay': 0.0}],
      lr=random_batch.RATE, momentum=0.9, weight_decay=0.0005, fused=True,
    )  # fmt: skip

  def run(self, count: int) -> None:
    for _ in range(count):
      self._optimizer.zero_grad(set_to_none=True)
      with self._autocast():
        loss = self._loss(*self._batch)
      loss.backward()
      self._optimizer.step()
    if self._device.type == 'cuda':
      torch.cuda.synchronize()

  def memory(self) -> int:
    """Returns the most bytes in use so far: the process's, or the GPU's."""
    if self._device.type == 'cuda':
      return torch.cuda.max_memory_allocated()
    return harness.peak_memory()
