"""Geometry and colour of one image (Sections 2 and 4.1 of the paper).

An image's central square is resampled to `image_size` pixels a side: the same
as scaling its shorter side and keeping the centre, without the work on what is
cut away. A crop is a window into that square, bit by bit.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import order


class Draws(NamedTuple):
  """The random decisions for N images.

  Attributes:
    offsets: int32 [N, 2], row and column of the crop's first pixel.
    flips: bool [N], whether to mirror the crop horizontally.
    normals: float32 [N, 3], the z of the colour shift; see `color_shift`.
  """

  offsets: np.ndarray
  flips: np.ndarray
  normals: np.ndarray


def centre_draws(num_images: int, image_size: int, size: int) -> Draws:
  """Returns what is not random: centre windows, not mirrored, no shift."""
  return Draws(
    offsets=np.full((num_images, 2), (image_size - size) // 2, np.int32),
    flips=np.zeros(num_images, bool),
    normals=np.zeros((num_images, 3), np.float32),
  )


def random_draws(
  indices: np.ndarray,
  places: np.ndarray,
  *,
  seed: int,
  epoch: int,
  image_size: int,
  crop_size: int,
  random_crop: bool,
  flip: bool,
  crop_chunk: int,
) -> Draws:
  """Draws crops, flips and shifts for N images of one epoch.

  Args:
    indices: int [N], which examples.
    places: int [N], where they stand in the epoch's order.
    seed: the run's seed.
    epoch: counted from 0.
    image_size: side of the square that is cropped, pixels.
    crop_size: side of the crop, pixels.
    random_crop: whether to draw the crop; the centre otherwise.
    flip: whether to mirror with probability 1/2.
    crop_chunk: 1 for a draw per image (Section 4.1); 32 for one draw of crop
      and flip per 32 consecutive places, as the 2012 source has it
      (convdata_jpeg.py, 238-246). The colour shift is always one per image.

  Returns:
    `Draws`. Crops are uniform over all (image_size - crop_size + 1)**2
    positions: the 33 x 33 of the 2012 source, where the paper counts 32 x 32.
  """
  draws = centre_draws(len(indices), image_size, crop_size)
  words = order.image_words(seed, epoch, indices)
  crop_words = words
  if crop_chunk > 1:
    chunks, chunk_of_image = np.unique(
      places // crop_chunk, return_inverse=True
    )
    crop_words = order.chunk_words(seed, epoch, chunks)[chunk_of_image]
  if random_crop:
    side = image_size - crop_size + 1
    corners = np.divmod(order.positions(crop_words[:, 0], side**2), side)
    draws = draws._replace(offsets=np.stack(corners, 1).astype(np.int32))
  if flip:
    draws = draws._replace(flips=order.coins(crop_words[:, 1]))
  normals = order.normals(words[:, 2:])[:, :3]
  return draws._replace(normals=normals.astype(np.float32))


def color_scale(stdevs: np.ndarray, variant: str) -> np.ndarray:
  """Returns how far one unit of z moves the colour: float64 [3], 0..255 units.

  Args:
    stdevs: [3], standard deviations along the principal components of RGB, in
      0..255 units.
    variant: 'source' takes the standard deviations (2012 source,
      convdata_jpeg.py, 57-66). 'paper' takes eigenvalues as Section 4.1
      prints: those of pixels on 0..1, (stdev / 255)**2, times 255 to stand in
      0..255 units. 'none' is no shift.
  """
  stdevs = np.asarray(stdevs, np.float64)
  if variant == 'source':
    return stdevs
  if variant == 'paper':
    return stdevs**2 / 255
  if variant == 'none':
    return np.zeros(3)
  raise ValueError(f"variant {variant!r} is not 'source', 'paper' or 'none'")


def color_shift(
  normals: np.ndarray, scale: np.ndarray, eigenvectors: np.ndarray
) -> np.ndarray:
  """Returns the colour to add to every pixel of each image (Section 4.1).

  [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T with a ~ N(0, 1): the magnitude of 0.1
  is left to the device, which knows the schedule.

  Args:
    normals: float32 [N, 3], the a's.
    scale: [3], the l's, from `color_scale`.
    eigenvectors: [3, 3], one principal component p a column.

  Returns:
    float32 [N, 3], RGB in 0..255 units.
  """
  return (normals * scale @ np.transpose(eigenvectors)).astype(np.float32)


def central_square(image: tf.Tensor) -> tf.Tensor:
  """Cuts the largest central square out of an image uint8 [h, w, 3]."""
  shape = tf.shape(image)[:2]
  side = tf.reduce_min(shape)
  begin = tf.concat([(shape - side) // 2, [0]], 0)
  return tf.slice(image, begin, tf.stack([side, side, 3]))


def reduce(square: tf.Tensor, image_size: int) -> tf.Tensor:
  """Takes means of whole blocks while the shrinking is twofold or more.

  Then the four pixels that bilinear resampling reads for each of its own leave
  out none.

  Args:
    square: uint8 [side, side, 3].
    image_size: side, pixels, that the square will be resampled to.

  Returns:
    uint8 [side', side', 3], the same square where there is nothing to do.
  """
  factor = tf.maximum(tf.shape(square)[0] // image_size, 1)

  def means() -> tf.Tensor:
    # What is left over at the far edges is less than one block.
    blocks = tf.shape(square)[0] // factor
    whole = square[: blocks * factor, : blocks * factor]
    shape = tf.stack([blocks, factor, blocks, factor, 3])
    pixels = tf.reshape(tf.cast(whole, tf.float32), shape)
    return tf.cast(tf.reduce_mean(pixels, [1, 3]) + 0.5, tf.uint8)

  return tf.cond(factor > 1, means, lambda: square)


def resample(square: tf.Tensor, image_size: int) -> tf.Tensor:
  """Scales a square bilinearly.

  Args:
    square: uint8 [side, side, 3].
    image_size: side of the result, pixels.

  Returns:
    uint8 [image_size, image_size, 3], rounded half up. A square that has this
    size already comes through bit by bit.
  """
  pixels = tf.raw_ops.ResizeBilinear(
    images=square[tf.newaxis],
    size=[image_size, image_size],
    half_pixel_centers=True,
  )[0]
  # A weighted mean of 0..255 cannot leave that range by half a level.
  return tf.cast(pixels + 0.5, tf.uint8)
