"""What a run keeps while its config changes: counters, schedules, warm-ups."""

import logging as python_logging
import signal

from absl import logging
import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax import evaluate
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import signals
from alexnet_jax import train
from configs import smoke

# Ten steps per epoch of a network that compiles fast.
_TINY = {
  'network.layers': ('conv1', 'fc8'),
  'network.conv1.features': 8,
  'data.num_examples': 80,
  'batch_size': 8,
  'devices': 1,
  'evaluate.batch_size': 80,
  'log.every_steps': 1,
  'optimizer.plateau.patience': 2,
  'optimizer.plateau.min_delta': 0.001,
}
_CONSTANT = {'optimizer.schedule': 'constant'}
_ACCEPT = {'checkpoint.accept_changes': True}


class _Runs:
  """Trains in one workdir; validations find the errors that they are told."""

  def __init__(self, workdir, caplog):
    self.workdir = workdir
    self.errors = iter(())
    self._caplog = caplog

  def __call__(self, epochs, errors=(), **overrides):
    """Trains until so many epochs have passed; returns the state."""
    self.errors = iter(errors)
    self._caplog.clear()
    config = smoke.get_config()
    config.update_from_flattened_dict(
      {**_TINY, 'num_epochs': epochs, **overrides}
    )
    parts = setup.build(config)
    self.stop = signals.StopSignal()
    self.code = train.train(parts, self.workdir, self.stop)
    checkpoints = checkpoint.Checkpoints(self.workdir)
    state = checkpoints.restore(
      setup.abstract_state(parts), checkpoints.steps()[-1]
    )
    checkpoints.close()
    return jax.tree.map(np.asarray, state)

  @property
  def log(self):
    return self._caplog.text

  def lines(self, kind='train'):
    found = reporting.read(self.workdir / 'metrics.jsonl')
    return [line for line in found if line['kind'] == kind]

  def rates(self):
    """Returns the learning rate by step, of the whole run."""
    return [line['learning_rate'] for line in self.lines()]


