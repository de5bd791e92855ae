"""Encoded images to RGB: a fast TensorFlow path with a Pillow fallback.

`native_square` runs in the pipeline's graph and decodes what nearly every file
is: a gray or color JPEG, or an opaque 8-bit gray or RGB PNG. It fails on any
other file and on any sign of damage. Then `square`, outside the graph, decodes
whatever Pillow can read, with the same pixels where both can, or raises
`UnreadableError` with the reason. Damage never silently becomes gray or black
pixels, as far as the format can tell; docs/image_files.md lists the limits.
"""

import functools
import io
import struct
from typing import NamedTuple
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps
from PIL import UnidentifiedImageError
import simplejpeg
import tensorflow as tf

from alexnet_jax.input_pipeline import preprocessing

# The default of `Options.max_pixels`, which is the limit of all formats alike.
MAX_PIXELS = 2**28
Image.MAX_IMAGE_PIXELS = None

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'
# The signature, then the length and name of the first chunk (PNG, 5.2, 11.2).
_PNG_START = b'\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR'
# Bit depth and color type: 8-bit gray, 8-bit RGB.
_PNG_PLAIN = [b'\x08\x00', b'\x08\x02']
# libjpeg fills missing pixels with this.
_JPEG_FILL = 128
# A run of zero bytes at least twice as long as this is detected.
_GAP = 32
_SCAN = b'\xff\xda'  # The marker before a JPEG's data.
_NEAR = 2**15  # Bytes from zeros in the headers to that marker, at most.
# EXIF's orientation tag with a value of 2 to 8, in either byte order.
_TURNED = (
  r'(?:\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00'
  r'|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08])'
)


class UnreadableError(Exception):
  """The bytes do not hold a whole image."""


class Options(NamedTuple):
  """How images are decoded.

  Attributes:
    image_size: side of the central square, pixels.
    max_pixels: larger images are not decoded.
    upright: whether to apply the EXIF orientation.
  """

  image_size: int
  max_pixels: int = MAX_PIXELS
  upright: bool = False


def native_square(encoded: tf.Tensor, options: Options) -> tf.Tensor:
  """Decodes and resamples the central square, in a graph.

  Args:
    encoded: string scalar, the file.
    options: how.

  Returns:
    float32 [image_size, image_size, 3], see `preprocessing.rounded`. Fails with
    `tf.errors.InvalidArgumentError` on files that are left to `square`.
  """
  start = tf.strings.substr(encoded, 0, len(_JPEG_START))
  pixels = tf.cond(
    tf.equal(start, _JPEG_START),
    lambda: _jpeg_square(encoded, options),
    # Not `rarely`: TensorFlow would log every file that it refuses.
    lambda: _png_square(encoded, options),
  )
  return preprocessing.resample(pixels, options.image_size)


def _jpeg_square(encoded: tf.Tensor, options: Options) -> tf.Tensor:
  whole = tf.equal(tf.strings.substr(encoded, -2, 2), _JPEG_END)
  plain = whole & ~_has_gap(encoded)
  if options.upright:
    plain &= ~_is_turned(tf.strings.substr(encoded, 0, 2**16))
  shape = tf.io.extract_jpeg_shape(encoded)
  plain &= (shape[2] <= 3) & _is_allowed(shape, options)
  with tf.control_dependencies([_check(plain, 'not a plain JPEG')]):
    pixels = decode_jpeg(encoded, shape, options.image_size)
  filled = tf.reduce_all(tf.equal(pixels[-2:, -2:], _JPEG_FILL))
  with tf.control_dependencies([_check(~filled, 'it may end early')]):
    return tf.identity(pixels)


