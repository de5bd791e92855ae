"""Section 5: the pixels that a prediction depends on."""

from collections.abc import Callable, Iterator
import functools
import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
from matplotlib import colors
import numpy as np

from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import subject as subjects
from alexnet_jax.analysis.report.subject import Subject

_RIGHT, _WRONG = 3, 3  # images
_SIDE = 256  # pixels of a picture, at most

Logits = Callable[[jax.Array], jax.Array]
# Of parameters, pixels [1, H, W, 3] and classes [1]: the derivative.
Gradient = Callable[[model.Params, np.ndarray, jax.Array], jax.Array]


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  blocks: list[page.Block] = []
  if subject.network.activation != 'relu':
    blocks.append(
      page.Note(
        'The guided gradient is defined for ReLUs only; this network'
        f' uses {subject.network.activation}.'
      )
    )
  patch, stride = patch_size(subject.crop_size)
  gradients = _gradients(subject)
  chosen = _choose(subject)
  images = subject.test_views(subject.scores.index[chosen])
  for number, (place, image) in enumerate(zip(chosen, images, strict=True), 1):
    blocks.append(_example(subject, gradients, number, int(place), image))
  blocks.append(
    page.Note(
      'The number next to a class is its probability. Occlusion: a square of'
      f' {patch} × {patch} pixels of the mean image slides over the image in'
      f" steps of {stride}. Red is where it lowers the class's probability,"
      ' blue where it raises it, relative to the largest change; the number'
      " beneath is the largest drop. Gradient: the derivative of the class's"
      ' logit with respect to each pixel, the largest of the three channels.'
      ' The guided gradient passes only positive signals back through each'
      ' rectified unit.'
    )
  )
  return page.Section(
    key='saliency',
    title='Saliency',
    paper='Paper, Section 6.1 (qualitative evaluations)',
    intro=(
      'The pixels that a prediction depends on: how its probability changes'
      ' when a part of the image is covered, and along which pixels the score'
      ' of the class rises fastest. The paper does not show such maps; they'
      ' have since become common.'
    ),
    blocks=tuple(blocks),
  )


def patch_size(crop_size: int) -> tuple[int, int]:
  """Returns side and stride of the occluding square: 1/5 and 1/20 of a crop."""
  return max(1, round(crop_size / 5)), max(1, round(crop_size / 20))


def _choose(subject: Subject) -> np.ndarray:
  """Returns places in the scores: images classified right, then wrong ones."""
  right = np.flatnonzero(~subject.scores.wrong)
  wrong = np.flatnonzero(subject.scores.wrong)
  return np.concatenate([
    right[subjects.choose(len(right), _RIGHT, seed=7)],
    wrong[subjects.choose(len(wrong), _WRONG, seed=8)],
  ])  # fmt: skip


def _example(
  subject: Subject,
  gradients: dict[str, Gradient],
  number: int,
  place: int,
  image: np.ndarray,
) -> page.Figure:
  """Shows an image and its maps for the predicted and the true class."""
  class_names = [names.shorten(name, 40) for name in subject.class_names]
  predicted = int(subject.scores.top[place, 0])
  truth = int(subject.scores.label[place])
  labels = list(dict.fromkeys((predicted, truth)))

  def probabilities(crops):
    return subject.probabilities(crops)[:, labels]

  fill = subject.mean if subject.mean.any() else image.mean(axis=(0, 1))
  drops = occlusion(probabilities, image, fill, *patch_size(subject.crop_size))
  panels = []
  for i, label in enumerate(labels):
    title = f'{class_names[label]}: {probabilities(image[None])[0, i]:.2f}'
    maps = _maps(subject, gradients, image, label, drops[..., i])
    for name, pixels, note in [(title, image, ''), *maps]:
      pixels = figures.resize(pixels, _SIDE)
      smooth = subject.crop_size > 100
      panels.append(
        figures.picture(pixels, title=name, note=note, smooth=smooth)
      )
  title = f'{class_names[truth]}, classified correctly'
  if predicted != truth:
    title = f'{class_names[truth]}, classified as {class_names[predicted]}'
  return page.Figure(
    f'saliency_{number}', title, tuple(panels), width=150, most=4
  )


