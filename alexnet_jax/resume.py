"""What happens when the config of a resumed or used run has changed.

`_ON_CHANGE` is the table; a test compares docs/resuming.md with it.
"""

from collections.abc import Mapping
import dataclasses
import enum
import fnmatch
import pathlib
from typing import Any

from alexnet_jax import errors
from alexnet_jax import processes
from alexnet_jax import settings
from alexnet_jax.identity import Identity
from alexnet_jax.identity import Split


class OnChange(enum.Enum):
  """What happens when a key differs from the checkpoint's.

  Attributes:
    REFUSES: the key is part of the trained function: the run ends with an
      error.
    WARNS: the new value applies from here on, with a warning.
    APPLIES: the new value applies and changes no result.
  """

  REFUSES = 'refuses'
  WARNS = 'warns'
  APPLIES = 'applies'


# The first pattern that matches a key decides.
_ON_CHANGE = {
  'network.*': OnChange.REFUSES,
  'input.image_size': OnChange.REFUSES,
  'input.crop_size': OnChange.REFUSES,
  'input.mean': OnChange.REFUSES,
  'input.pixel_scale': OnChange.REFUSES,
  'data.statistics': OnChange.REFUSES,
  # The data themselves are compared, since they may have moved: `check_data`.
  'data.upright': OnChange.WARNS,
  'data.max_pixels': OnChange.WARNS,
  'data.*': OnChange.APPLIES,
  'devices': OnChange.APPLIES,
  'parallelism': OnChange.APPLIES,
  'accumulation': OnChange.APPLIES,
  'compilation_cache': OnChange.APPLIES,
  'checkpoint.*': OnChange.APPLIES,
  'log.*': OnChange.APPLIES,
  'evaluate.*': OnChange.APPLIES,
  # seed, compute_dtype, num_epochs, max_steps, validate_every_steps, batch_size
  # (see `check_data`), and the rest of input.* and optimizer.*.
  '*': OnChange.WARNS,
}


def check_config(
  config: Mapping[str, Any],
  saved: Mapping[str, Any],
  workdir: pathlib.Path,
  training: bool = True,
) -> None:
  """Compares a config with the one that a checkpoint carries.

  Args:
    config: as JSON types.
    saved: the checkpoint's.
    workdir: of the run.
    training: whether the run resumes; otherwise keys that matter only to
      training are not compared.

  Raises:
    UserError: if a key differs that is part of the trained function.
  """
  otherwise = 'use another --workdir' if training else 'leave --config out'
  ours, theirs = (dict(settings.flatten(each)) for each in (config, saved))
  for key in sorted(ours.keys() | theirs.keys()):
    now, before = ours.get(key), theirs.get(key)
    if now == before:
      continue
    match on_change(key):
      case OnChange.REFUSES:
        raise errors.UserError(
          f'{workdir} was trained with {key}={before}, but the config has'
          f' {now}: add --config.{key}={before}, or {otherwise}'
        )
      case OnChange.WARNS if training or key == 'compute_dtype':
        processes.warn('%s was %s in %s, now %s', key, before, workdir, now)


def on_change(key: str) -> OnChange:
  """Returns what a change of a key does; see docs/resuming.md."""
  return next(
    what
    for pattern, what in _ON_CHANGE.items()
    if fnmatch.fnmatchcase(key, pattern)
  )


def check_data(
  identity: Identity, saved: Identity, step: int, accepted: bool
) -> Identity:
  """Compares data and batch size with those of a checkpoint.

  Args:
    identity: of the run now.
    saved: of the checkpoint.
    step: of the checkpoint.
    accepted: whether the user accepts the changes.

  Returns:
    The identity, with the count of epochs continued.

  Raises:
    UserError: if the length or the images of an epoch have changed and the user
      has not accepted it.
  """
  if identity.validation.fingerprint != saved.validation.fingerprint:
    processes.warn(
      'The validation images are not those of the checkpoint (%s, now %s):'
      ' errors before and after cannot be compared',
      _describe(saved.validation),
      _describe(identity.validation),
    )
  changes = _changes(identity, saved)
  if not changes:
    return dataclasses.replace(identity, epoch_shift=saved.epoch_shift)
  told = f'the checkpoint of step {step} has {" and ".join(changes)}'
  if not accepted:
    raise errors.UserError(
      f'{told}: undo that, or add --config.checkpoint.accept_changes=True,'
      ' which ends the epoch there and begins the next'
    )
  epochs = saved.epochs.changed(step, identity.epochs.steps)
  processes.warn(
    '%s%s: accepted; epoch %d begins, with %d steps',
    told[0].upper(),
    told[1:],
    epochs.at(step),
    epochs.steps,
  )
  return dataclasses.replace(identity, epoch_shift=epochs.shift)


def _changes(identity: Identity, saved: Identity) -> list[str]:
  """Returns the changes of the epochs, in words."""
  changes = []
  if identity.train.num_examples != saved.train.num_examples:
    changes.append(
      f'{saved.train.num_examples} training images, now'
      f' {identity.train.num_examples}'
    )
  elif identity.train.fingerprint != saved.train.fingerprint:
    changes.append(
      f'other training images ({_describe(saved.train)}, now'
      f' {_describe(identity.train)})'
    )
  before, now = (each.config['batch_size'] for each in (saved, identity))
  if before != now:
    changes.append(f'batch_size={before}, now {now}')
  return changes


def _describe(split: Split) -> str:
  return f"{split.name} '{split.split}' {split.fingerprint[:8]}"
