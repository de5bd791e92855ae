"""The images of a split that are nearest to some others: --mode=similar."""

from collections.abc import Sequence
import contextlib
import pathlib
from typing import NamedTuple

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax.analysis import features
from alexnet_jax.analysis import figures
from alexnet_jax.analysis import nearest_neighbors
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import sources

# Queries in the terminal and on the contact sheet; similar.csv has all.
_SHOWN = 16


class _Neighbor(NamedTuple):
  query: str  # name of its file, printable
  rank: int  # from 1
  file: str  # printable
  class_id: str
  class_name: str
  distance: float


def run(
  trained: TrainedNetwork,
  queries: sources.Source,
  source: sources.Source,
  layer: str,
  k: int,
  output: pathlib.Path,
) -> int:
  """Finds the images of a split that are nearest to each query.

  Prints them and writes similar.csv and similar.png, a contact sheet. The
  features of the split are kept in the folder `features`.

  Args:
    trained: the run.
    queries: the images to compare with, from `folder.open_files`.
    source: the split to search.
    layer: the layer whose outputs, of all towers, are compared.
    k: how many to find.
    output: the folder to write to.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no such layer, a query cannot be read, or no image of
      the split can be read.
  """
  if k < 1:
    raise errors.UserError(f'--k={k} neighbors cannot be shown: use 1 or more')
  wanted, images = _read_queries(trained, queries, layer)
  database = features.load_or_compute(
    trained, source, layer, output / 'features'
  )
  distances, places = nearest_neighbors.nearest(database['features'], wanted, k)
  indices, labels = database['index'][places], database['label'][places]
  found = _describe(trained, queries, source, indices, labels, distances)
  path = output / 'similar.csv'
  header = ['query', 'rank', 'image', 'class', 'name', 'distance']
  files.write_csv(path, header, found)
  shown = found[: indices[:_SHOWN].size]
  _print(shown)
  squares = features.read_images(trained, source, indices[:_SHOWN].ravel())
  figures.save_sheet(
    output / 'similar.png',
    _rows(images, squares, shown),
    title='Nearest neighbors',
    subtitle=f'distances of {layer}, {source.num_examples:,} images of'
    f' {source.split}; step {trained.step:,} of {trained.workdir}',
    columns=1,
  )
  logging.info(
    'Nearest %d of %s images of %s: %s, similar.png',
    indices.shape[1],
    f'{len(database):,}',
    source.split,
    path,
  )
  return 0


def _read_queries(
  trained: TrainedNetwork, queries: sources.Source, layer: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns all queries' features [Q, D], and the images of those shown."""
  compute = features.extractor(trained, layer)
  outputs, images, missing = [], [], set(range(queries.num_examples))
  # That no query can be read is the same mistake as that one cannot.
  with contextlib.suppress(errors.NothingReadableError):
    for rows in features.stream(trained, queries, compute, 'Reading queries'):
      outputs.append(rows.outputs.reshape(len(rows.outputs), -1))
      images.extend(rows.images[: _SHOWN - len(images)])
      missing.difference_update(rows.indices.tolist())
  if missing:
    raise errors.UserError(
      f'{queries.describe(min(missing))} cannot be read: name another image'
      ' with --query'
    )
  return np.concatenate(outputs), np.stack(images)


def _describe(
  trained: TrainedNetwork,
  queries: sources.Source,
  source: sources.Source,
  indices: np.ndarray,
  labels: np.ndarray,
  distances: np.ndarray,
) -> list[_Neighbor]:
  """Names the neighbors given as three arrays [Q, k], query by query."""
  return [
    _Neighbor(
      names.printable(queries.describe(q)),
      rank + 1,
      names.printable(source.describe(int(indices[q, rank]))),
      trained.class_ids[label],
      trained.class_names[label],
      float(distances[q, rank]),
    )
    for (q, rank), label in np.ndenumerate(labels)
  ]


def _print(shown: Sequence[_Neighbor]) -> None:
  for each in shown:
    if each.rank == 1:
      print(each.query)
    name = names.shorten(each.class_name, 24)
    print(
      f'{each.rank:>4}  {_short(each.distance):>10}  {name:24}  {each.file}'
    )


def _short(distance: float) -> str:
  """Returns a distance with about four digits: 0.071, 1.812, 1235."""
  return f'{distance:.3f}' if distance < 1000 else f'{distance:.4g}'


def _rows(
  images: np.ndarray, squares: np.ndarray, shown: Sequence[_Neighbor]
) -> list[figures.Panel]:
  rows = []
  k = len(squares) // len(images)
  for q, image in enumerate(images):
    own = slice(q * k, (q + 1) * k)
    notes = [
      f'{names.shorten(each.class_name, 40)}\n{_short(each.distance)}'
      for each in shown[own]
    ]
    title = pathlib.PurePath(shown[q * k].query).name
    rows.append(
      figures.neighbor_row(image, squares[own], title=title, notes=notes)
    )
  return rows
