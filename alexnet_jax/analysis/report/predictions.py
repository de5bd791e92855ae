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
  worst = np.argsort(-scores.top_probability[:, 0], kind='stable')
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
  totals = counts.sum(axis=1)
  wrong = totals - np.diag(counts)
  return np.divide(
    wrong, totals, out=np.full(len(counts), np.nan), where=totals > 0
  )


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
  wrong, probability = scores.wrong, scores.top_probability[:, 0]
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
  images = subject.read(subject.eval_source, scores.index[chosen]).images
  panels = tuple(
    figures.prediction_card(
      f'{name}-{i}',
      image,
      scores.top[place],
      scores.top_probability[place],
      class_names,
      truth=int(scores.label[place]),
      title=class_names[scores.label[place]],
    )
    for i, (image, place) in enumerate(
      zip(subject.center(images), chosen, strict=True)
    )
  )
  return page.Figure(name, title, panels, caption, width=150, most=6)


def class_chart(counts: np.ndarray, class_names: Sequence[str]) -> page.Figure:
  """Shows the error of every class, or of the worst and the best ones."""
  error = class_errors(counts)
  order = np.argsort(-error, kind='stable')  # NaN comes last
  order = order[np.isfinite(error[order])]
  shown = {'Highest errors, %': order[:10], 'Lowest errors, %': order[-10:]}
  if len(order) <= _FEW_CLASSES:
    shown = {'Error by class, %': order}
  panels = [
    _error_bars(title, 100 * error[some], [class_names[i] for i in some])
    for title, some in shown.items()
  ]
  if len(order) <= _FEW_CLASSES:
    panels.append(_matrix(counts, class_names))
  return page.Figure(
    'class_errors', 'Error by class', tuple(panels), width=330, most=3
  )


def _error_bars(title: str, errors: np.ndarray, labels) -> figures.Panel:
  def draw(axes: Axes) -> None:
    axes.barh(range(len(errors)), errors, 0.7, color=figures.COLORS['blue'])
    axes.set_yticks(range(len(errors)), _short(labels, 18))
    right = 1.18 * max(1, errors.max())
    for i, error in enumerate(errors):
      axes.text(
        error + 0.013 * right,
        i,
        f'{error:.1f}',
        va='center',
        color=figures.COLORS['muted'],
      )
    axes.set(xlim=(0, right), ylim=(len(errors) - 0.4, -0.6), xticks=[])
    axes.grid(visible=False)
    axes.spines['bottom'].set_visible(False)
    axes.tick_params(axis='y', labelcolor=figures.COLORS['ink'])

  return figures.chart(
    'class-errors-' + title.split()[0].lower(),
    draw,
    title=title,
    alt=title,
    height=max(120, 26 * len(errors) + 20),
  )


def _short(labels: Sequence[str], length: int) -> list[str]:
  return [names.shorten(names.drawable(label), length) for label in labels]


def _matrix(counts: np.ndarray, class_names: Sequence[str]) -> figures.Panel:
  """Shows the predictions for each class, in per cent of its images."""
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
    labels = _short(class_names, 12)
    axes.set_xticks(range(len(counts)), labels, rotation=90)
    axes.set_yticks(range(len(counts)), labels)
    axes.set(xlim=(-0.5, end), ylim=(end, -0.5), aspect='equal')
    axes.grid(visible=False)
    axes.spines['bottom'].set_visible(False)

  return figures.chart(
    'confusion',
    draw,
    title='Confusion matrix, %',
    alt='Confusion matrix',
    height=330,
  )


def _pairs(counts: np.ndarray, class_names: Sequence[str]) -> page.Table:
  totals = counts.sum(axis=1)
  return page.Table(
    name='confused_pairs',
    title='Most confused pairs of classes',
    columns={
      'true class': '',
      'predicted class': '',
      'images': ',',
      'share of the class': '.1%',
    },
    rows=tuple(
      (class_names[i], class_names[j], count, count / int(totals[i]))
      for i, j, count in confused_pairs(counts)
    ),
    shown=10,
  )


def _classes(counts: np.ndarray, class_names: Sequence[str]) -> page.Table:
  errors = class_errors(counts)
  return page.Table(
    name='class_errors',
    title='Error of every class',
    columns={'class': '', 'images': ',', 'error': '.1%'},
    rows=tuple(
      (name, int(total), None if np.isnan(error) else float(error))
      for name, total, error in zip(
        class_names, counts.sum(axis=1), errors, strict=True
      )
    ),
    shown=100,
    folded=True,
  )
