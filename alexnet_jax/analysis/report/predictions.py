"""Section 3: predictions for test images, and where they are wrong."""

from collections.abc import Sequence

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import subject as subjects
from alexnet_jax.analysis.report.subject import Scores
from alexnet_jax.analysis.report.subject import Subject

_CARDS = 12
_FEW_CLASSES = 12  # as many fit one chart, and a matrix


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  scores, class_names = subject.scores, subject.class_names
  counts = confusion(scores, len(class_names))
  random = subjects.choose(len(scores.label), _CARDS, seed=3)
  # The likeliest wrong class first.
  worst = np.argsort(-scores.probability[:, 0], kind='stable')
  worst = worst[scores.wrong[worst]][:_CARDS]
  mistakes = []
  if len(worst):
    mistakes.append(
      _cards(
        subject,
        worst,
        'confident_mistakes',
        'Most confident mistakes',
        'The wrong predictions of the highest probability. Some of them may be'
        ' debatable labels rather than mistakes.',
      )
    )
  return page.Section(
    key='predictions',
    title='Predictions',
    paper='Paper, Section 6.1, Figure 4 (left)',
    intro=(
      'Predictions for the center views of test images. A good network is'
      ' confident where it is right; where it is wrong, its other likely'
      ' classes are plausible.'
    ),
    blocks=(
      page.Finding(_finding(scores, class_names, counts)),
      _cards(
        subject,
        random,
        'examples',
        'Test images and their likeliest classes',
        'Drawn at random. The bars are probabilities; the bar of the true class'
        ' is green.',
      ),
      *mistakes,
      class_chart(counts, class_names),
      _pairs(counts, class_names),
      _classes(counts, class_names),
    ),
  )


def confusion(scores: Scores, num_classes: int) -> np.ndarray:
  """Counts images by true class (row) and predicted class (column).

  Returns:
    int64 [classes, classes].
  """
  counts = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts, (scores.label, scores.top[:, 0]), 1)
  return counts


def class_errors(counts: np.ndarray) -> np.ndarray:
  """Returns each class's error, float64 [classes]; NaN without images."""
  with np.errstate(invalid='ignore'):
    return (counts.sum(axis=1) - np.diag(counts)) / counts.sum(axis=1)


def confused_pairs(counts: np.ndarray) -> list[tuple[int, int, int]]:
  """Returns (true class, predicted class, images), most frequent first."""
  mistakes = counts - np.diag(np.diag(counts))
  order = np.argsort(-mistakes, axis=None, kind='stable')
  order = order[: np.count_nonzero(mistakes)]
  pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
  return [(int(i), int(j), int(mistakes[i, j])) for i, j in pairs]


def _finding(
  scores: Scores, class_names: Sequence[str], counts: np.ndarray
) -> str:
  wrong, probability = scores.wrong, scores.probability[:, 0]
  text = (
    f'{int(wrong.sum()):,} of {len(wrong):,} test images are misclassified'
    f' ({wrong.mean():.2%}).'
  )
  if wrong.any() and not wrong.all():
    text += (
      ' The mean probability of the predicted class is'
      f' {probability[~wrong].mean():.2f} where it is correct and'
      f' {probability[wrong].mean():.2f} where it is wrong.'
    )
  pairs = confused_pairs(counts)
  if pairs and pairs[0][2] > 1:
    i, j, count = pairs[0]
    text += (
      f' The most frequent mistake is {class_names[i]} classified as'
      f' {class_names[j]}: {count} of {counts[i].sum()} images.'
    )
  return text


def _cards(
  subject: Subject, chosen: np.ndarray, name: str, title: str, caption: str
) -> page.Figure:
  """Shows the test images at these places in the scores."""
  scores, class_names = subject.scores, subject.class_names
  images = subject.test_views(scores.index[chosen])
  panels = tuple(
    figures.prediction_card(
      f'{name}-{place}',
      image,
      scores.top[place],
      scores.probability[place],
      class_names,
      truth=int(scores.label[place]),
      title=class_names[scores.label[place]],
    )
    for image, place in zip(images, chosen, strict=True)
  )
  return page.Figure(name, title, panels, caption, width=150, most=6)


