"""A trained network, opened from its workdir.

A checkpoint carries the function that was trained: network, parameters, class
names, and how pixels become its input. The data are opened only for what is
measured on them.
"""

import dataclasses
import functools
import hashlib
import pathlib

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax import resume
from alexnet_jax import settings
from alexnet_jax import setup as setups
from alexnet_jax import views
from alexnet_jax.identity import Identity
from alexnet_jax.input_pipeline import sources
from alexnet_jax.setup import Setup
from alexnet_jax.splits import Splits


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
  """A trained network and all that is needed to use it.

  Attributes:
    workdir: of the run.
    step: updates made when the checkpoint was saved.
    setup: network, devices, settings.
    params: float32, towers on each leading axis, laid out over the devices.
    identity: of the checkpoint: class names, statistics, data.
  """

  workdir: pathlib.Path
  step: int
  setup: Setup
  params: model.Params
  identity: Identity

  @functools.cached_property
  def splits(self) -> Splits:
    """The run's data; each split is opened when it is first asked for.

    Nothing is written where they are: the checkpoint's config may name folders
    of this machine that its author has no business with.
    """
    return Splits(self.setup, self.identity, read_only=True)

  @functools.cached_property
  def transform(self) -> views.InputTransform:
    """How squares become what the network reads."""
    return setups.input_transform(self.setup, self.identity.statistics)

  @functools.cached_property
  def class_ids(self) -> tuple[str, ...]:
    """The classes as the data set has them, printable, by label."""
    return tuple(map(names.printable, self.identity.class_names))

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    """The classes in words, by label."""
    return names.classes_in_words(self.identity.class_names)

  def split(self, name: str) -> sources.Source:
    """Returns the source of a split.

    Args:
      name: 'train', 'validation', or what the data set calls either.

    Raises:
      UserError: if it is none of these.
    """
    data = self.setup.settings.data
    if name in ('train', data.train_split):
      return self.splits.train_source
    if name in ('validation', data.eval_split):
      return self.splits.eval_source
    raise errors.UserError(
      f"the run has no split '{name}': set --split to train"
      f' ({data.train_split}) or validation ({data.eval_split})'
    )

  @property
  def last_hidden(self) -> str:
    """The layer before the classifier: fc7 in the paper's network."""
    return self.setup.network.layers[-2].name

  @functools.cached_property
  def digest(self) -> str:
    """A digest of the parameters: the same on any number of devices."""
    digest = hashlib.blake2b(digest_size=16)
    for path, value in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()


def open_run(
  workdir: pathlib.Path | str, config: config_dict.ConfigDict | None = None
) -> TrainedNetwork:
  """Opens the run of a workdir, to be used and not trained further.

  Args:
    workdir: of a run that has saved a checkpoint; a text may begin with ~.
    config: in place of the one that the checkpoint carries, for data that have
      moved. None uses the checkpoint's own, but for what is this machine's
      affair, `settings.MACHINE_KEYS`: it runs on all devices there are.

  Returns:
    The run with the checkpoint that `evaluate.checkpoint` chooses.

  Raises:
    UserError: if there is no checkpoint, or it is of another function than the
      config asks for.
  """
  if isinstance(workdir, str):  # A path was expanded where it was read.
    workdir = files.user_folder(workdir, '--workdir')
  if not (workdir / 'checkpoints').is_dir():
    raise errors.UserError(
      f'{workdir} holds no checkpoints: train first, with the same --workdir'
    )
  checkpoints = checkpoint.Checkpoints(workdir)
  try:
    which = _which(checkpoints, config)
    if not checkpoints.order(which):
      raise errors.UserError(
        f'{workdir} holds no {which} checkpoint: train first, with the same'
        ' --workdir'
      )
    return checkpoints.first_intact(
      lambda: checkpoints.order(which),
      lambda step: _load(checkpoints, workdir, config, step),
    )
  finally:
    checkpoints.close()


def _which(
  checkpoints: checkpoint.Checkpoints, config: config_dict.ConfigDict | None
) -> str:
  """Returns whether the last or the best checkpoint is to be used."""
  if config is not None:
    return settings.read(config.to_dict()).evaluate.checkpoint
  if not checkpoints.steps():
    return 'last'
  newest = checkpoints.first_intact(
    lambda: checkpoints.order('last'), checkpoints.identity
  )
  return settings.read(newest.config).evaluate.checkpoint


def _load(
  checkpoints: checkpoint.Checkpoints,
  workdir: pathlib.Path,
  config: config_dict.ConfigDict | None,
  step: int,
) -> TrainedNetwork:
  identity = checkpoints.identity(step)
  if config is None:
    setup = setups.build(settings.on_this_machine(identity.config))
  else:
    setup = setups.build(config)
    resume.check_config(setup.config, identity.config, workdir, training=False)
  logging.info('Restoring step %d', step)
  params = checkpoints.params(setups.abstract_state(setup).params, step)
  return TrainedNetwork(workdir, step, setup, params, identity)
