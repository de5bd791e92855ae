"""What every contender computes, and what that costs, counted by hand.

Needs neither JAX nor torch. Only the architecture's numbers enter the counts,
so that measurements and compiled programs can be compared with them.
"""

import dataclasses

import numpy as np

from alexnet_jax import architecture
from alexnet_jax import presets
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv

# Krizhevsky's channel means, which `data.statistics=imagenet` subtracts.
MEAN = (127.3049, 119.7154, 104.9126)
# Magnitude of the color shift (paper, Section 4.1).
COLOR_NOISE = 0.1
# So low that random images do not drive the loss to infinity.
LEARNING_RATE = 1e-4


def network(preset: str, num_classes: int = 0) -> Architecture:
  """Returns a preset with this number of classes; 0 for its own."""
  found = presets.get(preset)
  *layers, last = found.layers
  last = dataclasses.replace(last, features=num_classes or last.features)
  return dataclasses.replace(found, layers=(*layers, last))


def random_batch(
  rows: int, crop_size: int, num_classes: int
) -> dict[str, np.ndarray]:
  """Returns random images and labels in the form of the input pipeline's."""
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (rows, crop_size, crop_size, 3), np.uint8),
    'label': rng.integers(0, num_classes, rows, np.int32),
    'mask': np.ones(rows, np.float32),
    'unreadable': np.zeros(rows, np.float32),
    'lighting': rng.standard_normal((rows, 3)).astype(np.float32),
  }


def step_flops(network: Architecture, crop_size: int) -> int:
  """Returns the operations of one image's forward and backward pass.

  Only weighted sums are counted, a multiply-add as two operations. The backward
  pass of a layer has two products of the forward pass's size, for the weights
  and for the input; the first layer does not need the second.
  """
  shapes = architecture.layer_shapes(network, crop_size)
  total = sum(shape.multiply_adds for shape in shapes)
  return 6 * total - 2 * shapes[0].multiply_adds


def join_floats(network: Architecture, crop_size: int) -> dict[str, int]:
  """Returns the floats per image that one tower hands over at each join.

  The keys are the layers that read all towers, and 'loss' for the logits.
  """
  shapes = architecture.layer_shapes(network, crop_size)
  found, floats = {}, 0
  for layer, shape in zip(network.layers, shapes, strict=True):
    if layer.reads == 'all' and layer is not network.layers[0]:
      found[layer.name] = floats
    floats = network.features_per_tower(layer)
    if isinstance(layer, Conv):
      side = shape.output[0]
      for _ in range(layer.order.count('pool')):
        side = network.pool.windows(side)
      floats *= side**2
  return {**found, 'loss': floats}
