"""Geometry and color of one image (Sections 2 and 4.1 of the paper).

An image's central square is resampled to `image_size` pixels per side: the same
as scaling its shorter side and keeping the center, without the work on what is
cut away. A crop is a window of that square, bit by bit.

`displace`, if it is used, comes before the crop; `random_crop`, `random_flip`
and `pca_lighting` follow. Each takes one image or a batch, and a *seed*: a row
of random words of one example in one epoch, drawn by `pipeline.epoch_tables`.
Each function uses its own words; those of the crop and the flip together are
also the key of the warp's own numbers.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Words of a seed: the crop's position, the flip, three normals of the lighting.
SEED_WORDS = 5
_CROP, _FLIP, _LIGHTING = 0, 1, slice(2, 5)


class Augmentation(NamedTuple):
  """How training images are varied (Section 4.1).

  Attributes:
    displacement: alpha of `displace`; 0 for no warp, as in the paper.
    displacement_sigma: sigma of `displace`.
    crop_size: side C of the crop, pixels.
    random_crop: whether to draw crops; the center otherwise.
    flip: whether to mirror with probability 1/2.
    crop_chunk: 1 for a crop and flip per image (Section 4.1); 32 for one per 32
      consecutive places, as the 2012 code has it (convdata_jpeg.py, 238-246).
      The warp is shared likewise.
    lighting_scale: [3], from `lighting_scale`.
    eigenvectors: [3, 3], columns; see `pca_lighting`.
  """

  displacement: float
  displacement_sigma: float
  crop_size: int
  random_crop: bool
  flip: bool
  crop_chunk: int
  lighting_scale: np.ndarray
  eigenvectors: np.ndarray


def displace(
  image: tf.Tensor, seed: tf.Tensor, alpha: float, sigma: float
) -> tf.Tensor:
  """Warps an image smoothly and at random.

  A pixel takes its value from a place that is displaced down and to the right
  by fields of their own: uniform random numbers from [-1, 1], smoothed by a
  Gaussian and multiplied by alpha. Values between pixels are interpolated
  bilinearly, and those beyond the border are the border's.

  The random numbers go on beyond the border, so that displacements have the
  same distribution at every pixel: nearly normal, with a standard deviation of
  alpha / (2 sqrt(3 pi) sigma), 0.163 alpha / sigma.

  Args:
    image: uint8 [S, S, 3] or [N, S, S, 3].
    seed: uint32 [SEED_WORDS] or [N, SEED_WORDS].
    alpha: pixels, by which a mean of numbers from [-1, 1] is multiplied.
    sigma: standard deviation of the Gaussian, pixels.

  Returns:
    uint8, like `image`.

  Reference:
    Simard, Steinkraus, Platt: Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis (2003), Section 2.
  """
  if image.shape.rank == 4:
    # Random numbers are drawn from one key at a time.
    return tf.map_fn(
      lambda each: displace(each[0], each[1], alpha, sigma),
      (image, seed),
      fn_output_signature=tf.TensorSpec(image.shape[1:], tf.uint8),
    )
  return _moved(image, displacements(seed, _side(image), alpha, sigma))


def displacements(
  seed: tf.Tensor, side: int, alpha: float, sigma: float
) -> tf.Tensor:
  """Draws the fields of `displace`.

  Args:
    seed: uint32 [SEED_WORDS].
    side: S of the image, pixels.
    alpha: see `displace`.
    sigma: see `displace`.

  Returns:
    float32 [2, S, S], pixels down and to the right.
  """
  blur = _gaussian(side, sigma)
  key = tf.cast(tf.stack([seed[_CROP], seed[_FLIP]]), tf.int64)
  drawn = tf.random.stateless_uniform(
    [2, blur.shape[1], blur.shape[1]], key, -1.0, 1.0, alg='philox'
  )
  # As products of matrices: 12 to 30 times as fast as convolutions here.
  smooth = tf.matmul(blur, tf.matmul(drawn, blur, transpose_b=True))
  return np.float32(alpha) * smooth


@functools.cache
def _gaussian(side: int, sigma: float) -> np.ndarray:
  """Returns the weights of a Gaussian, one row per pixel of an axis.

  Three standard deviations to both sides; rows add up to 1.

  Returns:
    float32 [side, side + 2 ceil(3 sigma)].
  """
  reach = math.ceil(3 * sigma)
  weights = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
  rows = np.zeros((side, side + 2 * reach))
  for row in range(side):
    rows[row, row : row + 2 * reach + 1] = weights / weights.sum()
  return rows.astype(np.float32)


def _moved(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
  """Reads each pixel from a displaced place.

  Args:
    image: uint8 [S, S, 3].
    shift: float32 [2, S, S], pixels down and to the right.

  Returns:
    uint8 [S, S, 3].
  """
  side = _side(image)
  pixels = np.mgrid[:side, :side].astype(np.float32)
  places = tf.clip_by_value(shift + pixels, 0, side - 1)
  whole = tf.cast(places, tf.int32)
  down, right = tf.unstack((places - tf.cast(whole, tf.float32))[..., None])
  top, left = tf.unstack(whole)
  bottom = tf.minimum(top + 1, side - 1)
  beside = tf.minimum(left + 1, side - 1)
  values = tf.reshape(tf.cast(image, tf.float32), [side**2, 3])

  def in_row(row: tf.Tensor) -> tf.Tensor:
    start = tf.gather(values, row * side + left)
    return start + right * (tf.gather(values, row * side + beside) - start)

  above = in_row(top)
  return rounded(above + down * (in_row(bottom) - above))


def random_crop(image: tf.Tensor, seed: tf.Tensor, crop_size: int) -> tf.Tensor:
  """Cuts out a window at a uniformly random position (Section 4.1).

  All (S - crop_size + 1)**2 positions are possible: 33 x 33 in the 2012 code,
  where the paper counts 32 x 32. They are equally likely to one part in 2**32 /
  (S - crop_size + 1)**2, four million for the paper's sizes.

  Args:
    image: [S, S, 3] or [N, S, S, 3].
    seed: uint32 [SEED_WORDS] or [N, SEED_WORDS].
    crop_size: side of the window, pixels.

  Returns:
    [crop_size, crop_size, 3] or [N, crop_size, crop_size, 3].
  """
  positions = _side(image) - crop_size + 1
  scaled = tf.cast(seed[..., _CROP], tf.uint64) * positions**2
  position = tf.cast(tf.bitwise.right_shift(scaled, 32), tf.int32)
  top = position // positions
  return _window(image, top, position - top * positions, crop_size)


def center_crop(image: tf.Tensor, crop_size: int) -> tf.Tensor:
  """Cuts the central window out of images [..., S, S, 3]."""
  start = (_side(image) - crop_size) // 2
  end = start + crop_size
  return image[..., start:end, start:end, :]


def _side(image: tf.Tensor) -> int:
  side = image.shape[-2]
  assert side is not None
  return side


def _window(
  image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, size: int
) -> tf.Tensor:
  if image.shape.rank == 3:
    return tf.slice(image, tf.stack([top, left, 0]), [size, size, 3])
  rows = top[:, tf.newaxis] + tf.range(size)
  columns = left[:, tf.newaxis] + tf.range(size)
  return tf.gather(
    tf.gather(image, rows, batch_dims=1), columns, axis=2, batch_dims=1
  )


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Mirrors an image left to right with probability 1/2 (Section 4.1).

  Args:
    image: uint8 [S, S, 3] or [N, S, S, 3].
    seed: uint32 [SEED_WORDS] or [N, SEED_WORDS].
  """
  flip = tf.equal(tf.bitwise.bitwise_and(seed[..., _FLIP], 1), 1)
  if image.shape.rank == 3:
    return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
  return tf.where(flip[:, None, None, None], tf.reverse(image, [2]), image)


