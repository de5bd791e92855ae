"""Section 2: the first layer's kernels and how coloured each tower's are."""

import dataclasses

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax.architecture import Conv
from alexnet_jax.report import mosaics
from alexnet_jax.report import page
from alexnet_jax.report import plots
from alexnet_jax.report.subject import Subject

_SHUFFLES = 2000
# From here on two towers' scores hardly overlap.
_CLEAR = 0.8


def color_scores(kernels: np.ndarray) -> np.ndarray:
  """Returns how much of each kernel's energy is chromatic.

  With w[y, x, c] a kernel's weights and g = (1, 1, 1) / sqrt(3) the grey axis,

    score = 1 - sum_yx (w[y, x] . g)^2 / sum_yx |w[y, x]|^2,

  the energy at right angles to grey over all energy: 0 for a kernel that sees
  light and dark only, 1 for one that sees colour only, 2/3 on average for
  weights drawn at random, as two of the three axes are chromatic.

  Args:
    kernels: float [..., H, W, 3, N], RGB.

  Returns:
    float64 [..., N]; 0 for a kernel of zeros.
  """
  kernels = np.asarray(kernels, np.float64)
  total = (kernels**2).sum(axis=(-4, -3, -2))
  grey = kernels.sum(axis=-2) / np.sqrt(3)
  grey_energy = (grey**2).sum(axis=(-3, -2))
  share = np.divide(
    grey_energy, total, out=np.ones_like(total), where=total > 0
  )
  return np.clip(1 - share, 0, 1)


@dataclasses.dataclass(frozen=True)
class Split:
  """How far the most and the least coloured tower lie apart.

  Attributes:
    colored: the tower whose median score is the highest.
    grey: the tower whose median score is the lowest.
    beats: probability that a kernel of `colored`, drawn at random, scores
      higher than one of `grey`; ties count half. 1/2 is no difference, 1 a
      complete split.
    by_chance: share of random divisions of these kernels into towers that are
      as far from 1/2.
  """

  colored: int
  grey: int
  beats: float
  by_chance: float

  @property
  def specialized(self) -> bool:
    return self.beats >= _CLEAR and self.by_chance < 0.01


def split(scores: np.ndarray) -> Split:
  """Compares the scores [towers, N] of at least two towers."""
  medians = np.median(scores, axis=1)
  colored, grey = int(medians.argmax()), int(medians.argmin())
  if colored == grey:
    colored, grey = 0, 1
  beats = _beats(scores[colored], scores[grey])
  random = np.random.default_rng(0)
  both = np.concatenate([scores[colored], scores[grey]])
  half = scores.shape[1]
  extreme = 0
  for _ in range(_SHUFFLES):
    shuffled = random.permutation(both)
    chance = _beats(shuffled[:half], shuffled[half:])
    extreme += abs(chance - 0.5) >= abs(beats - 0.5)
  return Split(colored, grey, beats, extreme / _SHUFFLES)


def _beats(a: np.ndarray, b: np.ndarray) -> float:
  higher = (a[:, None] > b).mean()
  return float(higher + 0.5 * (a[:, None] == b).mean())


def sentence(scores: np.ndarray, is_grey: bool) -> str:
  """Says whether the towers specialized, from scores [towers, N].

  Args:
    scores: from `color_scores`.
    is_grey: whether the images have no colour.
  """
  if is_grey:
    return (
      'These images have no colour, so nothing could teach a kernel any: a'
      f' score is what is left of the random initial weights (mean'
      f' {scores.mean():.2f}, random kernels 0.67), and whether the towers'
      ' would specialize cannot be seen from this run.'
    )
  if len(scores) == 1:
    return (
      f'One tower: half of its kernels score above {np.median(scores):.2f},'
      f' and {np.mean(scores < 0.1):.0%} are grey (below 0.1).'
    )
  found = split(scores)
  medians = np.median(scores, axis=1)
  verdict = 'specialized' if found.specialized else 'did not specialize'
  return (
    f'The towers of this run {verdict}: the median score is'
    f' {medians[found.colored]:.2f} in tower {found.colored + 1} and'
    f' {medians[found.grey]:.2f} in tower {found.grey + 1}, and a kernel of the'
    f' former is the more coloured in {found.beats:.0%} of all pairs, which'
    f' {found.by_chance:.1%} of random divisions match.'
  )


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  first = subject.network.layers[0]
  kernels = np.asarray(subject.params[first.name]['kernel'])
  blocks: tuple[page.Block, ...] = (
    page.Note(f'{first.name} is fully connected: it has no kernels to show.'),
  )
  if isinstance(first, Conv):
    scores = color_scores(kernels)
    blocks = (
      page.Finding(sentence(scores, subject.is_grey)),
      _mosaics(kernels, scores),
      _distribution(scores),
      _table(kernels, scores),
    )
  return page.Section(
    key='kernels',
    title='First-layer kernels',
    paper='Paper, Section 6.1, Figure 3',
    intro=(
      'What the first layer looks for: its kernels, tower by tower. In every'
      " run of the paper's authors one tower learned kernels that are mostly"
      ' blind to colour and the other kernels that are mostly about it.'
    ),
    blocks=blocks,
  )


