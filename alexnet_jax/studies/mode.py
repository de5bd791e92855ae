"""--mode=study: executes missing runs and writes the results of a study."""

from collections.abc import Sequence
import hashlib
import pathlib

from absl import logging
from ml_collections import config_dict

from alexnet_jax import errors
from alexnet_jax import lock
from alexnet_jax import setup
from alexnet_jax import signals
from alexnet_jax import splits
from alexnet_jax.studies import collect
from alexnet_jax.studies import formatting
from alexnet_jax.studies import page
from alexnet_jax.studies import runs as study_runs
from alexnet_jax.studies import table
from alexnet_jax.studies.results import Data
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.runs import StudyRun
from alexnet_jax.studies.study import Study

_REMEDY = 'wait for it, stop it, or choose another --workdir'


def run(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  output: pathlib.Path,
  *,
  jobs: int = 1,
  quick: bool = False,
  only_list: bool = False,
  stop: signals.StopSignal,
) -> int:
  """Runs a study.

  Args:
    config: a config of `configs/studies/`.
    workdir: the working directory of all studies, with one folder per run.
    output: the folder of `studies.md` and `studies/<base>/<name>/`.
    jobs: the number of runs to execute in parallel.
    quick: whether to try the study with one seed and a short training run.
    only_list: whether to print the commands of all runs without executing them.
    stop: signals the runs to save and stop.

  Returns:
    The exit code: 1 if a run has failed, 128 + n if stopped by signal n.

  Raises:
    UserError: if the config does not define a study, or another process runs
      it.
  """
  study = Study.read(config).at_absolute_paths()
  workdir = workdir.absolute()
  if quick:
    study, workdir = study.quickly(), workdir / 'quick'
    output = output / 'quick'
  if only_list:
    if study.counts_images():
      study = study.of_images(_data(study).num_train)
    for each in study_runs.plan(study, workdir):
      print(study_runs.command_line(each))
    return 0
  collect.check(study)
  data = _data(study)
  study = study.of_images(data.num_train)
  planned = study_runs.plan(study, workdir)
  page.check_images(output, study, data)
  path = output / page.folder_of(study) / 'study.csv'
  with lock.held(workdir / page.folder_of(study) / 'lock', _REMEDY):
    recorded = table.read(path, study)
    table.check_test_data(recorded, data.test_digest, path)
    pairs = {(each.variant, each.seed) for each in recorded}
    todo = [
      each
      for each in planned
      if not each.is_finished() and (each.variant, each.seed) not in pairs
    ]
    logging.info(
      '%s: %d of %d runs to execute', study.name, len(todo), len(planned)
    )
    with stop.deferred(signals.TO_NOTICE + signals.TO_SAVE):
      study_runs.execute(todo, jobs, stop)
    if stop.received():
      logging.info('Stopped by %s: rerun the same command to resume', stop.name)
      return stop.exit_code
    failures = {
      each.name: each.reason() for each in todo if not each.is_finished()
    }
    return _report(study, planned, failures, data, workdir, output)


def _report(
  study: Study,
  planned: Sequence[StudyRun],
  failures: dict[str, str],
  data: Data,
  workdir: pathlib.Path,
  output: pathlib.Path,
) -> int:
  finished = [each for each in planned if each.is_finished()]
  results, without = collect.results(study, finished, workdir)
  failures |= without
  diverged = [
    Result(each.variant, each.seed, {})
    for each in planned
    if each.has_diverged() and not study.measure
  ]
  # Other studies write the same page, and may have added to the table.
  with lock.waiting_for(output / 'studies' / '.lock'):
    if not study.measure:
      path = output / page.folder_of(study) / 'study.csv'
      recorded = [*diverged, *table.read(path, study)]
      results = table.merge(results, recorded, study)
    if not results:
      name, reason = next(iter(failures.items()))
      raise errors.UserError(
        f'the study {study.name} has no results; {name}: {reason}. See log.txt'
        f' in {planned[0].workdir}'
      )
    answers = page.write(study, results, failures, output, data)
  for answer in answers:
    logging.info(
      '%s: %s', formatting.in_words(answer, study.metric), answer.verdict
    )
  logging.info('%s', output / 'studies.md')
  return 1 if failures else 0


def _data(study: Study) -> Data:
  """Returns the base's data; no device is opened, since the runs need them.

  Raises:
    UserError: if data are missing, with the flags of a study.
  """
  config = study.base_config()
  opened = splits.Splits(setup.read(config))
  try:
    train, test = opened.train_source, opened.eval_source
  except errors.UserError as error:
    message = str(error)
    for name in study.FOLDERS:
      message = message.replace(f'--config.data.{name}', f'--config.{name}')
    raise errors.UserError(message) from error
  words = (
    f'{train.name} ({train.num_examples:,} training and'
    f' {test.num_examples:,} test images)'
  )
  both = hashlib.blake2b(f'{train.fingerprint} {test.fingerprint}'.encode())
  digest, test_digest = (
    collect.digest_of(each, config.data.source)
    for each in (both.hexdigest(), test.fingerprint)
  )
  return Data(words, digest, test_digest, train.num_examples)
