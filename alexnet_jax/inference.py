"""A trained network, opened from its workdir: the only way to one.

A checkpoint carries the function that was trained: network, parameters, class
names, and how pixels become its input. Data are needed for what is measured on
them, and for nothing else.
"""

from collections.abc import Mapping
import copy
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
from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax import resume
from alexnet_jax import setup
from alexnet_jax.data import Data
from alexnet_jax.identity import Identity
from alexnet_jax.setup import Experiment

# Groups of the config whose keys depend on the network's layers.
_BY_LAYER = ('network', 'rate_multipliers')


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A trained network and all that is needed to use it.

  Attributes:
    workdir: of the run.
    step: updates made when the checkpoint was saved.
    experiment: network, devices, config.
    params: float32, towers on each leading axis, laid out over the devices.
    identity: of the checkpoint: class names, statistics, data.
  """

  workdir: pathlib.Path
  step: int
  experiment: Experiment
  params: model.Params
  identity: Identity

  @functools.cached_property
  def data(self) -> Data:
    """The run's data; splits are opened when they are first asked for."""
    return Data(self.experiment, self.identity)

  @functools.cached_property
  def class_ids(self) -> tuple[str, ...]:
    """The classes as the data set had them, printable, by label."""
    return tuple(map(names.printable, self.identity.class_names))

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    """The classes as people call them, in the order of the labels."""
    return names.classes_in_words(self.identity.class_names)

  @functools.cached_property
  def mean(self) -> np.ndarray:
    """What is subtracted from pixels; see `views.mean`."""
    return self.data.mean

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
    overrides: a config, or what `setup.build` made of one, in place of
      the one that the checkpoint carries; for data that has moved. None uses
      the checkpoint's own, on all devices there are.

  Returns:
    The run with the checkpoint that `evaluate.checkpoint` chooses.

  Raises:
    UserError: if there is no checkpoint, or it is of another function than the
      config asks for.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / 'checkpoints').is_dir():
    raise errors.UserError(
      f'{workdir} holds no checkpoints: train first, with the same --workdir'
    )
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  try:
    if overrides is None:
      step = checkpoint.choose(checkpoints, 'last', workdir)
      experiment = _saved_experiment(checkpoints.identity(step), workdir)
    elif isinstance(overrides, Experiment):
      experiment = overrides
    else:
      experiment = setup.build(overrides)
    which = experiment.config.evaluate.checkpoint
    step = checkpoint.choose(checkpoints, which, workdir)
    identity = checkpoints.identity(step)
    if overrides is not None:
      resume.check_config(
        experiment.plain_config(), identity.config, workdir, training=False
      )
    logging.info('Restoring step %d', step)
    params = checkpoints.params(setup.abstract_state(experiment).params, step)
  finally:
    checkpoints.close()
  return Trained(workdir, step, experiment, params, identity)


def _saved_experiment(identity: Identity, workdir: pathlib.Path) -> Experiment:
  """Builds the experiment of a checkpoint's own config."""
  # configs/ has every key that the code reads; an older checkpoint may not.
  from configs import imagenet

  saved = copy.deepcopy(identity.config)
  _fill(saved, imagenet.base('paper').to_dict(), workdir)
  # Where a network runs is a placement, and this may be another machine.
  saved['devices'] = 0
  return setup.build(config_dict.ConfigDict(saved))


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
