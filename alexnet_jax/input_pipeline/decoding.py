"""Encoded images to RGB pixels: a fast path and a patient one.

The fast path runs inside TensorFlow and takes what nearly every file is: a
grey or colour JPEG, or an 8-bit grey or RGB PNG. Its operations fail on all
else. The patient path goes through Pillow and either converts properly or
raises `UnreadableError`: no file ever turns into grey pixels silently.
"""

import functools
import io

import numpy as np
from PIL import Image
from PIL import UnidentifiedImageError
import tensorflow as tf

from alexnet_jax.input_pipeline import preprocessing

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'
# The signature, then the length and name of the first chunk (PNG, 5.2, 11.2).
_PNG_START = b'\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR'
# Bit depth and colour type: 8-bit grey, 8-bit RGB.
_PNG_PLAIN = [b'\x08\x00', b'\x08\x02']


class UnreadableError(Exception):
  """The bytes do not hold a whole image."""


def native_square(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
  """Decodes the central square of what the fast path takes.

  Fails with `tf.errors.InvalidArgumentError` on everything else. A JPEG must
  end in its end marker: decoding its centre alone would miss that the rest of
  the file is gone.

  Args:
    encoded: string scalar.
    image_size: side, pixels, that the square will be resampled to.

  Returns:
    uint8 [side, side, 3], smaller than twice `image_size`.
  """
  start = tf.strings.substr(encoded, 0, len(_JPEG_START))
  return tf.cond(
    tf.equal(start, _JPEG_START),
    lambda: _jpeg_square(encoded, image_size),
    lambda: _png_square(encoded, image_size),
  )


def _jpeg_square(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
  """A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size.

  Its low frequencies are enough for that, and faster. The accurate inverse
  transform makes the pixels of all others equal to Pillow's bit by bit;
  TensorFlow's default is darker by 0.8 grey levels on average, and no faster.
  What would still be too large at 1/8 is left to the patient path.
  """
  shape = tf.io.extract_jpeg_shape(encoded)
  whole = tf.equal(tf.strings.substr(encoded, -2, 2), _JPEG_END)
  side = tf.reduce_min(shape[:2])
  plain = whole & (shape[2] <= 3) & (side < 16 * image_size)
  # The wrapper around this operation would add a branch to every image.
  check = tf.raw_ops.Assert(condition=plain, data=['not a plain JPEG'])

  def centre() -> tf.Tensor:
    box = tf.concat([(shape[:2] - side) // 2, [side, side]], 0)
    return tf.io.decode_and_crop_jpeg(
      encoded, box, channels=3, dct_method='INTEGER_ACCURATE'
    )

  def reduced(ratio: int) -> tf.Tensor:
    image = tf.io.decode_jpeg(
      encoded, channels=3, ratio=ratio, dct_method='INTEGER_ACCURATE'
    )
    return preprocessing.central_square(image)

  with tf.control_dependencies([check]):
    thresholds = [2 * image_size, 4 * image_size, 8 * image_size]
    power = tf.reduce_sum(tf.cast(side >= thresholds, tf.int32))
    branches = [functools.partial(reduced, ratio) for ratio in (2, 4, 8)]
    return tf.switch_case(power, [centre, *branches])


def _png_square(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
  start = tf.strings.substr(encoded, 0, len(_PNG_START))
  depth_and_color = tf.strings.substr(encoded, 24, 2)
  plain = tf.reduce_any(tf.equal(depth_and_color, _PNG_PLAIN))
  check = tf.raw_ops.Assert(
    condition=plain & tf.equal(start, _PNG_START),
    data=['neither a JPEG nor a plain PNG'],
  )
  with tf.control_dependencies([check]):
    image = tf.io.decode_png(encoded, channels=3)
  return preprocessing.reduce(preprocessing.central_square(image), image_size)


def patient_pixels(encoded: bytes) -> np.ndarray:
  """Decodes anything that Pillow can read to uint8 [h, w, 3].

  Grey, palette, CMYK and YCCK become RGB; 16-bit grey is scaled to 8, never
  clipped; what is transparent lies on white; of an animation the first frame.

  Raises:
    UnreadableError: when the bytes are no image, or not all of one.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return _to_rgb(image)
  except UnidentifiedImageError as error:
    raise UnreadableError('no image format that Pillow knows') from error
  # Pillow's readers let through whatever a broken file makes them trip over:
  # OSError, SyntaxError, ValueError, struct.error, EOFError and others.
  except Exception as error:
    raise UnreadableError(str(error) or type(error).__name__) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
  image.load()  # Raises on a truncated file.
  if image.mode == 'F':
    raise UnreadableError('pixels are floating-point, of unknown range')
  if image.mode == 'I' or image.mode.startswith('I;16'):
    # Pillow's own conversion clips at 255. 257 = 65535 / 255.
    wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    grey = ((wide + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
  if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or (
    'transparency' in image.info
  ):
    layer = image.convert('RGBA')
    white = Image.new('RGBA', layer.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, layer)
  return np.asarray(image.convert('RGB'))
