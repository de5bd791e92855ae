"""The training loop: restore, step, log, validate, save."""

from collections.abc import Iterator
import contextlib
import dataclasses
import gc
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
import numpy as np

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import meter
from alexnet_jax import optimizer
from alexnet_jax import progress
from alexnet_jax import reporting
from alexnet_jax import resume
from alexnet_jax import settings
from alexnet_jax import setup as setups
from alexnet_jax import train_step
from alexnet_jax.identity import Identity
from alexnet_jax.setup import Setup
from alexnet_jax.splits import Splits

# `timeout` and job managers signal a process and then its group: the second
# signal comes immediately and means the same as the first.
_SAME_SIGNAL_SECONDS = 1.0


class StopSignal:
  """Whether SIGTERM or SIGINT has arrived; a later one ends the process."""

  def __init__(self):
    self.number: int | None = None
    self._since = -math.inf

  def __call__(self, number, frame):
    del frame
    if self.number is None:
      self.number = number
      self._since = time.monotonic()
      logging.warning(
        '%s: saving, then stopping (again to stop at once)', self.name
      )
    elif time.monotonic() - self._since > _SAME_SIGNAL_SECONDS:
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)

  def received(self) -> bool:
    return self.number is not None

  @property
  def name(self) -> str:
    """The signal's name, such as 'SIGTERM'."""
    return '' if self.number is None else signal.Signals(self.number).name

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


@contextlib.contextmanager
def _cycles_are_freed() -> Iterator[None]:
  """Exempts what exists now from garbage collections.

  Python looks for unreachable cycles among all objects only when a quarter of
  them is new. JAX and TensorFlow bring 400,000, so that the graphs of hundreds
  of validations, tens of MiB, would wait to be freed.
  """
  gc.collect()
  gc.freeze()
  gc.collect()  # Sets the number that a quarter is taken of: nothing is left.
  try:
    yield
  finally:
    gc.unfreeze()


class Run:
  """The objects of the loop: opened once, closed at the end."""

  def __init__(self, setup: Setup, workdir: pathlib.Path):
    self.setup = setup
    self.settings = setup.settings
    self.checkpoints = checkpoint.Checkpoints(
      workdir, self.settings.checkpoint.keep
    )
    latest = self.checkpoints.latest()
    if latest is None:
      saved = None
      self.splits = Splits(setup)
      self.identity = self.splits.identity()
      self.state = setups.first_state(setup)
    else:
      saved = self.checkpoints.identity(latest)
      resume.check_config(setup.config, saved.config, workdir)
      self.splits = Splits(setup, saved)
      self.identity = resume.check_data(
        self.splits.identity(),
        saved,
        latest,
        self.settings.checkpoint.accept_changes,
      )
      self.state = self.checkpoints.restore(
        setups.abstract_state(setup), latest
      )
    self.epochs = self.identity.epochs
    self.total_steps = setups.total_steps(setup, self.epochs)
    transform = setups.input_transform(setup, self.identity.statistics)
    self.recipe = setups.make_recipe(setup, self.epochs, transform.mean)
    self.train_step = train_step.make_train_step(
      setup.network, setup.mesh, self.recipe
    )
    self.evaluator = evaluate.Evaluator(
      setup.network, setup.mesh, transform, setup.dtype
    )
    self.views = {'center_view': transform.views['center_view']}
    if saved is not None:
      self._warn_of_another_rate(saved)
    # Copies on the host of the values that decide what is due: reading the
    # state itself would wait for the running step.
    self.step = int(self.state.step)
    self.validated = int(self.state.validated)
    self.plateau_ended = self._plateau_ended()
    self.readable = int(self.state.epoch.examples)  # images of this epoch
    self.reporter = reporting.Reporter(workdir, self.step)
    self.meter = meter.Meter(self.settings.batch_size)
    self.stuck_since: int | None = None

  def _warn_of_another_rate(self, saved: Identity) -> None:
    """Warns if the learning rate differs from that of the saved config."""
    before = setups.make_schedule(
      dataclasses.replace(self.setup, settings=settings.read(saved.config)),
      saved.epochs,
    )
    step, plateau = int(self.state.step), self.state.plateau
    was = float(before(saved.epochs.place(step), plateau).rate)
    now = float(self.recipe.schedule(self.epochs.place(step), plateau).rate)
    if was != now:
      logging.warning(
        'The learning rate at step %d is %.3g; by the config of the checkpoint'
        ' it was %.3g',
        step,
        now,
        was,
      )

  def place(self, **fields: Any) -> None:
    """Replaces fields of the state by values replicated on all devices."""
    everywhere = NamedSharding(self.setup.mesh, PartitionSpec())
    self.state = self.state.replace(**jax.device_put(fields, everywhere))
    self.plateau_ended = self._plateau_ended()

  def _plateau_ended(self) -> bool:
    return (
      self.settings.optimizer.schedule == 'plateau'
      and optimizer.plateau_finished(
        self.state.plateau, self.setup.plateau_rule
      )
    )

  def validation_is_due(self) -> bool:
    if self.step == self.total_steps:
      return self.step > 0
    every = self.settings.validate_every_steps
    if every:
      return self.step > 0 and self.step % every == 0
    return self.epochs.ends(self.step)

  def checkpoint_is_due(self) -> bool:
    """Whether to save here; a validation saves too."""
    every = self.settings.checkpoint.every_steps
    return self.step % every == 0 and not self.validation_is_due()

  def why_ended(self) -> str:
    """Returns why training has ended; '' while it has not."""
    if self.plateau_ended:
      return (
        'plateau: no better validation error after'
        f' max_drops={self.setup.plateau_rule.max_drops} drops of the'
        ' learning rate'
      )
    if self.step < self.total_steps:
      return ''
    key = 'max_steps' if self.settings.max_steps else 'num_epochs'
    value = getattr(self.settings, key)
    return f'{key}={value} reached (step {self.total_steps})'

  def seconds_left(self) -> float:
    """Returns the ETA in seconds, validations and checkpoints included.

    It is of the whole schedule; the plateau rule may end the run earlier.
    """
    every = self.settings.validate_every_steps
    # Validations are due by place in the epoch, the rest by step.
    shift = 0 if every else self.epochs.shift
    every = every or self.epochs.steps
    save_every = self.settings.checkpoint.every_steps
    first, end = self.step + shift, self.total_steps + shift

    def count(first, end, every):
      """Returns how many multiples there are from `first` to `end`."""
      return end // every - (first - 1) // every

    saves = count(self.step, self.total_steps, save_every)
    if not shift:  # A validation saves too.
      both = math.lcm(every, save_every)
      saves -= count(self.step, self.total_steps, both)
    return self.meter.seconds_left(
      self.total_steps - self.step,
      validation=count(first, end, every) + (end % every > 0),
      checkpoint=saves,
    )

  def close(self) -> None:
    self.meter.close()
    self.checkpoints.close()
    self.reporter.close()


