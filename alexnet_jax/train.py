"""The loop: restore, step, log, validate, save, until done or told to stop."""

from collections.abc import Iterator
import contextlib
import math
import pathlib
import signal
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import experiment as experiments
from alexnet_jax import optimizer
from alexnet_jax import progress
from alexnet_jax import reporting
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax.data import Data
from alexnet_jax.experiment import Experiment


class StopSignal:
  """Whether SIGTERM or Ctrl-C has come; a second one ends the process."""

  def __init__(self):
    self.number: int | None = None

  def __call__(self, number, frame):
    del frame
    self.number = number
    signal.signal(number, signal.SIG_DFL)
    logging.warning(
      '%s: saving, then stopping (again to stop at once)',
      signal.Signals(number).name,
    )

  def received(self) -> bool:
    return self.number is not None

  @property
  def exit_code(self) -> int:
    """128 + the signal's number, as shells report it: 143 for SIGTERM."""
    return 0 if self.number is None else 128 + self.number


@contextlib.contextmanager
def _stop_signal() -> Iterator[StopSignal]:
  stop = StopSignal()
  caught = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.signal(number, stop) for number in caught}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


class Meter:
  """Times the steps of a window: images a second, share spent waiting."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._steps, self._seconds, self._waited = 0, 0.0, 0.0
    self._pace = math.nan  # seconds a step, over the last whole window

  def add(self, seconds: float, waited: float) -> None:
    """Counts one step and how much of it was spent waiting for its images."""
    self._steps += 1
    self._seconds += seconds
    self._waited += waited

  def read(self) -> dict[str, float]:
    """Returns the figures since the last call, and starts anew."""
    seconds = self._seconds or math.nan
    self._pace = seconds / (self._steps or math.nan)
    figures = {
      'images_per_second': self._batch_size / self._pace,
      'waiting': self._waited / seconds,
    }
    self._steps, self._seconds, self._waited = 0, 0.0, 0.0
    return figures

  def seconds_left(self, steps: int) -> float:
    return steps * self._pace


class Run:
  """What the loop works with: opened once, closed at the end."""

  def __init__(self, experiment: Experiment, workdir: pathlib.Path):
    config = experiment.config
    self.experiment = experiment
    self.config = config
    self.data = Data(experiment)
    self.total_steps = experiments.total_steps(
      experiment, self.data.steps_per_epoch
    )
    self.recipe = experiments.make_recipe(
      experiment, self.data.steps_per_epoch, self.data.mean()
    )
    self.train_step = train_step.make_train_step(
      experiment.network, experiment.mesh, self.recipe
    )
    self.evaluator = evaluate.make_evaluator(experiment, self.data)
    self.checkpoints = checkpoint.Checkpoints(workdir, config.checkpoint.keep)
    self.state = self._first_state(workdir)
    self.reporter = reporting.Reporter(workdir, int(self.state.step))
    self.meter = Meter(config.batch_size)
    self.stuck_since: int | None = None

  def _first_state(self, workdir) -> train_state.TrainState:
    state = experiments.first_state(self.experiment)
    latest = self.checkpoints.latest()
    if latest is None:
      return state
    experiments.check_same_network(
      self.experiment, self.checkpoints.config(latest), workdir
    )
    return self.checkpoints.restore(state, latest)

  def validation_is_due(self, step: int) -> bool:
    every = self.config.validate_every_steps or self.data.steps_per_epoch
    return step > 0 and (step % every == 0 or step == self.total_steps)

  def finished(self, step: int) -> bool:
    plateau = self.config.optimizer.schedule == 'plateau'
    return step >= self.total_steps or (
      plateau
      and optimizer.plateau_finished(
        self.state.plateau, self.experiment.plateau_rule
      )
    )

  def close(self) -> None:
    self.checkpoints.close()
    self.reporter.close()


def train(experiment: Experiment, workdir: pathlib.Path) -> int:
  """Trains until the schedule ends; goes on where an earlier run stopped.

  Args:
    experiment: from `experiment.build`.
    workdir: for checkpoints, metrics and the record of the run.

  Returns:
    The exit code: 0 when done, 128 + n when signal n stopped it.

  Raises:
    UserError: for data or a workdir that do not fit, or if no image of a split
      can be read.
    DivergedError: when the loss is no longer finite.
  """
  experiments.log_network(experiment)
  with contextlib.closing(Run(experiment, workdir)) as run:
    reporting.write_run_record(
      workdir, experiment.plain_config(), experiment.devices()
    )
    with _stop_signal() as stop:
      _loop(run, stop)
    _summarize(workdir, run)
  return stop.exit_code


def _loop(run: Run, stop: StopSignal) -> None:
  """Steps, and does what is due between steps.

  What is due is a function of the state, so a restarted run does the same.
  """
  step = first = int(run.state.step)
  validated = int(run.state.validated)
  batches = run.data.train_batches(step)
  loss = jnp.float32(0)
  while not stop.received():
    if run.validation_is_due(step) and validated != step:
      result = _validate(run, stop)
      if result is None:
        break
      validated = step
      _save(run, result)
    if run.finished(step):
      return
    started = time.perf_counter()
    batch = next(batches)
    # Nothing was lost to the images while the step before still runs.
    idle = loss.is_ready()  # pyrefly: ignore[missing-attribute]
    waited = time.perf_counter() - started if idle else 0.0
    batch = train_step.put_batch(
      batch, run.config.accumulation, run.experiment.mesh
    )
    previous, (run.state, loss) = loss, run.train_step(run.state, batch)
    # One step runs while the next is prepared; no more pile up.
    previous.block_until_ready()
    step += 1
    log_is_due = step % run.config.log.every_steps == 0
    if log_is_due or step == first + 1:
      loss.block_until_ready()
    seconds = time.perf_counter() - started
    run.meter.add(seconds, waited)
    if step == first + 1:
      logging.info('First step after %s', progress.duration(seconds))
    _check_any_readable(run, step)
    if log_is_due:
      _log(run, step)
    if (
      step % run.config.checkpoint.every_steps == 0
      and not run.validation_is_due(step)
    ):
      _save(run)
  if run.checkpoints.latest() != step:
    _save(run)


def _check_any_readable(run: Run, step: int) -> None:
  """Stops at the end of an epoch in which no image at all could be read.

  Raises:
    UserError: if so, whatever share `data.max_unreadable` allows.
  """
  epoch = run.data.steps_per_epoch
  ended = step % epoch == 0 or (step == run.total_steps and step < epoch)
  if ended and not int(run.state.epoch.examples):
    raise errors.NothingReadableError(run.data.train_source)


def _log(run: Run, step: int) -> None:
  """Reports the window that ends with this step, and looks for trouble."""
  _check_finite(run)
  state = run.state
  rates = run.recipe.schedule(state.step - 1, state.plateau)
  values = {
    'epoch': step / run.data.steps_per_epoch,
    **state.window.means(),
    'rate': float(rates.rate),
    'color_noise': float(rates.color_noise),
    'unreadable': int(state.epoch.unreadable),
    **run.meter.read(),
  }
  run.reporter.write(step, 'train', values)
  logging.info(
    '%s',
    reporting.train_line(
      step,
      run.total_steps,
      values,
      run.meter.seconds_left(run.total_steps - step),
    ),
  )
  run.data.check_unreadable(
    values['unreadable'], run.data.train_source.num_examples
  )
  _warn_if_stuck(run, step, values['nll'])


def _warn_if_stuck(run: Run, step: int, nll: float) -> None:
  """Warns once when the loss stays at that of a network that knows nothing."""
  if not math.isfinite(nll):  # No image of the window could be read.
    return
  chance = math.log(run.experiment.network.num_classes)
  if abs(nll - chance) > 0.005 * chance:
    run.stuck_since = None
    return
  if run.stuck_since is None:
    run.stuck_since = step - run.config.log.every_steps
  lasted = step - run.stuck_since
  every = run.config.log.every_steps
  if lasted - every < run.config.log.stuck_after_steps <= lasted:
    logging.warning(
      'The loss has stayed at ln(%d) = %.2f for %d steps: the network says the'
      ' same of every image. Usual causes: initial weights too small or pixels'
      ' scaled to 0..1 (signals die out: try network.conv3.init_std=0.03 and so'
      ' on, as the source preset does), a learning rate too high (units die) or'
      ' too low, labels that do not belong to their images.',
      run.experiment.network.num_classes,
      chance,
      lasted,
    )


def _validate(run: Run, stop: StopSignal) -> dict[str, float] | None:
  """Validates the state and updates the plateau rule; None if interrupted."""
  _check_finite(run)
  views = {'centre_view': experiments.centre_view(run.experiment)}
  results = run.evaluator(
    run.state.params, run.data.eval_batches(), views, stop.received
  )
  if results is None:
    return None
  result = results['centre_view']
  run.data.check_unreadable(
    result['unreadable'], run.data.eval_source.num_examples
  )
  if not result['examples']:
    raise errors.NothingReadableError(run.data.eval_source)
  state = run.state
  step = int(state.step)
  epoch = step / run.data.steps_per_epoch
  if step % run.data.steps_per_epoch == 0:
    training = {'epoch': epoch, **state.epoch.means()}
    run.reporter.write(step, 'epoch', training)
  run.reporter.write(step, 'validation', {'epoch': epoch, **result})
  logging.info('%s', validation_line(step, epoch, result))
  plateau = optimizer.plateau_update(
    state.plateau, result['top1_error'], run.experiment.plateau_rule
  )
  if run.config.optimizer.schedule == 'plateau' and int(plateau.drops) > int(
    state.plateau.drops
  ):
    rate = float(run.recipe.schedule(state.step, plateau).rate)
    logging.info('No better validation error: rate %.2g', rate)
  run.state = _place(run, state, plateau=plateau, validated=jnp.int32(step))
  return result


def validation_line(step: int, epoch: float, result: dict[str, float]) -> str:
  """Returns the terminal's line for a validation."""
  return (
    f'step {step}  epoch {epoch:.2f}  validation: loss {result["nll"]:.4f}'
    f'  top-1 error {100 * result["top1_error"]:.2f} %'
    f'  top-5 error {100 * result["top5_error"]:.2f} %'
    f'  of {result["examples"]} images'
  )


