"""Both decoders: what each takes, and what neither may pass over."""

import functools
import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import preprocessing
from tests import input_pipeline_testing as testing

PIXELS = testing.smooth(0, 48, 72)
CENTER = np.s_[:, 12:60]


def native(encoded, image_size=48, **options):
  graph = native_graph(decoding.Options(image_size, **options))
  return graph(tf.constant(encoded)).numpy()


@functools.cache
def native_graph(options):
  return tf.function(
    lambda encoded: preprocessing.rounded(
      decoding.native_square(encoded, options)
    ),
    input_signature=[tf.TensorSpec([], tf.string)],
    autograph=False,
  )


def fallback(encoded, image_size=48, **options):
  return decoding.square(encoded, decoding.Options(image_size, **options))


def pixels_of(encoded):
  """Returns what the fallback makes of a whole square image."""
  with Image.open(io.BytesIO(encoded)) as image:
    size = min(image.size)
  return fallback(encoded, size)


def reference(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))


@pytest.mark.parametrize(
  'options', [{}, {'progressive': True}, {'quality': 20}]
)
def test_native_jpeg_equals_pillow_bit_by_bit(options):
  encoded = testing.encode(PIXELS, 'JPEG', **options)
  # What is cut away may have colored the outermost columns.
  np.testing.assert_array_equal(
    native(encoded)[:, 2:-2], reference(encoded)[CENTER][:, 2:-2]
  )


def test_native_takes_gray_jpeg_and_plain_png():
  for encoded in (
    testing.encode(PIXELS[..., 0], 'JPEG'),
    testing.encode(PIXELS[..., 0], 'PNG'),
    testing.encode(PIXELS, 'PNG'),
  ):
    np.testing.assert_array_equal(native(encoded), reference(encoded)[CENTER])


def generated_files():
  """Yields files of many kinds by name: modes, sizes and encoder options."""
  random = np.random.default_rng(0)
  kinds = itertools.product(
    ('RGB', 'L', 'RGBA', 'LA', 'P', '1', 'CMYK', 'I;16'),
    ('JPEG', 'PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'),
    range(3),
  )
  for number, (mode, kind, variant) in enumerate(kinds):
    shape = random.integers(40, 130, 2)
    pixels = testing.smooth(number, *shape)
    options = {}
    if kind == 'JPEG':
      options = {
        'progressive': bool(variant % 2),
        'subsampling': variant,
        'quality': int(random.integers(30, 96)),
        'optimize': bool(random.integers(2)),
        'restart_marker_blocks': int(random.integers(2)) * 3,
      }
    if kind == 'PNG' and variant and mode in ('RGB', 'L', 'P'):
      options = {'transparency': {'RGB': (1, 2, 3), 'L': 9, 'P': 0}[mode]}
    if mode == 'I;16':
      pixels, mode = pixels[..., 0].astype(np.uint16) * 257, ''
    try:
      encoded = testing.encode(pixels, kind, mode, **options)
    except (OSError, ValueError):
      continue  # The format has no such mode.
    yield f'{mode} {kind} {variant} {shape}', encoded


def test_both_paths_give_the_same_pixels_for_all_that_both_accept():
  accepted = 0
  for (name, encoded), size in itertools.product(
    generated_files(), (32, 40, 64)
  ):
    try:
      found = native(encoded, size)
    except tf.errors.InvalidArgumentError:
      continue
    np.testing.assert_array_equal(found, fallback(encoded, size), err_msg=name)
    accepted += 1
  assert accepted > 30


def test_the_fallback_equals_pillow():
  for name, encoded in generated_files():
    with Image.open(io.BytesIO(encoded)) as image:
      if 'transparency' in image.info or image.mode not in ('RGB', 'L', 'P'):
        continue
      side = min(image.size)
      left, top = (image.width - side) // 2, (image.height - side) // 2
      box = (left, top, left + side, top + side)
      expected = np.asarray(image.convert('RGB').crop(box))
    np.testing.assert_array_equal(
      fallback(encoded, side)[2:-2, 2:-2], expected[2:-2, 2:-2], err_msg=name
    )


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_a_transparent_color_of_a_png_becomes_white(mode):
  pixels = np.full((40, 40, 3), 90, np.uint8)
  pixels[10:20] = 200
  color = (200, 200, 200) if mode == 'RGB' else 200
  encoded = testing.encode(pixels, 'PNG', mode, transparency=color)
  with pytest.raises(tf.errors.InvalidArgumentError):
    native(encoded, 40)
  expected = np.where(pixels == 200, 255, pixels)
  np.testing.assert_array_equal(fallback(encoded, 40), expected)


