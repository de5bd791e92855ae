"""The same network and training step in torch.

Towers are groups of a convolution; normalization stays within a group; dropout
is the paper's. The network is built from the same architecture, and `Agreement`
checks that loss and gradient are the same.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Norm
from benchmarks import harness
from benchmarks import workload

# Float32 sums of tens of thousands of terms, in two orders.
_TOLERANCE = 1e-4


def library_norm(x: torch.Tensor, norm: Norm) -> torch.Tensor:
  """Torch's own response normalization, which divides alpha by the size."""
  return functional.local_response_norm(
    x, norm.size, norm.alpha * norm.size, norm.beta, norm.k
  )


def shifted_norm(x: torch.Tensor, norm: Norm) -> torch.Tensor:
  """The same as shifted additions and square roots, which is faster."""
  if norm.beta != 0.75:
    raise ValueError(f'beta is {norm.beta}: square roots give only 0.75')
  reach = norm.size // 2
  squares = functional.pad(x * x, (0, 0, 0, 0, reach, reach))
  terms = [squares[:, i : i + x.shape[1]] for i in range(norm.size)]
  root = torch.rsqrt(norm.k + norm.alpha * sum(terms[1:], terms[0]))
  return x * (root * root.sqrt())


_NORMS = {'library_norm': library_norm, 'shifted_norm': shifted_norm}


class AlexNet(nn.Module):
  """Any preset without normalization within maps: [N, 3, H, W] to logits."""

  def __init__(self, network: Architecture, crop_size: int, norm: str):
    """Makes the layers, whose initial values are torch's.

    `norm` is 'library_norm' or 'shifted_norm'.
    """
    super().__init__()
    self._network, self._norm = network, _NORMS[norm]
    self.weighted = nn.ModuleDict()
    shape = (3, crop_size, crop_size)
    for layer in network.layers:
      reads_own = layer.reads == 'own' and layer is not network.layers[0]
      groups = network.towers if reads_own else 1
      if isinstance(layer, Conv):
        self.weighted[layer.name] = nn.Conv2d(
          shape[0], layer.features, layer.kernel, layer.stride,
          padding=min(layer.padding), groups=groups,
        )  # fmt: skip
      elif groups == 1:
        size = int(np.prod(shape))
        self.weighted[layer.name] = nn.Linear(size, layer.features)
      else:
        raise ValueError(f'{layer.name}: torch has no grouped dense layer')
      with torch.no_grad():
        shape = self._layer(layer, torch.zeros(1, *shape)).shape[1:]

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    for layer in self._network.layers:
      x = self._layer(layer, x)
    return x

  def _layer(self, layer, x):
    if isinstance(layer, Conv):
      # What the convolution's own padding, equal on both sides, leaves over.
      before, after = (n - min(layer.padding) for n in layer.padding)
      if before or after:
        x = functional.pad(x, (before, after, before, after))
    else:
      x = x.flatten(1)
    x = self.weighted[layer.name](x)
    for operation in layer.order:
      x = self._operation(operation, x)
    return x

  def _operation(self, operation, x):
    network = self._network
    match operation:
      case 'activation':
        return getattr(functional, network.activation)(x)
      case 'response_norm':
        towers = x.chunk(network.towers, 1)
        normed = [self._norm(tower, network.response_norm) for tower in towers]
        return torch.cat(normed, 1)
      case 'pool':
        pool = network.pool
        return functional.max_pool2d(
          x, pool.size, pool.stride, ceil_mode=pool.past_border
        )
      case 'dropout':
        # torch divides by the share that is kept; the paper does not.
        kept = functional.dropout(x, network.dropout_rate, self.training)
        return kept * (1 - network.dropout_rate)
    raise ValueError(f'{operation!r} has no counterpart here')

  def load(self, params: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Copies this project's parameters, which have towers on leading axes."""
    maps = 3
    # In the network's order, which a pytree's dict need not have.
    for name, weighted in self.weighted.items():
      kernel, bias = params[name]['kernel'], params[name]['bias']
      if kernel.ndim == 5:  # tower, height, width, in, out
        kernel = kernel.transpose(0, 4, 3, 1, 2)
      else:
        # [towers, places x maps, out] to [towers, out, maps x places].
        towers, fan_in, out = kernel.shape
        kernel = kernel.reshape(towers, fan_in // maps, maps, out)
        kernel = kernel.transpose(0, 3, 2, 1)
      with torch.no_grad():
        shape = weighted.weight.shape
        weighted.weight.copy_(torch.from_numpy(kernel.reshape(shape)))
        weighted.bias.copy_(torch.from_numpy(bias.reshape(-1)))
      maps = bias.size


def configure(precision: str, platform: str) -> torch.device:
  """Sets what a process must set before it computes; returns the device.

  Besides those of `jax_step.configure`, the precision can be 'pure_bfloat16'.
  """
  torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
  torch.backends.cudnn.allow_tf32 = precision == 'tf32'
  torch.backends.cudnn.benchmark = True
  return torch.device('cuda' if platform == 'gpu' else 'cpu')


def contender(unit: Callable[[], Any]) -> harness.Contender:
  """Returns a contender that waits for the GPU, where there is one."""
  cuda = torch.cuda
  if not cuda.is_initialized():
    return harness.Contender(unit)
  return harness.Contender(
    unit, lambda _: cuda.synchronize(), cuda.max_memory_allocated
  )


def _mean_loss(model, images, labels, shift):
  """Returns the mean cross-entropy of uint8 images [N, 3, H, W]."""
  mean = torch.tensor(workload.MEAN, device=images.device)
  offset = workload.COLOR_NOISE * shift - mean
  x = images.float() + offset[:, :, None, None]
  logits = model(x.to(next(model.parameters()).dtype))
  return functional.cross_entropy(logits.float(), labels)


def _tensors(batch, device, layout=torch.contiguous_format):
  """Returns images [N, 3, H, W] in a memory format, labels and color shifts."""
  images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2)
  return (
    images.to(device).contiguous(memory_format=layout),
    torch.from_numpy(batch['label']).long().to(device),
    torch.from_numpy(batch['lighting']).to(device),
  )


def random_step(
  *,
  preset: str,
  batch_size: int,
  crop_size: int,
  precision: str = 'float32',
  platform: str = 'cpu',
  norm: str = 'library_norm',
  channels_last: bool = False,
  compile_mode: str = '',
) -> harness.Contender:
  """Returns the step on random images that stay on the device.

  `channels_last` is the memory format of images and kernels; `compile_mode` is
  that of torch.compile, '' for eager.
  """
  device = configure(precision, platform)
  layout = torch.channels_last if channels_last else torch.contiguous_format
  network = workload.network(preset)
  model = AlexNet(network, crop_size, norm).to(device, memory_format=layout)
  if precision == 'pure_bfloat16':
    model.to(torch.bfloat16)
  batch = workload.random_batch(batch_size, crop_size, network.num_classes)
  inputs = _tensors(batch, device, layout)
  mean_loss: Callable[..., Any] = functools.partial(_mean_loss, model)
  if compile_mode:
    mean_loss = torch.compile(mean_loss, mode=compile_mode)
  weights, biases = [], []
  for name, value in model.named_parameters():
    (biases if name.endswith('bias') else weights).append(value)
  optimizer = torch.optim.SGD(
    [{'params': weights}, {'params': biases, 'weight_decay': 0.0}],
    lr=workload.LEARNING_RATE, momentum=0.9, weight_decay=0.0005, fused=True,
  )  # fmt: skip

  def update():
    optimizer.zero_grad(set_to_none=True)
    uses_autocast = precision == 'bfloat16'
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_autocast):
      loss = mean_loss(*inputs)
    loss.backward()
    optimizer.step()

  return contender(update)


