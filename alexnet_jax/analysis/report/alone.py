"""What each tower says when it cannot hear the others."""

from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.analysis.report import cards
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report.subject import Subject


def silences(towers: int) -> dict[str, int]:
  """Returns which tower to silence, by what is left.

  Of two towers each is left alone in turn; of more, each is left out.
  """
  if towers == 1:
    return {}
  if towers == 2:
    return {'tower 1 alone': 1, 'tower 2 alone': 0}
  return {f'without tower {tower + 1}': tower for tower in range(towers)}


class Votes(NamedTuple):
  """How many images are classified right, by who is heard; and of how many."""

  right: dict[str, int]
  images: int


class Parts:
  """The network with towers muted, and a count of right answers.

  Attributes:
    votes: of all images so far.
  """

  def __init__(self, subject: Subject):
    """Makes one function a part; nothing is counted yet."""
    self._params = subject.params
    self._networks = {
      name: subject.layers_without(tower)
      for name, tower in silences(subject.network.towers).items()
    }
    self.votes = Votes(dict.fromkeys(['all towers', *self._networks], 0), 0)

  def add(
    self,
    probabilities: jax.Array,
    crops: np.ndarray,
    labels: np.ndarray,
    kept: np.ndarray,
  ) -> None:
    """Counts a batch.

    Args:
      probabilities: of the whole network, [N, classes].
      crops: pixels [N, crop, crop, 3].
      labels: int32 [N].
      kept: bool [N], which rows are images.
    """
    right = dict(self.votes.right)
    right['all towers'] += _right(probabilities, labels, kept)
    for name, answers in self.probabilities(crops).items():
      right[name] += _right(answers, labels, kept)
    self.votes = Votes(right, self.votes.images + int(kept.sum()))

  def probabilities(self, crops: np.ndarray) -> dict[str, jax.Array]:
    """Returns what each part says of pixels, [N, classes]."""
    return {
      name: network(self._params, crops)['probabilities']
      for name, network in self._networks.items()
    }


def _right(probabilities, labels, kept) -> int:
  answers = np.asarray(probabilities).argmax(axis=1)
  return int((answers == labels)[kept].sum())


def blocks(
  subject: Subject, image: np.ndarray, label: int, parts: Parts
) -> list[page.Block]:
  """Returns the parts' errors and what they say of one image.

  Args:
    subject: the network.
    image: uint8 [crop, crop, 3].
    label: its class.
    parts: with the votes on many images.
  """
  if subject.network.towers == 1:
    return [page.Note('This network has one tower: there is nothing to mute.')]
  crops = subject.one(image, parts.votes.images)
  whole = subject.layers(subject.params, crops)
  said = {'all towers': whole['probabilities'], **parts.probabilities(crops)}
  panels = []
  for i, (name, result) in enumerate(said.items()):
    probabilities = np.asarray(result[0])
    top = np.argsort(-probabilities, kind='stable')[:5]
    panels.append(
      cards.card(
        f'alone-{i}', image, top, probabilities[top], label,
        subject.class_names, title=name.capitalize(),
      )
    )  # fmt: skip
  errors = {
    name: 1 - n / parts.votes.images for name, n in parts.votes.right.items()
  }
  chance = 1 - 1 / len(subject.class_names)
  return [
    page.Figure(
      name='towers_alone',
      title='What the towers say when one is mute',
      panels=tuple(panels),
      caption=(
        'The maps of a mute tower are zeros wherever another layer reads them.'
        ' The bars are probabilities in per cent; the true class is green.'
      ),
      width=cards.LEAST,
      most=6,
    ),
    page.Finding(_sentence(errors, chance)),
    page.Table(
      name='towers_alone',
      title='Error by who is heard',
      columns=(
        page.Column('heard'),
        page.Column('top-1 error', '{:.2%}'),
        page.Column('images', '{:,}'),
      ),
      rows=tuple(
        (name, error, parts.votes.images) for name, error in errors.items()
      ),
    ),
  ]


def _sentence(errors: dict[str, float], chance: float) -> str:
  whole, *parts = errors.items()
  said = ', '.join(f'{name} {error:.1%}' for name, error in parts)
  return (
    f'All towers together err on {whole[1]:.1%} of the images, {said}. A guess'
    f' would err on {chance:.1%}.'
  )