def train(setup: Setup, workdir: pathlib.Path) -> int:
  """Trains until the schedule ends; resumes from the latest checkpoint.

  Args:
    setup: from `setup.build`.
    workdir: for checkpoints, metrics and the record of the run.

  Returns:
    The exit code: 0 when done, 128 + n when signal n stopped it.

  Raises:
    UserError: for data or a workdir that do not fit, or if no image of a split
      can be read.
    DivergedError: when the loss is no longer finite.
  """
  setups.log_network(setup)
  with contextlib.closing(Run(setup, workdir)) as run:
    reporting.write_run_record(workdir, setup.config, setup.devices)
    with _stop_signal() as stop, _cycles_are_freed():
      logging.info('%s', _loop(run, stop))
    _summarize(workdir, run)
  return stop.exit_code


def _loop(run: Run, stop: StopSignal) -> str:
  """Steps, and does what is due between steps.

  What is due is a function of the state, so a resumed run does the same.
  Between log lines, validations and checkpoints nothing here reads a value from
  the device, so that it always has a step to run.

  Returns:
    Why the run ended, as a line for the log.
  """
  first = run.step
  batches = run.splits.train_batches(run.epochs.place(first))
  while not stop.received():
    if run.validation_is_due() and run.validated != run.step:
      with run.meter.pause('validation'):
        result = _validate(run, stop)
        if result is None:
          break
        _save(run, result)
    if reason := run.why_ended():
      verb = 'Nothing to train' if run.step == first else 'Training ended'
      return f'{verb} at step {run.step}: {reason}'
    started = time.perf_counter()
    _step(run, batches)
    if run.step == first + 1:
      _training_values(run)  # Compiles the programs that read them, too.
      seconds = time.perf_counter() - started
      logging.info('First step after %s', progress.duration(seconds))
      run.meter.restart()
    if run.step % run.settings.log.every_steps == 0:
      _log(run)
    if run.checkpoint_is_due():
      with run.meter.pause('checkpoint'):
        _save(run)
  if run.checkpoints.latest() != run.step:
    _save(run)
  return (
    f'Training stopped at step {run.step} by {stop.name}: run again to resume'
  )


def _step(run: Run, batches: Iterator[dict[str, np.ndarray]]) -> None:
  """Dispatches one update.

  Raises:
    UserError: at the end of an epoch in which no image could be read, even if
      `data.max_unreadable` is 1.
  """
  epochs = run.epochs
  if epochs.place(run.step) % epochs.steps == 0:
    run.readable = 0
  with run.meter.input():
    batch = next(batches)
    run.readable += int(batch['mask'].sum())
    batch = train_step.put_batch(
      batch, run.settings.accumulation, run.setup.mesh
    )
  run.state, loss = run.train_step(run.state, batch)
  run.meter.add(loss)
  run.step += 1
  ended = epochs.ends(run.step) or run.step == run.total_steps < epochs.steps
  if ended and not run.readable:
    raise errors.NothingReadableError(run.splits.train_source)


