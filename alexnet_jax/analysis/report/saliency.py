"""Section 5: which pixels the answer rests on."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.analysis.report import attribution
from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report.subject import Subject

_RIGHT, _WRONG = 3, 3
_SIDE = 256  # pixels of a picture, at most


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  blocks: list[page.Block] = []
  if subject.network.activation != 'relu':
    blocks.append(
      page.Note(
        'The guided gradient is defined for rectified units only; this network'
        f' has {subject.network.activation}.'
      )
    )
  gradients = _gradients(subject)
  chosen = _choose(subject)
  examples = subject.read(subject.eval_source, subject.scores.index[chosen])
  for number, (place, image) in enumerate(
    zip(chosen, subject.center(examples.images), strict=True), 1
  ):
    blocks.append(_example(subject, gradients, number, place, image))
  blocks.append(page.Note(_method(*patch_size(subject.crop_size))))
  return page.Section(
    key='pixels',
    title='What pixels matter',
    paper='Paper, Section 6.1 (qualitative evaluations)',
    intro=(
      'Where an answer comes from: what happens when a part of the image is'
      ' covered, and along which pixels the score would change fastest. The'
      ' paper looks at answers and features only; these three maps have become'
      ' the usual way to look at pixels.'
    ),
    blocks=tuple(blocks),
  )


def patch_size(crop_size: int) -> tuple[int, int]:
  """Returns side and stride of the covering square: 1/5 and 1/20 of a crop."""
  return max(1, round(crop_size / 5)), max(1, round(crop_size / 20))


def _choose(subject: Subject) -> np.ndarray:
  """Returns places in the scores: images that are right, then wrong ones."""
  right = np.flatnonzero(~subject.scores.wrong)
  wrong = np.flatnonzero(subject.scores.wrong)
  return np.concatenate([
    right[samples.choose(len(right), _RIGHT, seed=7)],
    wrong[samples.choose(len(wrong), _WRONG, seed=8)],
  ])  # fmt: skip


def _example(subject, gradients, number, place, image) -> page.Figure:
  """Shows an image and, for the class it got and its own, the maps."""
  scores = subject.scores
  names = [plots.shorten(name, 40) for name in subject.class_names]
  said, truth = int(scores.top[place, 0]), int(scores.label[place])
  classes = [said] if said == truth else [said, truth]
  patch, stride = patch_size(subject.crop_size)
  fill = subject.mean if subject.mean.any() else image.mean(axis=(0, 1))
  covered = attribution.occlusion(
    subject.probabilities, image, fill, patch, stride
  )
  panels = []
  for label in classes:
    if label == said:
      title = f'{names[said]}: {scores.top_probability[place, 0]:.2f}'
    else:
      title = f'{names[truth]}: {scores.true_probability[place]:.2f}'
    panels += _row(subject, gradients, image, label, covered[..., label], title)
  verdict = 'recognized' if said == truth else f'taken for {names[said]}'
  return page.Figure(
    name=f'pixels_{number}',
    title=f'{names[truth]}, {verdict}',
    panels=tuple(panels),
    width=150,
    most=4,
  )


def _row(subject, gradients, image, label, covered, title) -> list[plots.Panel]:
  """Returns the image and its maps for one class."""

  def panel(pixels, title, note=''):
    return plots.picture(
      _enlarge(pixels),
      title=title,
      note=note,
      alt=title,
      smooth=subject.crop_size > 100,
    )

  largest = max(np.abs(covered).max(), 1e-9)
  over = mosaics.overlay(
    image, covered / largest, plots.COLORS['red'], plots.COLORS['blue']
  )
  panels = [
    panel(image, title),
    panel(over, 'Covered', f'loses up to {max(covered.max(), 0):.2g}'),
  ]
  for name, compute in gradients.items():
    values = compute(subject.params, image[None], jnp.array([label]))
    strength = np.abs(np.asarray(values[0])).max(axis=-1)
    high = np.quantile(strength, 0.99) or 1.0
    over = mosaics.overlay(
      image, strength / high, plots.COLORS['orange'], plots.COLORS['orange']
    )
    panels.append(panel(over, name))
  return panels


def _gradients(subject: Subject) -> dict[str, Callable[..., Any]]:
  """Returns (params, pixels, classes) -> derivative, by what it is called."""

  def compiled(change):
    def compute(params, crops, classes):
      logits = change(functools.partial(subject.logits, params))
      return attribution.gradient(logits, subject.to_input(crops), classes)

    return jax.jit(compute)

  found: dict[str, Callable[..., Any]] = {
    'Gradient': compiled(lambda logits: logits)
  }
  if subject.network.activation == 'relu':
    found['Guided gradient'] = compiled(attribution.guided)
  return found


def _enlarge(image: np.ndarray) -> np.ndarray:
  return mosaics.resize(image, _SIDE)


def _method(patch: int, stride: int) -> str:
  return (
    'The number by a class is its probability. Covered: a square of'
    f' {patch} × {patch} pixels of the mean image slides over the image in'
    f' steps of {stride}. Red is where covering lowers the'
    " class's probability, blue where it raises it, each relative to the"
    ' largest change; the number is the largest loss. Gradient: of the'
    " class's logit by the pixels, the largest of the three channels; the"
    ' guided gradient lets only positive signals back through each rectified'
    ' unit.'
  )
