"""The training loop: restore, step, log, validate, save."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import gc
import json
import math
import pathlib
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
from alexnet_jax import lock
from alexnet_jax import meter
from alexnet_jax import optimizer
from alexnet_jax import processes
from alexnet_jax import progress
from alexnet_jax import reporting
from alexnet_jax import resume
from alexnet_jax import settings
from alexnet_jax import setup as setups
from alexnet_jax import signals
from alexnet_jax import train_step
from alexnet_jax import waiting
from alexnet_jax.identity import Identity
from alexnet_jax.setup import Setup
from alexnet_jax.splits import Splits
from alexnet_jax.train_state import TrainState


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
    saved, restored = self._restore(workdir)
    self._open_data(saved, restored)
    self.state = setups.first_state(setup) if restored is None else restored
    self.rows = setup.placement.local_rows(
      self.settings.batch_size, self.settings.accumulation
    )
    self.epochs = self.identity.epochs
    self.total_steps = setups.total_steps(setup, self.epochs)
    transform = setups.input_transform(setup, self.identity.statistics)
    self.recipe = setups.make_recipe(setup, self.epochs, transform.mean)
    self.train_step = train_step.make_train_step(setup.placement, self.recipe)
    self.evaluator = evaluate.Evaluator(setup.placement, transform, setup.dtype)
    self.views = {'center_view': transform.views['center_view']}
    if saved is not None:
      self._warn_of_another_rate(saved)
      if self.identity.validation.fingerprint != saved.validation.fingerprint:
        self.place(plateau=optimizer.plateau_restart(self.state.plateau))
    # Copies on the host of the values that decide what is due: reading the
    # state itself would wait for the running step.
    self.step = int(self.state.step)
    self.validated = int(self.state.validated)
    self.plateau_ended = self._plateau_ended()
    # The step of the last save; one that was saved and not validated is
    # validated, but not saved again.
    self.saved = self.step if saved else -1
    self.reporter = reporting.Reporter(
      workdir, self.step, self.validated, writes=processes.is_first()
    )
    self.meter = meter.Meter()
    self.stuck_since: int | None = None
    self.stopped = False  # by a signal

  def _restore(
    self, workdir: pathlib.Path
  ) -> tuple[Identity | None, TrainState | None]:
    """Returns the newest intact checkpoint, if there are checkpoints."""
    checkpoints = self.checkpoints
    abstract = setups.abstract_state(self.setup)

    def load(step: int) -> tuple[Identity, TrainState]:
      identity = checkpoints.identity(step)
      resume.check_config(self.setup.config, identity.config, workdir)
      return identity, checkpoints.restore(abstract, step)

    # As the first process sees it: others may see a network disk as it was.
    found = len(checkpoints.steps()) if processes.is_first() else 0
    if not processes.highest(found):
      checkpoints.set_aside()
      return None, None
    saved, state = checkpoints.first_intact(
      lambda: checkpoints.order('last'), load
    )
    checkpoints.set_aside(int(state.step))
    return saved, state

  def _open_data(
    self, saved: Identity | None, state: TrainState | None
  ) -> None:
    """Opens the splits and checks them against the checkpoint."""
    self.splits = Splits(self.setup, saved)
    if processes.count() > 1:
      # The first process computes the statistics and keeps them for the others.
      with processes.agreement():
        if processes.is_first():
          self.splits.identity()
    with processes.agreement():
      self.identity = self.splits.identity()
      if saved is not None and state is not None:
        self.identity = resume.check_data(
          self.identity,
          saved,
          int(state.step),
          self.settings.checkpoint.accept_changes,
        )
    processes.check_equal(json.dumps(self.identity.to_json()), 'the data')

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
      processes.warn(
        'The learning rate at step %d is %.3g; by the config of the checkpoint'
        ' it was %.3g',
        step,
        now,
        was,
      )

  def place(self, **fields: Any) -> None:
    """Replaces fields of the state by values replicated on all devices."""
    everywhere = NamedSharding(self.setup.mesh, PartitionSpec())
    fields = jax.tree.map(np.asarray, fields)
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
    """Whether to save here; before a validation there is a save anyway."""
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
    # The end may have been moved, or epochs become longer, after it was passed.
    return f'{key}={value} reached (step {max(0, self.total_steps)})'

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

    validations = count(first, end, every) + (end % every > 0)
    # There is a save before each validation.
    saves = count(self.step, self.total_steps, save_every) + validations
    if not shift:
      both = math.lcm(every, save_every)
      saves -= count(self.step, self.total_steps, both)
    return self.meter.seconds_left(
      self.total_steps - self.step, validation=validations, checkpoint=saves
    )

  def epoch_is_over(self) -> bool:
    """Whether an epoch ends here, or a run that is shorter than one."""
    ends = self.epochs.ends(self.step)
    return ends or self.step == self.total_steps < self.epochs.steps

  def images_in_step(self) -> int:
    """Returns how many images the last step had: an epoch ends with fewer."""
    size = self.settings.batch_size
    if not self.epochs.ends(self.step):
      return size
    return self.identity.train.num_examples - (self.epochs.steps - 1) * size

  def close(self) -> None:
    with contextlib.ExitStack() as stack:  # From the last to the first.
      for each in (self.reporter, self.checkpoints, self.meter):
        stack.callback(each.close)


def train(
  setup: Setup, workdir: pathlib.Path, stop: signals.StopSignal | None = None
) -> int:
  """Trains until the schedule ends; resumes from the latest checkpoint.

  Args:
    setup: from `setup.build`.
    workdir: for checkpoints, metrics and the record of the run.
    stop: on whose signal to save and to stop; None for no signals.

  Returns:
    The exit code: 0 when done, 128 + n when signal n stopped it before.

  Raises:
    UserError: for data or a workdir that do not fit, if no image of a split
      can be read, or another process uses the workdir.
    DivergedError: when the loss is no longer finite.
    LostProcessError: when another process of the job has ended.
  """
  stop = stop or signals.StopSignal()
  checkpoint.check_name(workdir)
  setups.log_network(setup)
  processes.check_equal(json.dumps(setup.config), 'the config')
  with contextlib.ExitStack() as stack:
    with processes.agreement():
      if processes.is_first():
        remedy = 'wait for it, stop it, or choose another --workdir'
        stack.enter_context(lock.held(workdir / 'lock', remedy))
    processes.check_equal(lock.holder(workdir / 'lock'), 'the --workdir')
    try:
      with processes.losses_in_words():
        run = stack.enter_context(contextlib.closing(Run(setup, workdir)))
        if processes.is_first():
          reporting.write_run_record(workdir, setup.config, setup.devices)
        alone = processes.count() == 1
        to_notice = signals.TO_NOTICE if alone else signals.TO_AGREE
        with stop.deferred(to_notice), _cycles_are_freed():
          logging.info('%s', _loop(run, stop))
          run.checkpoints.wait()
    except errors.LostProcessError:
      stack.pop_all()  # Closing would wait for the process that is lost.
      raise
    _summarize(workdir, run)
  return stop.exit_code if run.stopped else 0


def _loop(run: Run, stop: signals.StopSignal) -> str:
  """Steps, and does what is due between steps.

  What is due is a function of the state, so a resumed run does the same.
  Between log lines, ends of epochs and checkpoints nothing here reads a value
  from the device, so that it always has a step to run.

  Returns:
    Why the run ended, as a line for the log.
  """
  first = run.step
  with contextlib.closing(_train_batches(run, stop)) as batches:
    while not _stopped(run, stop):
      if run.validation_is_due() and run.validated != run.step:
        if run.saved != run.step:
          _save(run)
        with run.meter.pause('validation'):
          if not _validate(run, stop):
            break
      if reason := run.why_ended():
        verb = 'Nothing to train' if run.step == first else 'Training ended'
        return f'{verb} at step {run.step}: {reason}'
      started = time.perf_counter()
      if not _step(run, batches):
        break
      if run.step == first + 1:
        _training_values(run)  # Compiles the programs that read them, too.
        seconds = time.perf_counter() - started
        logging.info('First step after %s', progress.duration(seconds))
        run.meter.restart()
      if run.epoch_is_over():
        _end_epoch(run)
      if run.step % run.settings.log.every_steps == 0:
        _log(run)
      if run.checkpoint_is_due():
        _save(run)
      run.checkpoints.check()
  stop.saving()
  run.stopped = True
  if run.saved != run.step:
    _save(run)
  return (
    f'Training stopped at step {run.step} by {stop.name}: run again to resume'
  )


def _stopped(run: Run, stop: signals.StopSignal) -> bool:
  """Whether a signal has arrived, in any process of the job.

  Several processes ask each other at log lines only, since it makes them wait
  for the running step. They must all stop at the same one.
  """
  if processes.count() > 1:
    if run.step % run.settings.log.every_steps and not run.validation_is_due():
      return False
    # Only what all have agreed on counts: a signal may arrive meanwhile.
    agreed = processes.highest(stop.number or 0)
    stop.adopt(agreed)
    return agreed > 0
  return stop.received()


def _train_batches(run: Run, stop: signals.StopSignal) -> waiting.Watched:
  """Returns the batches from this step on, this process's rows of each."""
  return waiting.Watched(
    run.splits.train_batches(run.epochs.place(run.step), run.rows),
    _may_give_up(stop),
    lambda: run.splits.describe_step(run.epochs.place(run.step), run.rows),
  )