def _training_values(run: Run) -> dict[str, float]:
  """Reads the values of a log line from the device; waits for the step.

  Raises:
    DivergedError: if the loss or the parameters are no longer finite.
  """
  _check_finite(run)
  state = run.state
  place = run.epochs.place(run.step - 1)
  rates = run.recipe.schedule(place, state.plateau)
  return {
    'epoch': run.epochs.at(run.step),
    **state.window.means(),
    'learning_rate': float(rates.rate),
    'color_noise': float(rates.color_noise),
    'unreadable': int(state.epoch.unreadable),
  }


def _log(run: Run) -> None:
  """Reports the window that ends with this step and checks for problems."""
  values = {**_training_values(run), **run.meter.read()}
  run.reporter.write(run.step, 'train', values)
  line = reporting.train_line(
    run.step, run.total_steps, values, run.seconds_left()
  )
  logging.info('%s', line)
  run.splits.check_unreadable(
    values['unreadable'], run.splits.train_source.num_examples
  )
  _warn_if_stuck(run, run.step, values['nll'])


def _warn_if_stuck(run: Run, step: int, nll: float) -> None:
  """Warns once when the loss stays at that of a uniform prediction."""
  if not math.isfinite(nll):  # No image of the window could be read.
    return
  chance = math.log(run.setup.network.num_classes)
  if abs(nll - chance) > 0.005 * chance:
    run.stuck_since = None
    return
  if run.stuck_since is None:
    run.stuck_since = step - run.settings.log.every_steps
  lasted = step - run.stuck_since
  every = run.settings.log.every_steps
  if lasted - every < run.settings.log.stuck_after_steps <= lasted:
    logging.warning(
      'The loss has stayed at ln(%d) = %.2f for %d steps: the network predicts'
      ' the same distribution for every image. Usual causes: initial weights'
      ' too small or pixels scaled to 0..1 (signals vanish: try'
      ' --config.network.conv3.init_std=0.03 and so on, as the preset'
      ' cuda_convnet does), a learning rate too high (units die) or too low,'
      ' labels that do not match their images.',
      run.setup.network.num_classes,
      chance,
      lasted,
    )


def _validate(run: Run, stop: StopSignal) -> dict[str, float] | None:
  """Validates the state and updates the plateau rule; None if interrupted."""
  _check_finite(run)
  batches = run.splits.read(run.splits.eval_source, 'Validating', strict=True)
  results = run.evaluator(run.state.params, batches, run.views, stop.received)
  if results is None:
    return None
  result = results['center_view']
  state, step = run.state, run.step
  epoch = run.epochs.at(step)
  if run.epochs.ends(step):
    training = {'epoch': epoch, **state.epoch.means()}
    run.reporter.write(step, 'epoch', training)
  run.reporter.write(step, 'validation', {'epoch': epoch, **result})
  logging.info('%s', validation_line(step, epoch, result))
  plateau = optimizer.plateau_update(
    state.plateau, result['top1_error'], run.setup.plateau_rule
  )
  run.place(plateau=plateau, validated=jnp.int32(step))
  run.validated = step
  if (
    run.settings.optimizer.schedule == 'plateau'
    and int(plateau.drops) > int(state.plateau.drops)
    and not run.plateau_ended
  ):
    rates = run.recipe.schedule(run.epochs.place(step), plateau)
    logging.info(
      'No better validation error: learning rate %.2g', float(rates.rate)
    )
  return result


def validation_line(step: int, epoch: float, result: dict[str, float]) -> str:
  """Returns the terminal's line for a validation."""
  return (
    f'step {step}  epoch {epoch:.2f}  validation: loss {result["nll"]:.4f}'
    f'  top-1 error {100 * result["top1_error"]:.2f} %'
    f'  top-5 error {100 * result["top5_error"]:.2f} %'
    f'  of {result["examples"]} images'
  )


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
  step = bad_step if bad_step >= 0 else run.step - 1
  latest = run.checkpoints.latest()
  saved = 'none was saved' if latest is None else f'step {latest}'
  raise errors.DivergedError(
    f'the loss is not finite from step {step} on; last good checkpoint:'
    f' {saved}. The usual remedy is a lower --config.optimizer.learning_rate'
  )


def _save(run: Run, validation: dict[str, float] | None = None) -> None:
  _check_finite(run)
  run.checkpoints.save(run.state, run.identity, validation)


def _summarize(workdir: pathlib.Path, run: Run) -> None:
  """Logs the curve of validation errors, the last and the best one."""
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
    'Validation errors, %%: %s  %s',
    reporting.curve(errors_so_far),
    ' '.join(f'{100 * error:.1f}' for error in errors_so_far[-20:]),
  )
  last, best = history[-1], min(history, key=lambda line: line['top1_error'])
  validated = f', validated at step {last["step"]}'
  logging.info(
    'Step %d%s: top-1 error %.2f %%, best %.2f %% at step %d; %s',
    run.step,
    validated if last['step'] != run.step else '',
    100 * last['top1_error'],
    100 * best['top1_error'],
    best['step'],
    workdir,
  )
