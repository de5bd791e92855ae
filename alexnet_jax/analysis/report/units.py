"""Units: where they look, how strongly they answer, which are silent."""

from collections.abc import Iterable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv


class Window(NamedTuple):
  """The pixels along one axis that a unit of a layer's output sees.

  The unit at place p sees `size` pixels from `start + p * jump` on; those
  outside the image are the padding's zeros.
  """

  start: int
  jump: int
  size: int


def receptive_field(network: Architecture, name: str) -> Window:
  """Returns what the units of a convolutional layer see.

  Of the layer's output, after pooling if it pools. A normalization within
  maps looks a little farther, at a strength that is not counted here.
  """
  start, jump, size = 0, 1, 1
  for layer in network.layers:
    if not isinstance(layer, Conv):
      break
    size += (layer.kernel - 1) * jump
    start -= layer.padding[0] * jump
    jump *= layer.stride
    for _ in range(layer.order.count('pool')):
      size += (network.pool.size - 1) * jump
      jump *= network.pool.stride
    if layer.name == name:
      return Window(start, jump, size)
  raise ValueError(f'{name} is no convolutional layer')


def patch_slice(window: Window, place: int, side: int) -> slice:
  """Returns what a unit sees of an image, moved inside where it looks past it.

  Args:
    window: from `receptive_field`.
    place: of the unit, along the axis.
    side: of the image, pixels.
  """
  size = min(window.size, side)
  start = window.start + place * window.jump
  start = min(max(start, 0), side - size)
  return slice(start, start + size)


@dataclasses.dataclass(frozen=True)
class Peaks:
  """The strongest answer of each unit of one layer to each image.

  A unit of a convolutional layer is a map: all its places count as one.

  Attributes:
    values: float32 [towers, N, C].
    places: int32 [towers, N, C], of the strongest place, row * width + column.
    images: int [N], which images.
    width: of a map; 1 for a fully connected layer.
  """

  values: np.ndarray
  places: np.ndarray
  images: np.ndarray
  width: int

  def silent(self) -> np.ndarray:
    """Returns the units that answered no image, bool [towers, C]."""
    return np.all(self.values <= 0, axis=1)


def peaks(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Reduces a layer's outputs [towers, N, ..., C] to `Peaks`' two arrays."""
  towers, count, *_, maps = outputs.shape
  flat = outputs.reshape(towers, count, -1, maps)
  return flat.max(axis=2), flat.argmax(axis=2).astype(jnp.int32)


def join(parts: Iterable[Peaks]) -> Peaks:
  """Puts the peaks of several batches together."""
  parts = list(parts)
  return Peaks(
    np.concatenate([part.values for part in parts], axis=1),
    np.concatenate([part.places for part in parts], axis=1),
    np.concatenate([part.images for part in parts]),
    parts[0].width,
  )


def selective(found: Peaks, tower: int, count: int, top: int) -> np.ndarray:
  """Chooses the maps of a tower that answer few images, and those strongly.

  Args:
    found: the peaks of one layer.
    tower: which.
    count: how many to choose.
    top: of how many images the answers are compared with the mean.

  Returns:
    int [count] or fewer: the maps with the largest ratio of the mean of their
    `top` strongest answers to the mean of all. Silent maps are passed over.
  """
  values = found.values[tower]
  strongest = np.sort(values, axis=0)[-top:].mean(axis=0)
  mean = values.mean(axis=0)
  # Of a map that answers next to nothing the ratio means nothing.
  usable = (mean > 0) & (strongest > 0.1 * strongest.max(initial=0))
  ratio = strongest / np.where(usable, mean, 1)
  order = np.argsort(-np.where(usable, ratio, -np.inf), kind='stable')
  return order[usable[order]][:count]