def class_chart(counts: np.ndarray, class_names: Sequence[str]) -> page.Figure:
  """Shows the error of every class, or of the worst and the best ones."""
  error = 100 * class_errors(counts)
  order = np.argsort(-error, kind='stable')  # NaN comes last
  order = order[np.isfinite(error[order])]
  few = len(order) <= _FEW_CLASSES
  shown = {'Highest errors, %': order[:10], 'Lowest errors, %': order[-10:]}
  panels = [
    _error_bars(title, error[some], [class_names[i] for i in some])
    for title, some in ({'Errors, %': order} if few else shown).items()
  ]
  caption = ''
  if few:
    panels.append(_matrix(counts, class_names))
    caption = 'Rows are true classes, columns are predicted classes.'
  return page.Figure(
    'class_errors', 'Error by class', tuple(panels), caption, width=330, most=3
  )


def _error_bars(title: str, errors: np.ndarray, labels) -> figures.Panel:
  right = 1.18 * max(1, errors.max())

  def draw(axes: Axes) -> None:
    axes.barh(range(len(errors)), errors, 0.7, color=figures.COLORS['blue'])
    axes.set_yticks(range(len(errors)), _short(labels, 126))
    for i, error in enumerate(errors):
      style = {'va': 'center', 'color': figures.COLORS['muted']}
      axes.text(error + 0.013 * right, i, f'{error:.1f}', **style)
    axes.set(xlim=(0, right), ylim=(len(errors) - 0.4, -0.6), xticks=[])
    axes.grid(visible=False)
    axes.spines['bottom'].set_visible(False)
    axes.tick_params(axis='y', labelcolor=figures.COLORS['ink'])

  name = 'class-errors-' + title.split()[0].lower()
  height = max(120, 26 * len(errors) + 20)
  return figures.chart(name, draw, title=title, height=height)


def _short(labels: Sequence[str], pixels: int) -> list[str]:
  return [names.drawable(figures.fit(label, pixels)) for label in labels]


def _matrix(counts: np.ndarray, class_names: Sequence[str]) -> figures.Panel:
  totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
  shares = 100 * counts / totals
  mistakes = shares - np.diag(np.diag(shares))
  darkest = max(mistakes.max(), 1e-9)
  end = len(counts) - 0.5

  def draw(axes: Axes) -> None:
    for (i, j), share in np.ndenumerate(shares):
      color = figures.COLORS['green' if i == j else 'red']
      alpha = 0.75 * share / (100 if i == j else darkest)
      axes.barh(i, 0.92, 0.92, left=j - 0.46, color=color, alpha=alpha)
      if share >= 0.5:
        axes.text(j, i, f'{share:.0f}', ha='center', va='center', fontsize=8)
    labels = _short(class_names, 84)
    axes.set_xticks(range(len(counts)), labels, rotation=90)
    axes.set_yticks(range(len(counts)), labels)
    axes.set(xlim=(-0.5, end), ylim=(end, -0.5), aspect='equal')
    axes.grid(visible=False)
    axes.spines['bottom'].set_visible(False)

  return figures.chart('confusion', draw, title='Confusion, %', height=330)


def _pairs(counts: np.ndarray, class_names: Sequence[str]) -> page.Table:
  totals = counts.sum(axis=1)
  rows = tuple(
    (class_names[i], class_names[j], count, count / int(totals[i]))
    for i, j, count in confused_pairs(counts)
  )
  title = 'Most confused pairs of classes'
  header = 'true class | predicted class | images:, | share of the class:.1%'
  return page.Table('confused_pairs', title, header, rows, shown=10)


def _classes(counts: np.ndarray, class_names: Sequence[str]) -> page.Table:
  errors = [None if np.isnan(e) else float(e) for e in class_errors(counts)]
  totals = counts.sum(axis=1).tolist()
  rows = tuple(zip(class_names, totals, errors, strict=True))
  title, header = 'Error of every class', 'class | images:, | error:.1%'
  return page.Table('class_errors', title, header, rows, shown=100, folded=True)
