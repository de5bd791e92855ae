"""The log of the training loop, compared with a simulated clock and device.

The device computes nothing: a step takes a known time, steps run one after
another, and reading a value of the state waits for the last of them, as with a
real one. Time passes only when something waits, so that no other process can
disturb it.
"""

import dataclasses
import logging as python_logging
import re
import signal
import time
import types
from typing import NamedTuple

from absl import logging
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax import evaluate
from alexnet_jax import meter
from alexnet_jax import metrics
from alexnet_jax import progress
from alexnet_jax import setup
from alexnet_jax import signals
from alexnet_jax import train
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax import waiting
from alexnet_jax.splits import Splits
from configs import smoke

_FIELDS = frozenset(
  field.name for field in dataclasses.fields(train_state.TrainState)
)
_VALIDATION, _SAVE = 0.3, 0.1  # seconds
_EVERY = 10  # steps between lines
_CONFIG = {
  'network.layers': ('conv1', 'fc8'),
  'network.conv1.features': 8,
  'data.num_examples': 80,
  'batch_size': 4,  # 20 steps an epoch
  'devices': 1,
  'log.every_steps': _EVERY,
  'checkpoint.every_steps': 30,
  'num_epochs': 4,
  'optimizer.plateau.patience': 9,
}
_LINE = re.compile(
  r'step (\d+)/(\d+)  epoch \S+  loss \S+  error \S+ %  learning rate (\S+)'
  r'  (\S+) images/s  data wait (\S+) %  ETA (.+)'
)


class _Clock:
  """Time that passes only when something waits."""

  def __init__(self):
    self.now = 0.0

  def sleep(self, seconds):
    self.now += seconds

  def sleep_until(self, moment):
    self.now = max(self.now, moment)


class _Later:
  """Stands for an executor of one thread: what it runs takes no time itself."""

  def __init__(self, clock):
    self._clock = clock

  def submit(self, function, loss):
    del function
    clock = self._clock

    class Future:
      def done(self):
        return loss.ready_at <= clock.now

      def result(self):
        clock.sleep_until(loss.ready_at)
        return loss.ready_at

    return Future()

  def shutdown(self):
    pass


class _Device:
  """Runs steps of a known duration, one after another."""

  def __init__(self, clock, seconds):
    self.clock = clock
    self.seconds = seconds
    self.free_at = 0.0
    self.steps = 0
    self.idle = []  # before each step
    self.reads = []  # steps dispatched when a value was read, and its name
    self.pauses = []  # (begin, end) of validations and checkpoints

  def dispatch(self):
    self.idle.append(max(0.0, self.clock.now - self.free_at))
    self.free_at = max(self.clock.now, self.free_at) + self.seconds
    self.steps += 1
    return _Loss(self.free_at)

  def read(self, name):
    self.reads.append((self.steps, name))
    self.clock.sleep_until(self.free_at)

  def _pause(self, seconds):
    begun = self.clock.now
    self.clock.sleep(seconds)
    self.pauses.append((begun, self.clock.now))

  def validate(self):
    self._pause(_VALIDATION)
    return []

  def save(self):
    self._pause(_SAVE)


class _Loss(NamedTuple):
  """Of a step that runs until then; reading a value from it is an error."""

  ready_at: float


class _OnDevice(train_state.TrainState):
  """A state whose fields the device holds."""

  def __getattribute__(self, name):
    if name in _FIELDS and _device is not None:
      _device.read(name)
    return object.__getattribute__(self, name)


_device: _Device | None = None


def _fake_step(log_every, epoch):
  """Returns a step that keeps the books and trains nothing."""
  one = metrics.Sums(*map(np.float32, (4.0, 8.0, 2.0, 1.0, 0.0)))

  def restart(sums, step, every):
    return one if step % every == 0 else sums + one

  def step(state, batch):
    del batch
    old = {name: object.__getattribute__(state, name) for name in _FIELDS}
    number = int(old['step'])
    changed = {
      'step': np.int32(number + 1),
      'window': restart(old['window'], number, log_every),
      'epoch': restart(old['epoch'], number, epoch),
    }
    return _OnDevice(**{**old, **changed}), _device.dispatch()

  return step