def _may_give_up(stop: signals.StopSignal) -> Callable[[], bool]:
  """Returns whether to stop waiting for a batch; several processes have to."""
  return stop.received if processes.count() == 1 else lambda: False


def _step(run: Run, batches: Iterator[dict[str, np.ndarray]]) -> bool:
  """Dispatches one update; returns False if a signal came before the batch."""
  with run.meter.input():
    try:
      batch = next(batches)
    except waiting.GivenUpError:
      return False
    batch = train_step.put_batch(
      batch, run.settings.accumulation, run.setup.placement
    )
  run.state, loss = run.train_step(run.state, batch)
  run.step += 1
  run.meter.add(loss, run.images_in_step())
  return True


def _end_epoch(run: Run) -> None:
  """Reports the means over the epoch that ends, and checks what was read.

  Raises:
    DivergedError: if the loss or the parameters are no longer finite.
    UserError: if more of its images could not be read than permitted.
    NothingReadableError: if none could, even if `data.max_unreadable` is 1.
  """
  _check_finite(run)
  _check_unreadable(run)
  figures = run.state.epoch
  if not int(figures.examples):
    raise errors.NothingReadableError(run.splits.train_source)
  if run.epochs.ends(run.step):
    values = {'epoch': run.epochs.at(run.step), **figures.means()}
    run.reporter.write(run.step, 'epoch', values)


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
  _check_unreadable(run)
  _warn_if_stuck(run, run.step, values['nll'])


