"""The images of a split that are most like some others: mode=similar."""

from collections.abc import Sequence
import csv
import pathlib
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import names
from alexnet_jax.analysis import activations
from alexnet_jax.analysis import contact_sheet
from alexnet_jax.analysis import feature_cache
from alexnet_jax.analysis import features
from alexnet_jax.analysis import nearest_neighbors
from alexnet_jax.inference import Trained

# Queries in the terminal and on the contact sheet; similar.csv has all.
_SHOWN = 16


def run(
  trained: Trained,
  queries: Any,
  source: Any,
  layer: str,
  k: int,
  output: pathlib.Path,
) -> int:
  """Finds the images of a split that are nearest to each query.

  Prints them and writes similar.csv and similar.png, a contact sheet.

  Args:
    trained: the run.
    queries: the images to compare with, from `folder.open_files`.
    source: the split to search.
    layer: by the outputs of which layer; of all towers.
    k: how many to find.
    output: the folder to write into.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no such layer, a query is no image, or no image of
      the split can be read.
  """
  if k < 1:
    raise errors.UserError(f'--k={k} neighbors cannot be shown: use 1 or more')
  activations.check_layer(trained.experiment.network, layer)
  wanted = _query_features(trained, queries, layer)
  database = feature_cache.load_or_compute(trained, source, layer)
  distances, places = nearest_neighbors.nearest(database.features, wanted, k)
  found = [
    _Found(
      names.printable(queries.describe(q)),
      rank + 1,
      names.printable(source.describe(int(database.indices[place]))),
      int(database.indices[place]),
      int(database.labels[place]),
      float(distances[q, rank]),
    )
    for q, row in enumerate(places)
    for rank, place in enumerate(row)
  ]
  output.mkdir(parents=True, exist_ok=True)
  _write_csv(output / 'similar.csv', trained, found)
  shown = found[: _SHOWN * places.shape[1]]
  _print(trained, shown)
  _save_sheet(trained, queries, source, shown, layer, output / 'similar.png')
  logging.info(
    'Nearest %d of %s images of %s: %s, similar.png',
    places.shape[1],
    f'{len(database.labels):,}',
    source.split,
    output / 'similar.csv',
  )
  return 0


class _Found(NamedTuple):
  query: str
  rank: int
  image: str
  index: int  # in the split
  label: int
  distance: float


def _query_features(trained: Trained, queries: Any, layer: str) -> np.ndarray:
  rows = list(features.stream(trained, queries, layer))
  readable = np.concatenate([part.indices for part in rows])
  missing = np.setdiff1d(np.arange(queries.num_examples), readable)
  if len(missing):
    raise errors.UserError(
      f'{queries.describe(int(missing[0]))} is no image that can be read: ask'
      ' with another --query'
    )
  joined = np.concatenate([part.features for part in rows])
  return joined.reshape(len(joined), -1)


def _write_csv(
  path: pathlib.Path, trained: Trained, found: Sequence[_Found]
) -> None:
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['query', 'rank', 'image', 'class', 'name', 'distance'])
    for one in found:
      words = [trained.class_ids[one.label], trained.class_names[one.label]]
      writer.writerow([one.query, one.rank, one.image, *words, one.distance])


def _print(trained: Trained, found: Sequence[_Found]) -> None:
  for one in found:
    if one.rank == 1:
      print(one.query)
    name = contact_sheet.shorten(trained.class_names[one.label], 24)
    distance = contact_sheet.distance(one.distance)
    print(f'{one.rank:>4}  {distance:>10}  {name:24}  {one.image}')


def _save_sheet(
  trained: Trained,
  queries: Any,
  source: Any,
  found: Sequence[_Found],
  layer: str,
  path: pathlib.Path,
) -> None:
  k = max(one.rank for one in found)
  asked = features.squares(trained, queries, np.arange(len(found) // k))
  places = np.array([one.index for one in found])
  squares = features.squares(trained, source, places)
  rows = []
  for q, square in enumerate(asked):
    own = slice(q * k, (q + 1) * k)
    rows.append(
      contact_sheet.Neighbors(
        square,
        pathlib.PurePath(found[q * k].query).name,
        squares[own],
        [trained.class_names[one.label] for one in found[own]],
        [one.distance for one in found[own]],
      )
    )
  contact_sheet.save_neighbors(
    path,
    rows,
    'The most similar images',
    f'by {layer}, of the {source.num_examples:,} images of {source.split};'
    f' step {trained.step:,} of {trained.workdir}',
  )