class Agreement(NamedTuple):
  """Whether this project and torch compute the same function, on the CPU."""

  preset: str
  rows: int
  crop_size: int

  def lines(self) -> list[str]:
    """Compares loss and gradient of a first step without dropout.

    Returns a line for each way to write the normalization; raises a ValueError
    if this project and torch do not agree.
    """
    from benchmarks import jax_step  # Not for the processes that time torch.

    jax_step.configure('float32', 'cpu')
    network = workload.network(self.preset)
    network = dataclasses.replace(network, dropout_rate=0.0)
    size = self.crop_size
    batch = workload.random_batch(self.rows, size, network.num_classes)
    params, loss, gradient = jax_step.first_gradient(network, batch, size)
    lines = []
    for norm in _NORMS:
      model, expected = (AlexNet(network, size, norm) for _ in range(2))
      model.load(params)
      expected.load(gradient)
      torch_loss = _mean_loss(model, *_tensors(batch, torch.device('cpu')))
      torch_loss.backward()
      worst = max(
        ((a.grad - b).abs().max() / b.abs().max()).item()
        for a, b in zip(model.parameters(), expected.parameters(), strict=True)
      )
      losses = f'losses {loss:.5f} and {torch_loss.item():.5f}'
      if not max(worst, abs(loss - torch_loss.item())) < _TOLERANCE:
        raise ValueError(f'{norm}: {losses}, gradients differ by {worst:.1e}')
      lines.append(
        f'Same function as torch ({norm}): {losses}, gradients equal to'
        f" {worst:.1e} of a layer's largest entry"
      )
    return lines
