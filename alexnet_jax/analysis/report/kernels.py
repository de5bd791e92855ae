"""Section 2: the first layer's kernels and how colored each tower's are."""

from typing import NamedTuple

from matplotlib.axes import Axes
import numpy as np
from scipy import stats

from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.architecture import Conv


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  first = subject.network.layers[0]
  blocks: tuple[page.Block, ...] = (
    page.Note(f'{first.name} is fully connected and has no kernels to show.'),
  )
  if isinstance(first, Conv):
    kernels = np.asarray(subject.params[first.name]['kernel'])
    scores = color_scores(kernels)
    blocks = (
      page.Finding(finding(scores, subject.is_gray)),
      _mosaics(kernels, scores),
      _histograms(scores),
      _table(kernels, scores),
    )
  return page.Section(
    key='kernels',
    title='First-layer kernels',
    paper='Paper, Section 6.1, Figure 3',
    intro=(
      "The first layer's kernels, tower by tower. In every run that the authors"
      ' of the paper made, the kernels of one tower were largely'
      ' color-agnostic and those of the other largely color-specific.'
    ),
    blocks=blocks,
  )


def color_scores(kernels: np.ndarray) -> np.ndarray:
  """Returns how much of each kernel's energy is chromatic.

  With w[y, x, c] a kernel's weights and g = (1, 1, 1) / sqrt(3) the gray axis,

    score = 1 - sum_yx (w[y, x] . g)^2 / sum_yx |w[y, x]|^2,

  the energy orthogonal to gray over all energy: 0 for a kernel that responds
  to brightness only, 1 for one that responds to color only, 2/3 on average for
  random weights, as two of the three axes are chromatic.

  Args:
    kernels: float [..., H, W, 3, N], RGB.

  Returns:
    float64 [..., N]; 0 for a kernel of zeros.
  """
  kernels = np.asarray(kernels, np.float64)
  total = (kernels**2).sum(axis=(-4, -3, -2))
  gray = (kernels.sum(axis=-2) / np.sqrt(3)) ** 2
  share = np.ones_like(total)
  np.divide(gray.sum(axis=(-3, -2)), total, out=share, where=total > 0)
  return np.clip(1 - share, 0, 1)


class Split(NamedTuple):
  """How far the most and the least colored tower differ."""

  colored: int  # the tower with the highest median score
  gray: int  # the tower with the lowest
  # Probability that a kernel of `colored`, drawn at random, scores higher than
  # one of `gray`; ties count half. 1/2 is no difference, 1 a complete split.
  superiority: float
  p_value: float  # of the two-sided Mann-Whitney U test

  @property
  def specialized(self) -> bool:
    """Whether the scores of the two towers hardly overlap."""
    return self.superiority >= 0.8 and self.p_value < 0.01


def split(scores: np.ndarray) -> Split:
  """Compares the scores [towers, N] of at least two towers."""
  medians = np.median(scores, axis=1)
  colored, gray = int(medians.argmax()), int(medians.argmin())
  if colored == gray:
    colored, gray = 0, 1
  test = stats.mannwhitneyu(scores[colored], scores[gray])
  superiority = float(test.statistic) / scores.shape[1] ** 2
  return Split(colored, gray, superiority, float(test.pvalue))


def finding(scores: np.ndarray, is_gray: bool) -> str:
  """Returns whether the towers specialized, in words.

  Args:
    scores: [towers, N], from `color_scores`.
    is_gray: whether the images have no color.
  """
  if is_gray:
    return (
      'The images of this run have no color, so it cannot show whether the'
      ' towers would specialize: the scores reflect the random initial weights'
      f' (mean {scores.mean():.2f}; 0.67 is expected).'
    )
  medians = np.median(scores, axis=1)
  if len(scores) == 1:
    return (
      f'There is one tower. Half of its kernels score above {medians[0]:.2f},'
      f' and {np.mean(scores < 0.1):.0%} are gray (below 0.1).'
    )
  found = split(scores)
  verdict = 'specialized' if found.specialized else 'did not specialize'
  return (
    f'The towers of this run {verdict}: the median color score is'
    f' {medians[found.colored]:.2f} in tower {found.colored + 1} and'
    f' {medians[found.gray]:.2f} in tower {found.gray + 1}. A random kernel of'
    f' the former is more colored than one of the latter with probability'
    f' {found.superiority:.2f} (Mann-Whitney U test: p = {found.p_value:.2g}).'
  )


def _mosaics(kernels: np.ndarray, scores: np.ndarray) -> page.Figure:
  panels = []
  for tower, own in enumerate(kernels):
    order = np.argsort(scores[tower], kind='stable')
    own = own / np.maximum(np.abs(own).max(axis=(0, 1, 2)), 1e-30)
    tiles = np.moveaxis(own[..., order], -1, 0)
    tiles = (127.5 + 127.5 * tiles + 0.5).astype(np.uint8)
    count, height, width, _ = tiles.shape
    title = f'Tower {tower + 1}: {count} kernels of {height} × {width} pixels'
    pixels = figures.tile(tiles, 12 if count > 32 else 8)
    panels.append(figures.picture(pixels, title=title))
  return page.Figure(
    'kernels',
    'Kernels by tower',
    tuple(panels),
    'Middle gray is a weight of 0; each kernel is scaled by its largest'
    " weight. Each tower's least colored kernels come first.",
    width=330,
    most=max(2, len(panels)),
  )


def _histograms(scores: np.ndarray) -> page.Figure:
  edges = np.linspace(0, 1, 21).tolist()
  highest = 1.1 * max(np.histogram(own, edges)[0].max() for own in scores)

  def panel(tower: int) -> figures.Panel:
    def draw(axes: Axes) -> None:
      color = figures.TOWERS[tower % len(figures.TOWERS)]
      axes.hist(scores[tower], edges, color=color, rwidth=0.86)
      axes.axvline(2 / 3, zorder=3, **figures.DASHED)
      axes.set(xlim=(0, 1), ylim=(0, highest), xlabel='color score')

    title = f'Tower {tower + 1}: median {np.median(scores[tower]):.2f}'
    alt = f'Histogram of the color scores of tower {tower + 1}'
    return figures.chart(
      f'scores-{tower}', draw, title=title, alt=alt, height=180
    )

  return page.Figure(
    'color_scores',
    'Color scores',
    tuple(map(panel, range(len(scores)))),
    "The score is the share of a kernel's energy that is orthogonal to the"
    ' gray axis (1, 1, 1) / √3: 0 responds to brightness only, 1 to color only.'
    ' Random kernels score 2/3 on average (dashed).',
  )


def _table(kernels: np.ndarray, scores: np.ndarray) -> page.Table:
  norms = np.sqrt((kernels.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
  rows = tuple(
    (tower + 1, kernel + 1, float(score), float(norms[tower, kernel]))
    for (tower, kernel), score in np.ndenumerate(scores)
  )
  header = 'tower | kernel | color score:.3f | norm:.3f'
  return page.Table(
    'kernels', 'Score of every kernel', header, rows, shown=100, folded=True
  )
