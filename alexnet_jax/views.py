"""What the device does to pixels before conv1: cut a view, center, add color.

The input pipeline delivers uint8 pixels and three floats per image; everything
here is a slice or one elementwise step that XLA fuses.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.identity import Statistics


@dataclasses.dataclass(frozen=True)
class View:
  """One way to cut a crop out of a prepared image.

  Attributes:
    top: row of the upper left corner, in pixels.
    left: column of the upper left corner.
    mirror: whether the crop is mirrored left to right.
  """

  top: int
  left: int
  mirror: bool


def center_view(image_size: int, crop_size: int) -> tuple[View, ...]:
  """The center crop (2012 code, convdata_jpeg.py:235)."""
  middle = (image_size - crop_size) // 2
  return (View(middle, middle, False),)


def ten_views(image_size: int, crop_size: int) -> tuple[View, ...]:
  """Four corners and the center, then their mirror images (Section 4.1)."""
  end = image_size - crop_size
  middle = end // 2
  corners = ((0, 0), (0, end), (middle, middle), (end, 0), (end, end))
  return tuple(
    View(top, left, mirror) for mirror in (False, True) for top, left in corners
  )


def cut(
  images: jax.Array,
  top: jax.Array | int,
  left: jax.Array | int,
  mirror: jax.Array | bool,
  crop_size: int,
) -> jax.Array:
  """Cuts the same view out of every image.

  Args:
    images: [N, S, S, 3].
    top: row of the upper left corner; may be traced, as may the next two.
    left: its column.
    mirror: whether to mirror left to right.
    crop_size: side of the crop.

  Returns:
    [N, crop_size, crop_size, 3].
  """
  count, _, _, channels = images.shape
  crop = lax.dynamic_slice(
    images, (0, top, left, 0), (count, crop_size, crop_size, channels)
  )
  return jnp.where(mirror, crop[:, :, ::-1], crop)


def mean(kind: str, statistics: Statistics, crop_size: int) -> np.ndarray:
  """Returns what is subtracted from every view, wherever it was cut.

  The 2012 code always takes the mean image's central crop
  (convdata_jpeg.py:95).

  Args:
    kind: 'pixel' for the mean image, 'channel' for one mean per channel, or
      'none'.
    statistics: of the training split.
    crop_size: side of the crop, pixels.

  Returns:
    float32 [crop_size, crop_size, 3] or [3], 0..255 units.
  """
  if kind == 'none':
    return np.zeros(3, np.float32)
  if kind == 'channel':
    return np.asarray(statistics.channel_mean, np.float32)
  image = np.asarray(statistics.mean_image, np.float32)
  start = (image.shape[0] - crop_size) // 2
  return image[start : start + crop_size, start : start + crop_size]


def to_input(
  images: jax.Array | np.ndarray,
  mean: jax.Array | np.ndarray,
  scale: float,
  lighting: jax.Array | None = None,
) -> jax.Array:
  """Turns pixels into what conv1 reads.

  Args:
    images: uint8 [N, H, W, 3].
    mean: float32 [H, W, 3] or [3], in gray levels.
    scale: multiplies the centered pixels; 1 in the paper and its source.
    lighting: float32 [N, 3], a color added to every pixel of an image (paper,
      Section 4.1), in gray levels.

  Returns:
    float32 [N, H, W, 3].
  """
  centered = jnp.asarray(images, jnp.float32) - mean
  if lighting is not None:
    centered += lighting[:, None, None, :]
  return centered * scale


@dataclasses.dataclass(frozen=True, eq=False)
class InputTransform:
  """From a prepared square to what conv1 reads, at test time.

  Attributes:
    image_size: side S of the squares, pixels.
    crop_size: side of a view, pixels.
    mean: float32 [crop_size, crop_size, 3] or [3], to subtract; gray levels.
    pixel_scale: multiplies the centered pixels.
  """

  image_size: int
  crop_size: int
  mean: np.ndarray
  pixel_scale: float

  @property
  def views(self) -> dict[str, tuple[View, ...]]:
    """The two ways to look at an image, by the name of the result."""
    return {
      'center_view': center_view(self.image_size, self.crop_size),
      'ten_views': ten_views(self.image_size, self.crop_size),
    }

  def center(self, images: np.ndarray) -> np.ndarray:
    """Cuts the center view: [N, S, S, 3] -> [N, crop_size, crop_size, 3]."""
    start = (self.image_size - self.crop_size) // 2
    end = start + self.crop_size
    return images[:, start:end, start:end]

  def __call__(self, crops: jax.Array | np.ndarray) -> jax.Array:
    """Centers and scales crops; see `to_input`."""
    return to_input(crops, self.mean, self.pixel_scale)
