"""What is done of a store in the making, on disk."""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import pathlib
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax.input_pipeline import statistics
from alexnet_jax.input_pipeline import storage
from alexnet_jax.input_pipeline import store
from alexnet_jax.input_pipeline import store_description


@dataclasses.dataclass
class Journal:
  """A store in the making: the first `done` shards are written.

  Attributes:
    identity: what the store is of; what may not change while it is made.
    arrays: `store.ARRAYS`, of all images; zero where not yet written.
    sums: of the images written.
    done: shards written.
  """

  identity: dict[str, Any]
  arrays: dict[str, np.ndarray]
  sums: statistics.Sums
  done: int = 0


def check_same(
  directory: pathlib.Path, begun: dict[str, Any], now: dict[str, Any]
) -> None:
  """Checks that a store is of what is wanted now.

  Raises:
    errors.UserError: naming the first difference.
  """
  for key, value in now.items():
    if begun.get(key) != value:
      raise errors.UserError(
        f'the store in {directory} was begun with {key} '
        f'{str(begun.get(key))[:60]}, now it is {str(value)[:60]}: delete that '
        'folder, or choose another store_dir'
      )


@contextlib.contextmanager
def alone(directory: pathlib.Path) -> Iterator[None]:
  """Keeps a second process out; the lock ends with the process.

  Raises:
    errors.UserError: when there is one.
  """
  import fcntl  # POSIX only.

  with open(directory / 'lock', 'wb') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise errors.UserError(
        f'another process is writing the store in {directory}: wait for it'
      ) from error
    yield


def begin_or_go_on(
  directory: pathlib.Path, identity: dict[str, Any]
) -> Journal:
  """Returns the journal that lies there, or begins one.

  Raises:
    errors.UserError: when it is of something else.
  """
  path = directory / store_description.UNFINISHED
  if not path.is_file():
    journal = Journal(
      identity,
      {
        name: np.zeros(identity['num_examples'], dtype)
        for name, dtype in store.ARRAYS.items()
      },
      statistics.no_sums(identity['image_size']),
    )
    save(directory, journal)
    return journal
  with np.load(path) as stored:
    check_same(directory, json.loads(stored['identity'].item()), identity)
    logging.info('Going on with the store in %s', directory)
    return Journal(
      identity,
      {name: stored[name] for name in store.ARRAYS},
      statistics.Sums(*(stored[f'sum_{x}'] for x in statistics.Sums._fields)),
      int(stored['done']),
    )


def save(directory: pathlib.Path, journal: Journal) -> None:
  """Writes the journal, all at once or not at all."""
  sums = {f'sum_{key}': value for key, value in journal.sums._asdict().items()}
  with storage.replacing(directory / store_description.UNFINISHED) as file:
    np.savez(
      file,
      allow_pickle=False,
      identity=json.dumps(journal.identity),
      done=journal.done,
      **journal.arrays,
      **sums,
    )