@pytest.fixture
def start(tmp_path, monkeypatch, caplog):
  """Returns a function that trains on a device of this speed."""
  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  caplog.set_level(python_logging.INFO, 'absl')
  original = Splits.train_batches
  clock = _Clock()
  simulated = types.SimpleNamespace(
    perf_counter=lambda: clock.now, monotonic=time.monotonic
  )
  monkeypatch.setattr(train, 'time', simulated)
  monkeypatch.setattr(meter, 'time', simulated)
  executor = types.SimpleNamespace(ThreadPoolExecutor=lambda *_: _Later(clock))
  monkeypatch.setattr(meter, 'futures', executor)

  def stamp(record):
    record.created = clock.now
    return True

  monkeypatch.setattr(caplog.handler, 'filters', [stamp])

  def run(step=0.0, image_input=0.0, errors=(0.5,), **overrides):
    global _device
    config = smoke.get_config()
    config.update_from_flattened_dict({**_CONFIG, **overrides})
    device = _Device(clock, step or 0.001)
    errors = iter(errors)

    def batches(self, first, rows):
      for batch in original(self, first, rows):
        clock.sleep(image_input)
        yield batch

    def evaluator(*args):
      result = {'examples': 80, 'unreadable': 0, 'nll': 2.0}
      error = next(errors, 0.5)
      return {'center_view': {**result, 'top1_error': error, 'top5_error': 0.0}}

    monkeypatch.setattr(Splits, 'train_batches', batches)
    monkeypatch.setattr(
      train_step,
      'make_train_step',
      lambda placement, recipe: _fake_step(
        recipe.log_every, recipe.epochs.steps
      ),
    )
    monkeypatch.setattr(evaluate, 'Evaluator', lambda *args: evaluator)
    # A thread of its own would have a clock of its own.
    monkeypatch.setattr(
      waiting, 'Watched', lambda items, *_: (item for item in items)
    )
    monkeypatch.setattr(
      checkpoint.Checkpoints, 'add_validation', lambda *args: None
    )
    if step:
      monkeypatch.setattr(Splits, 'read', lambda *args, **_: device.validate())
      monkeypatch.setattr(
        checkpoint.Checkpoints, 'save', lambda *args: device.save()
      )
    caplog.clear()
    _device = device
    try:
      code = train.train(setup.build(config), tmp_path, run.stop)
    finally:
      _device = None
    return code, device

  run.stop = signals.StopSignal()
  return run


def _train_lines(caplog):
  """Returns time, step, images/s, data wait and ETA of each line."""
  found = []
  for record in caplog.records:
    match = _LINE.fullmatch(record.getMessage())
    if match:
      step, _, _, speed, wait, eta = match.groups()
      found.append((record.created, int(step), float(speed), float(wait), eta))
  return found


def _time_of(caplog, words):
  return next(r.created for r in caplog.records if words in r.getMessage())


@pytest.mark.parametrize('schedule', list(setup.SCHEDULES))
def test_the_log_agrees_with_the_clock(start, caplog, monkeypatch, schedule):
  monkeypatch.setattr(progress, 'duration', lambda s: f'{s:.3f} s')
  code, device = start(
    step=0.02, image_input=0.01, **{'optimizer.schedule': schedule}
  )
  assert code == 0
  lines = _train_lines(caplog)
  assert [step for _, step, *_ in lines] == list(range(10, 81, 10))
  ended = _time_of(caplog, 'Training ended at step 80: num_epochs=4 reached')

  # Each line tells of the time since the line before, less validations and
  # checkpoints.
  # Four validations, each after a save; and at 30, but not at 60 once more.
  assert len(device.pauses) == 4 + 4 + 1
  begun = _time_of(caplog, 'First step after')
  for i, (moment, _, speed, wait, _) in enumerate(lines):
    paused = sum(end - at for at, end in device.pauses if begun <= at < moment)
    seconds = moment - begun - paused
    assert speed == pytest.approx(4 * (10 if i else 9) / seconds, abs=0.5)
    # The step after a line, a validation or a checkpoint waits for its batch.
    idle = sum(device.idle[10 * i + (0 if i else 1) : 10 * i + 10])
    assert wait == pytest.approx(100 * (idle - paused) / seconds, abs=0.1)
    begun = moment

  # After the first validation the ETA is right.
  for moment, step, _, _, eta in lines[2:]:
    left = float(eta.removesuffix(' s'))
    assert left == pytest.approx(ended - moment, rel=0.1), step

  # Values are read only where a line, a validation or a checkpoint is due. The
  # first line is that of the first step.
  assert {steps for steps, _ in device.reads} == {1, *range(10, 81, 10)}
  assert {name for _, name in device.reads} >= {'window', 'plateau', 'params'}


