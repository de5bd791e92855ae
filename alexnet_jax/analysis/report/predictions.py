"""Section 3: what the network says of test images, and where it is wrong."""

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax.analysis.report import cards
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report import scoring
from alexnet_jax.analysis.report.subject import Subject

_CARDS = 12
_FEW_CLASSES = 12  # as many fit one chart, and a matrix


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  scores, names = subject.scores, subject.class_names
  counts = scoring.confusion(scores, len(names))
  random = samples.choose(len(scores.label), _CARDS, seed=3)
  # The likeliest wrong class first.
  worst = np.argsort(-scores.top_probability[:, 0], kind='stable')
  worst = worst[scores.wrong[worst]][:_CARDS]
  blocks: list[page.Block] = [page.Finding(_sentence(scores, names, counts))]
  blocks.append(
    _cards(
      subject, random, 'examples', 'Test images and the five likeliest classes',
      'Drawn at random. The bars are probabilities in per cent; the true class'
      ' is green.',
    )
  )  # fmt: skip
  if len(worst):
    blocks.append(
      _cards(
        subject, worst, 'confident_mistakes', 'The most confident mistakes',
        'Wrong answers given with the highest probability. Some of them are'
        ' debatable labels rather than mistakes.',
      )
    )  # fmt: skip
  blocks += [class_chart(counts, names), _pairs(counts, names)]
  blocks.append(_classes(counts, names))
  return page.Section(
    key='predictions',
    title='Predictions',
    paper='Paper, Section 6.1, Figure 4 (left)',
    intro=(
      'What the network says of test images it has never seen, from the center'
      ' view of each. A good network is sure where it is right, and where it is'
      ' wrong its other guesses make sense.'
    ),
    blocks=tuple(blocks),
  )


def _sentence(scores, names, counts) -> str:
  wrong = scores.wrong
  sure = scores.top_probability[:, 0]
  text = (
    f'{int(wrong.sum()):,} of {len(wrong):,} test images are in error'
    f' ({wrong.mean():.2%}).'
  )
  if wrong.any() and not wrong.all():
    text += (
      f' The likeliest class has a probability of {sure[~wrong].mean():.2f} on'
      f' average where it is right and {sure[wrong].mean():.2f} where it is'
      ' wrong.'
    )
  pairs = scoring.confused_pairs(counts)
  if pairs and pairs[0][2] > 1:
    i, j, count = pairs[0]
    text += f' The most frequent mistake: {names[i]} taken for {names[j]},'
    text += f' {count} of {counts[i].sum()} images.'
  return text


def _cards(
  subject: Subject, chosen: np.ndarray, name: str, title: str, caption: str
) -> page.Figure:
  """Shows the images of these places in the scores, with bars."""
  scores, names = subject.scores, subject.class_names
  indices = scores.index[chosen]
  images = subject.center(subject.read(subject.eval_source, indices).images)
  panels = tuple(
    cards.card(
      f'{name}-{i}',
      image,
      scores.top[place],
      scores.top_probability[place],
      scores.label[place],
      names,
      title=names[scores.label[place]],
    )
    for i, (image, place) in enumerate(zip(images, chosen, strict=True))
  )
  return page.Figure(
    name=name,
    title=title,
    panels=panels,
    caption=caption,
    width=cards.LEAST,
    most=6,
  )


def class_chart(counts: np.ndarray, names) -> page.Figure:
  """Shows the classes' errors: of all, or of the worst and the best."""
  error = scoring.class_errors(counts)
  order = np.argsort(-error, kind='stable')  # NaN comes last
  order = order[np.isfinite(error[order])]
  if len(order) <= _FEW_CLASSES:
    panels = [_error_bars('all', 'Error by class, %', order, error, names)]
    panels.append(_matrix(counts, names))
  else:
    panels = [
      _error_bars('worst', 'The worst classes, error in %', order[:10], error,
                  names),
      _error_bars('best', 'The best classes, error in %', order[-10:], error,
                  names),
    ]  # fmt: skip
  return page.Figure(
    name='class_errors',
    title='Error by class',
    panels=tuple(panels),
    width=330,
    most=3,
  )


def _error_bars(name, title, order, error, names) -> plots.Panel:
  def draw(axes: Axes) -> None:
    values = 100 * error[order]
    axes.barh(range(len(order)), values, 0.7, color=plots.COLORS['blue'])
    axes.set_yticks(
      range(len(order)), [plots.label(names[i], 18) for i in order]
    )
    for i, value in enumerate(values):
      axes.text(
        value + 0.015 * max(1, values.max()), i, f'{value:.1f}', va='center',
        color=plots.COLORS['muted'],
      )  # fmt: skip
    axes.set_xlim(0, 1.18 * max(1, values.max()))
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines['bottom'].set_visible(False)
    axes.tick_params(axis='y', labelcolor=plots.COLORS['ink'])

  return plots.chart(
    f'class-errors-{name}', draw, title=title, alt=title,
    height=max(120, 26 * len(order) + 20),
  )  # fmt: skip


def _matrix(counts: np.ndarray, names) -> plots.Panel:
  """Shows who is taken for whom, in per cent of the true class."""
  totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
  shares = 100 * counts / totals
  mistakes = shares - np.diag(np.diag(shares))
  darkest = max(mistakes.max(), 1e-9)

  def draw(axes: Axes) -> None:
    for (i, j), share in np.ndenumerate(shares):
      color = plots.COLORS['green' if i == j else 'red']
      strength = share / 100 if i == j else share / darkest
      axes.barh(
        i, 0.92, 0.92, left=j - 0.46, color=color, alpha=0.75 * strength
      )
      if share >= 0.5:
        axes.text(j, i, f'{share:.0f}', ha='center', va='center', fontsize=8)
    labels = [plots.label(name, 12) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect('equal')
    axes.grid(visible=False)
    axes.spines['bottom'].set_visible(False)

  return plots.chart(
    'confusion', draw, title='True class (row) taken for (column), %',
    alt='Confusion matrix', height=330,
  )  # fmt: skip


def _pairs(counts: np.ndarray, names) -> page.Table:
  totals = counts.sum(axis=1)
  rows = tuple(
    (names[i], names[j], count, count / int(totals[i]))
    for i, j, count in scoring.confused_pairs(counts)
  )
  return page.Table(
    name='confused_pairs',
    title='The most confused pairs',
    columns=(
      page.Column('true class'),
      page.Column('taken for'),
      page.Column('images', '{:,}'),
      page.Column('share of the class', '{:.1%}'),
    ),
    rows=rows,
    shown=10,
  )


def _classes(counts: np.ndarray, names) -> page.Table:
  error = scoring.class_errors(counts)
  rows = tuple(
    (name, int(total), None if np.isnan(e) else float(e))
    for name, total, e in zip(names, counts.sum(axis=1), error, strict=True)
  )
  return page.Table(
    name='class_errors',
    title='Error of every class',
    columns=(
      page.Column('class'),
      page.Column('images', '{:,}'),
      page.Column('error', '{:.1%}'),
    ),
    rows=rows,
    shown=100,
    folded=True,
  )