def _maps(
  subject: Subject,
  gradients: dict[str, Gradient],
  image: np.ndarray,
  label: int,
  drops: np.ndarray,
) -> Iterator[tuple[str, np.ndarray, str]]:
  """Yields the name, the pixels and the note of each map for one class."""
  relative = drops / max(np.abs(drops).max(), 1e-9)
  pixels = overlay(
    image, relative, figures.COLORS['red'], figures.COLORS['blue']
  )
  yield 'Occlusion', pixels, f'largest drop {max(drops.max(), 0):.2g}'
  for name, compute in gradients.items():
    values = compute(subject.params, image[None], jnp.array([label]))
    strength = np.abs(np.asarray(values[0])).max(axis=-1)
    strength = strength / (np.quantile(strength, 0.99) or 1.0)
    orange = figures.COLORS['orange']
    yield name, overlay(image, strength, orange, orange), ''


def overlay(
  image: np.ndarray, values: np.ndarray, positive: str, negative: str
) -> np.ndarray:
  """Paints values over a faded gray image.

  Args:
    image: uint8 [H, W, 3].
    values: float [H, W]; 0 leaves the pixel gray, 1 and -1 cover it.
    positive: #rrggbb of values above 0.
    negative: of those below.

  Returns:
    uint8 [H, W, 3].
  """
  faded = (55 + 0.6 * figures.to_gray(image))[..., None]
  strength = np.clip(np.abs(values), 0, 1)[..., None]
  above, below = (
    255 * np.array(colors.to_rgb(c)) for c in (positive, negative)
  )
  color = np.where(values[..., None] > 0, above, below)
  return (faded * (1 - strength) + color * strength + 0.5).astype(np.uint8)


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

  A square of the fill slides over the image. A pixel's value is the mean, over
  the squares that cover it, of the probability of the whole image minus that
  with the square (Zeiler and Fergus, 2014).

  Args:
    probabilities: of crops [N, H, W, 3], any N, to float [N, classes].
    image: uint8 [H, W, 3].
    fill: [H, W, 3] or [3], what the square shows; 0..255.
    patch: side of the square, pixels.
    stride: pixels between squares.

  Returns:
    float [H, W, classes]; negative where covering raises the probability.
  """
  height, width, _ = image.shape
  corners = itertools.product(
    patch_places(height, patch, stride), patch_places(width, patch, stride)
  )
  squares = []
  for y, x in corners:
    square = np.zeros((height, width, 1), bool)
    square[y : y + patch, x : x + patch] = True
    squares.append(square)
  covers = np.stack(squares)
  image = image.astype(np.float32)
  drops = probabilities(image[None]) - probabilities(
    np.where(covers, np.asarray(fill, np.float32), image)
  )
  return np.tensordot(covers[..., 0], drops, (0, 0)) / covers.sum(axis=0)


def _gradients(subject: Subject) -> dict[str, Gradient]:
  def compiled(change: Callable[[Logits], Logits]) -> Gradient:
    def compute(params, crops, classes):
      logits = change(functools.partial(subject.logits, params))
      return gradient(logits, subject.to_input(crops), classes)

    return jax.jit(compute)

  found = {'Gradient': compiled(lambda logits: logits)}
  if subject.network.activation == 'relu':
    found['Guided gradient'] = compiled(guided)
  return found


def gradient(
  logits: Logits, inputs: jax.Array, classes: jax.Array
) -> jax.Array:
  """Returns the derivative of a class's logit with respect to each input.

  Args:
    logits: of inputs to float32 [N, classes].
    inputs: float32 [N, H, W, 3].
    classes: int32 [N], one per image.

  Returns:
    float32 [N, H, W, 3].
  """

  def total(x):
    return jnp.take_along_axis(logits(x), classes[:, None], axis=1).sum()

  return jax.grad(total)(inputs)


@jax.custom_vjp
def guided_relu(x: jax.Array) -> jax.Array:
  """Rectifies; the gradient passes only where it and x are positive.

  dx = dy where x > 0 and dy > 0, else 0: the guided backpropagation of
  Springenberg, Dosovitskiy, Brox and Riedmiller (2014).
  """
  return jnp.maximum(x, 0)


guided_relu.defvjp(
  lambda x: (guided_relu(x), x),
  lambda x, dy: (jnp.where(x > 0, jnp.maximum(dy, 0), 0),),
)


def guided(logits: Logits) -> Logits:
  """Returns the same function with `guided_relu` for each activation.

  Only activations that `model.Stage` applies are replaced.
  """

  def intercept(call, args, kwargs, context):
    if context.method_name == '_apply' and args[0] == 'activation':
      return guided_relu(args[2])
    return call(*args, **kwargs)

  def changed(inputs):
    with nn.intercept_methods(intercept):
      return logits(inputs)

  return changed
