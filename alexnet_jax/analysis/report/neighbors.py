"""Section 4: the nearest training images in the last hidden layer."""

from typing import NamedTuple

from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.analysis import nearest_neighbors
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import subject as subjects
from alexnet_jax.analysis.report.subject import Subject

_ROWS = 8
_NEIGHBORS = 6  # as in the paper's figure
_RANKS = 50
_QUERIES = 1000
_MEMORY = 2**27  # bytes of features that are kept


class Database(NamedTuple):
  """Training images that are searched."""

  index: np.ndarray  # int64 [N], in the training split
  labels: np.ndarray  # int32 [N]
  features: np.ndarray  # float32 [N, D], of the last hidden layer


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  database = _database(subject)
  _, labels, nearest = _search(
    subject, database, subject.choose_tests(_QUERIES, seed=5), _RANKS
  )
  same = database.labels[nearest] == labels[:, None]
  chance = chance_of_same(database.labels, labels, len(subject.class_names))
  total = subject.train_source.num_examples
  return page.Section(
    key='neighbors',
    title='Nearest neighbors',
    paper='Paper, Section 6.1, Figure 4 (right)',
    intro=(
      'The training images whose activations in the last hidden layer have the'
      " smallest Euclidean distance from a test image's. In a trained network"
      ' they show similar objects and need not be similar pixel by pixel.'
    ),
    blocks=(
      page.Finding(
        f'Of the {_NEIGHBORS} nearest training images'
        f' {same[:, :_NEIGHBORS].mean():.1%} have the class of the test image;'
        f' of training images drawn at random {chance:.1%} would.'
      ),
      _rows(subject, database),
      _by_rank(same, chance),
      _table(same, chance),
      page.Note(
        f'Exact distances to {page.out_of(len(database.labels), total)}'
        f' training images, center views only; shares over {len(labels):,}'
        ' test images.'
      ),
    ),
  )


def chance_of_same(
  train_labels: np.ndarray, query_labels: np.ndarray, num_classes: int
) -> float:
  """Returns how often a random training image has a query's class."""
  train = np.bincount(train_labels, minlength=num_classes)
  share = train / len(train_labels)
  return float(share[query_labels].mean())


def _database(subject: Subject) -> Database:
  """Computes the activations of as many training images as are affordable.

  Raises:
    UserError: if none of them can be read.
  """
  source = subject.train_source
  width = int(np.prod(subject.shapes[-2].output))
  count = min(subject.affordable(source.num_examples), _MEMORY // (4 * width))
  indices = subjects.choose(source.num_examples, count, seed=6)
  what = 'Activations of training images'
  return Database(*subject.over(subject.features, source, indices, what))


def _search(
  subject: Subject, database: Database, indices: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns test images, their labels, and their neighbors in the database."""
  index, labels, features = subject.over(
    subject.features, subject.eval_source, indices, 'Nearest neighbors'
  )
  _, nearest = nearest_neighbors.nearest(database.features, features, count)
  return index, labels, nearest


def _rows(subject: Subject, database: Database) -> page.Figure:
  index, labels, nearest = _search(
    subject, database, subject.choose_tests(_ROWS, seed=4), _NEIGHBORS
  )
  queries = subject.read(subject.eval_source, index).images
  found = subject.read(
    subject.train_source, database.index[nearest.ravel()]
  ).images
  class_names = [names.shorten(name, 40) for name in subject.class_names]
  panels = []
  for image, label, near, images in zip(
    queries,
    labels,
    database.labels[nearest],
    found.reshape(*nearest.shape, *found.shape[1:]),
    strict=True,
  ):
    others = [class_names[i] for i in dict.fromkeys(near) if i != label]
    note = f'Other classes: {", ".join(others)}.' if others else ''
    panels.append(
      figures.neighbor_row(
        image,
        images,
        hits=near == label,
        title=class_names[label],
        note=note or 'All of the same class.',
      )
    )
  return page.Figure(
    'neighbors',
    'Test images and their nearest training images',
    tuple(panels),
    'The test image is on the left, followed by the training images, the'
    ' nearest first. A green frame marks the same class, a red frame another'
    ' class.',
    width=330,
    most=2,
  )


def _by_rank(same: np.ndarray, chance: float) -> page.Figure:
  share, muted = 100 * same.mean(axis=0), figures.COLORS['muted']

  def draw(axes: Axes) -> None:
    axes.plot(range(1, len(share) + 1), share, color=figures.COLORS['blue'])
    axes.axhline(100 * chance, **figures.DASHED)
    axes.text(len(share), 100 * chance + 2, 'chance', ha='right', color=muted)
    axes.set(ylim=(0, 100), xlabel='rank of the neighbor')

  panel = figures.chart('rank', draw, title='Share of the same class, %')
  return page.Figure(
    'neighbors_by_rank', 'Neighbors of the same class', (panel,)
  )


def _table(same: np.ndarray, chance: float) -> page.Table:
  share = same.mean(axis=0)
  rows = tuple(
    (rank, float(value), float(share[:rank].mean()), chance)
    for rank, value in enumerate(share, 1)
  )
  title = 'Share of the same class by rank'
  header = (
    'rank | same class:.1% | same class, up to this rank:.1% | chance:.1%'
  )
  return page.Table('neighbors', title, header, rows, folded=True)