def pca_lighting(
  seed: tf.Tensor, scale: np.ndarray, eigenvectors: np.ndarray
) -> tf.Tensor:
  """Draws the color to add to every pixel of an image (Section 4.1).

  [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T with a ~ N(0, 1). The pixels stay uint8,
  a quarter of the bytes of floats; the device multiplies the three floats by
  the paper's 0.1, which follows a schedule, and adds them (`views.to_input`).

  Args:
    seed: uint32 [SEED_WORDS] or [N, SEED_WORDS].
    scale: [3], the l's, from `lighting_scale`.
    eigenvectors: [3, 3], one principal component p per column.

  Returns:
    float32 [3] or [N, 3], RGB in 0..255 units.
  """
  uniform = (tf.cast(seed[..., _LIGHTING], tf.float64) + 0.5) / 2**32
  normal = tf.math.ndtri(uniform)  # The inverse of the normal distribution.
  projection = np.asarray(eigenvectors, np.float64) * np.asarray(scale)
  shift = tf.reduce_sum(normal[..., tf.newaxis, :] * projection, axis=-1)
  return tf.cast(shift, tf.float32)


def lighting_scale(stdevs: np.ndarray, variant: str) -> np.ndarray:
  """Returns how far one unit of a moves the color: float64 [3], 0..255 units.

  Args:
    stdevs: [3], standard deviations along the principal components of RGB, in
      0..255 units.
    variant: 'cuda_convnet' takes the standard deviations (2012 code,
      convdata_jpeg.py, 57-66). 'paper' takes eigenvalues, as Section 4.1 is
      written: those of pixels on 0..1, (stdev / 255)**2, times 255 for 0..255
      units. 'none' is no lighting.

  Raises:
    ValueError: for another variant.
  """
  stdevs = np.asarray(stdevs, np.float64)
  if variant == 'cuda_convnet':
    return stdevs
  if variant == 'paper':
    return stdevs**2 / 255
  if variant == 'none':
    return np.zeros(3)
  raise ValueError(
    f"variant {variant!r} is not 'cuda_convnet', 'paper' or 'none'"
  )