@pytest.fixture
def runs(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  caplog.set_level(python_logging.INFO, 'absl')
  made = _Runs(tmp_path / 'run', caplog)
  original = evaluate.Evaluator.__call__

  def invented(*args):
    results = original(*args) or {}
    results['center_view']['top1_error'] = next(made.errors, 0.5)
    return results

  monkeypatch.setattr(evaluate.Evaluator, '__call__', invented)
  return made


def _counters(state):
  plateau = state.plateau
  return float(plateau.best), int(plateau.stalled), int(plateau.drops)


_FRESH = (float('inf'), 0, 0)


@pytest.mark.parametrize('schedule', ['constant', 'phases', 'cosine'])
def test_other_schedules_leave_the_plateau_rule_as_it_is(runs, schedule):
  # Many validations without a gain, which the rule would call 10 drops.
  other = {'optimizer.schedule': schedule, 'validate_every_steps': 1}
  state = runs(2, errors=[0.5] * 20, **other)
  assert _counters(state) == _FRESH
  state = runs(3, errors=[0.5])
  assert _counters(state) == (0.5, 0, 0)
  assert runs.code == 0
  assert runs.rates()[-10:] == [pytest.approx(0.01)] * 10
  assert 'Training ended at step 30: num_epochs=3 reached' in runs.log


def test_the_plateau_rule_goes_on_where_it_left(runs):
  # 0.5 is the best; two validations without a gain are a drop, one more stalls.
  state = runs(4, errors=[0.5, 0.6, 0.6, 0.6])
  assert _counters(state) == (0.5, 1, 1)
  assert _counters(runs(7, errors=[0.1, 0.9, 0.9], **_CONSTANT)) == (0.5, 1, 1)
  state = runs(8, errors=[0.6])
  assert _counters(state) == (0.5, 0, 2)
  rates = [runs.rates()[10 * epoch] for epoch in range(8)]
  assert rates == pytest.approx([0.01] * 3 + [0.001] + [0.01] * 3 + [0.001])


def test_errors_on_other_images_are_no_plateau(runs):
  state = runs(4, errors=[0.2, 0.3, 0.3, 0.3])
  assert _counters(state) == (pytest.approx(0.2), 1, 1)
  # Larger errors on larger images: the first is the best so far.
  state = runs(6, errors=[0.6, 0.5], **{'data.eval_split': 'train'})
  assert 'errors before and after cannot be compared' in runs.log
  assert _counters(state) == (0.5, 0, 1)
  # The drops stay: they are what the learning rate is.
  assert runs.rates()[-1] == pytest.approx(0.001)


def test_changed_numbers_of_the_plateau_rule_apply_from_here_on(runs):
  runs(3, errors=[0.5, 0.6, 0.6])  # one drop
  state = runs(4, errors=[0.6], **{'optimizer.plateau.patience': 1})
  assert _counters(state) == (0.5, 0, 2)
  # Two drops, of another factor: a jump, which is told.
  runs(5, errors=[0.4], **{'optimizer.plateau.factor': 2.0})
  assert runs.rates()[-1] == pytest.approx(0.01 / 4)
  assert 'optimizer.plateau.factor was 10.0 in' in runs.log
  assert 'learning rate at step 40 is 0.0025; by the config' in runs.log
  # Fewer drops than were made: the end, and it says why.
  lower = {'optimizer.plateau.max_drops': 1}
  assert int(runs(6, **lower).step) == 50
  assert runs.code == 0
  assert 'optimizer.plateau.max_drops was 3 in' in runs.log
  assert 'Nothing to train at step 50: plateau: no better' in runs.log
  # More: it goes on at the rate of its drops.
  assert int(runs(6, errors=[0.3]).step) == 60
  assert runs.rates()[-1] == pytest.approx(1e-4)


def test_a_warm_up_is_no_plateau(runs):
  warm = {'optimizer.warmup_epochs': 3.0, 'optimizer.plateau.patience': 1}
  state = runs(4, errors=[0.9, 0.9, 0.9, 0.8], **warm)
  assert _counters(state) == (pytest.approx(0.8), 0, 0)
  state = runs(5, errors=[0.8], **warm)
  assert _counters(state) == (pytest.approx(0.8), 0, 1)


def test_scaling_and_warm_up_follow_the_batch_size(runs):
  chosen = {
    **_CONSTANT,
    'optimizer.base_batch_size': 4,
    'optimizer.warmup_epochs': 2.0,
  }
  # Eight images: from 0.01 to 0.02 in 20 steps, six of which are made.
  runs(3, max_steps=6, **{**chosen, 'optimizer.warmup_epochs': 0.5})
  runs(3, max_steps=26, **chosen)
  expected = [0.01 * (1 + step / 5) for step in range(5)] + [0.02]
  expected += [0.01 * (1 + min(1, step / 20)) for step in range(6, 26)]
  assert runs.rates() == pytest.approx(expected)
  # Twice as many images: the epoch ends here, and the rate doubles.
  runs(4, batch_size=16, **chosen, **_ACCEPT)
  assert 'learning rate at step 26 is 0.04; by the config' in runs.log
  assert runs.rates()[26:] == [pytest.approx(0.04)] * 5


def test_a_batch_size_changed_during_the_warm_up(runs):
  chosen = {
    **_CONSTANT,
    'optimizer.base_batch_size': 8,
    'optimizer.warmup_epochs': 2.0,
  }
  runs(4, batch_size=16, max_steps=11, **chosen)
  # One of 2.2 epochs is begun: three of 20 steps each would be beyond.
  runs(4, batch_size=4, max_steps=31, **chosen, **_ACCEPT)
  rates = runs.rates()
  assert rates[0] == pytest.approx(0.01)
  assert rates[5] == pytest.approx(0.015)  # one epoch of five steps
  assert rates[10] == pytest.approx(0.02)
  # The warm-up of two epochs is over; a quarter of the rate.
  assert rates[11:] == [pytest.approx(0.005)] * 20


def test_an_epoch_that_no_validation_ends_is_reported(runs):
  runs(3, **_CONSTANT)
  expected = [line['nll'] for line in runs.lines('epoch')]
  runs.workdir = runs.workdir.with_name('other')
  runs(3, **_CONSTANT, validate_every_steps=4)
  lines = runs.lines('epoch')
  assert [line['step'] for line in lines] == [10, 20, 30]
  assert [line['epoch'] for line in lines] == [1, 2, 3]
  assert [line['nll'] for line in lines] == expected


def test_a_stopped_run_of_lars_ends_like_one_never_touched(
  runs, tmp_path, monkeypatch
):
  chosen = {
    'optimizer.rule': 'lars',
    'optimizer.schedule': 'polynomial',
    'optimizer.learning_rate': 1.0,
    'optimizer.base_batch_size': 4,
    'optimizer.warmup_epochs': 1.5,
    'optimizer.rate_multipliers.bias': 0.01,
    'checkpoint.every_steps': 4,
  }
  whole = runs(3, **chosen)
  lines = [runs.lines(kind) for kind in ('train', 'epoch', 'validation')]
  runs.workdir = tmp_path / 'stopped'
  original = train._step

  def interrupted(run, batches):
    made = original(run, batches)
    if run.step in (7, 19):  # within the warm-up, and after it
      runs.stop.number = signal.SIGTERM
    return made

  monkeypatch.setattr(train, '_step', interrupted)
  for step in (7, 19, 30):
    stopped = runs(3, **chosen)
    assert int(stopped.step) == step
  jax.tree.map(np.testing.assert_array_equal, whole, stopped)
  times = ('time', 'images_per_second', 'data_wait')
  for before, kind in zip(lines, ('train', 'epoch', 'validation'), strict=True):
    for one, other in zip(before, runs.lines(kind), strict=True):
      for key in one.keys() - set(times):
        assert one[key] == other[key]


def test_the_update_rule_may_change(runs):
  runs(1, **_CONSTANT)
  lars = {
    'optimizer.rule': 'lars',
    'optimizer.lars.trust_coefficient': 0.1,
  }
  state = runs(2, **_CONSTANT, **lars)
  assert 'optimizer.rule was momentum in' in runs.log
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