def _warn_if_stuck(run: Run, step: int, nll: float) -> None:
  """Warns once when the loss stays at that of a uniform prediction."""
  if not math.isfinite(nll):  # No image of the window could be read.
    return
  chance = math.log(run.setup.network.num_classes)
  if not chance:  # One class, whose loss is always that.
    return
  if abs(nll - chance) > 0.005 * chance:
    run.stuck_since = None
    return
  if run.stuck_since is None:
    run.stuck_since = step - run.settings.log.every_steps
  lasted = step - run.stuck_since
  every = run.settings.log.every_steps
  if lasted - every < run.settings.log.stuck_after_steps <= lasted:
    processes.warn(
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


def _validate(run: Run, stop: signals.StopSignal) -> bool:
  """Validates the state, which is saved, and adds the result to the checkpoint.

  Returns:
    Whether it came to its end; False if a signal arrived.
  """
  source = run.splits.eval_source
  batches = waiting.Watched(
    run.splits.read(source, 'Validating', checked=True),
    _may_give_up(stop),
    lambda: f"{source.name} '{source.split}'",
  )
  with contextlib.closing(batches), contextlib.suppress(waiting.GivenUpError):
    results = run.evaluator(
      run.state.params, batches, run.views, lambda: _stopped(run, stop)
    )
    if results is not None:
      _validated(run, results['center_view'])
  return run.validated == run.step


def _validated(run: Run, result: dict[str, float]) -> None:
  """Reports the result of a validation and updates the plateau rule."""
  state, step = run.state, run.step
  run.splits.check_result(
    run.splits.eval_source, result['examples'], result['unreadable']
  )
  epoch = run.epochs.at(step)
  images = run.identity.validation.fingerprint
  validation = {'epoch': epoch, **result, 'images': images}
  run.reporter.write(step, 'validation', validation)
  logging.info('%s', validation_line(step, epoch, result))
  plateau = state.plateau
  if setups.plateau_rules(run.setup, run.epochs, step):
    rule = run.setup.plateau_rule
    plateau = optimizer.plateau_update(plateau, result['top1_error'], rule)
  run.place(plateau=plateau, validated=np.int32(step))
  run.validated = step
  run.reporter.sync()
  run.checkpoints.add_validation(run.state, result, images)
  if int(plateau.drops) > int(state.plateau.drops) and not run.plateau_ended:
    rates = run.recipe.schedule(run.epochs.place(step), plateau)
    logging.info(
      'No better validation error: learning rate %.2g', float(rates.rate)
    )


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
  saved = 'none was saved' if run.saved < 0 else f'step {run.saved}'
  raise errors.DivergedError(
    f'the loss is not finite from step {step} on; last good checkpoint:'
    f' {saved}. The usual remedy is a lower --config.optimizer.learning_rate'
  )


def _save(run: Run) -> None:
  """Saves the state, if it is one to go on from."""
  with run.meter.pause('checkpoint'):
    _check_finite(run)
    _check_unreadable(run)
    run.reporter.sync()
    run.checkpoints.save(run.state, run.identity)
    run.saved = run.step


def _check_unreadable(run: Run) -> None:
  """Stops a run that cannot read more of this epoch's images than permitted."""
  run.splits.check_unreadable(
    int(run.state.epoch.unreadable), run.splits.train_source.num_examples
  )


def _summarize(workdir: pathlib.Path, run: Run) -> None:
  """Logs the curve of validation errors, the last and the best one."""
  lines = reporting.read(workdir / 'metrics.jsonl')
  images = run.identity.validation.fingerprint
  # Earlier versions did not say on which images.
  history = [
    line
    for line in lines
    if line['kind'] == 'validation'
    and line['top1_error'] is not None
    and line.get('images', images) == images
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
