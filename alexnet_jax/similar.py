"""The nearest images of a split by what a layer computes (paper, Figure 4).

Distances are Euclidean and exact. The device ranks all features by a lower
bound of the distance, one matrix product a block; the best few are measured in
float64. Where the bounds do not prove that no other can be nearer, which takes
many near-equal distances, all features are measured so.
"""

from collections.abc import Iterator, Sequence
import csv
import functools
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import activations
from alexnet_jax import contact_sheet
from alexnet_jax import errors
from alexnet_jax import feature_cache
from alexnet_jax import features as features_lib
from alexnet_jax.trained import Trained

# Features ranked at once: 16 MB of float32; and queries, 64 MB of distances.
_BLOCK = 2**22
_QUERIES = 1024
# Candidates measured in float64, beyond the k that are wanted.
_SLACK = 32
# Queries in the terminal and on the contact sheet; similar.csv has all.
_SHOWN = 16


def nearest(
  features: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k nearest features of each query.

  Args:
    features: float32 [N, D], finite; a memory map will do.
    queries: float32 [Q, D].
    k: how many; all N where there are fewer.

  Returns:
    Distances, float64 [Q, k], rising, and which features they are of, int64
    [Q, k]. Of equal distances the feature that comes first is nearer.
  """
  k = min(k, len(features))
  count = min(k + _SLACK, len(features))
  distances = np.empty((len(queries), k))
  indices = np.empty((len(queries), k), np.int64)
  for start in range(0, len(queries), _QUERIES):
    some = np.asarray(queries[start : start + _QUERIES], np.float32)
    bounds, candidates = _candidates(features, some, count)
    for i, query in enumerate(some):
      chosen = np.sort(candidates[i])
      squares = _squares(features[chosen], query)
      best = np.argsort(squares, stable=True)[:k]
      found, squares = chosen[best], squares[best]
      # Whatever is no candidate is at least as far as the last bound.
      if count < len(features) and not squares[-1] < bounds[i, -1]:
        squares, found = _exhaustive(features, query, k)
      distances[start + i], indices[start + i] = np.sqrt(squares), found
  return distances, indices


def _squares(features: np.ndarray, query: np.ndarray) -> np.ndarray:
  """Returns the squared distances in float64, [N]."""
  difference = features.astype(np.float64) - query.astype(np.float64)
  return (difference * difference).sum(axis=1)


def _blocks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the features in equal pieces, and the number of each one's first."""
  rows = max(1, _BLOCK // features.shape[1])
  for start in range(0, len(features), rows):
    yield start, np.asarray(features[start : start + rows])


def _candidates(
  features: np.ndarray, queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the lowest bounds, rising, and their features, [Q, count] each."""
  bounds = np.full((len(queries), 0), np.inf)
  indices = np.zeros((len(queries), 0), np.int64)
  queries_there = jax.device_put(queries)
  rows = 0
  for start, block in _blocks(features):
    rows = max(rows, len(block))
    # The last block is filled up, so that one compilation serves all.
    filled = np.pad(block, ((0, rows - len(block)), (0, 0)))
    lower, places = _lowest(filled, queries_there, len(block), min(count, rows))
    bounds = np.concatenate([bounds, lower], axis=1)
    indices = np.concatenate([indices, start + np.asarray(places)], axis=1)
    kept = np.argsort(bounds, axis=1, stable=True)[:, :count]
    bounds = np.take_along_axis(bounds, kept, axis=1)
    indices = np.take_along_axis(indices, kept, axis=1)
  return bounds, indices


@functools.partial(jax.jit, static_argnames='count')
def _lowest(
  features: jax.Array, queries: jax.Array, valid: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the `count` lowest bounds on squared distances, and their places.

  |f - q|^2 = |f|^2 - 2 f.q + |q|^2, less what rounding may have added: a sum
  of D products in float32 is wrong by at most D u sum|products|, u = 2^-24
  (Higham, Accuracy and Stability of Numerical Algorithms, Section 3.1).

  Args:
    features: float32 [N, D].
    queries: float32 [Q, D].
    valid: how many features are none that fill up the block.
    count: how many to return.

  Returns:
    float32 [Q, count], rising, and int32 [Q, count].
  """
  products = jnp.matmul(queries, features.T, precision=lax.Precision.HIGHEST)
  own = jnp.sum(features * features, axis=1)
  others = jnp.sum(queries * queries, axis=1, keepdims=True)
  unit = (features.shape[1] + 16) * 2.0**-24
  slack = unit * (jnp.sqrt(own) + jnp.sqrt(others)) ** 2
  lower = own - 2 * products + others - slack
  lower = jnp.where(jnp.arange(len(features)) < valid, lower, jnp.inf)
  values, places = lax.top_k(-lower, count)
  return -values, places


def _exhaustive(
  features: np.ndarray, query: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the k least squared distances, and whose they are, [k] each."""
  squares, indices = np.zeros(0), np.zeros(0, np.int64)
  for start, block in _blocks(features):
    squares = np.concatenate([squares, _squares(block, query)])
    indices = np.concatenate([indices, np.arange(start, start + len(block))])
    # Stable, and in the features' order: of equals the first is kept.
    best = np.argsort(squares, stable=True)[:k]
    squares, indices = squares[best], indices[best]
  return squares, indices


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
    queries: the images to compare with, from `files.open_files`.
    source: the split to search.
    layer: by the outputs of which layer; of all towers.
    k: how many to find.
    output: the folder to write into.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no such layer, or a query is no image.
  """
  if k < 1:
    raise errors.UserError(f'--k={k} neighbours cannot be shown: use 1 or more')
  activations.check_layer(trained.experiment.network, layer)
  wanted = _query_features(trained, queries, layer)
  database = feature_cache.load_or_compute(trained, source, layer)
  distances, places = nearest(database.features, wanted, k)
  found = [
    _Found(
      queries.describe(q),
      rank + 1,
      source.describe(int(database.indices[place])),
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
  rows = list(features_lib.stream(trained, queries, layer))
  readable = np.concatenate([part.indices for part in rows])
  missing = np.setdiff1d(np.arange(queries.num_examples), readable)
  if len(missing):
    raise errors.UserError(
      f'{queries.describe(int(missing[0]))} is no image that can be read: ask'
      ' with another --query'
    )
  features = np.concatenate([part.features for part in rows])
  return features.reshape(len(features), -1)


def _write_csv(
  path: pathlib.Path, trained: Trained, found: Sequence[_Found]
) -> None:
  classes = trained.data.train_source.class_names
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['query', 'rank', 'image', 'class', 'name', 'distance'])
    for one in found:
      words = [classes[one.label], trained.class_names[one.label]]
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
  asked = features_lib.squares(trained, queries, np.arange(len(found) // k))
  places = np.array([one.index for one in found])
  squares = features_lib.squares(trained, source, places)
  rows = []
  for q, square in enumerate(asked):
    own = slice(q * k, (q + 1) * k)
    rows.append(
      contact_sheet.Neighbours(
        square,
        pathlib.PurePath(found[q * k].query).name,
        squares[own],
        [trained.class_names[one.label] for one in found[own]],
        [one.distance for one in found[own]],
      )
    )
  contact_sheet.save_neighbours(
    path,
    rows,
    'The most similar images',
    f'by {layer}, of the {source.num_examples:,} images of {source.split};'
    f' step {trained.step:,} of {trained.workdir}',
  )
