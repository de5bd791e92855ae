"""--mode=study: executes missing runs and writes the results of a study."""

from collections.abc import Sequence
import pathlib

from absl import logging
from ml_collections import config_dict

from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import lock
from alexnet_jax import setup
from alexnet_jax import signals
from alexnet_jax import splits
from alexnet_jax.studies import collect
from alexnet_jax.studies import formatting
from alexnet_jax.studies import page
from alexnet_jax.studies import runs as study_runs
from alexnet_jax.studies import table
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
  if study.counts_images():
    images = splits.Splits(setup.build(study.base_config())).train_source
    study = study.of_images(images.num_examples)
  planned = study_runs.plan(study, workdir)
  if only_list:
    print('\n'.join(study_runs.command_line(each) for each in planned))
    return 0
  collect.check(study)
  path = output / page.folder_of(study) / 'study.csv'
  with lock.held(workdir / page.folder_of(study) / 'lock', _REMEDY):
    recorded = table.read(path, study)
    if recorded:
      table.check_test_data(recorded, _test_data(study), path)
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
    return _report(study, planned, failures, workdir, output)


def _report(
  study: Study,
  planned: Sequence[StudyRun],
  failures: dict[str, str],
  workdir: pathlib.Path,
  output: pathlib.Path,
) -> int:
  finished = [each for each in planned if each.is_finished()]
  results, without = collect.results(study, finished, workdir)
  failures |= without
  # Other studies write the same page, and may have added to the table.
  with lock.waiting_for(output / 'studies' / '.lock'):
    if not study.measure:
      path = output / page.folder_of(study) / 'study.csv'
      results = table.merge(results, table.read(path, study), study)
    if not results:
      name, reason = next(iter(failures.items()))
      raise errors.UserError(
        f'the study {study.name} has no results; {name}: {reason}. See log.txt'
        f' in {planned[0].workdir}'
      )
    data = _data(finished[0]) if finished else ''
    answers = page.write(study, results, failures, output, data)
  for answer in answers:
    logging.info(
      '%s: %s', formatting.in_words(answer, study.metric), answer.verdict
    )
  logging.info('%s', output / 'studies.md')
  return 1 if failures else 0


def _test_data(study: Study) -> str:
  """Returns the digest of the study's test images; '' if not applicable."""
  config = study.config(*study.runs()[0])
  source = splits.Splits(setup.build(config)).eval_source
  return collect.digest_of(source.fingerprint, config.data.source)


def _data(run: StudyRun) -> str:
  """Returns a description of a run's data set."""
  network = inference.open_run(run.workdir)
  train, test = network.identity.train, network.identity.validation
  return (
    f'{train.name} ({train.num_examples:,} training and'
    f' {test.num_examples:,} test images)'
  )
