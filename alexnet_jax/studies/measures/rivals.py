"""Sparse coding and Fisher vectors, the rivals of the paper's Table 1."""

from collections.abc import Callable, Iterable, Sequence
import functools
import pathlib
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from alexnet_jax import metrics
from alexnet_jax.analysis import features
from alexnet_jax.analysis.report import overview
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import sources
from alexnet_jax.studies.measures import fisher_vectors
from alexnet_jax.studies.measures import sparse_codes
from alexnet_jax.studies.results import Result

# Ridges to choose from, relative to the mean variance of the features.
_RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_BLOCK = 5_000  # rows of features that are centered at once
_CHUNK = 16  # images encoded at once, so that they stay in the caches
_PROCESS = pathlib.Path('/proc/self')


class Sizes(NamedTuple):
  """How much the rivals learn from, and how large they are.

  Attributes:
    images: of the training split, drawn at random, at most: the features of
      50,000 images are 1.7 GB.
    sample: how many of these components, mixtures and dictionaries are learned
      from.
    gaussians: of a mixture.
    codes: of the dictionary.
  """

  images: int = 50_000
  sample: int = 2_000
  gaussians: int = 32
  codes: int = 800


FULL = Sizes()

# Learns from images, uint8 [N, S, S, 3], and returns arrays, and a function of
# them and of one image [S, S, 3] to its features, float32 [D].
_Learn = Callable[[np.ndarray, Sizes, int], tuple[Any, Callable]]


def _fisher_vectors(images, sizes, seed):
  learned = fisher_vectors.learn(images, sizes.gaussians, seed)
  return learned, fisher_vectors.encode


def _sparse_codes(images, sizes, seed):
  return sparse_codes.learn(images, sizes.codes, seed), sparse_codes.encode


_RIVALS: dict[str, _Learn] = {
  'sparse codes': _sparse_codes,
  'Fisher vectors': _fisher_vectors,
}


def measure(
  runs: Sequence[TrainedNetwork], sizes: Sizes = FULL
) -> Iterable[Result]:
  """Trains the rivals of Table 1 on a network's training split.

  Variants: 'sparse codes' and 'Fisher vectors', each with a linear classifier,
  see `train_classifier`; 'AlexNet', the network itself with its center view.
  The rivals see whole squares, without augmentation.

  Values: `top1_error` and `top5_error` of the validation images; `seconds` of
  training, including reading the images, and for the network that of its
  updates if its workdir has metrics.jsonl;
  `test_milliseconds` per image, from pixels in memory to scores, compiled
  before, in the run's batches, of the network on its devices and of the rivals
  on one; `bytes` of what was learned; and of the rivals, on Linux, `memory`,
  the peak memory of the process, including libraries and the network.
  """
  for run in runs:
    seed = run.setup.settings.seed
    for name, learn in _RIVALS.items():
      yield Result(name, seed, _rival(run, name, learn, sizes))
    yield Result('AlexNet', seed, _network(run))


def _network(run: TrainedNetwork) -> dict[str, float]:
  values = _scores(run, features.predictor(run, 'center_view'), 'The network')
  values['bytes'] = _bytes(run.params)
  seconds, _ = overview.time_in_updates(
    overview.read_metrics(run.workdir / 'metrics.jsonl'),
    run.setup.settings.batch_size,
  )
  return values | ({'seconds': seconds} if seconds else {})


def _rival(
  run: TrainedNetwork, name: str, learn: _Learn, sizes: Sizes
) -> dict[str, float]:
  """Trains one rival and measures it."""
  train, seed = run.split('train'), run.setup.settings.seed
  rng = np.random.default_rng(seed)
  indices = rng.permutation(train.num_examples)[: sizes.images]
  if len(indices) < train.num_examples:
    logging.info(
      'The %s learn from %s of %s training images, drawn at random',
      name,
      f'{len(indices):,}',
      f'{train.num_examples:,}',
    )
  _reset_peak_memory()
  start = time.perf_counter()
  sample = features.read_images(run, train, indices[: sizes.sample])
  arrays, encode = learn(sample, sizes, seed)
  logging.info('%s: learned in %.0f s', name, time.perf_counter() - start)

  @jax.jit
  def encode_all(arrays, images):
    one = functools.partial(encode, arrays)
    return jax.lax.map(one, images, batch_size=_CHUNK)

  def compute(images):
    return np.asarray(encode_all(arrays, images))

  subset = sources.Subset(train, indices)
  encoded, labels = _encode(run, subset, compute, f'Encoding, {name}')
  classifier = train_classifier(encoded, labels, len(train.class_names))
  seconds = time.perf_counter() - start
  del encoded
  values = _scores(run, lambda images: classifier(compute(images)), name)
  memory = _peak_memory()
  return {
    **values,
    'seconds': seconds,
    'bytes': _bytes((arrays, classifier)),
    **({'memory': memory} if memory else {}),
  }


