"""Section 8: what looking at an image more than once gains."""

import jax
import jax.numpy as jnp
from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import metrics
from alexnet_jax import views
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report.subject import Subject

_GRID = 3  # crops a side of the densest set


def grid_views(
  image_size: int, crop_size: int, side: int
) -> tuple[views.View, ...]:
  """A grid of side x side crops from corner to corner, and their mirrors."""
  starts = np.linspace(0, image_size - crop_size, side).round().astype(int)
  return tuple(
    views.View(int(top), int(left), mirror)
    for mirror in (False, True)
    for top in starts
    for left in starts
  )


def view_sets(
  image_size: int, crop_size: int
) -> dict[str, tuple[views.View, ...]]:
  """Returns sets of different views by name, from one view to many.

  A set that equals an earlier one, as where the crop is the whole image, is
  left out.
  """
  (center,) = views.center_view(image_size, crop_size)
  mirrored = views.View(center.top, center.left, True)
  candidates = {
    'center': (center,),
    'center and its mirror image': (center, mirrored),
    'ten views': views.ten_views(image_size, crop_size),
  }
  name = f'{_GRID} × {_GRID} crops and their mirror images'
  candidates[name] = grid_views(image_size, crop_size, _GRID)
  found: dict[str, tuple[views.View, ...]] = {}
  for name, some in candidates.items():
    unique = tuple(dict.fromkeys(some))
    if set(unique) not in map(set, found.values()):
      found[name] = unique
  return found


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  sets = view_sets(subject.image_size, subject.crop_size)
  every = list(dict.fromkeys(view for some in sets.values() for view in some))
  total = subject.eval_source.num_examples
  count = subject.affordable(total, len(every))
  results = _evaluate(subject, sets, every, subject.choose_tests(count))
  blocks: list[page.Block] = [
    page.Finding(_sentence(results)),
    _figure(results),
    _table(results),
  ]
  if subject.image_size == subject.crop_size:
    blocks.append(
      page.Note(
        'The crop is the whole image, so there are two different views: it and'
        ' its mirror image. Ten views are these two, five times each.'
      )
    )
  examples = int(next(iter(results.values()))['examples'])
  of = f'all {total:,}' if examples == total else f'{examples:,} of {total:,}'
  blocks.append(page.Note(f'Errors over {of} test images.'))
  return page.Section(
    key='views',
    title='Views',
    paper='Paper, Section 4.1 (ten patches)',
    intro=(
      'The paper averages what the network says of ten patches of an image:'
      ' four corners, the center, and their mirror images. Here is what each'
      ' further view gains over the center alone, on the same images.'
    ),
    blocks=tuple(blocks),
  )


def _evaluate(subject, sets, every, indices) -> dict[str, dict[str, float]]:
  """Returns loss and errors by set; each view is computed once an image."""
  crop_size = subject.crop_size

  @jax.jit
  def log_probs(params, images, top, left, mirror):
    crops = views.cut(images, top, left, mirror, crop_size)
    return jax.nn.log_softmax(subject.logits(params, subject.to_input(crops)))

  @jax.jit
  def scored(each, batch):
    # The log of the mean of the views' probabilities.
    mean = jax.nn.logsumexp(jnp.stack(each), axis=0) - np.log(len(each))
    return metrics.score(
      mean, batch['label'], batch['mask'], batch['unreadable']
    )

  sums = {name: np.zeros(5) for name in sets}
  for batch in subject.batches(subject.eval_source, indices, 'Views'):
    images = jax.device_put(batch['image'])
    rest = {key: batch[key] for key in ('label', 'mask', 'unreadable')}
    each = {
      view: log_probs(subject.params, images, view.top, view.left, view.mirror)
      for view in every
    }
    for name, some in sets.items():
      result = scored([each[view] for view in some], rest)
      sums[name] += np.asarray(jax.tree.leaves(result), np.float64)
  return {
    name: {
      'views': len(sets[name]),
      'examples': values[0],
      **metrics.Sums(*values).means(),
    }
    for name, values in sums.items()
  }


def _sentence(results: dict[str, dict[str, float]]) -> str:
  center = results['center']['top1_error']
  best = min(results, key=lambda name: results[name]['top1_error'])
  if best == 'center':
    return f'No set of views does better than the center alone, {center:.2%}.'
  error = results[best]['top1_error']
  return (
    f'The center view errs on {center:.2%} of the images; the best set of'
    f' views, {best}, on {error:.2%}: {100 * (center - error):.2f} points fewer'
    f' for {results[best]["views"]} times the work.'
  )


def _figure(results: dict[str, dict[str, float]]) -> page.Figure:
  panels = [
    _panel(results, 'top1_error', 'Top-1 error, %', 100),
    _panel(results, 'top5_error', 'Top-5 error, %', 100),
    _panel(results, 'nll', 'Loss, nats', 1),
  ]
  return page.Figure(
    name='views', title='Error by number of views', panels=tuple(panels)
  )


def _panel(results, key: str, title: str, unit: float) -> plots.Panel:
  def draw(axes: Axes) -> None:
    count = [result['views'] for result in results.values()]
    values = [unit * result[key] for result in results.values()]
    axes.plot(count, values, 'o-', color=plots.COLORS['blue'], markersize=5)
    axes.set_xscale('log')
    axes.set_xticks(count, [str(number) for number in count])
    axes.minorticks_off()
    margin = 0.12 * (max(values) - min(values)) or 0.05 * max(values) or 1
    axes.set_ylim(max(0, min(values) - margin), max(values) + margin)
    axes.set_xlim(0.85, 1.18 * count[-1])
    axes.set_xlabel('views')

  return plots.chart(
    f'views-{key.replace("_", "-")}', draw, title=title,
    alt=f'{title} by number of views', height=190,
  )  # fmt: skip


def _table(results: dict[str, dict[str, float]]) -> page.Table:
  center = results['center']
  rows = tuple(
    (
      name,
      int(result['views']),
      result['top1_error'],
      100 * (center['top1_error'] - result['top1_error']),
      result['top5_error'],
      100 * (center['top5_error'] - result['top5_error']),
      result['nll'],
    )
    for name, result in results.items()
  )
  return page.Table(
    name='views',
    title='Gain over the center view',
    columns=(
      page.Column('views'),
      page.Column('number'),
      page.Column('top-1 error', '{:.2%}'),
      page.Column('top-1 gain, points', '{:+.2f}'),
      page.Column('top-5 error', '{:.2%}'),
      page.Column('top-5 gain, points', '{:+.2f}'),
      page.Column('loss', '{:.4f}'),
    ),
    rows=rows,
  )
