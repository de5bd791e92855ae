"""Averages of several runs' predictions, as in the paper's Table 2."""

from collections.abc import Sequence
import functools
import itertools
import math
import pathlib
from typing import Any

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
from matplotlib import ticker
from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import identity as identities
from alexnet_jax import metrics
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax.analysis import features
from alexnet_jax.analysis import figures
from alexnet_jax.inference import TrainedNetwork

Errors = dict[str, float]
_TITLES = {'top1_error': 'top-1 error', 'top5_error': 'top-5 error'}
_KEYS = (*_TITLES, 'nll')
# Below this number of classes, weights are searched by top-1 error: a top-5
# error says little.
_CLASSES_FOR_TOP5 = 100
# All subsets of up to this many networks are measured; of more networks, at
# most this many subsets of each size.
_ALL_UP_TO = 10
_OF_A_SIZE = 100
# Step of the search for weights (2012 code, avg-valid.py:49-71).
_STEP = 0.05
# Numbers in a block of all networks' probabilities: 64 MB.
_BLOCK = 2**24


def run(
  runs: Sequence[TrainedNetwork], output: pathlib.Path, views: str
) -> int:
  """Evaluates several runs, their averages, and weighted averages.

  Writes ensemble.json, ensemble.csv (a row per subset) and ensemble.png.

  Args:
    runs: at least two.
    output: the folder to write to.
    views: 'center_view' or 'ten_views'.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is only one run, if the runs differ in their classes or
      in the images that they are evaluated on, or if no image can be read.
  """
  if len(runs) < 2:
    raise errors.UserError(
      f'--ensemble names {len(runs)} run: an average needs two or more, with'
      ' commas between them'
    )
  workdirs = [str(run.workdir) for run in runs]
  for other in runs[1:]:
    check_comparable(runs[0], other)
  log_probs, labels = predict(runs, views)
  subsets = measure_subsets(log_probs, labels)
  many = log_probs.shape[2] >= _CLASSES_FOR_TOP5
  by = 'top5_error' if many else 'top1_error'
  result = {
    'networks': [
      {'workdir': workdir, 'step': run.step, **single}
      for workdir, run, single in zip(workdirs, runs, subsets, strict=False)
    ],
    'views': views,
    'examples': len(labels),
    'average': subsets[-1],
    'sizes': summarize(subsets),
    'search': search_and_measure(log_probs, labels, by),
    'subsets': subsets,
  }
  _log(workdirs, result)
  files.write_json(output / 'ensemble.json', result)
  header = ['networks', *_KEYS, *map(names.printable, workdirs)]
  rows = (_row(each, len(workdirs)) for each in subsets)
  files.write_csv(output / 'ensemble.csv', header, rows)
  _save_plot(output / 'ensemble.png', result)
  logging.info('%s, ensemble.csv, ensemble.png', output / 'ensemble.json')
  return 0


def check_comparable(first: TrainedNetwork, other: TrainedNetwork) -> None:
  """Checks that two runs predict the same classes for the same images.

  Raises:
    UserError: if they do not.
  """
  identities.check_class_names(
    other.identity.class_names,
    first.identity.class_names,
    str(other.workdir),
    str(first.workdir),
  )
  ours, theirs = first.splits.eval_source, other.splits.eval_source
  if ours.fingerprint != theirs.fingerprint:
    raise errors.UserError(
      f"{other.workdir} is evaluated on {theirs.name} '{theirs.split}'"
      f' ({theirs.num_examples} images, {theirs.fingerprint[:8]}),'
      f" {first.workdir} on {ours.name} '{ours.split}' ({ours.num_examples},"
      f' {ours.fingerprint[:8]}): average runs with the same'
      ' --config.data.eval_split'
    )


def predict(
  runs: Sequence[TrainedNetwork], views: str
) -> tuple[np.ndarray, np.ndarray]:
  """Predicts the validation images with each of several runs.

  Args:
    runs: that are comparable; see `check_comparable`.
    views: 'center_view' or 'ten_views'.

  Returns:
    Log-probabilities float32 [runs, N, classes] and labels int32 [N] of the
    images that could be read.

  Raises:
    UserError: if too many of them cannot be read.
  """
  log_probs, labels = [], []
  for run in runs:
    stream = features.stream(
      run,
      run.splits.eval_source,
      features.predictor(run, views),
      f'Predicting with {run.workdir}',
      strict=True,
    )
    rows = [(batch.outputs, batch.labels) for batch in stream]
    outputs, labels = map(np.concatenate, zip(*rows, strict=True))
    log_probs.append(outputs)
  return np.stack(log_probs), np.asarray(labels)