def square(image: tf.Tensor, image_size: int) -> tf.Tensor:
  """Returns the central square of pixels, resampled.

  Args:
    image: uint8 [h, w, 3].
    image_size: side of the result, pixels.

  Returns:
    [image_size, image_size, 3], uint8 where the image had this size already,
    float32 otherwise; see `rounded`.
  """
  if image.shape == (image_size, image_size, 3):
    return image
  return resample(reduce(central_square(image), image_size), image_size)


def rounded(image: tf.Tensor) -> tf.Tensor:
  """Returns pixels as uint8, rounded half up.

  Rounding a crop instead of the whole square saves a twentieth of the time.
  """
  if image.dtype == tf.uint8:
    return image
  # A weighted mean of 0..255 cannot leave that range by half a level.
  return tf.cast(image + 0.5, tf.uint8)


def central_square(image: tf.Tensor) -> tf.Tensor:
  """Cuts the largest central square out of an image uint8 [h, w, 3]."""
  shape = tf.shape(image)[:2]
  side = tf.reduce_min(shape)
  begin = tf.concat([(shape - side) // 2, [0]], 0)
  return tf.slice(image, begin, tf.stack([side, side, 3]))


def reduce(image: tf.Tensor, image_size: int) -> tf.Tensor:
  """Takes means of whole blocks while the shrinking is twofold or more.

  Then bilinear resampling, which reads four pixels for each of its own, skips
  none.

  Args:
    image: uint8 [side, side, 3].
    image_size: side, pixels, that the square will be resampled to.

  Returns:
    uint8 [side', side', 3], the same square where there is nothing to do.
  """
  side = tf.shape(image)[0]
  factor = tf.maximum(side // image_size, 1)

  def means() -> tf.Tensor:
    # Less than one block is left over at the far edges. One row of blocks at a
    # time, because floats take four times the memory.
    blocks = side // factor
    bands = tf.reshape(
      image[: blocks * factor, : blocks * factor],
      tf.stack([blocks, factor, blocks, factor, 3]),
    )
    return tf.map_fn(
      lambda band: tf.cast(
        tf.reduce_mean(tf.cast(band, tf.float32), [0, 2]) + 0.5, tf.uint8
      ),
      bands,
      parallel_iterations=1,
    )

  return tf.cond(factor > 1, rarely(means), lambda: image)


def rarely(branch: Callable[[], tf.Tensor]) -> Callable[[], tf.Tensor]:
  """Returns a branch of `tf.cond` that costs nothing where it is not taken.

  Otherwise its operations are inlined into the graph around it and visited for
  every image: 25 us for those that decode large JPEGs, as much as decoding an
  image of CIFAR-10. In eager mode the branch is returned as it is.
  """
  if tf.executing_eagerly():
    return branch
  return tf.function(
    branch, autograph=False, experimental_attributes={'_noinline': True}
  )


def resample(image: tf.Tensor, image_size: int) -> tf.Tensor:
  """Scales a square bilinearly.

  Args:
    image: uint8 [side, side, 3].
    image_size: side of the result, pixels.

  Returns:
    float32 [image_size, image_size, 3] on 0..255. A square of this size keeps
    its values exactly.
  """
  # As floats: the operation takes twice as long for uint8, to the same result.
  return tf.raw_ops.ResizeBilinear(
    images=tf.cast(image, tf.float32)[tf.newaxis],
    size=[image_size, image_size],
    half_pixel_centers=True,
  )[0]
