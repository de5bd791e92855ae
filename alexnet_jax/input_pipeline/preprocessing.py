"""Geometry and colour of one image (Sections 2 and 4.1 of the paper).

An image is resampled so that its shorter side is `image_size`, and its centre
square is kept. A crop is a window into that square, so nothing outside the
window is ever computed: one resampling yields the window and no pixel more.
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


class Geometry(NamedTuple):
  """Where a window lies in an image, and what it needs of it.

  Attributes:
    scale: float32 scalar, window pixels per image pixel.
    translation: float32 [2], the image's corner in window pixels.
    box: int32 [4], (row, column, height, width) of the image region that the
      window reads.
  """

  scale: tf.Tensor
  translation: tf.Tensor
  box: tf.Tensor


def geometry(
  shape: tf.Tensor, offset: tf.Tensor, image_size: int, size: int
) -> Geometry:
  """Places a window in an image whose shorter side becomes `image_size`.

  Args:
    shape: int32 [2], height and width of the image, pixels.
    offset: int32 [2], the window's corner in the centre square.
    image_size: side of the centre square, pixels.
    size: side of the window, pixels.
  """
  scale = image_size / tf.cast(tf.reduce_min(shape), tf.float32)
  overhang = (image_size - tf.cast(shape, tf.float32) * scale) / 2
  translation = overhang - tf.cast(offset, tf.float32)
  # The triangle reaches one window pixel far, or one image pixel when that is
  # more; another pixel covers rounding and the decoder's chroma interpolation.
  reach = tf.maximum(1.0, 1 / scale) + 1
  first = tf.cast(tf.floor(-translation / scale - reach), tf.int32)
  last = tf.cast(tf.math.ceil((size - translation) / scale + reach), tf.int32)
  first = tf.maximum(first, 0)
  extent = tf.minimum(last, shape) - first
  return Geometry(scale, translation, tf.concat([first, extent], 0))


def window(region: tf.Tensor, where: Geometry, size: int) -> tf.Tensor:
  """Resamples an image region to the window that `geometry` placed.

  A triangle kernel, widened when the image shrinks, so that every image pixel
  counts. An image that needs no scaling comes through bit by bit.

  Args:
    region: uint8 [h, w, 3], the image's pixels in `where.box`.
    where: from `geometry`.
    size: side of the window, pixels.

  Returns:
    uint8 [size, size, 3], rounded half up.
  """
  first = tf.cast(where.box[:2], tf.float32)
  translation = where.translation + first * where.scale

  def resample() -> tf.Tensor:
    pixels = tf.raw_ops.ScaleAndTranslate(
      images=region[tf.newaxis],
      size=[size, size],
      scale=tf.stack([where.scale, where.scale]),
      translation=translation,
      kernel_type='triangle',
      antialias=True,
    )[0]
    # A weighted mean of 0..255 cannot leave that range by half a level.
    return tf.cast(pixels + 0.5, tf.uint8)

  def cut() -> tf.Tensor:
    corner = tf.cast(-translation, tf.int32)
    return tf.slice(region, tf.concat([corner, [0]], 0), [size, size, 3])

  unscaled = tf.equal(where.scale, 1) & tf.reduce_all(
    tf.equal(translation, tf.floor(translation))
  )
  pixels = tf.cond(unscaled, cut, resample)
  return tf.ensure_shape(pixels, [size, size, 3])


def mirror(image: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
  """Mirrors an image [h, w, c] left to right where `flip` (bool) is true."""
  return tf.cond(flip, lambda: image[:, ::-1], lambda: image)
