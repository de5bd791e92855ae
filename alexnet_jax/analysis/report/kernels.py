"""Section 2: the first layer's kernels and how colored each tower's are."""

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax.analysis.report import color
from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.architecture import Conv


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  first = subject.network.layers[0]
  kernels = np.asarray(subject.params[first.name]['kernel'])
  blocks: tuple[page.Block, ...] = (
    page.Note(f'{first.name} is fully connected: it has no kernels to show.'),
  )
  if isinstance(first, Conv):
    scores = color.scores(kernels)
    blocks = (
      page.Finding(color.sentence(scores, subject.is_gray)),
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
      ' blind to color and the other kernels that are mostly about it.'
    ),
    blocks=blocks,
  )


def _mosaics(kernels: np.ndarray, scores: np.ndarray) -> page.Figure:
  """Shows each tower's kernels, the least colored first."""
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
      'Middle gray is a weight of 0; each kernel is scaled by its largest'
      ' weight. Within a tower the least colored come first.'
    ),
  )


def _to_pixels(kernel: np.ndarray) -> np.ndarray:
  """Scales a kernel [H, W, 3] to uint8 around middle gray."""
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
      axes.set_xlabel('color score')

    return plots.chart(
      f'scores-{tower}',
      draw,
      title=f'Tower {tower + 1}: median {np.median(scores[tower]):.2f}',
      alt=f'Histogram of the color scores of tower {tower + 1}',
      height=180,
    )

  counts = [np.histogram(own, edges)[0].max() for own in scores]
  highest = 1.1 * max(counts)
  return page.Figure(
    name='color_scores',
    title='Color scores',
    panels=tuple(panel(tower) for tower in range(len(scores))),
    caption=(
      "The score is the share of a kernel's energy at right angles to the gray"
      ' axis (1, 1, 1) / √3: 0 sees only light and dark, 1 only color. Random'
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
      page.Column('color score', '{:.3f}'),
      page.Column('norm', '{:.3f}'),
    ),
    rows=rows,
    shown=100,
    folded=True,
  )
