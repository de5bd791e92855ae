import io

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from alexnet_jax.input_pipeline import decoding
from tests import input_pipeline_testing as testing

PIXELS = testing.smooth(0, 48, 72)


CENTRE = np.s_[:, 12:60]


def native(encoded, image_size=48):
  return decoding.native_square(tf.constant(encoded), image_size).numpy()


def patient_reference(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))


@pytest.mark.parametrize(
  'options', [{}, {'progressive': True}, {'quality': 20}]
)
def test_native_jpeg_equals_pillow_bit_by_bit(options):
  encoded = testing.encode(PIXELS, 'JPEG', **options)
  # What is cut away may have coloured the outermost columns.
  np.testing.assert_array_equal(
    native(encoded)[:, 2:-2], patient_reference(encoded)[CENTRE][:, 2:-2]
  )


def test_native_takes_grey_jpeg_and_plain_png():
  for encoded in (
    testing.encode(PIXELS[..., 0], 'JPEG'),
    testing.encode(PIXELS[..., 0], 'PNG'),
    testing.encode(PIXELS, 'PNG'),
  ):
    assert native(encoded).shape == (48, 48, 3)
    np.testing.assert_array_equal(
      native(encoded), patient_reference(encoded)[CENTRE]
    )


@pytest.mark.parametrize(
  ('image_size', 'side'),
  [(257, 512), (256, 256), (129, 256), (128, 128), (64, 64), (33, 64)],
)
def test_large_jpegs_are_decoded_reduced(image_size, side):
  pixels = testing.smooth(3, 512, 640)
  encoded = testing.encode(pixels, 'JPEG', quality=95)
  decoded = native(encoded, image_size)
  assert decoded.shape == (side, side, 3)
  factor = 512 // side
  blocks = pixels[:, 64:576].reshape(side, factor, side, factor, 3)
  assert np.abs(decoded - blocks.mean((1, 3))).mean() < 1.5


def test_jpegs_beyond_the_decoder_are_left_to_the_patient_path():
  encoded = testing.encode(PIXELS, 'JPEG')
  assert native(encoded, 4).shape == (6, 6, 3)
  with pytest.raises(tf.errors.InvalidArgumentError):
    native(encoded, 3)


def test_large_pngs_are_reduced():
  pixels = testing.smooth(3, 512, 640)
  decoded = native(testing.encode(pixels, 'PNG'), 64)
  blocks = pixels[:, 64:576].reshape(64, 8, 64, 8, 3).mean((1, 3))
  assert np.abs(decoded - blocks).max() <= 0.51


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


@pytest.mark.parametrize(
  'name', ['truncated jpeg', 'jpeg without end', 'empty', 'text']
)
def test_patient_refuses_what_is_no_whole_image(name):
  with pytest.raises(decoding.UnreadableError):
    decoding.patient_pixels(not_native()[name])


def test_patient_refuses_a_truncated_png():
  encoded = testing.encode(PIXELS, 'PNG')
  with pytest.raises(decoding.UnreadableError):
    decoding.patient_pixels(encoded[: len(encoded) // 2])


@pytest.mark.parametrize('name', ['bmp', 'rgba'])
def test_patient_is_exact_where_nothing_is_lost(name):
  pixels = decoding.patient_pixels(not_native()[name])
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, PIXELS)


@pytest.mark.parametrize('name', ['cmyk', 'palette', 'gif', 'webp'])
def test_patient_is_close_where_the_format_loses(name):
  pixels = decoding.patient_pixels(not_native()[name]).astype(int)
  # A wrong conversion, such as inverted CMYK, is off by 60 and more.
  assert np.abs(pixels - PIXELS).mean() < 20


@pytest.mark.parametrize(
  ('value', 'expected'),
  [(65535, 255), (257, 1), (32768, 128), (128, 0), (129, 1)],
)
def test_16_bit_is_scaled_not_clipped(value, expected):
  encoded = testing.encode(np.full((4, 5), value, np.uint16), 'PNG')
  pixels = decoding.patient_pixels(encoded)
  assert pixels.shape == (4, 5, 3)
  assert (pixels == expected).all()


def test_transparent_lies_on_white():
  rgba = np.zeros((2, 2, 4), np.uint8)
  rgba[..., 0] = 100
  rgba[0, 0, 3], rgba[0, 1, 3] = 255, 51
  pixels = decoding.patient_pixels(testing.encode(rgba, 'PNG'))
  # 51 / 255 is a fifth: 100 / 5 + 255 * 4 / 5 = 224, 0 / 5 + 204.
  expected = [[[100, 0, 0], [224, 204, 204]], [[255] * 3, [255] * 3]]
  np.testing.assert_array_equal(pixels, expected)


def test_grey_with_alpha():
  grey = np.zeros((2, 2, 2), np.uint8)
  grey[..., 0], grey[0, :, 1] = 60, 255
  image = Image.merge(
    'LA', [Image.fromarray(grey[..., 0]), Image.fromarray(grey[..., 1])]
  )
  buffer = io.BytesIO()
  image.save(buffer, 'PNG')
  pixels = decoding.patient_pixels(buffer.getvalue())
  np.testing.assert_array_equal(pixels[..., 1], [[60, 60], [255, 255]])


def test_first_frame_of_an_animation():
  frames = [
    Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)
  ]
  buffer = io.BytesIO()
  frames[0].save(buffer, 'GIF', save_all=True, append_images=frames[1:])
  assert (decoding.patient_pixels(buffer.getvalue()) == 10).all()
