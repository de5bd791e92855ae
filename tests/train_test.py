"""Whole runs: killed, stopped, resumed elsewhere, and gone wrong."""

import gc
import json
import logging as python_logging
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import logging
import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import inference
from alexnet_jax import optimizer
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import signals
from alexnet_jax import train
from alexnet_jax.splits import Splits
from configs import smoke

_ROOT = pathlib.Path(__file__).parents[1]
# Of a line of metrics.jsonl; everything else must be equal bit by bit.
_TIMES = ('time', 'images_per_second', 'data_wait')
# A network that compiles fast, with all that the others have.
_TINY = {
  'network.layers': ('conv1', 'conv3', 'fc7', 'fc8'),
  'network.conv1.features': 8,
  'network.conv3.features': 8,
  'network.fc7.features': 16,
  'data.num_examples': 80,
  'batch_size': 16,
  'evaluate.batch_size': 32,
  'log.every_steps': 2,
}


def _config(**overrides):
  config = smoke.get_config()
  config.devices = 2
  config.update_from_flattened_dict({**_TINY, **overrides})
  return config


def _build(**overrides):
  return setup.build(_config(**overrides))


def _saved(parts, workdir):
  """Returns the last checkpoint's step and every array of it as numpy."""
  checkpoints = checkpoint.Checkpoints(workdir)
  step = checkpoints.steps()[-1]
  state = checkpoints.restore(setup.abstract_state(parts), step)
  checkpoints.close()
  return step, jax.tree.map(np.asarray, state)


def _lines(workdir):
  return [
    {key: value for key, value in line.items() if key not in _TIMES}
    for line in reporting.read(workdir / 'metrics.jsonl')
  ]


def _assert_same_run(parts, one, other):
  step, state = _saved(parts, one)
  other_step, other_state = _saved(parts, other)
  assert step == other_step
  jax.tree.map(np.testing.assert_array_equal, state, other_state)
  assert _lines(one) == _lines(other)