def _place(run: Run, state: train_state.TrainState, **fields: Any):
  """Replaces fields by values that lie on every device."""
  everywhere = NamedSharding(run.experiment.mesh, PartitionSpec())
  return state.replace(**jax.device_put(fields, everywhere))


@jax.jit
def _all_finite(params):
  leaves = jax.tree.leaves(params)
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _check_finite(run: Run) -> None:
  """Stops a run whose loss or parameters are no longer finite.

  Raises:
    DivergedError: with the step and the last good checkpoint.
  """
  bad_step = int(run.state.bad_step)
  if bad_step < 0 and bool(_all_finite(run.state.params)):
    return
  step = bad_step if bad_step >= 0 else int(run.state.step) - 1
  latest = run.checkpoints.latest()
  saved = 'none was saved' if latest is None else f'step {latest}'
  raise errors.DivergedError(
    f'the loss is not finite from step {step} on; last good checkpoint:'
    f' {saved}. A lower optimizer.learning_rate is the usual remedy'
  )


def _save(run: Run, validation: dict[str, float] | None = None) -> None:
  _check_finite(run)
  run.checkpoints.save(run.state, run.experiment.plain_config(), validation)


def _summarize(workdir: pathlib.Path, run: Run) -> None:
  """Logs the curve of the validation error and the last one."""
  lines = reporting.read(workdir / 'metrics.jsonl')
  history = [
    line
    for line in lines
    if line['kind'] == 'validation' and line['top1_error'] is not None
  ]
  if not history:
    return
  errors_so_far = [line['top1_error'] for line in history]
  logging.info(
    'Validation error by epoch: %s  %s',
    reporting.curve(errors_so_far),
    ' '.join(f'{100 * error:.1f}' for error in errors_so_far[-20:]),
  )
  logging.info(
    'Step %d: top-1 error %.2f %%, best %.2f %%; %s',
    int(run.state.step),
    100 * errors_so_far[-1],
    100 * min(errors_so_far),
    workdir,
  )
