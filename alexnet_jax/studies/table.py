"""Reads and writes study.csv, the table of a study's results.

Each row names the config of its run, so that results from another machine can
be reused: a study executes only the runs that are not in the table.
"""

from collections.abc import Iterator, Sequence
import csv
import pathlib

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

  Skips rows of a different config, and rows that lack one of the study's
  metrics. Returns nothing for a study with a measure, which needs the trained
  networks.

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
      return list(_rows(csv.DictReader(file), study))
  except (KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f'{path} is not a table of results ({error}): remove it or choose another'
      ' --output'
    ) from error


def _rows(rows: csv.DictReader, study: Study) -> Iterator[Result]:
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

  Raises:
    UserError: if they were tested on different images.
  """
  by_pair = {(each.seed, each.variant): each for each in (*recorded, *made)}
  tested_on = {
    each.origin.test_data: each
    for each in by_pair.values()
    if each.origin and each.origin.test_data
  }
  if len(tested_on) > 1:
    one, other = list(tested_on.values())[:2]
    raise errors.UserError(
      f'{one.variant}, seed {one.seed}, and {other.variant}, seed {other.seed},'
      ' were tested on different images: choose another --output for those of'
      ' --config.data_dir'
    )
  places = {variant: place for place, variant in enumerate(study.variants)}

  def order(pair: tuple[int, str]) -> tuple[int, int]:
    seed, variant = pair
    return seed, places.get(variant, 0)

  return [by_pair[pair] for pair in sorted(by_pair, key=order)]