@pytest.mark.parametrize('schedule', ['plateau', 'constant'])
def test_input_and_steps_overlap(start, caplog, schedule):
  start(
    step=0.04,
    image_input=0.04,
    num_epochs=2,
    **{'optimizer.schedule': schedule},
  )
  lines = _train_lines(caplog)
  # In turn they would take 80 ms, at 50 images/s.
  assert min(speed for _, _, speed, *_ in lines) > 85


def test_data_wait_is_the_time_the_device_is_idle(start, caplog):
  start(step=0.02, image_input=0.05, num_epochs=2)
  waits = [wait for _, _, _, wait, _ in _train_lines(caplog)]
  # 30 ms of 50, although every batch takes 50.
  assert np.median(waits) == pytest.approx(60, abs=5)


def test_the_speed_counts_images_and_not_padding(start, caplog):
  # The 20th step of an epoch has one image, and three rows that fill it up.
  start(step=0.5, num_epochs=2, **{'data.num_examples': 77})
  speeds = {step: speed for _, step, speed, *_ in _train_lines(caplog)}
  assert speeds[10] == speeds[30] == 8  # 4 images in 0.5 s
  assert speeds[20] == speeds[40] == pytest.approx(37 / 5, abs=0.5)


def _ends(caplog):
  last = [m for m in caplog.messages if m.startswith('Step ')][-1]
  return last, [
    message
    for message in caplog.messages
    if message.startswith(('Training ', 'Nothing to train'))
  ]


def test_every_end_says_why(start, caplog):
  start(max_steps=25)
  last, ends = _ends(caplog)
  assert ends == ['Training ended at step 25: max_steps=25 reached (step 25)']
  assert last.startswith('Step 25: top-1 error 50.00 %, best 50.00 % at step 2')

  start(errors=[0.4])
  last, ends = _ends(caplog)
  assert ends == ['Training ended at step 80: num_epochs=4 reached (step 80)']
  assert last.startswith('Step 80: top-1 error 50.00 %, best 40.00 % at step 4')

  for epochs, end in ((4, 80), (1, 20)):
    start(num_epochs=epochs)
    _, ends = _ends(caplog)
    assert ends == [
      f'Nothing to train at step 80: num_epochs={epochs} reached (step {end})'
    ]

  changed = {
    'num_epochs': 9,
    'optimizer.plateau.patience': 1,
    'optimizer.plateau.max_drops': 1,
  }
  reason = (
    'plateau: no better validation error after max_drops=1 drops of the'
    ' learning rate'
  )
  start(**changed)
  _, ends = _ends(caplog)
  (line,) = ends
  assert line.startswith('Training ended at step ')
  assert line.endswith(reason)
  start(**changed)
  _, ends = _ends(caplog)
  (line,) = ends
  assert line.startswith('Nothing to train at step ')
  assert line.endswith(reason)


def test_a_stop_after_a_validation_names_both_steps(start, caplog, monkeypatch):
  original = train._step

  def interrupted(run, batches):
    made = original(run, batches)
    if run.step == 24:
      start.stop.number = signal.SIGINT
    return made

  monkeypatch.setattr(train, '_step', interrupted)
  code, _ = start(errors=[0.25])
  assert code == 128 + signal.SIGINT
  last, ends = _ends(caplog)
  assert ends == ['Training stopped at step 24 by SIGINT: run again to resume']
  assert last.startswith(
    'Step 24, validated at step 20: top-1 error 25.00 %, best 25.00 % at step'
  )