def measure(
  log_probs: np.ndarray,
  labels: np.ndarray,
  weights: np.ndarray,
  what: str = '',
) -> list[Errors]:
  """Measures weighted averages of the networks' probabilities.

  Args:
    log_probs: float32 [networks, N, classes].
    labels: int32 [N].
    weights: [S, networks], not negative, with a positive sum for each of the S
      averages; each is divided by its sum.
    what: is being done, for the lines of progress; empty for no progress.

  Returns:
    `top1_error`, `top5_error` and `nll` (nats) of each average; NaN where there
    are no examples.
  """
  weights = np.asarray(weights, np.float64)
  shares = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
  networks, examples, classes = log_probs.shape
  rows = max(1, _BLOCK // (networks * classes))
  shown = progress.Progress(what, examples) if what else None
  sums = np.zeros((len(shares), 3))
  for start in range(0, examples, rows):
    block = slice(start, start + rows)
    sums += np.asarray(_sums(log_probs[:, block], labels[block], shares))
    if shown is not None:
      shown.add(len(labels[block]))
  means = sums / (examples or math.nan)
  return [dict(zip(_KEYS, row, strict=True)) for row in means.tolist()]


@jax.jit
def _sums(log_probs, labels, shares) -> jax.Array:
  """Returns the sums of `_KEYS` over the examples, float32 [S, 3]."""
  # Relative to the largest of the networks, so that small ones do not vanish.
  largest = jnp.max(log_probs, axis=0)
  relative = jnp.exp(log_probs - largest)
  ones = jnp.ones(len(labels), jnp.float32)

  def score(share):
    mean = jnp.tensordot(share, relative, 1, precision=lax.Precision.HIGHEST)
    # What vanishes here has a probability e^87 times smaller than another
    # network's.
    mean = jnp.maximum(mean, jnp.finfo(jnp.float32).tiny)
    result = metrics.score(largest + jnp.log(mean), labels, ones, 0 * ones)
    return jnp.stack([result.top1, result.top5, result.nll])

  return lax.map(score, shares)


def choose_subsets(networks: int) -> list[tuple[int, ...]]:
  """Returns subsets of the networks: all, or for many networks a fixed sample.

  Args:
    networks: how many there are.

  Returns:
    Different subsets in ascending order of size, each in ascending order.
  """
  chosen: list[tuple[int, ...]] = []
  for size in range(1, networks + 1):
    if networks <= _ALL_UP_TO or math.comb(networks, size) <= _OF_A_SIZE:
      chosen += itertools.combinations(range(networks), size)
      continue
    rng = np.random.default_rng([networks, size])
    some: set[tuple[int, ...]] = set()
    while len(some) < _OF_A_SIZE:
      members = rng.choice(networks, size, replace=False)
      some.add(tuple(sorted(members.tolist())))
    chosen += sorted(some)
  return chosen


def measure_subsets(
  log_probs: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
  """Measures averages of subsets, from single networks to all of them.

  Args:
    log_probs: float32 [networks, N, classes].
    labels: int32 [N].

  Returns:
    For each subset its `members` (indices) and its errors.
  """
  chosen = choose_subsets(len(log_probs))
  weights = np.zeros((len(chosen), len(log_probs)))
  for row, members in zip(weights, chosen, strict=True):
    row[list(members)] = 1
  what = f'Averaging {len(chosen)} subsets'
  measured = measure(log_probs, labels, weights, what)
  return [
    {'members': list(members), **each}
    for members, each in zip(chosen, measured, strict=True)
  ]


def summarize(subsets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns mean and spread of the errors for each number of networks."""
  networks = len(subsets[-1]['members'])
  sizes = []
  for size in range(1, networks + 1):
    own = [each for each in subsets if len(each['members']) == size]
    summary: dict[str, Any] = {
      'networks': size,
      'subsets': len(own),
      'of': math.comb(networks, size),
    }
    for key in _KEYS:
      values = np.array([each[key] for each in own])
      summary[key] = {
        'mean': float(values.mean()),
        'standard_deviation': float(values.std()),
        'lowest': float(values.min()),
        'highest': float(values.max()),
      }
    sizes.append(summary)
  return sizes


def search_weights(
  log_probs: np.ndarray, labels: np.ndarray, by: str
) -> np.ndarray:
  """Finds weights by coordinate search, as the authors did in 2012.

  From equal weights: each network in turn gets the weight of 0, 0.05, ..., 1
  that makes the error lowest with the others' weights held, until no change
  helps. Of equal errors the lower negative log-likelihood is better.

  Args:
    log_probs: float32 [networks, N, classes], of examples to search on.
    labels: int32 [N].
    by: the error to lower: 'top1_error', or 'top5_error' as in the 2012 code.

  Returns:
    float64 [networks], with a sum of 1.
  """

  def judge(candidates: np.ndarray) -> list[tuple[float, float]]:
    measured = measure(log_probs, labels, candidates)
    return [(each[by], each['nll']) for each in measured]

  networks = len(log_probs)
  weights = np.ones(networks)
  values = np.round(np.arange(0, 1 + _STEP / 2, _STEP), 2)
  (best,) = judge(weights[None])
  unchanged, network = 0, 0
  while unchanged < networks:
    tried = np.repeat(weights[None], len(values), axis=0)
    tried[:, network] = values
    tried = tried[tried.sum(axis=1) > 0]
    judged = judge(tried)
    lowest = min(range(len(tried)), key=judged.__getitem__)
    if judged[lowest] < best:
      best, weights, unchanged = judged[lowest], tried[lowest], 0
    unchanged += 1
    network = (network + 1) % networks
  return weights / weights.sum()


def search_and_measure(
  log_probs: np.ndarray, labels: np.ndarray, by: str
) -> dict[str, Any]:
  """Searches weights on every other example and measures them on the rest.

  Args:
    log_probs: float32 [networks, N, classes].
    labels: int32 [N].
    by: see `search_weights`.

  Returns:
    The weights, the error they were searched by, and for both halves the
    errors with equal weights and with these.
  """
  halves = {
    'searched_on': (log_probs[:, ::2], labels[::2]),
    'measured_on': (log_probs[:, 1::2], labels[1::2]),
  }
  logging.info('Searching weights on %d images', len(labels[::2]))
  weights = search_weights(*halves['searched_on'], by)
  result: dict[str, Any] = {'by': by, 'weights': weights.tolist()}
  for name, half in halves.items():
    pair = np.stack([np.ones(len(weights)), weights])
    equal, weighted = measure(*half, pair)
    sides = {'equal': equal, 'weighted': weighted}
    result[name] = {'examples': len(half[1]), **sides}
  return result


def _log(workdirs: Sequence[str], result: dict[str, Any]) -> None:
  count = len(workdirs)
  titles = [*workdirs, f'average of {count}']
  width = max(map(len, titles))
  rows = [*result['networks'], result['average']]
  for title, row in zip(titles, rows, strict=True):
    logging.info('%-*s  %s', width, title, _in_words(row))
  for size in result['sizes']:
    spreads = [
      f'{_TITLES[key]} {100 * size[key]["mean"]:.2f} % +-'
      f' {100 * size[key]["standard_deviation"]:.2f}'
      f' ({100 * size[key]["lowest"]:.2f} to {100 * size[key]["highest"]:.2f})'
      for key in _TITLES
    ]
    logging.info(
      '%d of %d networks: %s; %d of %d subsets',
      size['networks'],
      count,
      ', '.join(spreads),
      size['subsets'],
      size['of'],
    )
  search = result['search']
  weights = ' '.join(f'{weight:.3f}' for weight in search['weights'])
  searched, other = search['searched_on'], search['measured_on']
  what = f'Weights {weights}, searched by {_TITLES[search["by"]]}'
  logging.info('%s on %d images', what, searched['examples'])
  if other['examples']:  # There are none where the split has one image.
    logging.info('On the other %d images:', other['examples'])
    logging.info('  equal weights  %s', _in_words(other['equal']))
    logging.info('  these weights  %s', _in_words(other['weighted']))


def _in_words(measured: Errors) -> str:
  shares = [f'{_TITLES[key]} {100 * measured[key]:.2f} %' for key in _TITLES]
  return f'{", ".join(shares)}, loss {measured["nll"]:.4f}'


def _row(subset: dict[str, Any], networks: int) -> list[float]:
  taken = [int(i in subset['members']) for i in range(networks)]
  return [len(subset['members']), *(subset[key] for key in _KEYS), *taken]


def _save_plot(path: pathlib.Path, result: dict[str, Any]) -> None:
  panels = [
    figures.chart(
      key,
      functools.partial(_draw, key, result['subsets'], result['sizes']),
      alt=f'{title} by number of networks',
      title=title.capitalize(),
    )
    for key, title in _TITLES.items()
  ]
  figures.save_sheet(
    path,
    panels,
    title='Error of averaged networks',
    subtitle=f'{result["examples"]:,} images,'
    f' {result["views"].replace("_", " ")}',
    columns=len(panels),
  )


def _draw(
  key: str,
  subsets: Sequence[dict[str, Any]],
  sizes: Sequence[dict[str, Any]],
  axes: Axes,
) -> None:
  """Draws each subset as a dot, their mean as a line, its spread as a band."""
  blue, muted = figures.COLORS['blue'], figures.COLORS['muted']
  counts = [size['networks'] for size in sizes]
  mean = np.array([size[key]['mean'] for size in sizes])
  spread = np.array([size[key]['standard_deviation'] for size in sizes])
  band = mean - spread, mean + spread
  label = '± one standard deviation'
  axes.fill_between(counts, *band, color=blue, alpha=0.15, lw=0, label=label)
  dots = [(len(each['members']), each[key]) for each in subsets]
  axes.plot(*zip(*dots, strict=True), '.', color=muted, label='one subset')
  axes.plot(counts, mean, '-o', color=blue, ms=5, label='mean')
  axes.set(xlabel='networks averaged', xlim=(0.7, len(sizes) + 0.3))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=' %'))
  axes.legend(fontsize=8)
