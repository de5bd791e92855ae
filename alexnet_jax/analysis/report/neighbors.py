"""Section 4: training images that the last hidden layer finds alike."""

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import errors
from alexnet_jax.analysis import nearest_neighbors
from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report.subject import Subject

_ROWS = 8
_NEIGHBORS = 6  # as in the paper's figure
_RANKS = 50
_QUERIES = 1000
_MEMORY = 2**27  # bytes of features that are kept
_TILE = 112  # pixels


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  shown = subject.choose_tests(_ROWS, seed=4)
  counted = subject.choose_tests(_QUERIES, seed=5)
  train, train_labels, train_indices = _features_of_train(subject)
  ranks = min(_RANKS, len(train))
  queries = subject.read(subject.eval_source, counted)
  features = subject.in_batches(
    subject.features, subject.center(queries.images)
  )
  _, nearest = nearest_neighbors.nearest(train, features, ranks)
  same = train_labels[nearest] == queries.labels[:, None]
  chance = chance_of_same(
    train_labels, queries.labels, len(subject.class_names)
  )
  return page.Section(
    key='neighbors',
    title='Nearest neighbors',
    paper='Paper, Section 6.1, Figure 4 (right)',
    intro=(
      'Training images whose activations in the last hidden layer are closest'
      ' to those of a test image, in Euclidean distance. They share a meaning'
      ' rather than pixels: an animal may stand elsewhere and look the other'
      ' way.'
    ),
    blocks=(
      page.Finding(_sentence(same, chance)),
      _rows(subject, shown, train, train_labels, train_indices),
      _by_rank(same, chance),
      _table(same, chance),
      page.Note(_method(subject, len(train), len(queries.labels))),
    ),
  )


def chance_of_same(
  train_labels: np.ndarray, query_labels: np.ndarray, num_classes: int
) -> float:
  """Returns how often a training image drawn at random has a query's class."""
  train = np.bincount(train_labels, minlength=num_classes)
  share = train / len(train_labels)
  return float(share[query_labels].mean())


def _features_of_train(subject: Subject):
  """Returns features [N, D], labels [N] and indices [N] of training images.

  Raises:
    UserError: if none of them can be read.
  """
  source = subject.train_source
  width = subject.shapes[-2].output
  fit = _MEMORY // (4 * int(np.prod(width)))
  count = min(subject.affordable(source.num_examples), fit)
  indices = samples.choose(source.num_examples, count, seed=6)
  features = np.empty((count, 0), np.float32)
  labels, places, found = [], [], 0
  what = 'Activations of training images'
  for batch in subject.batches(source, indices, what):
    kept = batch['mask'] > 0
    crops = subject.center(batch['image'])
    some = np.asarray(subject.features(subject.params, crops))[kept]
    if not found:
      features = np.empty((count, some.shape[1]), np.float32)
    features[found : found + len(some)] = some
    found += len(some)
    labels.append(batch['label'][kept])
    places.append(batch['index'][kept])
  if not found:
    raise errors.NothingReadableError(source)
  return (
    features[:found],
    np.concatenate(labels),
    indices[np.concatenate(places)],
  )


def _sentence(same: np.ndarray, chance: float) -> str:
  first = same[:, :_NEIGHBORS].mean()
  return (
    f'Of the {_NEIGHBORS} nearest training images {first:.1%} have the class'
    f' of the test image; drawn at random, {chance:.1%} would.'
  )


def _method(subject: Subject, trained_on: int, queries: int) -> str:
  total = subject.train_source.num_examples
  of_all = 'all' if trained_on == total else f'{trained_on:,} of'
  return (
    f'Exact distances to {of_all} {total:,} training images, each seen as its'
    f' center view; shares over {queries:,} test images.'
  )


def _rows(subject, shown, train, labels, indices) -> page.Figure:
  """Shows some test images, each with its neighbors to the right."""
  queries = subject.read(subject.eval_source, shown)
  features = subject.in_batches(
    subject.features, subject.center(queries.images)
  )
  count = min(_NEIGHBORS, len(train))
  _, nearest = nearest_neighbors.nearest(train, features, count)
  names = [plots.shorten(name, 40) for name in subject.class_names]
  found = subject.read(subject.train_source, indices[nearest.ravel()]).images
  found = found.reshape(*nearest.shape, *found.shape[1:])
  panels = []
  for image, label, near, images in zip(
    queries.images, queries.labels, nearest, found, strict=True
  ):
    panels.append(
      plots.picture(
        _strip(image, images, labels[near] == label),
        title=names[label],
        note=_others(labels[near], label, names),
        alt=f'{names[label]} and its {count} nearest training images',
        smooth=image.shape[0] > _TILE,
      )
    )
  return page.Figure(
    name='neighbors',
    title='Test images and their nearest training images',
    panels=tuple(panels),
    caption=(
      'The test image stands apart on the left, the nearest training image next'
      ' to it. A green edge is the same class, a red one another.'
    ),
    width=330,
    most=2,
  )


def _strip(query: np.ndarray, found: np.ndarray, hits: np.ndarray):
  """Returns one row of tiles, the query apart from the others."""
  first = mosaics.resize(query, _TILE)
  tiles = [
    mosaics.frame(
      mosaics.resize(image, _TILE), plots.COLORS['green' if hit else 'red'], 4
    )
    for image, hit in zip(found, hits, strict=True)
  ]
  row = mosaics.tile(np.stack(tiles), len(tiles), gap=6)
  apart = np.zeros((len(first), 18, 4), np.uint8)
  return np.concatenate([mosaics.tile(first[None], 1), apart, row], axis=1)


def _others(found: np.ndarray, label: int, names) -> str:
  """Names the classes of neighbors that are not the query's."""
  others = [names[i] for i in dict.fromkeys(found.tolist()) if i != label]
  if not others:
    return 'All of the same class.'
  return 'Also: ' + ', '.join(others) + '.'


def _by_rank(same: np.ndarray, chance: float) -> page.Figure:
  def draw(axes: Axes) -> None:
    share = 100 * same.mean(axis=0)
    axes.plot(range(1, len(share) + 1), share, color=plots.COLORS['blue'])
    axes.axhline(
      100 * chance, color=plots.COLORS['muted'], linewidth=1,
      linestyle=(0, (3, 3)),
    )  # fmt: skip
    axes.text(
      len(share),
      100 * chance + 2,
      'chance',
      ha='right',
      color=plots.COLORS['muted'],
    )
    axes.set_ylim(0, 100)
    axes.set_xlabel('neighbor, the nearest first')

  return page.Figure(
    name='neighbors_by_rank',
    title='Neighbors of the same class',
    panels=(
      plots.chart(
        'neighbors-rank', draw, title='Share of the same class, %',
        alt='Share of neighbors of the same class by rank',
      ),
    ),
  )  # fmt: skip


def _table(same: np.ndarray, chance: float) -> page.Table:
  share = same.mean(axis=0)
  rows = tuple(
    (rank + 1, float(value), float(share[: rank + 1].mean()), chance)
    for rank, value in enumerate(share)
  )
  return page.Table(
    name='neighbors',
    title='Share of the same class by rank',
    columns=(
      page.Column('rank'),
      page.Column('same class', '{:.1%}'),
      page.Column('same class, up to this rank', '{:.1%}'),
      page.Column('chance', '{:.1%}'),
    ),
    rows=rows,
    folded=True,
  )
