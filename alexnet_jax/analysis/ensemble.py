"""Averaging the predictions of several runs, as the paper does for Table 2."""

from collections.abc import Sequence
import csv
import pathlib
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import files
from alexnet_jax import identity as identities
from alexnet_jax import inference
from alexnet_jax import names
from alexnet_jax import reporting
from alexnet_jax.analysis import averaging
from alexnet_jax.analysis import ensemble_plot
from alexnet_jax.analysis import subsets
from alexnet_jax.inference import Trained

# Of fewer classes, five guesses say little: weights are sought by top-1 error.
_CLASSES_FOR_TOP5 = 100


def run(
  workdirs: Sequence[str], config: Any, output: pathlib.Path, views: str
) -> int:
  """Evaluates several runs, their averages, and weighted averages.

  Writes ensemble.json, ensemble.csv (a row a subset) and ensemble.png.

  Args:
    workdirs: of the runs.
    config: in place of their own, as in `inference.open_run`; None for none.
    output: the folder to write into.
    views: 'center_view' or 'ten_views'.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if a run is missing, or they do not share their classes and the
      images that they are evaluated on, or none of these can be read.
  """
  if len(workdirs) < 2:
    raise errors.UserError(
      f'--ensemble names {len(workdirs)} run: an average needs two or more,'
      ' with commas between them'
    )
  runs = [inference.open_run(workdir, config) for workdir in workdirs]
  for other in runs[1:]:
    check_comparable(runs[0], other)
  labels, log_probs = _predict(runs, views)
  measured = subsets.measure(log_probs, labels)
  sizes = subsets.summarize(measured, len(runs))
  by = 'top5' if len(runs[0].class_names) >= _CLASSES_FOR_TOP5 else 'top1'
  search = averaging.search_and_measure(log_probs, labels, by)
  _log(workdirs, measured, sizes, search)
  output.mkdir(parents=True, exist_ok=True)
  result = {
    'networks': [
      {'workdir': str(run.workdir), 'step': run.step, **single}
      for run, single in zip(runs, measured, strict=False)
    ],
    'views': views,
    'examples': len(labels),
    'average': measured[-1],
    'sizes': sizes,
    'search': search,
    'subsets': measured,
  }
  text = files.dumps(result, indent=2) + '\n'
  reporting.replace_text(output / 'ensemble.json', text)
  _write_csv(output / 'ensemble.csv', workdirs, measured)
  subtitle = f'{len(labels):,} images, {views.replace("_", " ")}'
  ensemble_plot.save(output / 'ensemble.png', measured, sizes, subtitle)
  logging.info('%s, ensemble.csv, ensemble.png', output / 'ensemble.json')
  return 0


def check_comparable(first: Trained, other: Trained) -> None:
  """Checks that two runs say something about the same classes and images.

  Raises:
    UserError: if they do not.
  """
  identities.check_class_names(
    other.identity.class_names,
    first.identity.class_names,
    str(other.workdir),
    str(first.workdir),
  )
  ours, theirs = first.data.eval_source, other.data.eval_source
  if ours.fingerprint != theirs.fingerprint:
    raise errors.UserError(
      f"{other.workdir} is evaluated on {theirs.name} '{theirs.split}'"
      f' ({theirs.num_examples} images, {theirs.fingerprint[:8]}),'
      f" {first.workdir} on {ours.name} '{ours.split}' ({ours.num_examples},"
      f' {ours.fingerprint[:8]}): average runs with the same data.eval_split'
    )


def _predict(
  runs: Sequence[Trained], views: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns labels int32 [N] and log-probabilities [runs, N, classes]."""
  labels: list[np.ndarray] = []
  log_probs = []
  for run in runs:
    source = run.data.eval_source
    predictor = evaluate.make_predictor(
      run, evaluate.view_sets(run.experiment)[views]
    )
    labels, mine = [], []
    what = f'Predicting by {run.workdir}'
    for batch in run.data.read(source, what, strict=True):
      readable = batch['mask'] > 0
      labels.append(batch['label'][readable])
      mine.append(predictor(batch['image'])[readable])
    log_probs.append(np.concatenate(mine))
  return np.concatenate(labels), np.stack(log_probs)


def _log(
  workdirs: Sequence[str],
  measured: Sequence[dict[str, Any]],
  sizes: Sequence[dict[str, Any]],
  search: dict[str, Any],
) -> None:
  width = max(14, *map(len, workdirs))
  for workdir, single in zip(workdirs, measured, strict=False):
    logging.info('%-*s  %s', width, workdir, _words(single))
  name = f'average of {len(workdirs)}'
  logging.info('%-*s  %s', width, name, _words(measured[-1]))
  for size in sizes:
    error = size['top1_error']
    logging.info(
      '%d of %d networks: top-1 error %.2f %% +- %.2f (%.2f to %.2f), top-5'
      ' %.2f %% +- %.2f; %d of %d subsets',
      size['networks'],
      len(workdirs),
      100 * error['mean'],
      100 * error['standard_deviation'],
      100 * error['lowest'],
      100 * error['highest'],
      100 * size['top5_error']['mean'],
      100 * size['top5_error']['standard_deviation'],
      size['subsets'],
      size['of'],
    )
  logging.info(
    'Weights %s, searched by %s on %d images',
    ' '.join(f'{weight:.3f}' for weight in search['weights']),
    search['by'].replace('_', ' ').replace('top', 'top-'),
    search['searched_on']['examples'],
  )
  other = search['measured_on']
  if not other['examples']:  # The split has one image.
    return
  logging.info('On the other %d images:', other['examples'])
  logging.info('  equal weights  %s', _words(other['equal']))
  logging.info('  these weights  %s', _words(other['weighted']))


def _words(line: dict[str, float]) -> str:
  return (
    f'top-1 error {100 * line["top1_error"]:.2f} %,'
    f' top-5 error {100 * line["top5_error"]:.2f} %, loss {line["nll"]:.4f}'
  )


def _write_csv(
  path: pathlib.Path,
  workdirs: Sequence[str],
  measured: Sequence[dict[str, Any]],
) -> None:
  keys = ('top1_error', 'top5_error', 'nll')
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    columns = map(names.printable, workdirs)
    writer.writerow(['networks', *keys, *columns])
    for each in measured:
      taken = [int(i in each['members']) for i in range(len(workdirs))]
      errors_here = [each[key] for key in keys]
      writer.writerow([len(each['members']), *errors_here, *taken])
