"""Reads and writes study.csv, the table of a study's results.

Each row names the config of its run, so that results from another machine can
be reused: a study executes only the runs that are not in the table.
"""

from collections.abc import Iterable, Iterator, Sequence
import csv
import pathlib

from absl import logging

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax.studies import runs
from alexnet_jax.studies.results import Origin
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.study import Study

_OF_PAIR = ('variant', 'seed')


def write(path: pathlib.Path, results: Sequence[Result]) -> None:
  """Writes one row per result: variant, seed, origin if known, metrics."""
  metrics = list(
    dict.fromkeys(name for each in results for name in each.values)
  )
  of_origin = Origin._fields if any(each.origin for each in results) else ()
  files.write_csv(
    path,
    (*_OF_PAIR, *of_origin, *metrics),
    [
      (
        each.variant,
        each.seed,
        *((each.origin or [None] * len(of_origin)) if of_origin else ()),
        *(each.values.get(name) for name in metrics),
      )
      for each in results
    ],
  )


def read(path: pathlib.Path, study: Study) -> list[Result]:
  """Returns the rows of a table that are valid results of a study.

  Skips rows of a different config, rows that lack one of the study's metrics,
  and those of runs that diverged, which are repeated. Returns nothing for a
  study with a measure, which needs the trained networks.

  Args:
    path: the table; it may not exist.
    study: the study; its number of seeds is ignored.

  Raises:
    UserError: if the file is not a table of results.
  """
  if study.measure or not files.is_file(path):
    return []
  try:
    with open(path, newline='') as file:
      rows = list(csv.DictReader(file))
      found = list(_results(rows, study))
  except (csv.Error, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f'{path} is not a table of results ({error}): remove it or choose another'
      ' --output'
    ) from error
  if len(found) < len(rows):
    logging.warning(
      '%s: %d of %d results are of other configs, or lack metrics of the study,'
      ' and will be left out',
      path,
      len(rows) - len(found),
      len(rows),
    )
  return found


def check_test_data(
  results: Sequence[Result], test_data: str, path: pathlib.Path
) -> None:
  """Checks that results were measured on certain test images.

  Args:
    results: results of runs.
    test_data: the digest of these images; '' to check nothing.
    path: the table of the results, for the message.

  Raises:
    UserError: if they were measured on others.
  """
  for each in results:
    theirs = each.origin.test_data if each.origin else ''
    if theirs and test_data and theirs != test_data:
      raise errors.UserError(
        f'{path} has results for other test images (digest {theirs}, those of'
        f' the study have {test_data}): choose another --output or'
        ' --config.data_dir'
      )


def _results(rows: Iterable[dict[str, str]], study: Study) -> Iterator[Result]:
  for row in rows:
    variant, seed = row.pop('variant'), int(row.pop('seed'))
    origin = Origin(*(row.pop(name) or '' for name in Origin._fields))
    values = {name: float(text) for name, text in row.items() if text}
    if (
      variant in study.variants
      and study.metrics <= values.keys()
      and origin.config == runs.config_digest(study, variant, seed)
    ):
      yield Result(variant, seed, values, origin)


def merge(
  made: Sequence[Result], recorded: Sequence[Result], study: Study
) -> list[Result]:
  """Merges the results of runs with those of a table.

  Results of runs take precedence.

  Returns:
    All results, ordered by seed and variant.
  """
  by_pair = {(each.seed, each.variant): each for each in (*recorded, *made)}
  places = {variant: place for place, variant in enumerate(study.variants)}

  def order(pair: tuple[int, str]) -> tuple[int, int]:
    seed, variant = pair
    return seed, places.get(variant, 0)

  return [by_pair[pair] for pair in sorted(by_pair, key=order)]
