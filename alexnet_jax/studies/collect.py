"""Collects the results of finished runs from their workdirs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import hashlib
import itertools
import math
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from alexnet_jax import architecture
from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import inference
from alexnet_jax import reporting
from alexnet_jax.analysis.report import overview
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.identity import Identity
from alexnet_jax.studies.measures import MEASURES
from alexnet_jax.studies.results import Origin
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.runs import StudyRun
from alexnet_jax.studies.study import EPOCHS_TO
from alexnet_jax.studies.study import EPOCHS_TO_TEST
from alexnet_jax.studies.study import Study
from alexnet_jax.studies.study import error_of

_PACKAGE = pathlib.Path(__file__).parents[1]
# The length of a window of a training curve, of the epochs before it.
_WINDOW = 0.1
_DIGITS = 12  # of a digest or revision in a table


def check(study: Study) -> None:
  """Checks that the study's measure exists.

  Raises:
    UserError: if it does not.
  """
  if study.measure and study.measure not in MEASURES:
    raise errors.UserError(
      f"--config.measure='{study.measure}' is not a measure: use one of"
      f' {", ".join(MEASURES)}'
    )


def digest_of(fingerprint: str, source: str) -> str:
  """Returns the digest of test images; '' for synthetic ones.

  Synthetic images depend on the seed.
  """
  return '' if source == 'synthetic' else fingerprint[:_DIGITS]


def results(
  study: Study, runs: Sequence[StudyRun], workdir: pathlib.Path
) -> tuple[list[Result], dict[str, str]]:
  """Returns one result per run, or the results of the study's measure.

  Args:
    study: the study.
    runs: its finished runs.
    workdir: the working directory of all studies, where results of measures are
      cached.

  Returns:
    The results, and error messages by the name of the run or variant that could
    not be measured.
  """
  measured = workdir / 'measured'
  if not study.measure:
    return _gathered(
      (each.name, lambda each=each: [_of_finished(each, study, measured)])
      for each in runs
    )
  by_variant = {
    variant: [run for run in runs if run.variant == variant]
    for variant in study.variants
  }

  def of_variant(variant: str) -> list[Result]:
    prefix = f'{variant}: ' if len(study.variants) > 1 else ''
    return [
      each._replace(variant=prefix + each.variant)
      for each in _measured(study.measure, by_variant[variant], measured)
    ]

  return _gathered(
    (variant, lambda variant=variant: of_variant(variant))
    for variant, own in by_variant.items()
    if own
  )


def _gathered(
  named: Iterable[tuple[str, Callable[[], list[Result]]]],
) -> tuple[list[Result], dict[str, str]]:
  """Returns all results, and the error messages of those that failed."""
  found: list[Result] = []
  failures: dict[str, str] = {}
  for name, make in named:
    try:
      found += make()
    except errors.UserError as error:
      logging.warning('%s could not be measured: %s', name, error)
      failures[name] = str(error)
  return found, failures


def _of_finished(run: StudyRun, study: Study, folder: pathlib.Path) -> Result:
  """Returns the metrics of a run, including its clean training error.

  The training error in the log is measured on augmented images with dropout, so
  it is not comparable between variants.
  """
  (fitted,) = _measured('train_and_test', [run], folder)
  clean = {name: fitted.values[name] for name in ('train_error', 'gap')}
  identity = _identity(run.workdir)
  revision, *dirty = _revision(run.workdir).split('-')
  origin = Origin(
    config=run.config,
    test_data=digest_of(
      identity.validation.fingerprint, identity.config['data']['source']
    ),
    revision='-'.join([revision[:_DIGITS], *dirty]),
  )
  values = of_run(run, study, identity.config) | clean
  return Result(run.variant, run.seed, values, origin)


def _revision(workdir: pathlib.Path) -> str:
  """Returns the git revision that executed a run; '' if unknown."""
  path = workdir / 'run.json'
  record = files.loads(path.read_text()) if files.is_file(path) else {}
  return record.get('git_revision') or ''


def _identity(workdir: pathlib.Path) -> Identity:
  """Returns the identity stored in a run's last checkpoint."""
  checkpoints = checkpoint.Checkpoints(workdir)
  try:
    return checkpoints.identity(checkpoints.steps()[-1])
  finally:
    checkpoints.close()


def _measured(
  name: str, runs: Sequence[StudyRun], folder: pathlib.Path
) -> Iterable[Result]:
  """Returns the results of a measure, cached because it may take minutes.

  The cache is valid for the same parameters, images and source code.
  """
  opened = [inference.open_run(run.workdir) for run in runs]
  digests = [
    (
      network.digest,
      network.identity.train.fingerprint,
      network.identity.validation.fingerprint,
    )
    for network in opened
  ]
  folder.mkdir(exist_ok=True)
  hashed = hashlib.blake2b(repr(digests).encode(), digest_size=6)
  hashed.update(jax.__version__.encode())
  for source in sorted(_PACKAGE.rglob('*.py')):
    hashed.update(source.read_bytes())
  key = hashed.hexdigest()
  path = folder / f'{name}_{key}.json'
  if not files.is_file(path):
    found = [
      (each.variant, each.seed, each.values) for each in MEASURES[name](opened)
    ]
    files.write_json(path, found)
  return [
    Result(
      variant, seed, {key: _number(value) for key, value in values.items()}
    )
    for variant, seed, values in files.loads(path.read_text())
  ]