def _mosaics(kernels: np.ndarray, scores: np.ndarray) -> page.Figure:
  """Shows each tower's kernels, the least coloured first."""
  panels = []
  for tower, (own, score) in enumerate(zip(kernels, scores, strict=True)):
    order = np.argsort(score, kind='stable')
    tiles = np.stack([_to_pixels(own[..., i]) for i in order])
    columns = 12 if len(tiles) > 32 else 8
    panels.append(
      plots.picture(
        mosaics.tile(tiles, columns),
        alt=f'{len(tiles)} kernels of tower {tower + 1}',
        title=f'Tower {tower + 1}: {len(tiles)} kernels of'
        f' {own.shape[0]} × {own.shape[1]} pixels',
      )
    )
  return page.Figure(
    name='kernels',
    title='Kernels by tower',
    panels=tuple(panels),
    width=330,
    most=max(2, len(panels)),
    caption=(
      'Middle grey is a weight of 0; each kernel is scaled by its largest'
      ' weight. Within a tower the least coloured come first.'
    ),
  )


def _to_pixels(kernel: np.ndarray) -> np.ndarray:
  """Scales a kernel [H, W, 3] to uint8 around middle grey."""
  largest = np.abs(kernel).max() or 1.0
  return (127.5 + 127.5 * kernel / largest + 0.5).astype(np.uint8)


def _distribution(scores: np.ndarray) -> page.Figure:
  edges = np.linspace(0, 1, 21).tolist()

  def panel(tower: int) -> plots.Panel:
    def draw(axes: Axes) -> None:
      axes.hist(
        scores[tower], edges, color=plots.TOWERS[tower % 4], rwidth=0.86
      )
      axes.axvline(
        2 / 3,
        color=plots.COLORS['muted'],
        linewidth=1,
        linestyle=(0, (3, 3)),
        zorder=3,
      )
      axes.set_xlim(0, 1)
      axes.set_ylim(0, highest)
      axes.set_xlabel('colour score')

    return plots.chart(
      f'scores-{tower}',
      draw,
      title=f'Tower {tower + 1}: median {np.median(scores[tower]):.2f}',
      alt=f'Histogram of the colour scores of tower {tower + 1}',
      height=180,
    )

  counts = [np.histogram(own, edges)[0].max() for own in scores]
  highest = 1.1 * max(counts)
  return page.Figure(
    name='color_scores',
    title='Colour scores',
    panels=tuple(panel(tower) for tower in range(len(scores))),
    caption=(
      "The score is the share of a kernel's energy at right angles to the grey"
      ' axis (1, 1, 1) / √3: 0 sees only light and dark, 1 only colour. Random'
      ' kernels score 2/3 on average (dashed).'
    ),
  )


def _table(kernels: np.ndarray, scores: np.ndarray) -> page.Table:
  norms = np.sqrt((kernels.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
  rows = tuple(
    (tower + 1, kernel + 1, float(score), float(norms[tower, kernel]))
    for (tower, kernel), score in np.ndenumerate(scores)
  )
  return page.Table(
    name='kernels',
    title='Score of every kernel',
    columns=(
      page.Column('tower'),
      page.Column('kernel'),
      page.Column('colour score', '{:.3f}'),
      page.Column('norm', '{:.3f}'),
    ),
    rows=rows,
    shown=100,
    folded=True,
  )
