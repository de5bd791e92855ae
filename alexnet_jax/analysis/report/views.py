"""Section 8: the gain from averaging several views of an image."""

import itertools

import jax
import jax.numpy as jnp
from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import metrics
from alexnet_jax import views
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report.subject import Subject

_GRID = 3  # crops per side of the largest set
# Views, examples, loss and errors of a set of views.
Result = dict[str, float]


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  sets = view_sets(subject.image_size, subject.crop_size)
  results = _evaluate(subject, sets)
  blocks: list[page.Block] = [
    page.Finding(_finding(results)),
    _figure(results),
    _table(results),
  ]
  if subject.image_size == subject.crop_size:
    blocks.append(
      page.Note(
        'The crop is the whole image, so there are only two different views,'
        ' the image and its mirror image. The ten views are these two, five'
        ' times each.'
      )
    )
  examples = int(results['center']['examples'])
  of = page.out_of(examples, subject.eval_source.num_examples)
  blocks.append(page.Note(f'Errors over {of} test images.'))
  return page.Section(
    key='views',
    title='Views',
    paper='Paper, Section 4.1 (ten patches)',
    intro=(
      'The paper averages the predictions for ten patches of an image: the four'
      ' corners, the center, and their mirror images. This section measures the'
      ' gain of such averages over the center view alone, on the same images.'
    ),
    blocks=tuple(blocks),
  )


def view_sets(
  image_size: int, crop_size: int
) -> dict[str, tuple[views.View, ...]]:
  """Returns sets of different views by name, from one view to many.

  A set that equals an earlier one, as where the crop is the whole image, is
  left out.
  """
  (center,) = views.center_view(image_size, crop_size)
  starts = np.linspace(0, image_size - crop_size, _GRID).round().astype(int)
  mirrored = views.View(center.top, center.left, True)
  grid = tuple(
    views.View(int(top), int(left), mirror)
    for mirror, top, left in itertools.product((False, True), starts, starts)
  )
  candidates = {
    'center': (center,),
    'center and its mirror image': (center, mirrored),
    'ten views': views.ten_views(image_size, crop_size),
    f'{_GRID} × {_GRID} crops and their mirror images': grid,
  }
  found: dict[str, tuple[views.View, ...]] = {}
  for name, some in candidates.items():
    unique = tuple(dict.fromkeys(some))
    if set(unique) not in map(set, found.values()):
      found[name] = unique
  return found


def _evaluate(
  subject: Subject, sets: dict[str, tuple[views.View, ...]]
) -> dict[str, Result]:
  """Measures every set; each view is computed once per image."""
  crop_size = subject.crop_size
  every = list(dict.fromkeys(view for some in sets.values() for view in some))
  source = subject.eval_source
  indices = subject.choose_tests(source.num_examples, 0, passes=len(every))

  @jax.jit
  def log_probs(params, images, top, left, mirror):
    crops = views.cut(images, top, left, mirror, crop_size)
    return jax.nn.log_softmax(subject.logits(params, subject.to_input(crops)))

  @jax.jit
  def scored(each, *rest):
    # The log of the mean of the views' probabilities.
    mean = jax.nn.logsumexp(jnp.stack(each), axis=0) - np.log(len(each))
    return metrics.score(mean, *rest)

  sums = {name: np.zeros(5) for name in sets}
  for batch in subject.batches(source, indices, 'Views'):
    images = jax.device_put(batch['image'])
    rest = batch['label'], batch['mask'], batch['unreadable']
    each = {
      view: log_probs(subject.params, images, view.top, view.left, view.mirror)
      for view in every
    }
    for name, some in sets.items():
      result = scored([each[view] for view in some], *rest)
      sums[name] += np.asarray(jax.tree.leaves(result), np.float64)
  return {
    name: {
      'views': len(sets[name]),
      'examples': values[0],
      **metrics.Sums(*values).means(),
    }
    for name, values in sums.items()
  }


def _finding(results: dict[str, Result]) -> str:
  center = results['center']['top1_error']
  best = min(results, key=lambda name: results[name]['top1_error'])
  if best == 'center':
    return (
      f'No average has a lower top-1 error than the center view, {center:.2%}.'
    )
  error = results[best]['top1_error']
  return (
    f'The top-1 error is {center:.2%} with the center view and {error:.2%} with'
    f' the mean of {results[best]["views"]} views ({best}):'
    f' {100 * (center - error):.2f} points lower.'
  )


def _figure(results: dict[str, Result]) -> page.Figure:
  def panel(key: str, title: str, unit: float) -> figures.Panel:
    counts = [int(result['views']) for result in results.values()]
    values = [unit * result[key] for result in results.values()]

    def draw(axes: Axes) -> None:
      axes.plot(
        counts, values, 'o-', color=figures.COLORS['blue'], markersize=5
      )
      axes.set_xscale('log')
      axes.set_xticks(counts, list(map(str, counts)))
      axes.minorticks_off()
      margin = 0.12 * (max(values) - min(values)) or 0.05 * max(values) or 1
      axes.set_ylim(max(0, min(values) - margin), max(values) + margin)
      axes.set_xlim(0.85, 1.18 * counts[-1])
      axes.set_xlabel('views')

    return figures.chart(f'views-{key}', draw, title=title, height=190)

  panels = (
    panel('top1_error', 'Top-1 error, %', 100),
    panel('top5_error', 'Top-5 error, %', 100),
    panel('nll', 'Loss, nats', 1),
  )
  return page.Figure('views', 'Error by number of views', panels)


def _table(results: dict[str, Result]) -> page.Table:
  center = results['center']

  def gain(result: Result, key: str) -> tuple[float, float]:
    return result[key], 100 * (center[key] - result[key])

  rows = tuple(
    (
      name,
      int(result['views']),
      *gain(result, 'top1_error'),
      *gain(result, 'top5_error'),
      result['nll'],
    )
    for name, result in results.items()
  )
  header = (
    'views | number | top-1 error:.2% | top-1 gain, points:+.2f'
    ' | top-5 error:.2% | top-5 gain, points:+.2f | loss:.4f'
  )
  return page.Table('views', 'Gain over the center view', header, rows)