def _encode(
  run: TrainedNetwork,
  source: sources.Source,
  compute: features.Compute,
  what: str,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns features, float32 [N, D], and labels of what can be read."""
  encoded, labels = np.empty((0, 0), np.float32), []
  count = 0
  for rows in features.stream(run, source, compute, what):
    if not count:
      width = rows.outputs.shape[1]
      encoded = np.empty((source.num_examples, width), np.float32)
    encoded[count : count + len(rows.labels)] = rows.outputs
    labels.append(rows.labels)
    count += len(rows.labels)
  return encoded[:count], np.concatenate(labels)


class Classifier(NamedTuple):
  """A linear classifier.

  Attributes:
    weights: float32 [D, classes].
    biases: float32 [classes].
  """

  weights: np.ndarray
  biases: np.ndarray

  def __call__(self, encoded: np.ndarray) -> np.ndarray:
    """Returns scores, float32 [N, classes]."""
    return encoded @ self.weights + self.biases


def train_classifier(
  encoded: np.ndarray, labels: np.ndarray, num_classes: int
) -> Classifier:
  """Fits 1 for the class of an image and -1 for the others, by least squares.

  Ridge regression has a closed solution, so convergence need not be checked.
  On 8,000 images of CIFAR-10 its error was within 0.7 points of support vector
  machines' and of logistic regression's. The ridge is the best of `_RIDGES`
  for a fifth of the images, which is held out.

  Args:
    encoded: float32 [N, D], in random order.
    labels: int [N].
    num_classes: the number of classes.
  """
  targets = 2 * np.eye(num_classes, dtype=np.float32)[labels] - 1
  center, level = (
    each.mean(axis=0, dtype=np.float64).astype(np.float32)
    for each in (encoded, targets)
  )

  def products(rows):
    """Returns X'X and X'Y of centered rows, without a copy of them all."""
    gram = np.zeros((len(center), len(center)), np.float32)
    cross = np.zeros((len(center), num_classes), np.float32)
    for start in range(rows.start, rows.stop, _BLOCK):
      block = slice(start, min(start + _BLOCK, rows.stop))
      centered = encoded[block] - center
      gram += centered.T @ centered
      cross += centered.T @ (targets[block] - level)
    return gram, cross

  def solve(gram, cross, ridge):
    matrix = gram.copy()
    matrix.flat[:: len(gram) + 1] += ridge * np.trace(gram) / len(gram)
    weights = linalg.solve(matrix, cross, assume_a='pos', overwrite_a=True)
    return Classifier(weights, level - center @ weights)

  kept = len(encoded) - len(encoded) // 5
  gram, cross = products(range(kept))
  wrong = {}
  for ridge in _RIDGES:
    scores = solve(gram, cross, ridge)(encoded[kept:])
    wrong[ridge] = float(np.mean(scores.argmax(axis=1) != labels[kept:]))
  best = min(wrong, key=wrong.__getitem__)
  logging.info(
    'Errors of held-out training images by ridge: %s',
    ', '.join(
      f'{100 * each:.1f} % ({ridge:g})' for ridge, each in wrong.items()
    ),
  )
  more_gram, more_cross = products(range(kept, len(encoded)))
  return solve(gram + more_gram, cross + more_cross, best)


def _scores(
  run: TrainedNetwork, compute: features.Compute, what: str
) -> dict[str, float]:
  """Returns the errors of scores, and the time that it takes to compute them.

  Args:
    run: whose validation split is used.
    compute: scores, float32 [N, classes], from images.
    what: for the lines of progress.
  """
  timed = _Timed(compute)
  source = run.split('validation')
  wrong, count = {1: 0.0, 5: 0.0}, 0
  for rows in features.stream(run, source, timed, f'Testing, {what}', True):
    count += len(rows.labels)
    scores = jnp.asarray(rows.outputs)
    for k in wrong:
      errors_here = metrics.top_k_error(scores, jnp.asarray(rows.labels), k)
      wrong[k] += float(errors_here.sum())
  return {
    **{f'top{k}_error': total / count for k, total in wrong.items()},
    'test_milliseconds': 1000 * timed.seconds / timed.images,
  }


class _Timed:
  """A function of images, timed after a first call, which compiles it."""

  def __init__(self, compute: features.Compute):
    self._compute = compute
    self.images, self.seconds = 0, 0.0

  def __call__(self, images: np.ndarray) -> np.ndarray:
    if not self.images:
      np.asarray(self._compute(images))
    start = time.perf_counter()
    found = np.asarray(self._compute(images))
    self.seconds += time.perf_counter() - start
    self.images += len(images)
    return found


def _bytes(arrays: Any) -> float:
  return float(sum(each.nbytes for each in jax.tree.leaves(arrays)))


def _reset_peak_memory() -> None:
  """Lets the kernel count the peak from here; proc(5), clear_refs."""
  try:
    (_PROCESS / 'clear_refs').write_text('5')
  except OSError:
    logging.warning('The peak of memory is that since the program started')


def _peak_memory() -> float:
  """Returns the peak of the process's memory in bytes; 0 if not on Linux."""
  try:
    status = (_PROCESS / 'status').read_text()
  except OSError:
    return 0.0
  (line,) = (x for x in status.splitlines() if x.startswith('VmHWM:'))
  return 1024.0 * int(line.split()[1])
