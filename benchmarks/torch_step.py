"""Torch's training step as a contender, on the same batches."""

from collections.abc import Mapping
import functools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_jax import presets
from benchmarks import random_batch
from benchmarks import torch_alexnet
from benchmarks import usage


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
    torch.from_numpy(batch['lighting']).to(device),
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
    norms = {
      'library_norm': torch_alexnet.library_norm,
      'shifted_norm': torch_alexnet.shifted_norm,
    }
    self._model = torch_alexnet.AlexNet(network, crop_size, norms[norm])
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
    return usage.peak_memory()
