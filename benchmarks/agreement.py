"""Whether this project's step and torch's compute the same function."""

import dataclasses

import torch

from alexnet_jax import presets
from benchmarks import ours
from benchmarks import random_batch
from benchmarks import torch_alexnet
from benchmarks import torch_step

_NORMS = (torch_alexnet.library_norm, torch_alexnet.shifted_norm)
# Float32 sums of tens of thousands of terms, in two orders.
_TOLERANCE = 1e-4


class Check:
  """Compares loss and gradient of a first step without dropout, on the CPU."""

  def __init__(self, preset: str, rows: int, crop_size: int):
    ours.configure('float32', 'cpu')
    network = dataclasses.replace(presets.get(preset), dropout_rate=0.0)
    batch = random_batch.make(rows, crop_size, network.num_classes)
    params, loss, gradient = ours.first_gradient(network, batch, crop_size)
    self._lines = []
    for norm in _NORMS:
      peer, peer_loss = _torch_gradient(network, params, batch, norm)
      twin = torch_alexnet.AlexNet(network, crop_size, norm).requires_grad_(
        False
      )
      torch_alexnet.load(twin, gradient)
      worst = max(
        ((a.grad - b).abs().max() / b.abs().max()).item()
        for a, b in zip(peer.parameters(), twin.parameters(), strict=True)
      )
      if not max(worst, abs(loss - peer_loss)) < _TOLERANCE:
        raise ValueError(
          f'{norm.__name__}: losses {loss} and {peer_loss}, gradients differ'
          f' by {worst:.1e}'
        )
      self._lines.append(
        f'Same function as torch ({norm.__name__}): losses {loss:.5f} and'
        f' {peer_loss:.5f}, gradients equal to {worst:.1e} of a'
        " layer's largest entry"
      )

  def lines(self) -> list[str]:
    return self._lines


def _torch_gradient(network, params, batch, norm):
  """Returns a model whose parameters have their gradient, and the loss."""
  crop_size = batch['image'].shape[1]
  model = torch_alexnet.AlexNet(network, crop_size, norm)
  torch_alexnet.load(model, params)
  inputs = torch_step.tensors(
    batch, torch.device('cpu'), torch.contiguous_format
  )
  loss = torch_step.mean_loss(model, *inputs)
  loss.backward()
  return model, loss.item()
