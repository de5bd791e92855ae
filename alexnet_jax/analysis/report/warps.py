"""Images turned, shifted and scaled about their center; pure functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def rotation(degrees: float) -> np.ndarray:
  """Returns the map [2, 3] that turns what is seen counterclockwise."""
  angle = np.deg2rad(degrees)
  cosine, sine = np.cos(angle), np.sin(angle)
  return np.array([[cosine, sine, 0], [-sine, cosine, 0]], np.float32)


def shift(down: float, right: float) -> np.ndarray:
  """Returns the map [2, 3] that moves what is seen by so many pixels."""
  return np.array([[1, 0, -down], [0, 1, -right]], np.float32)


def scale(factor: float) -> np.ndarray:
  """Returns the map [2, 3] that shows everything `factor` times as large."""
  return np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]], np.float32)


@functools.partial(jax.jit, static_argnums=(3,))
def warp(
  images: jax.Array, matrix: jax.Array, fill: jax.Array, crop_size: int
) -> jax.Array:
  """Looks at images through a map of the plane; the center stays the center.

  The pixel of the crop at (y, x) from its center shows the image at
  matrix @ (y, x, 1) from the image's, between pixels linearly.

  Args:
    images: [N, S, S, 3], gray levels.
    matrix: float32 [2, 3], rows for (y, x).
    fill: float32 [crop_size, crop_size, 3] or [3], shown beyond the image.
    crop_size: side of the result, pixels.

  Returns:
    float32 [N, crop_size, crop_size, 3].
  """
  size = images.shape[1]
  # As `views.center_view` cuts: an odd margin is larger below and right.
  start = (size - crop_size) // 2
  middle = start + (crop_size - 1) / 2
  offsets = jnp.arange(crop_size) - (crop_size - 1) / 2
  y, x = jnp.meshgrid(offsets, offsets, indexing='ij')
  places = jnp.stack([y, x, jnp.ones_like(y)])
  places = jnp.tensordot(matrix, places, axes=1) + middle  # [2, crop, crop]
  # Rounding must not push the border's own pixels outside.
  inside = jnp.all((places > -0.01) & (places < size - 0.99), axis=0)
  flat = jnp.moveaxis(images.astype(jnp.float32), 0, -1)
  flat = flat.reshape(size, size, -1)  # every image's channels at one place
  seen = jax.vmap(
    lambda plane: jax.scipy.ndimage.map_coordinates(
      plane, list(places), order=1, mode='nearest'
    ),
    in_axes=-1,
    out_axes=-1,
  )(flat)
  seen = seen.reshape(crop_size, crop_size, 3, len(images))
  return jnp.where(inside[..., None], jnp.moveaxis(seen, -1, 0), fill)


def fade(images: np.ndarray, saturation: float) -> np.ndarray:
  """Takes color away: 1 leaves uint8 [..., 3] as it is, 0 leaves luminance.

  The weights of luminance are those of ITU-R BT.601, as in JPEG.

  Returns:
    float32 [..., 3].
  """
  images = images.astype(np.float32)
  gray = images @ np.array([0.299, 0.587, 0.114], np.float32)
  return gray[..., None] + saturation * (images - gray[..., None])
