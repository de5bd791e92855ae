"""Tiles and color: from arrays to the pixels of a picture."""

import math

import numpy as np
from PIL import Image


def tile(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
  """Lays images out in rows, with nothing (transparent) between them.

  Args:
    images: uint8 [N, H, W, 3].
    columns: images a row.
    gap: pixels between them.

  Returns:
    uint8 [rows * (H + gap) - gap, columns * (W + gap) - gap, 4].
  """
  count, height, width, _ = images.shape
  rows = math.ceil(count / columns)
  shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 4)
  canvas = np.zeros(shape, np.uint8)
  for i, image in enumerate(images):
    row, column = divmod(i, columns)
    top, left = row * (height + gap), column * (width + gap)
    place = canvas[top : top + height, left : left + width]
    place[..., :3], place[..., 3] = image, 255
  return canvas


def resize(image: np.ndarray, side: int) -> np.ndarray:
  """Resizes to a square: large images smoothly, small ones in whole pixels.

  Args:
    image: uint8 [H, W, 3].
    side: in pixels. A small image becomes the nearest multiple not above it.

  Returns:
    uint8 [side', side', 3].
  """
  height, width = image.shape[:2]
  if max(height, width) > side:
    smooth = Image.fromarray(image).resize(
      (side, side), Image.Resampling.LANCZOS
    )
    return np.asarray(smooth)
  times = side // max(height, width)
  return image.repeat(times, axis=0).repeat(times, axis=1)


def frame(image: np.ndarray, color: str, width: int) -> np.ndarray:
  """Returns the image [H, W, 3] with its border painted in a #rrggbb color."""
  framed = image.copy()
  paint = rgb(color)
  for edge in (np.s_[:width], np.s_[-width:]):
    framed[edge] = paint
    framed[:, edge] = paint
  return framed


def rgb(color: str) -> np.ndarray:
  """Returns a #rrggbb color as uint8 [3]."""
  return np.frombuffer(bytes.fromhex(color[1:]), np.uint8)


def to_gray(images: np.ndarray) -> np.ndarray:
  """Returns the luminance of uint8 [..., 3] as float32 [...], 0..255.

  The weights are those of ITU-R BT.601, as in JPEG.
  """
  weights = np.array([0.299, 0.587, 0.114], np.float32)
  return images.astype(np.float32) @ weights


def overlay(
  image: np.ndarray, values: np.ndarray, positive: str, negative: str
) -> np.ndarray:
  """Paints values over a faded gray image.

  Args:
    image: uint8 [H, W, 3].
    values: float [H, W]; 0 leaves the pixel gray, 1 and -1 paint it whole.
    positive: #rrggbb of values above 0.
    negative: of those below.

  Returns:
    uint8 [H, W, 3].
  """
  faded = (55 + 0.6 * to_gray(image))[..., None]
  strength = np.clip(np.abs(values), 0, 1)[..., None]
  color = np.where(values[..., None] > 0, rgb(positive), rgb(negative))
  mixed = faded * (1 - strength) + color * strength
  return (mixed + 0.5).astype(np.uint8)


def spread(values: np.ndarray, high: float) -> np.ndarray:
  """Maps 0..high to gray levels uint8 [..., 3], black to white."""
  levels = np.clip(values / (high or 1.0), 0, 1)
  return (255 * levels[..., None] + 0.5).astype(np.uint8).repeat(3, axis=-1)