def not_native():
  jpeg = testing.encode(PIXELS, 'JPEG')
  return {
    'cmyk': testing.encode(PIXELS, 'JPEG', 'CMYK'),
    'rgba': testing.encode(PIXELS, 'PNG', 'RGBA'),
    'palette': testing.encode(PIXELS, 'PNG', 'P'),
    '16-bit': testing.encode(PIXELS[..., 0].astype(np.uint16) * 257, 'PNG'),
    'gif': testing.encode(PIXELS, 'GIF'),
    'bmp': testing.encode(PIXELS, 'BMP'),
    'webp': testing.encode(PIXELS, 'WEBP'),
    'truncated jpeg': jpeg[: len(jpeg) // 2],
    'jpeg without end': jpeg[:-2],
    'empty': b'',
    'text': b'this is no image at all, but a line of text long enough',
  }


@pytest.mark.parametrize('name', not_native())
def test_native_refuses_all_else(name):
  with pytest.raises(tf.errors.InvalidArgumentError):
    native(not_native()[name])


def png_chunks(encoded):
  position = 8
  while position < len(encoded):
    length, kind = struct.unpack_from('>I4s', encoded, position)
    yield kind, encoded[position + 8 : position + 8 + length]
    position += length + 12


def png_of(chunks):
  content = b'\x89PNG\r\n\x1a\n'
  for kind, data in chunks:
    checksum = zlib.crc32(kind + data)
    content += struct.pack('>I', len(data)) + kind + data
    content += struct.pack('>I', checksum)
  return content


def damaged_files():
  """Returns files whose ends look right but whose pixels are not all there."""
  pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
  noisy = np.clip(testing.smooth(3, 90, 120) + pixels // 4, 0, 255)
  files = {}
  for name, options in (
    ('jpeg', {}),
    ('4:4:4', {'subsampling': 0}),
    ('optimized', {'optimize': True}),
    ('gray', {}),
  ):
    picture = noisy[..., 0] if name == 'gray' else noisy
    jpeg = testing.encode(picture.astype(np.uint8), 'JPEG', **options)
    third = len(jpeg) // 3
    for share in (0.4, 0.5, 0.7):
      end = int(share * len(jpeg))
      files[f'{share} of {name} and an end marker'] = jpeg[:end] + b'\xff\xd9'
    gap = bytes(third)
    files[f'{name} with a gap'] = jpeg[:third] + gap + jpeg[2 * third :]
  for mode in ('RGB', 'L', 'RGBA', 'P', '1'):
    png = testing.encode(noisy.astype(np.uint8), 'PNG', mode)
    raw = zlib.decompress(
      b''.join(data for kind, data in png_chunks(png) if kind == b'IDAT')
    )
    short = zlib.compress(raw[: len(raw) // 2])
    files[f'{mode} png with half its rows'] = png_of(
      (kind, short if kind == b'IDAT' else data)
      for kind, data in png_chunks(png)
    )
    files[f'half of a {mode} png and an end'] = png[: len(png) // 2] + png[-12:]
  for kind in ('GIF', 'BMP', 'TIFF', 'WEBP'):
    encoded = testing.encode(noisy.astype(np.uint8), kind)
    files[f'half of a {kind}'] = encoded[: len(encoded) // 2]
  return files


def test_a_png_is_decompressed_no_further_than_its_pixels():
  png = testing.encode(PIXELS, 'PNG', 'RGBA')

  def with_content(content):
    kept = [(kind, data) for kind, data in png_chunks(png) if kind != b'IDAT']
    return png_of([*kept[:-1], (b'IDAT', content), kept[-1]])

  raw = zlib.decompress(
    b''.join(data for kind, data in png_chunks(png) if kind == b'IDAT')
  )
  expected = fallback(png)
  np.testing.assert_array_equal(
    fallback(with_content(zlib.compress(raw))), expected
  )
  bomb = with_content(zlib.compress(raw + bytes(50_000_000)))
  tracemalloc.start()
  found = fallback(bomb)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  np.testing.assert_array_equal(found, expected)
  assert peak < 5_000_000
  with pytest.raises(decoding.UnreadableError, match='checksum'):
    fallback(with_content(zlib.compress(raw)[:-4]))


@pytest.mark.parametrize('size', [32, 60, 90])
def test_damage_is_noticed_by_both(size):
  for name, encoded in damaged_files().items():
    with pytest.raises(tf.errors.InvalidArgumentError):
      print(name, native(encoded, size).shape)
    with pytest.raises(decoding.UnreadableError):
      print(name, fallback(encoded, size).shape)


def test_damage_of_real_images_is_noticed():
  missed = []
  images = testing.imagenet_images(60)
  for number, (_, encoded) in enumerate(images):
    half = encoded[: len(encoded) // 2] + b'\xff\xd9'
    third, gap = len(encoded) // 3, len(encoded) // 10
    zeroed = encoded[:third] + bytes(gap) + encoded[third + gap :]
    for name, damaged in (('half', half), ('zeroed', zeroed)):
      with pytest.raises(tf.errors.InvalidArgumentError):
        native(damaged, 256)
      try:
        fallback(damaged, 256)
        missed.append((number, name))
      except decoding.UnreadableError:
        pass
  # A gap in a progressive file may by chance decode to as much as was lost.
  assert len(missed) <= 1


def test_real_images_are_rarely_suspected_and_never_refused():
  suspected = 0
  images = testing.imagenet_images(100)
  for _, encoded in images:
    expected = fallback(encoded, 256)
    try:
      np.testing.assert_array_equal(native(encoded, 256), expected)
    except tf.errors.InvalidArgumentError:
      suspected += 1
  assert suspected <= 3


def test_what_only_looks_damaged_is_decoded():
  # A flat gray picture has the color that libjpeg fills gaps with.
  gray = np.full((64, 64, 3), 128, np.uint8)
  encoded = testing.encode(gray, 'JPEG')
  with pytest.raises(tf.errors.InvalidArgumentError):
    native(encoded, 32)
  np.testing.assert_array_equal(fallback(encoded, 32), gray[:32, :32])
  # A flat area, compressed to zero bits.
  flat = testing.smooth(1, 400, 400).copy()
  flat[150:] = 255
  encoded = testing.encode(flat, 'JPEG', optimize=True, quality=95)
  assert np.abs(fallback(encoded, 400).astype(int) - flat).mean() < 2


def test_zeros_in_the_headers_are_no_damage():
  plain = testing.encode(PIXELS, 'JPEG')
  profile = bytes(4000) + b'x' * 3000 + bytes(100)
  encoded = testing.encode(PIXELS, 'JPEG', icc_profile=profile)
  np.testing.assert_array_equal(native(encoded), native(plain))
  with pytest.raises(tf.errors.InvalidArgumentError):
    native(encoded[:-300] + bytes(80) + encoded[-220:])


def test_bytes_before_the_end_marker_are_harmless():
  encoded = testing.encode(PIXELS, 'JPEG')
  padded = encoded[:-2] + b'\x17' * 9 + encoded[-2:]
  np.testing.assert_array_equal(native(padded), native(encoded))
  np.testing.assert_array_equal(fallback(padded), fallback(encoded))


@pytest.mark.parametrize(
  ('image_size', 'side'),
  [(257, 512), (256, 256), (129, 256), (128, 128), (64, 64), (33, 64)],
)
def test_large_jpegs_are_decoded_reduced(image_size, side):
  pixels = testing.smooth(3, 512, 640)
  encoded = tf.constant(testing.encode(pixels, 'JPEG', quality=95))
  shape = tf.io.extract_jpeg_shape(encoded)
  decoded = decoding.decode_jpeg(encoded, shape, image_size).numpy()
  assert decoded.shape == (side, side, 3)
  factor = 512 // side
  blocks = pixels[:, 64:576].reshape(side, factor, side, factor, 3)
  assert np.abs(decoded - blocks.mean((1, 3))).mean() < 1.5


def test_what_is_large_at_an_eighth_is_reduced_further():
  pixels = testing.smooth(3, 512, 640)
  encoded = testing.encode(pixels, 'JPEG', quality=95)
  blocks = pixels[:, 64:576].reshape(16, 32, 16, 32, 3).mean((1, 3))
  for mode in ('RGB', 'CMYK'):
    encoded = testing.encode(pixels, 'JPEG', mode, quality=95)
    decode = native if mode == 'RGB' else fallback
    assert np.abs(decode(encoded, 16) - blocks).mean() < 2


def test_large_pngs_are_reduced():
  pixels = testing.smooth(3, 512, 640)
  decoded = native(testing.encode(pixels, 'PNG'), 64)
  blocks = pixels[:, 64:576].reshape(64, 8, 64, 8, 3).mean((1, 3))
  assert np.abs(decoded - blocks).max() <= 0.51


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'WEBP', 'TIFF', 'GIF'])
def test_one_limit_of_pixels_for_all(kind):
  encoded = testing.encode(PIXELS, kind)
  assert fallback(encoded, max_pixels=48 * 72).shape == (48, 48, 3)
  if kind in ('JPEG', 'PNG'):
    assert native(encoded, max_pixels=48 * 72).shape == (48, 48, 3)
  with pytest.raises(tf.errors.InvalidArgumentError):
    native(encoded, max_pixels=48 * 72 - 1)
  with pytest.raises(
    decoding.UnreadableError, match=r'72x48 .* 3,456 .* 3,455: .*max_pixels'
  ):
    fallback(encoded, max_pixels=48 * 72 - 1)


def test_a_huge_jpeg_is_decoded_reduced():
  # 196 million pixels; Pillow would warn from 89 million on, and refuse 179.
  gray = np.full((14_000, 14_000), 77, np.uint8)
  encoded = testing.encode(gray, 'JPEG')
  assert (native(encoded, 64) == 77).all()
  assert (fallback(encoded, 64) == 77).all()


def upright_and_turned(kind, orientation):
  """Returns files of one picture: as it is, and turned with EXIF."""
  back = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
  }  # fmt: skip
  upright = Image.fromarray(testing.smooth(5, 60, 60))
  exif = Image.Exif()
  exif[0x0112] = orientation
  turned = upright.transpose(back[orientation])
  files = []
  for image, options in ((upright, {}), (turned, {'exif': exif})):
    if kind == 'JPEG':
      options |= {'quality': 95, 'subsampling': 0}
    if kind == 'WEBP':
      options |= {'lossless': True}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    files.append(buffer.getvalue())
  return files


@pytest.mark.parametrize('orientation', range(2, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_orientation_is_undone_where_asked_for(kind, orientation):
  upright, turned = upright_and_turned(kind, orientation)
  expected = fallback(upright, 60, upright=True).astype(int)
  found = fallback(turned, 60, upright=True)
  # JPEG's rounding is not the same in all directions.
  assert np.abs(found - expected).mean() < 2
  # Pillow turns a TIFF, whose own tag this is, in any case.
  if kind != 'TIFF':
    assert np.abs(fallback(turned, 60) - expected).mean() > 10
  if kind in ('JPEG', 'PNG'):
    native(upright, 60, upright=True)
    native(turned, 60)
    with pytest.raises(tf.errors.InvalidArgumentError):
      native(turned, 60, upright=True)


@pytest.mark.parametrize(
  'name', ['truncated jpeg', 'jpeg without end', 'empty', 'text']
)
def test_the_fallback_refuses_what_is_no_whole_image(name):
  with pytest.raises(decoding.UnreadableError):
    fallback(not_native()[name])


@pytest.mark.parametrize('name', ['bmp', 'rgba'])
def test_the_fallback_is_exact_where_nothing_is_lost(name):
  square = fallback(not_native()[name])
  assert square.dtype == np.uint8
  np.testing.assert_array_equal(square, PIXELS[CENTER])


@pytest.mark.parametrize('name', ['cmyk', 'palette', 'gif', 'webp'])
def test_the_fallback_is_close_where_the_format_loses(name):
  square = fallback(not_native()[name]).astype(int)
  # A wrong conversion, such as inverted CMYK, is off by 60 and more.
  assert np.abs(square - PIXELS[CENTER]).mean() < 20


@pytest.mark.parametrize(
  ('value', 'expected'),
  [(65535, 255), (257, 1), (32768, 128), (128, 0), (129, 1)],
)
def test_16_bit_is_scaled_not_clipped(value, expected):
  encoded = testing.encode(np.full((4, 4), value, np.uint16), 'PNG')
  pixels = pixels_of(encoded)
  assert pixels.shape == (4, 4, 3)
  assert (pixels == expected).all()


def test_what_is_transparent_becomes_white():
  rgba = np.zeros((2, 2, 4), np.uint8)
  rgba[..., 0] = 100
  rgba[0, 0, 3], rgba[0, 1, 3] = 255, 51
  pixels = pixels_of(testing.encode(rgba, 'PNG'))
  # 51 / 255 is a fifth: 100 / 5 + 255 * 4 / 5 = 224, 0 / 5 + 204.
  expected = [[[100, 0, 0], [224, 204, 204]], [[255] * 3, [255] * 3]]
  np.testing.assert_array_equal(pixels, expected)


def test_gray_with_alpha():
  gray = np.zeros((2, 2, 2), np.uint8)
  gray[..., 0], gray[0, :, 1] = 60, 255
  image = Image.merge(
    'LA', [Image.fromarray(gray[..., 0]), Image.fromarray(gray[..., 1])]
  )
  buffer = io.BytesIO()
  image.save(buffer, 'PNG')
  pixels = pixels_of(buffer.getvalue())
  np.testing.assert_array_equal(pixels[..., 1], [[60, 60], [255, 255]])


def test_first_frame_of_an_animation():
  frames = [
    Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)
  ]
  buffer = io.BytesIO()
  frames[0].save(buffer, 'GIF', save_all=True, append_images=frames[1:])
  assert (pixels_of(buffer.getvalue()) == 10).all()