def _start(workdir, **overrides):
  flags = [
    f'--config.{key}={value}' for key, value in {**_TINY, **overrides}.items()
  ]
  return subprocess.Popen(
    [
      sys.executable,
      'main.py',
      '--config=configs/smoke.py',
      f'--workdir={workdir}',
      '--config.devices=2',
      *flags,
    ],
    cwd=_ROOT,
    env={**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _wait_for_step(process, workdir, step):
  """Returns when the run has saved and has written this or a later step."""
  path = workdir / 'metrics.jsonl'
  deadline = time.monotonic() + 120
  while process.poll() is None:
    assert time.monotonic() < deadline, f'no step {step} within two minutes'
    lines = path.read_text().splitlines() if path.exists() else []
    # Checkpoints that are not yet complete have longer names.
    saved = any(p.name.isdigit() for p in workdir.glob('checkpoints/*'))
    if saved and lines and json.loads(lines[-1])['step'] >= step:
      return
    time.sleep(0.005)
  pytest.fail(f'ended before step {step}: {process.stderr.read()}')


def test_killed_and_stopped_run_ends_like_one_never_touched(
  tmp_path, monkeypatch, caplog
):
  # 5 steps an epoch; checkpoints at 3, 6, 9, ... and after validations. With
  # patience 1 the plateau rule acts several times on the way.
  overrides = {
    'num_epochs': 6,
    'checkpoint.every_steps': 3,
    'optimizer.plateau.patience': 1,
    'optimizer.plateau.min_delta': 0.05,
    'optimizer.plateau.max_drops': 9,
  }
  parts = _build(**overrides)
  assert train.train(parts, tmp_path / 'whole') == 0

  workdir = tmp_path / 'touched'
  run = _start(workdir, **overrides)
  _wait_for_step(run, workdir, 4)
  run.send_signal(signal.SIGKILL)
  assert run.wait() == -signal.SIGKILL
  reached = _lines(workdir)[-1]['step']

  run = _start(workdir, **overrides)
  _wait_for_step(run, workdir, reached + 4)
  # As `timeout` does: to the process, then to its group.
  run.send_signal(signal.SIGTERM)
  run.send_signal(signal.SIGTERM)
  _, log = run.communicate(timeout=60)
  assert run.returncode == 128 + signal.SIGTERM, log
  assert 'Restoring step' in log
  assert 'SIGTERM: saving, then stopping' in log
  assert 'Traceback' not in log
  last = [line for line in _lines(workdir) if line['kind'] == 'train'][-1]
  step, state = _saved(parts, workdir)
  assert step == state.step < 30
  assert last['step'] <= step <= last['step'] + 2
  assert f'Training stopped at step {step} by SIGTERM: run again' in log

  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  caplog.set_level(python_logging.INFO, 'absl')
  assert train.train(parts, workdir) == 0
  assert f'Restoring step {step}' in caplog.text
  _assert_same_run(parts, tmp_path / 'whole', workdir)
  step, state = _saved(parts, tmp_path / 'whole')
  assert step == 30
  assert state.plateau.drops > 0
  kinds = [line['kind'] for line in _lines(tmp_path / 'whole')]
  assert kinds.count('train') == 15
  assert kinds.count('validation') == kinds.count('epoch') == 6


def test_validation_put_off_by_a_signal_happens_on_restart(
  tmp_path, monkeypatch
):
  parts = _build(num_epochs=2)
  assert train.train(parts, tmp_path / 'whole') == 0

  # The signal arrives while the first validation reads its first batch.
  stop = signals.StopSignal()
  original = Splits.read

  def interrupting(self, *args, **kwargs):
    stop.number = signal.SIGTERM
    return original(self, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(Splits, 'read', interrupting)
    code = train.train(parts, tmp_path / 'stopped', stop)
  assert code == 128 + signal.SIGTERM
  step, state = _saved(parts, tmp_path / 'stopped')
  assert (step, state.validated) == (5, -1)

  assert train.train(parts, tmp_path / 'stopped') == 0
  _assert_same_run(parts, tmp_path / 'whole', tmp_path / 'stopped')


def test_run_moves_between_devices_and_kinds_of_parallelism(tmp_path):
  # Each end is a validation, to which the plateau rule would react.
  constant = {'optimizer.schedule': 'constant'}
  places = {4: (2, 'both'), 8: (4, 'one_weird_trick'), 12: (4, 'data')}
  for steps, (devices, parallelism) in places.items():
    parts = _build(
      max_steps=steps, devices=devices, parallelism=parallelism, **constant
    )
    assert train.train(parts, tmp_path / 'a') == 0
  assert train.train(_build(max_steps=12, **constant), tmp_path / 'b') == 0
  step, moved = _saved(_build(), tmp_path / 'a')
  assert step == 12
  _, stayed = _saved(_build(), tmp_path / 'b')
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    moved.params,
    stayed.params,
  )

  results = []
  for devices, parallelism in ((1, 'both'), (4, 'one_weird_trick')):
    config = _config(devices=devices, parallelism=parallelism)
    trained = inference.open_run(tmp_path / 'a', config)
    assert evaluate.run(trained, tmp_path / 'a') == 0
    results.append(json.loads((tmp_path / 'a/evaluation.json').read_text()))
  for result in results:
    assert result['step'] == 12
    for kind, views in (('center_view', 1), ('ten_views', 10)):
      first = results[0][kind]
      assert result[kind]['examples'] == 80
      assert result[kind]['views'] == views
      assert result[kind]['nll'] == pytest.approx(first['nll'], rel=1e-5)
      assert result[kind]['top1_error'] == pytest.approx(first['top1_error'])
      assert 0 <= result[kind]['top5_error'] <= result[kind]['top1_error'] <= 1


def test_last_checkpoints_and_the_best_are_kept(tmp_path, monkeypatch):
  # Validation errors by hand: the second is the best.
  found = iter([0.9, 0.3, 0.8, 0.8, 0.7])
  original = evaluate.Evaluator.__call__

  def invented(self, *args):
    results = original(self, *args) or {}
    results['center_view']['top1_error'] = next(found)
    return results

  monkeypatch.setattr(evaluate.Evaluator, '__call__', invented)
  parts = _build(
    **{'num_epochs': 5, 'checkpoint.keep': 2, 'checkpoint.every_steps': 100}
  )
  assert train.train(parts, tmp_path) == 0
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.order('best')[0] == 10
  assert checkpoints.order('last') == [25, 20, 10]
  checkpoints.close()


@pytest.mark.parametrize('good_steps', [0, 2])
def test_non_finite_loss_names_the_last_good_checkpoint(tmp_path, good_steps):
  constant = {'optimizer.schedule': 'constant', 'log.every_steps': 4}
  saved = 'none was saved'
  if good_steps:
    parts = _build(max_steps=good_steps, **constant)
    assert train.train(parts, tmp_path) == 0
    saved = f'step {good_steps}'
  parts = _build(
    **constant,
    **{'optimizer.learning_rate': 1e30, 'checkpoint.every_steps': 100},
  )
  with pytest.raises(errors.DivergedError) as caught:
    train.train(parts, tmp_path)
  assert caught.value.exit_code == 3
  message = str(caught.value)
  assert 'not finite from step' in message
  assert f'last good checkpoint: {saved}.' in message
  if good_steps:
    step, state = _saved(parts, tmp_path)
    assert step == good_steps
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_loss_at_chance_warns_once(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  overrides = {
    'optimizer.learning_rate': 0.0,
    'network.fc8.init_std': 1e-6,
    'num_epochs': 4,
  }
  parts = _build(**overrides, **{'log.stuck_after_steps': 6})
  assert train.train(parts, tmp_path) == 0
  warnings = [m for m in caplog.messages if 'stayed at ln(10) = 2.30' in m]
  assert len(warnings) == 1
  assert 'for 6 steps' in warnings[0]


def test_plateau_rule_ends_the_run(tmp_path):
  parts = _build(
    **{
      'num_epochs': 50,
      'optimizer.learning_rate': 1e-6,
      'optimizer.plateau.patience': 2,
      'optimizer.plateau.min_delta': 0.9,
      'optimizer.plateau.max_drops': 1,
    }
  )
  assert train.train(parts, tmp_path) == 0
  # The first validation is the best; two more without gain make the drop, and
  # two more the end: epoch 5.
  step, state = _saved(parts, tmp_path)
  assert step == 5 * 5
  assert state.plateau.drops == 2
  rates = [
    line['learning_rate']
    for line in _lines(tmp_path)
    if line['kind'] == 'train'
  ]
  assert rates[0] == pytest.approx(1e-6)
  assert rates[-1] == pytest.approx(1e-7)


def test_a_resumed_run_takes_the_configs_rate(tmp_path):
  # One drop in two epochs: 0.01, then 0.001.
  settings = {
    'optimizer.plateau.patience': 1,
    'optimizer.plateau.min_delta': 0.9,
    'optimizer.plateau.max_drops': 9,
  }
  parts = _build(num_epochs=2, **settings)
  assert train.train(parts, tmp_path) == 0
  _, before = _saved(parts, tmp_path)
  assert before.plateau.drops == 1
  # The paper's own procedure: stopped, changed by hand, resumed. The drop
  # stays a drop, of the new rate.
  for epochs, rate in ((3, 0.002), (4, 0.0)):
    parts = _build(
      num_epochs=epochs, **settings, **{'optimizer.learning_rate': rate}
    )
    assert train.train(parts, tmp_path) == 0
    lines = [line for line in _lines(tmp_path) if line['kind'] == 'train']
    assert lines[-1]['learning_rate'] == pytest.approx(rate / 10)
    _, after = _saved(parts, tmp_path)
    # At a rate of 0 nothing is learned: it is what the steps used, too.
    equal = jax.tree.map(np.array_equal, after.params, before.params)
    assert all(jax.tree.leaves(equal)) == (rate == 0)
    before = after


def test_training_learns(tmp_path):
  parts = _build(
    **{
      'network.fc7.features': 64,
      'data.num_examples': 160,
      'num_epochs': 6,
      'optimizer.plateau.patience': 9,
    }
  )
  assert train.train(parts, tmp_path) == 0
  found = [
    line['top1_error']
    for line in _lines(tmp_path)
    if line['kind'] == 'validation'
  ]
  assert found[-1] < 0.1  # chance is 0.9


def test_garbage_collections_look_at_new_objects_only():
  with train._cycles_are_freed():
    assert len(gc.get_objects()) < gc.get_freeze_count() / 10
  assert gc.get_freeze_count() == 0


def test_state_is_saved_before_it_is_donated(tmp_path):
  parts = _build()
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
  data = Splits(parts)
  step = train.train_step.make_train_step(
    parts.placement,
    setup.make_recipe(parts, data.identity().epochs, np.zeros(3, np.float32)),
  )
  state = setup.first_state(parts)
  batches = data.train_batches(0)
  state, _ = step(
    state, train.train_step.put_batch(next(batches), 1, parts.placement)
  )
  expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
  checkpoints.save(state, data.identity())
  for _ in range(5):  # overwrites the buffers while they are being written
    batch = train.train_step.put_batch(next(batches), 1, parts.placement)
    state, _ = step(state, batch)
  checkpoints.close()
  _, saved = _saved(parts, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, expected, saved)
  assert saved.plateau.best == optimizer.plateau_init().best
