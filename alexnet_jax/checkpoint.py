"""Checkpoints: the only importer of Orbax.

A checkpoint holds the whole `TrainState` and the config that made it. It is
written beside its final name and renamed when complete, so that a kill at any
moment leaves the earlier ones as they were.
"""

import pathlib
from typing import Any

from absl import logging
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from alexnet_jax import errors
from alexnet_jax import strict_json
from alexnet_jax import train_state

# The validation figure by which a checkpoint is the best.
BEST_BY = 'top1_error'


class Checkpoints:
  """The checkpoints of one run, under `<workdir>/checkpoints/<step>`."""

  def __init__(
    self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False
  ):
    """Opens the folder.

    Args:
      workdir: of the run.
      keep: how many of the latest to keep, besides the best.
      read_only: change nothing; the run may be training at this moment, and a
        folder that looks half-written may be what it writes.

    Raises:
      UserError: for a name that TensorStore cannot take.
    """
    _check_name(workdir.absolute())
    policies = checkpoint_managers
    self._manager = ocp.CheckpointManager(
      (workdir / 'checkpoints').absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [
            policies.LatestN(keep),
            policies.BestN(
              get_metric_fn=lambda metrics: -metrics[BEST_BY],
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
        best_fn=lambda metrics: metrics[BEST_BY],
        best_mode='min',
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        create=not read_only,
      ),
    )

  def latest(self) -> int | None:
    """Returns the last step saved, None if there is none."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """Returns the validated step with the lowest error, None if none."""
    step = self._manager.best_step()
    return step if step and self._manager.metrics(step) else None

  def save(
    self,
    state: train_state.TrainState,
    config: dict[str, Any],
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Saves in the background; the state may be donated at once.

    Args:
      state: after any step.
      config: the run's, as JSON types.
      metrics: of a validation of this very state, if there was one.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      # Saved by a signal before its validation, which has happened since.
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config)
      ),
      metrics=None if metrics is None else strict_json.plain(metrics),
    )

  def restore(
    self, state: train_state.TrainState, step: int
  ) -> train_state.TrainState:
    """Returns the state of a step, laid out as the given one is.

    Args:
      state: one with the wanted shapes and shardings, on any number of devices.
      step: which checkpoint.
    """
    logging.info('Restoring step %d', step)
    return self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(train_state.abstract(state))
      ),
    )['state']

  def config(self, step: int) -> dict[str, Any]:
    """Returns the config that made a checkpoint."""
    args = ocp.args.Composite(config=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args)['config']

  def close(self) -> None:
    """Waits for what is being written."""
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
      f"evaluate.checkpoint is '{which}': use 'last' or 'best'"
    )
  step = checkpoints.latest() if which == 'last' else checkpoints.best()
  if step is None:
    raise errors.UserError(
      f'{workdir} holds no {which} checkpoint: train first, with the same'
      ' --workdir'
    )
  return step
