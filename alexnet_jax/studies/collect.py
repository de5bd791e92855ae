"""What finished runs have come to, from the files that they leave."""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import itertools
import math
import pathlib
from typing import Any

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
from alexnet_jax.studies.measures import MEASURES
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.runs import StudyRun
from alexnet_jax.studies.study import EPOCHS_TO
from alexnet_jax.studies.study import Study


def results(
  study: Study, runs: Sequence[StudyRun], workdir: pathlib.Path
) -> list[Result]:
  """Returns a result per run, or those of the study's measure.

  Args:
    study: which says what is measured.
    runs: the finished ones.
    workdir: where results of measures are kept.

  Raises:
    UserError: if the study names a measure that does not exist.
  """
  measured = workdir / 'measured'
  if not study.measure:
    return [
      Result(run.variant, run.seed, _of_finished(run, study, measured))
      for run in runs
    ]
  if study.measure not in MEASURES:
    raise errors.UserError(
      f"--config.measure='{study.measure}' is no measure: use one of"
      f' {", ".join(MEASURES)}'
    )
  found: list[Result] = []
  for variant in study.variants:
    own = [run for run in runs if run.variant == variant]
    if own:
      prefix = f'{variant}: ' if len(study.variants) > 1 else ''
      found += [
        each._replace(variant=prefix + each.variant)
        for each in _measured(study.measure, own, measured)
      ]
  return found


def _of_finished(
  run: StudyRun, study: Study, folder: pathlib.Path
) -> dict[str, float]:
  """Returns the numbers of a run, with its error on training images.

  That of the log is of augmented images, and with dropout: it would differ
  between variants that train alike.
  """
  (fitted,) = _measured('train_and_test', [run], folder)
  clean = {name: fitted.values[name] for name in ('train_error', 'gap')}
  return of_run(run, study) | clean


def _measured(
  name: str, runs: Sequence[StudyRun], folder: pathlib.Path
) -> Iterable[Result]:
  """Returns what a measure says of the runs; it says it once of the same ones.

  A measure may take minutes, and a study that was killed goes on. Whoever
  changes a measure removes the folder.
  """
  opened = [inference.open_run(run.workdir) for run in runs]
  digests = [network.digest for network in opened]
  folder.mkdir(exist_ok=True)
  key = hashlib.blake2b(repr(digests).encode(), digest_size=6).hexdigest()
  path = folder / f'{name}_{key}.json'
  if not files.is_file(path):
    found = [list(each) for each in MEASURES[name](opened)]
    files.write_json(path, found)
  return [
    Result(
      variant, seed, {key: _number(value) for key, value in values.items()}
    )
    for variant, seed, values in files.loads(path.read_text())
  ]


def of_run(run: StudyRun, study: Study) -> dict[str, float]:
  """Returns the numbers of a run, by metric.

  Args:
    run: that has come to its end.
    study: whose metrics may be epochs to a training error.

  Returns:
    `top1_error`, `top5_error` and `nll` of the last validation, the epochs to
    a training error that the study asks for, with crops and dropout as in
    training, `seconds` of the steps without validations, and, of the network,
    `parameters`, `multiply_adds` and `exchanged_bytes`: see there.
  """
  lines = reporting.read(run.workdir / 'metrics.jsonl')
  by_kind: dict[str, list[dict[str, Any]]] = {}
  for line in lines:
    by_kind.setdefault(line['kind'], []).append(line)
  last = by_kind['validation'][-1]
  values = {
    name: _number(last[name]) for name in ('top1_error', 'top5_error', 'nll')
  }
  epochs = by_kind.get('epoch', [])
  of_network, chance = _of_network(run.workdir)
  for metric in (study.metric, *(each.metric for each in study.comparisons)):
    if metric.startswith(EPOCHS_TO):
      error = float(metric.removeprefix(EPOCHS_TO))
      values[metric] = epochs_to(error, epochs, chance)
  return values | of_network


def epochs_to(
  error: float, epochs: Sequence[Mapping[str, Any]], chance: float
) -> float:
  """Returns after how many epochs the training error was reached.

  It is interpolated between epochs, and infinite if it never was.

  Args:
    error: as a fraction.
    epochs: the lines of kind `epoch`; each has the error of a whole epoch,
      which is therefore that of its middle.
    chance: the error of a guess, which the run begins with.
  """
  points = [(0.0, chance)] + [
    (line['epoch'] - 0.5, _number(line['top1_error'])) for line in epochs
  ]
  for (x0, y0), (x1, y1) in itertools.pairwise(points):
    if y1 <= error:
      return x0 + (x1 - x0) * (y0 - error) / (y0 - y1)
  return math.inf


def _of_network(workdir: pathlib.Path) -> tuple[dict[str, float], float]:
  """Returns numbers of the network by metric, and the error of a guess."""
  checkpoints = checkpoint.Checkpoints(workdir)
  try:
    config = checkpoints.identity(checkpoints.steps()[-1]).config
  finally:
    checkpoints.close()
  network = architecture.from_dict(config['network'])
  rows = architecture.layer_shapes(network, config['input']['crop_size'])
  seconds, _ = overview.time_in_updates(
    overview.read_metrics(workdir / 'metrics.jsonl'), config['batch_size']
  )
  values = {
    'seconds': seconds,
    'parameters': sum(row.weights + row.biases for row in rows),
    'multiply_adds': sum(row.multiply_adds for row in rows),
    'exchanged_bytes': exchanged_bytes(
      network, config['input']['crop_size'], config['compute_dtype']
    ),
  }
  return values, 1 - 1 / network.num_classes


def exchanged_bytes(
  network: Architecture, crop_size: int, dtype: str = 'float32'
) -> float:
  """Returns what towers send each other for one training image, in bytes.

  A layer that reads all towers needs the maps of the others, and their
  gradients go back the same way, both in `dtype`.
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
  """Returns a value of metrics.jsonl, where null stands for no number."""
  return math.nan if value is None else value
