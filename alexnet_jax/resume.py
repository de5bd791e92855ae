"""What a changed config does to a run that is resumed or used.

`_ON_CHANGE` is the one table of it; README's is checked against it.
"""

from collections.abc import Mapping
import enum
import fnmatch
import pathlib
from typing import Any

from absl import logging

from alexnet_jax import errors
from alexnet_jax import experiment as experiments
from alexnet_jax.identity import Identity
from alexnet_jax.identity import Split


class OnChange(enum.Enum):
  """What happens when a key differs from the checkpoint's.

  Attributes:
    REFUSES: the key is part of the trained function, or of what its steps
      count: the run ends with one line.
    WARNS: it applies from here on, and the log says so.
    APPLIES: it applies and changes no result.
  """

  REFUSES = 'refuses'
  WARNS = 'warns'
  APPLIES = 'applies'


# The first pattern that fits a key decides.
_ON_CHANGE = {
  'network.*': OnChange.REFUSES,
  'input.image_size': OnChange.REFUSES,
  'input.crop_size': OnChange.REFUSES,
  'input.mean': OnChange.REFUSES,
  'input.pixel_scale': OnChange.REFUSES,
  'data.statistics': OnChange.REFUSES,
  # Held against the data themselves, which may have moved: see `check_data`.
  'data.upright': OnChange.WARNS,
  'data.max_pixels': OnChange.WARNS,
  'data.*': OnChange.APPLIES,
  'devices': OnChange.APPLIES,
  'accumulation': OnChange.APPLIES,
  'compilation_cache': OnChange.APPLIES,
  'checkpoint.*': OnChange.APPLIES,
  'log.*': OnChange.APPLIES,
  'evaluate.*': OnChange.APPLIES,
  # seed, compute_dtype, batch_size, num_epochs, max_steps,
  # validate_every_steps, input.*, optimizer.*
  '*': OnChange.WARNS,
}


def check_config(
  config: Mapping[str, Any],
  saved: Mapping[str, Any],
  workdir: pathlib.Path,
  training: bool = True,
) -> None:
  """Holds a config against the one that a checkpoint carries.

  Args:
    config: as JSON types.
    saved: the checkpoint's.
    workdir: of the run.
    training: whether the run goes on; one that is only used again says nothing
      of keys that matter to training alone.

  Raises:
    UserError: if a key differs that is part of the trained function.
  """
  ours, theirs = (dict(experiments.flatten(each)) for each in (config, saved))
  for key in sorted(ours.keys() | theirs.keys()):
    now, before = ours.get(key), theirs.get(key)
    if now == before:
      continue
    match on_change(key):
      case OnChange.REFUSES:
        raise errors.UserError(
          f'{workdir} was trained with {key}={before}, the config says {now}:'
          f' add --config.{key}={before}, or use another --workdir'
        )
      case OnChange.WARNS if training or key == 'compute_dtype':
        logging.warning('%s was %s in %s, now %s', key, before, workdir, now)


def on_change(key: str) -> OnChange:
  """Returns what a change of a key does; see README, "Resuming"."""
  return next(
    what
    for pattern, what in _ON_CHANGE.items()
    if fnmatch.fnmatchcase(key, pattern)
  )


def check_data(
  identity: Identity,
  train: Split,
  validation: Split,
  batch_size: int,
  accepted: bool,
) -> bool:
  """Holds data and batch size against those of a checkpoint.

  Args:
    identity: of the checkpoint.
    train: the training split now.
    validation: the validation split now.
    batch_size: now.
    accepted: whether the user accepts what has changed.

  Returns:
    Whether the epochs are others from here on.

  Raises:
    UserError: if they are, and it was not accepted.
  """
  if validation.fingerprint != identity.validation.fingerprint:
    logging.warning(
      'The validation images are others than the checkpoint knows (%s of %d,'
      ' now %s of %d): errors before and after do not compare',
      identity.validation.split,
      identity.validation.num_examples,
      validation.split,
      validation.num_examples,
    )
  before = identity.config['batch_size']
  changes = []
  if train.num_examples != identity.train.num_examples:
    changes.append(
      f'{identity.train.num_examples} training images, now {train.num_examples}'
    )
  elif train.fingerprint != identity.train.fingerprint:
    changes.append(
      f'other training images (fingerprint {identity.train.fingerprint[:12]},'
      f' now {train.fingerprint[:12]})'
    )
  if batch_size != before:
    changes.append(f'a batch size of {before}, now {batch_size}')
  if not changes:
    return False
  told = f'the checkpoint is of {" and ".join(changes)}'
  if not accepted:
    raise errors.UserError(
      f'{told}: restore it, or accept it with'
      ' --config.checkpoint.accept_changes=True, which begins a new epoch'
    )
  logging.warning('Accepted: %s; a new epoch begins', told)
  return True
