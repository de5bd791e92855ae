"""Checkpoints, by Orbax.

A checkpoint holds the parameters, the rest of the `TrainState`, and the run's
`Identity`, each readable without the others. It is written under a temporary
name and renamed when complete, so that a kill at any moment leaves the earlier
ones intact.
"""

import functools
import pathlib
from typing import Any

from absl import logging
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import identity as identities
from alexnet_jax import model
from alexnet_jax import tensorstore_leak
from alexnet_jax import train_state

# The validation figure by which a checkpoint is the best.
BEST_BY = 'top1_error'
# What a checkpoint consists of. Format 1 had no class names and no statistics.
_FORMAT = 2


class Checkpoints:
  """The checkpoints of one run, under `<workdir>/checkpoints/<step>`."""

  def __init__(
    self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False
  ):
    """Sets the folder, which the first save creates.

    Args:
      workdir: of the run.
      keep: how many of the latest to keep, besides the best.
      read_only: change nothing; the run may be training, and a folder that
        looks incomplete may be the one it is writing.

    Raises:
      UserError: for a name that TensorStore does not accept.
    """
    _check_name(workdir.absolute())
    tensorstore_leak.avoid()
    self._folder = (workdir / 'checkpoints').absolute()
    self._keep = keep
    self._read_only = read_only

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    """Orbax's manager; it creates the folder, hence at the first use."""
    policies = checkpoint_managers
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [
            policies.LatestN(self._keep),
            policies.BestN(
              get_metric_fn=lambda metrics: -metrics[BEST_BY],
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
        best_fn=lambda metrics: metrics[BEST_BY],
        best_mode='min',
        cleanup_tmp_directories=not self._read_only,
        read_only=self._read_only,
        create=not self._read_only,
      ),
    )

  def latest(self) -> int | None:
    """Returns the last step saved, None if there is none."""
    return self._manager.latest_step() if self._folder.exists() else None

  def best(self) -> int | None:
    """Returns the validated step with the lowest error, None if none."""
    step = self._manager.best_step() if self._folder.exists() else None
    return step if step and self._manager.metrics(step) else None

  def save(
    self,
    state: train_state.TrainState,
    identity: identities.Identity,
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Saves in the background; the state may be donated at once.

    Args:
      state: after any step.
      identity: of the run.
      metrics: of a validation of this very state, if there was one.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      # Saved on a signal before its validation, which has happened since.
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        state=ocp.args.StandardSave(train_state.without_params(state)),
        identity=ocp.args.JsonSave({'format': _FORMAT} | identity.to_json()),
        statistics=ocp.args.StandardSave(identity.arrays()),
      ),
      metrics=None if metrics is None else files.plain(metrics),
    )

  def restore(
    self, abstract: train_state.TrainState, step: int
  ) -> train_state.TrainState:
    """Returns the state of a step.

    Args:
      abstract: the wanted shapes and shardings, on any number of devices; from
        `train_state.abstract`.
      step: which checkpoint.
    """
    logging.info('Restoring step %d', step)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        state=ocp.args.StandardRestore(train_state.without_params(abstract)),
      ),
    )
    return train_state.TrainState(
      params=restored['params'], **restored['state']
    )

  def params(self, abstract: model.Params, step: int) -> model.Params:
    """Returns the parameters alone; see `restore`."""
    args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
    return self._manager.restore(step, args=args)['params']

  def identity(self, step: int) -> identities.Identity:
    """Returns the identity of the run when a checkpoint was saved.

    Raises:
      UserError: if the checkpoint has another format.
    """
    values = self._identity_json(step)
    args = ocp.args.Composite(
      statistics=ocp.args.StandardRestore(
        identities.Identity.abstract_arrays(values)
      )
    )
    arrays = self._manager.restore(step, args=args)['statistics']
    return identities.Identity.from_json(values, arrays)

  def _identity_json(self, step: int) -> dict[str, Any]:
    folder = self._folder / str(step)
    found, values = 1, {}
    if (folder / 'identity').exists():
      args = ocp.args.Composite(identity=ocp.args.JsonRestore())
      values = self._manager.restore(step, args=args)['identity']
      found = values['format']
    if found != _FORMAT:
      raise errors.UserError(
        f'{folder} is a checkpoint of format {found}, and this version of'
        f' alexnet_jax reads format {_FORMAT}: use it with the revision that'
        f' {folder.parent.parent / "run.json"} names, or train again with'
        ' another --workdir'
      )
    return values

  def close(self) -> None:
    """Waits for pending writes."""
    if self._folder.exists():
      self._manager.wait_until_finished()
      self._manager.close()


def _check_name(workdir: pathlib.Path) -> None:
  """Raises a UserError for a path that is not UTF-8; TensorStore needs it."""
  try:
    str(workdir).encode()
  except UnicodeEncodeError as e:
    raise errors.UserError(
      f'--workdir={workdir} is not UTF-8, and checkpoints cannot be kept under'
      ' such a name: choose another (or set PYTHONUTF8=1 where only the locale'
      ' is not UTF-8)'
    ) from e


def choose(checkpoints: Checkpoints, which: str, workdir: pathlib.Path) -> int:
  """Returns the step that 'last' or 'best' means.

  Raises:
    UserError: if `which` is neither, or there is no such checkpoint.
  """
  if which not in ('last', 'best'):
    raise errors.UserError(
      f"--config.evaluate.checkpoint='{which}' is not a choice: set"
      ' --config.evaluate.checkpoint to last or best'
    )
  step = checkpoints.latest() if which == 'last' else checkpoints.best()
  if step is None:
    raise errors.UserError(
      f'{workdir} holds no {which} checkpoint: train first, with the same'
      ' --workdir'
    )
  return step
