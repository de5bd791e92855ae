"""What a training step has to compute and to send, counted by hand.

Only the architecture's numbers go in, so that a measurement or a compiled
program can be held against them.
"""

from typing import NamedTuple

from alexnet_jax import architecture
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv

_FLOAT = 4  # bytes


def step_flops(network: Architecture, crop_size: int) -> int:
  """Returns the operations of one image's forward and backward pass.

  A multiply-add is two. The backward pass has two products of the forward
  pass's size a layer, one for the weights and one for the input; the first
  layer has no use for the second. Only weighted sums are counted.
  """
  shapes = architecture.layer_shapes(network, crop_size)
  total = sum(shape.multiply_adds for shape in shapes)
  return 6 * total - 2 * shapes[0].multiply_adds


class Join(NamedTuple):
  """A place where towers talk.

  Attributes:
    before: the layer that reads all towers; 'loss' for the logits.
    floats: that one tower hands over for each image.
  """

  before: str
  floats: int


def joins(network: Architecture, crop_size: int) -> tuple[Join, ...]:
  """Returns the joins of a network, from the image to the loss."""
  shapes = architecture.layer_shapes(network, crop_size)
  found, floats = [], 0
  for layer, shape in zip(network.layers, shapes, strict=True):
    if layer.reads == 'all' and layer is not network.layers[0]:
      found.append(Join(layer.name, floats))
    floats = network.features_per_tower(layer)
    if isinstance(layer, Conv):
      side = shape.output[0]
      for _ in range(layer.order.count('pool')):
        side = network.pool.windows(side)
      floats *= side**2
  return (*found, Join('loss', floats))


def join_bytes(
  network: Architecture, crop_size: int, rows: int, devices: int
) -> int:
  """Returns the bytes that one device sends to other towers' devices a step.

  Forwards, a device sends its towers' maps to each other device; backwards, it
  sends each of them the gradient of its maps. The logits' gradient is not sent:
  every device has the whole loss.

  Args:
    network: the architecture.
    crop_size: side of the input, pixels.
    rows: images on a device.
    devices: among which the towers of one copy of the network are shared.
  """
  places = joins(network, crop_size)
  forward = sum(join.floats for join in places)
  backward = sum(join.floats for join in places[:-1])
  at_hand = network.towers // devices
  return (forward + backward) * at_hand * (devices - 1) * rows * _FLOAT


def gradient_bytes(
  network: Architecture, crop_size: int, copies: int, devices: int
) -> int:
  """Returns the bytes that copies of the network must add up a step.

  Each device holds its towers' share of the parameters; five metrics go along.

  Args:
    network: the architecture.
    crop_size: side of the input, pixels.
    copies: of the network; one needs no adding up.
    devices: of one copy.
  """
  if copies == 1:
    return 0
  shapes = architecture.layer_shapes(network, crop_size)
  parameters = sum(shape.weights + shape.biases for shape in shapes)
  return (parameters // devices + 5) * _FLOAT
