"""An image over the bars of its likeliest classes (paper, Figure 4, left)."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import plots

LEAST = 150  # pixels: the least width of a card on the page
_SIDE = 168  # pixels: of the drawing
_BAR = 22  # pixels


def card(
  name: str,
  image: np.ndarray,
  classes: np.ndarray,
  probabilities: np.ndarray,
  truth: int,
  names: Sequence[str],
  *,
  title: str,
) -> plots.Panel:
  """Draws an image and one bar a class.

  Args:
    name: one that no other chart of the page has.
    image: uint8 [H, W, 3].
    classes: int [K], the likeliest first.
    probabilities: float [K], theirs.
    truth: the true class, whose bar is green.
    names: of all classes.
    title: above the image.
  """
  height = _SIDE + 8 + _BAR * len(classes)

  def draw(figure: Figure) -> None:
    figure.set_layout_engine('none')
    share = _SIDE / height
    photo = figure.add_axes((0, 1 - share, 1, share))
    photo.imshow(mosaics.resize(image, 2 * _SIDE), interpolation='none')
    photo.axis('off')
    bars = figure.add_axes((0, 0, 1, _BAR * len(classes) / height))
    _bars(bars, probabilities, classes, truth, names)

  return plots.drawing(
    name,
    draw,
    title=plots.shorten(title, 20),
    alt=f'{names[truth]}, taken for {names[classes[0]]}',
    width=_SIDE,
    height=height,
  )


def _bars(axes: Axes, probabilities, classes, truth, names) -> None:
  for i, (probability, label) in enumerate(
    zip(probabilities, classes, strict=True)
  ):
    color = plots.COLORS['green' if label == truth else 'gray']
    axes.barh(i, max(probability, 0.012), 0.82, color=color, alpha=0.5)
    axes.text(0.03, i, plots.label(names[label], 17), va='center')
    axes.text(0.985, i, f'{100 * probability:.0f}', va='center', ha='right')
  axes.set_xlim(0, 1)
  axes.set_ylim(len(classes) - 0.5, -0.5)
  axes.axis('off')