def of_run(
  run: StudyRun, study: Study, config: Mapping[str, Any]
) -> dict[str, float]:
  """Returns the metrics of a finished run.

  Args:
    run: the run.
    study: its study, whose metrics may include epochs to an error.
    config: the config of the run.

  Returns:
    `top1_error`, `top5_error` and `nll` of the last validation; the epochs to
    the errors that the study names: of the training, measured with augmentation
    and dropout, or of the validations; `seconds`, the training time without
    validations; and `parameters`, `multiply_adds` and `exchanged_bytes` of the
    network.

  Raises:
    UserError: if metrics.jsonl has no validation.
  """
  path = run.workdir / 'metrics.jsonl'
  by_kind: dict[str, list[dict[str, Any]]] = {}
  for line in reporting.read(path):
    by_kind.setdefault(line['kind'], []).append(line)
  if 'validation' not in by_kind:
    raise errors.UserError(
      f'{path} has no validation: remove {run.workdir} to repeat the run'
    )
  last = by_kind['validation'][-1]
  values = {
    name: _number(last[name]) for name in ('top1_error', 'top5_error', 'nll')
  }
  network = architecture.from_dict(config['network'])
  start = 0.0, 1 - 1 / network.num_classes  # the error of a random guess
  curves = {
    EPOCHS_TO: [start, *training_curve(by_kind.get('train', []))],
    EPOCHS_TO_TEST: [start, *_validation_curve(by_kind['validation'])],
  }
  for metric in study.metrics:
    for kind, curve in curves.items():
      if metric.startswith(kind):  # the longer prefix last
        values[metric] = epochs_to(error_of(metric), curve)
  crop_size = config['input']['crop_size']
  rows = architecture.layer_shapes(network, crop_size)
  seconds, _ = overview.time_in_updates(
    overview.read_metrics(path), config['batch_size']
  )
  return values | {
    'seconds': seconds,
    'parameters': sum(row.weights + row.biases for row in rows),
    'multiply_adds': sum(row.multiply_adds for row in rows),
    'exchanged_bytes': exchanged_bytes(
      network, crop_size, config['compute_dtype']
    ),
  }


# Epochs of training and the error there.
_Curve = Sequence[tuple[float, float]]


def training_curve(lines: Iterable[Mapping[str, Any]]) -> _Curve:
  """Returns the training error in the course of a run.

  Each point is the mean over a window, attributed to its middle. The windows
  grow with the epochs before them, since early errors fall fast and late ones
  are noisy.

  Args:
    lines: the lines of kind `train`; each has the mean error since the one
      before it.
  """
  points: list[tuple[float, float]] = []
  start = end = total = 0.0
  for line in lines:
    length = line['epoch'] - end
    total += length * _number(line['top1_error'])
    end = line['epoch']
    if end - start >= _WINDOW * start:
      points.append(((start + end) / 2, total / (end - start)))
      start, total = end, 0.0
  return points


def _validation_curve(lines: Iterable[Mapping[str, Any]]) -> _Curve:
  return [(line['epoch'], _number(line['top1_error'])) for line in lines]


def epochs_to(error: float, curve: _Curve) -> float:
  """Returns the number of epochs until an error is reached.

  Interpolated linearly between points; infinite if it is never reached.

  Args:
    error: a fraction.
    curve: at least one point.
  """
  if curve[0][1] <= error:
    return curve[0][0]
  for (x0, y0), (x1, y1) in itertools.pairwise(curve):
    if y1 <= error:
      return x0 + (x1 - x0) * (y0 - error) / (y0 - y1)
  return math.inf


def exchanged_bytes(
  network: Architecture, crop_size: int, dtype: str = 'float32'
) -> float:
  """Returns the bytes exchanged between towers per training image.

  A layer that reads all towers receives the activations of the others, and
  returns their gradients, both in `dtype`.
  """
  total, elements, size = 0, 0, jnp.dtype(dtype).itemsize
  rows = architecture.layer_shapes(network, crop_size)
  for layer, row in zip(network.layers, rows, strict=True):
    if layer.reads == 'all':
      total += 2 * (network.towers - 1) * elements * size
    elements = math.prod(row.output)
    if isinstance(layer, Conv):
      side = row.output[0]
      for _ in range(layer.order.count('pool')):
        side = network.pool.windows(side)
      elements = side**2 * row.output[-1]
  return float(total)


def _number(value: float | None) -> float:
  """Returns a value of metrics.jsonl, where null represents NaN."""
  return math.nan if value is None else value