def decode_jpeg(
  encoded: tf.Tensor, shape: tf.Tensor, image_size: int
) -> tf.Tensor:
  """Decodes the central square of a JPEG, reduced if it is large.

  At 1/2, 1/4 or 1/8 of the size only low frequencies are decoded, which is
  faster. At full size the accurate inverse transform gives Pillow's pixels bit
  by bit; TensorFlow's default is darker by 0.8 gray levels on average, and no
  faster.

  Args:
    encoded: string scalar.
    shape: int32 [3], height, width and channels of the image.
    image_size: side, pixels, that the square will be resampled to.

  Returns:
    uint8 [side, side, 3], less than twice `image_size` a side.
  """
  side = tf.reduce_min(shape[:2])

  def center() -> tf.Tensor:
    box = tf.concat([(shape[:2] - side) // 2, [side, side]], 0)
    return tf.io.decode_and_crop_jpeg(
      encoded, box, channels=3, dct_method='INTEGER_ACCURATE'
    )

  def at(ratio: int) -> tf.Tensor:
    image = tf.io.decode_jpeg(
      encoded, channels=3, ratio=ratio, dct_method='INTEGER_ACCURATE'
    )
    image = preprocessing.central_square(image)
    return preprocessing.reduce(image, image_size)

  def reduced() -> tf.Tensor:
    power = tf.reduce_sum(
      tf.cast(side >= [4 * image_size, 8 * image_size], tf.int32)
    )
    return tf.switch_case(
      power, [functools.partial(at, ratio) for ratio in (2, 4, 8)]
    )

  return tf.cond(side < 2 * image_size, center, preprocessing.rarely(reduced))


def _png_square(encoded: tf.Tensor, options: Options) -> tf.Tensor:
  """Decodes an opaque PNG; libpng itself detects all damage."""
  start = tf.strings.substr(encoded, 0, len(_PNG_START))
  depth_and_color = tf.strings.substr(encoded, 24, 2)
  plain = tf.reduce_any(tf.equal(depth_and_color, _PNG_PLAIN))
  plain &= tf.equal(start, _PNG_START)
  # A tRNS chunk makes one color transparent.
  plain &= ~tf.strings.regex_full_match(encoded, r'\C*tRNS\C*')
  if options.upright:
    plain &= ~_is_turned(encoded)
  with tf.control_dependencies([_check(plain, 'neither JPEG nor plain PNG')]):
    sizes = tf.io.decode_raw(
      tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False
    )
  check = _check(_is_allowed(sizes, options), 'too many pixels')
  with tf.control_dependencies([check]):
    image = tf.io.decode_png(encoded, channels=3)
  image = preprocessing.central_square(image)
  return preprocessing.reduce(image, options.image_size)


def _check(condition: tf.Tensor, message: str) -> tf.Operation:
  # tf.debugging.Assert would add a branch to every image.
  return tf.raw_ops.Assert(condition=condition, data=[message])


def _is_allowed(shape: tf.Tensor, options: Options) -> tf.Tensor:
  sides = tf.cast(shape, tf.int64)
  return sides[0] * sides[1] <= options.max_pixels


def _has_gap(encoded: tf.Tensor) -> tf.Tensor:
  """Returns whether the last scan of a JPEG has a long run of zero bytes.

  A block of the file that was never written looks like this, but the data of a
  flat image may too.
  """
  whole = tf.strings.length(encoded) // _GAP * _GAP
  words = tf.io.decode_raw(tf.strings.substr(encoded, 0, whole), tf.int64)
  zeros = tf.equal(tf.reshape(words, [-1, _GAP // 8])[:, 0], 0)

  def in_data() -> tf.Tensor:
    # A third of all files have zeros in a color profile in their headers. The
    # data, which contain no marker, start soon after it.
    last = tf.where(zeros)[-1, 0] * _GAP
    behind = tf.io.decode_raw(tf.strings.substr(encoded, last, _NEAR), tf.uint8)
    scan = tf.equal(behind[:-1], _SCAN[0]) & tf.equal(behind[1:], _SCAN[1])
    return ~tf.reduce_any(scan)

  found = tf.reduce_any(zeros)
  return tf.cond(found, preprocessing.rarely(in_data), lambda: found)


def _is_turned(encoded: tf.Tensor) -> tf.Tensor:
  """Returns whether the bytes may have an EXIF orientation other than 1."""
  return tf.strings.regex_full_match(encoded, rf'\C*{_TURNED}\C*')


def square(encoded: bytes, options: Options) -> np.ndarray:
  """Decodes anything that Pillow can read.

  Gray, palette, CMYK and YCCK become RGB; 16-bit gray is scaled to 8 bits, not
  clipped; transparent pixels become white; an animation is its first frame.

  Args:
    encoded: the file.
    options: how.

  Returns:
    The resampled central square, uint8 [image_size, image_size, 3].

  Raises:
    UnreadableError: when the bytes are not a whole image, or one too large.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      _check_pixels(image, options)
      pixels = _decode(image, encoded, options)
  except UnidentifiedImageError as error:
    raise UnreadableError('no image format that Pillow knows') from error
  except UnreadableError:
    raise
  # Pillow raises OSError, SyntaxError, ValueError, struct.error, EOFError and
  # others on damaged files.
  except Exception as error:
    raise UnreadableError(str(error) or type(error).__name__) from error
  resampled = preprocessing.square(pixels, options.image_size)
  return preprocessing.rounded(resampled).numpy()


def _check_pixels(image: Image.Image, options: Options) -> None:
  width, height = image.size
  if width * height > options.max_pixels:
    raise UnreadableError(
      f'{width}x{height} are {width * height:,} pixels, more than'
      f' {options.max_pixels:,}: raise --config.data.max_pixels to read it'
    )


def _decode(image: Image.Image, encoded: bytes, options: Options) -> tf.Tensor:
  """Returns uint8 [h, w, 3]; h and w reduced where the format allows."""
  turned = options.upright and _orientation(image) in range(2, 9)
  if image.format == 'JPEG':
    _check_jpeg(encoded)
    if not turned and image.mode in ('L', 'RGB'):
      # It only looked damaged: decode as in the graph.
      shape = tf.constant([image.height, image.width])
      return decode_jpeg(tf.constant(encoded), shape, options.image_size)
    if turned or min(image.size) >= 16 * options.image_size:
      _draft(image, options.image_size)
  if image.format == 'PNG':
    _check_png(encoded)
  if turned:
    image = ImageOps.exif_transpose(image)
  return tf.constant(_to_rgb(image))


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(0x0112, 1)
  except (OSError, SyntaxError, ValueError, struct.error):
    return 1  # Upright. Damaged EXIF data does not make an image unreadable.


def _draft(image: Image.Image, image_size: int) -> None:
  """Makes Pillow decode a JPEG reduced, as `decode_jpeg` does."""
  side = min(image.size)
  ratio = max(r for r in (1, 2, 4, 8) if r == 1 or side >= r * image_size)
  image.draft(None, (image.width // ratio, image.height // ratio))


def _check_jpeg(encoded: bytes) -> None:
  """Raises if a JPEG's data are damaged, for which libjpeg only warns."""
  start, may_be_zeros = _parse_jpeg(encoded)
  gap = bytes(2 * _GAP) in encoded[start:]
  try:
    _, _, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    simplejpeg.decode_jpeg(
      encoded,
      colorspace='CMYK' if colorspace in ('CMYK', 'YCCK') else 'GRAY',
      min_height=1,  # At an eighth of the size: the pixels are not needed.
      min_width=1,
      strict=True,
    )
  except ValueError as error:
    # Other errors are limits of this decoder that Pillow may not have.
    damaged = str(error).startswith(('Corrupt JPEG data', 'Premature end'))
    # Cameras leave bytes between the data and the end marker, which is harmless
    # unless part of the data is missing.
    if 'extraneous bytes' in str(error):
      damaged = gap
    if damaged:
      raise UnreadableError(str(error)) from error
  if gap and not may_be_zeros:
    raise UnreadableError('a run of zero bytes in its data')


def _parse_jpeg(encoded: bytes) -> tuple[int, bool]:
  """Reads a JPEG's headers (ITU-T T.81, B and F.1.2.2).

  Returns:
    Where the data begin, and whether a flat area may be encoded as zero bits.
    In a sequential JPEG its blocks end at once, so this needs the first symbol
    of each AC table, whose code is all zeros, to be the end of a block.
  """
  position, may_be_zeros, sequential = 2, True, True
  while position + 4 <= len(encoded):
    marker, length = struct.unpack_from('>HH', encoded, position)
    first, position = position + 4, position + 2 + length
    if marker == 0xFFDA:  # `_SCAN`.
      break
    if marker in range(0xFFC2, 0xFFD0) and marker != 0xFFC4:
      sequential = False
    while marker == 0xFFC4 and first + 17 < position:
      is_ac, counts = encoded[first] >> 4, encoded[first + 1 : first + 17]
      may_be_zeros &= not is_ac or encoded[first + 17] == 0
      first += 17 + sum(counts)
  return position, may_be_zeros or not sequential


def _check_png(encoded: bytes) -> None:
  """Raises if a PNG lacks rows, which Pillow would leave black."""
  content, position = [], len(_PNG_START) - 8
  while position + 8 <= len(encoded):
    length, kind = struct.unpack_from('>I4s', encoded, position)
    if kind == b'IDAT':
      content.append(encoded[position + 8 : position + 8 + length])
    position += length + 12
  needed = _png_bytes(*struct.unpack_from('>IIBBxxB', encoded, 16))
  stream = zlib.decompressobj()
  # Not more than that: a small file can hold gigabytes of zeros.
  found = len(stream.decompress(b''.join(content), needed + 1))
  if found < needed:
    raise UnreadableError(f'{found:,} of {needed:,} bytes of its pixels')
  if found == needed and not stream.eof:
    raise UnreadableError('its pixels lack their checksum')


def _png_bytes(
  width: int, height: int, depth: int, color: int, interlaced: int
) -> int:
  """Returns the bytes of a PNG's pixels, uncompressed (PNG, 7.2 and 8)."""
  bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
  # First column and row, and steps, of the seven passes of Adam7.
  passes = [(0, 0, 1, 1)]
  if interlaced:
    passes = [
      (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
      (1, 0, 2, 2), (0, 1, 1, 2),
    ]  # fmt: skip
  sizes = [
    (len(range(x, width, dx)), len(range(y, height, dy)))
    for x, y, dx, dy in passes
  ]
  return sum(h * (1 + -(-w * bits // 8)) for w, h in sizes if w)


def _to_rgb(image: Image.Image) -> np.ndarray:
  image.load()  # Raises on a truncated file.
  if image.mode == 'F':
    raise UnreadableError('pixels are floating-point, of unknown range')
  if image.mode == 'I' or image.mode.startswith('I;16'):
    # Pillow's own conversion clips at 255. 257 = 65535 / 255.
    wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    gray = ((wide + 128) // 257).astype(np.uint8)
    return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
  if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or (
    'transparency' in image.info
  ):
    layer = image.convert('RGBA')
    white = Image.new('RGBA', layer.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, layer)
  return np.asarray(image.convert('RGB'))
