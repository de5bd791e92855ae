"""Which pixels matter: covering them, the gradient, and the guided gradient.

Pure functions of `logits(inputs)`, float32 [N, classes] of inputs
[N, H, W, 3], so that they are tested on functions whose answer is known.
"""

from collections.abc import Callable
import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Logits = Callable[[jax.Array], jax.Array]
_AT_ONCE = 128  # covered images in memory


def patch_places(side: int, patch: int, stride: int) -> np.ndarray:
  """Returns where patches begin on a side: steps of `stride`, to both ends."""
  last = side - patch
  return np.unique([*range(0, last, stride), last])


def occlusion(
  probabilities: Callable[[np.ndarray], np.ndarray],
  image: np.ndarray,
  fill: np.ndarray,
  patch: int,
  stride: int,
) -> np.ndarray:
  """Returns how much covering each pixel lowers each class's probability.

  A square of the fill slides over the image. A pixel's value is the mean over
  the squares that cover it of (probability of the whole image - probability
  with the square), after Zeiler and Fergus (2014).

  Args:
    probabilities: of crops [N, H, W, 3], any N, to float [N, classes].
    image: uint8 [H, W, 3].
    fill: [H, W, 3] or [3], what the square shows; gray levels.
    patch: side of the square, pixels.
    stride: pixels between squares.

  Returns:
    float64 [H, W, classes]; negative where covering makes a class likelier.
  """
  height, width, _ = image.shape
  fill = np.broadcast_to(np.asarray(fill), image.shape)
  corners = list(
    itertools.product(
      patch_places(height, patch, stride), patch_places(width, patch, stride)
    )
  )
  squares = [np.s_[y : y + patch, x : x + patch] for y, x in corners]
  image = image.astype(np.float32)
  whole = np.asarray(probabilities(image[None]), np.float64)[0]
  totals = np.zeros((height, width, len(whole)))
  counts = np.zeros((height, width, 1))
  for first in range(0, len(squares), _AT_ONCE):
    some = squares[first : first + _AT_ONCE]
    covered = np.repeat(image[None], len(some), axis=0)
    for one, square in zip(covered, some, strict=True):
      one[square] = fill[square]
    for square, left in zip(some, probabilities(covered), strict=True):
      totals[square] += whole - left
      counts[square] += 1
  return totals / counts


def gradient(
  logits: Logits, inputs: jax.Array, classes: jax.Array
) -> jax.Array:
  """Returns the derivative of a class's logit by each input.

  Args:
    logits: see above.
    inputs: float32 [N, H, W, 3].
    classes: int32 [N], one an image.

  Returns:
    float32 [N, H, W, 3].
  """

  def total(x):
    return jnp.take_along_axis(logits(x), classes[:, None], axis=1).sum()

  return jax.grad(total)(inputs)


@jax.custom_vjp
def guided_relu(x: jax.Array) -> jax.Array:
  """Rectifies; its gradient passes only what is positive on both sides.

  dx = dy where x > 0 and dy > 0, else 0: the guided backpropagation of
  Springenberg, Dosovitskiy, Brox and Riedmiller (2014).
  """
  return jnp.maximum(x, 0)


def _guided_fwd(x):
  return jnp.maximum(x, 0), x


def _guided_bwd(x, dy):
  return (jnp.where(x > 0, jnp.maximum(dy, 0), 0),)


guided_relu.defvjp(_guided_fwd, _guided_bwd)


def guided(logits: Logits) -> Logits:
  """Returns the same function with `guided_relu` for each Linen activation.

  It holds for functions that apply `model.Stage`, the network's only place of
  activations.
  """

  def intercept(call, args, kwargs, context):
    if context.method_name == '_apply' and args[0] == 'activation':
      return guided_relu(args[2])
    return call(*args, **kwargs)

  def changed(inputs):
    with nn.intercept_methods(intercept):
      return logits(inputs)

  return changed
