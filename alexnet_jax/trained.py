"""Opening a trained run for use: its checkpoint says what it is.

A checkpoint carries the config that made it, so a workdir is all that the modes
which use a network need to know.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from alexnet_jax import checkpoint
from alexnet_jax import class_names as names
from alexnet_jax import errors
from alexnet_jax import experiment as experiments
from alexnet_jax import model
from alexnet_jax import printable
from alexnet_jax.data import Data
from alexnet_jax.experiment import Experiment

# Groups of the config whose keys depend on the network's layers.
_BY_LAYER = ('network', 'rate_multipliers')


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained network and all that is needed to use it.

  Attributes:
    workdir: of the run.
    step: updates made when the checkpoint was saved.
    experiment: network, devices, config.
    params: float32, towers on each leading axis, laid out over the devices.
  """

  workdir: pathlib.Path
  step: int
  experiment: Experiment
  params: model.Params

  @functools.cached_property
  def data(self) -> Data:
    """Both splits and the mean, opened when first asked for."""
    return Data(self.experiment)

  @functools.cached_property
  def class_ids(self) -> tuple[str, ...]:
    """The classes as the data set has them, printable, by label."""
    return tuple(map(printable.printable, self.data.train_source.class_names))

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    """The classes as people call them, in the order of the labels."""
    return names.readable(self.data.train_source.class_names)

  def split(self, name: str) -> Any:
    """Returns the source of a split.

    Args:
      name: 'train', 'validation', or what the data set calls either.

    Raises:
      UserError: if it is none of these.
    """
    wanted = self.experiment.config.data
    if name in ('train', wanted.train_split):
      return self.data.train_source
    if name in ('validation', wanted.eval_split):
      return self.data.eval_source
    raise errors.UserError(
      f"the run has no split '{name}': use train ({wanted.train_split}) or"
      f' validation ({wanted.eval_split})'
    )

  @functools.cached_property
  def digest(self) -> str:
    """A digest of the parameters: the same on any number of devices."""
    digest = hashlib.blake2b(digest_size=16)
    for path, value in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()


def open_run(
  workdir: pathlib.Path | str,
  overrides: config_dict.ConfigDict | Experiment | None = None,
) -> Trained:
  """Opens the run of a workdir, to be used and not trained further.

  Args:
    workdir: of a run that has saved a checkpoint.
    overrides: a config, or what `experiment.build` made of one, in place of
      the one that the checkpoint carries; for data that has moved. None uses
      the checkpoint's own, on all devices there are.

  Returns:
    The run with the checkpoint that `evaluate.checkpoint` chooses.

  Raises:
    UserError: if there is no checkpoint, or it is of another network.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / 'checkpoints').is_dir():
    raise errors.UserError(
      f'{workdir} holds no checkpoints: train first, with the same --workdir'
    )
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  try:
    experiment = _experiment(checkpoints, workdir, overrides)
    which = experiment.config.evaluate.checkpoint
    step = checkpoint.choose(checkpoints, which, workdir)
    if overrides is not None:
      saved = checkpoints.config(step)
      experiments.check_same_network(experiment, saved, workdir)
    state = checkpoints.restore(experiments.first_state(experiment), step)
  finally:
    checkpoints.close()
  return Trained(workdir, step, experiment, state.params)


def _experiment(checkpoints, workdir, overrides) -> Experiment:
  if isinstance(overrides, Experiment):
    return overrides
  if overrides is not None:
    return experiments.build(overrides)
  step = checkpoint.choose(checkpoints, 'last', workdir)
  saved = checkpoints.config(step)
  # configs/ has every key that the code reads; an older checkpoint may not.
  from configs import imagenet

  _fill(saved, imagenet.base('paper').to_dict(), workdir)
  # Where a network runs is a placement, and this may be another machine.
  saved['devices'] = 0
  return experiments.build(config_dict.ConfigDict(saved))


def _fill(
  saved: dict[str, Any], known: Mapping[str, Any], workdir: pathlib.Path
) -> None:
  """Gives a saved config the keys that it is too old to have."""
  for key, value in known.items():
    if key not in saved:
      logging.info('%s is older than the key %s: %r', workdir, key, value)
      saved[key] = value
    elif isinstance(value, Mapping) and key not in _BY_LAYER:
      _fill(saved[key], value, workdir)
