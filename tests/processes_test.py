"""Jobs of several processes on this machine: equal to one, killed, resumed."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import inference
from alexnet_jax import processes
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import train
from configs import smoke

_ROOT = pathlib.Path(__file__).parents[1]
_TINY = {
  'network.layers': ('conv1', 'conv3', 'fc7', 'fc8'),
  'network.conv1.features': 8,
  'network.conv3.features': 8,
  'network.fc7.features': 16,
  'data.num_examples': 72,
  'batch_size': 16,
  'accumulation': 2,
  'evaluate.batch_size': 32,
  'log.every_steps': 2,
  'optimizer.schedule': 'constant',
  'optimizer.learning_rate': 0.001,
  'compilation_cache': '',
}


def _parts(**overrides):
  config = smoke.get_config()
  config.update_from_flattened_dict({**_TINY, 'devices': 1, **overrides})
  return setup.build(config)


def _launch(count, workdir, *given, each=((), ()), **overrides):
  """Starts the processes of a job, each with a pipe of its log.

  `each` has flags that are not the same for all.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  keys = {**_TINY, **overrides}
  command = [
    sys.executable,
    'main.py',
    f'--workdir={workdir}',
    f'--coordinator=localhost:{port}',
    f'--num_processes={count}',
    *given,
  ]
  if '--mode=evaluate' not in given:
    command.append('--config=configs/smoke.py')
    command += [f'--config.{key}={value}' for key, value in keys.items()]
  # The tests themselves have four devices.
  environment = {**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
  flags = environment.pop('XLA_FLAGS', '').split()
  kept = [flag for flag in flags if 'device_count' not in flag]
  environment['XLA_FLAGS'] = ' '.join(kept)
  environment.pop('PJRT_NPROC', None)
  return [
    subprocess.Popen(
      [*command, f'--process_id={i}', *each[i % 2]],
      cwd=_ROOT,
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(count)
  ]


def _finish(job):
  logs = [process.communicate(timeout=300)[1] for process in job]
  return [process.returncode for process in job], logs


def _saved(parts, workdir):
  checkpoints = checkpoint.Checkpoints(workdir)
  step = checkpoints.steps()[-1]
  state = checkpoints.restore(setup.abstract_state(parts), step)
  checkpoints.close()
  return jax.tree.map(np.asarray, state)


def _lines(workdir, kind):
  lines = reporting.read(workdir / 'metrics.jsonl')
  return [line for line in lines if line['kind'] == kind]


def _wait_for_a_line(job, workdir):
  while not _lines(workdir, 'train'):
    assert all(process.poll() is None for process in job), _finish(job)
    time.sleep(0.02)


def _damage(workdir, step):
  """Changes a bit of the parameters."""
  folder = workdir / 'checkpoints' / str(step) / 'params'
  files = [path for path in folder.rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)


def _assert_equal(one_workdir, workdir):
  parts = _parts()
  one, other = _saved(parts, one_workdir), _saved(parts, workdir)
  for field in ('params', 'velocity', 'window', 'epoch'):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
      getattr(one, field),
      getattr(other, field),
    )
  # Where a part of the run ended there is a validation more.
  ours, theirs = (
    {line['step']: line for line in _lines(each, 'train')}
    for each in (one_workdir, workdir)
  )
  assert ours.keys() == theirs.keys()
  for step, line in ours.items():
    assert line['nll'] == pytest.approx(theirs[step]['nll'], rel=1e-5)
    assert line['top1_error'] == theirs[step]['top1_error']


def test_two_killed_and_resumed_by_one_and_by_four(tmp_path):
  # A tower each. The kill comes somewhere after the first log line.
  workdir = tmp_path / 'run'
  job = _launch(2, workdir, num_epochs=10**6)
  _wait_for_a_line(job, workdir)
  job[1].send_signal(signal.SIGKILL)
  killed = time.monotonic()
  codes, logs = _finish(job)
  assert time.monotonic() - killed < processes.HEARTBEAT_SECONDS + 30
  assert codes[1] == -signal.SIGKILL
  if codes[0] == errors.LostProcessError.exit_code:
    assert 'another process of this job has ended' in logs[0]
    assert 'it resumes from the last checkpoint' in logs[0]
  else:  # It was waiting for the other to save, and JAX ended it.
    assert codes[0] == -signal.SIGABRT
    assert 'another task died' in logs[0]
  assert 'Traceback' not in logs[0]
  reached = max(checkpoint.Checkpoints(workdir).steps(), default=0)

  # Written by two, read by one; written by one, read by four.
  # The newest of one is damaged, which the four are to see alike.
  steps = max(reached, 5) + 1
  keep = {'checkpoint.keep': 2}
  assert train.train(_parts(max_steps=steps, **keep), workdir) == 0
  assert train.train(_parts(max_steps=steps + 1, **keep), workdir) == 0
  _damage(workdir, steps + 1)
  codes, logs = _finish(
    _launch(4, workdir, max_steps=steps + 4, parallelism='one_weird_trick')
  )
  assert codes == [0] * 4, logs
  assert f'The checkpoint of step {steps + 1} in' in logs[0]
  assert f'Restoring step {steps}\n' in logs[0]
  whole = tmp_path / 'whole'
  assert train.train(_parts(max_steps=steps + 4), whole) == 0
  _assert_equal(whole, workdir)
  # One log, and one writer.
  assert 'Training ended' in logs[0]
  for log in logs[1:]:
    assert 'step' not in log
  steps_logged = [line['step'] for line in _lines(workdir, 'train')]
  assert steps_logged == sorted(set(steps_logged))


def test_a_signal_to_one_stops_all_at_one_step(tmp_path):
  workdir = tmp_path / 'run'
  job = _launch(2, workdir, num_epochs=10**6)
  _wait_for_a_line(job, workdir)
  job[1].send_signal(signal.SIGTERM)
  codes, logs = _finish(job)
  assert codes == [128 + signal.SIGTERM] * 2, logs
  step = checkpoint.Checkpoints(workdir).steps()[-1]
  assert f'Training stopped at step {step} by SIGTERM' in logs[0]

  # Evaluation counts every example once, in any number of processes.
  given = ['--mode=evaluate', f'--output={tmp_path}/two']
  codes, logs = _finish(_launch(2, workdir, *given))
  assert codes == [0, 0], logs
  assert evaluate.run(inference.open_run(workdir), tmp_path / 'one') == 0
  two, one = (
    json.loads((tmp_path / name / 'evaluation.json').read_text())
    for name in ('two', 'one')
  )
  assert two['center_view']['examples'] == 72
  for view in ('center_view', 'ten_views'):
    assert two[view] == pytest.approx(one[view], rel=1e-5)


def test_other_data_or_another_config_is_refused_by_all(tmp_path):
  flags = [['--config.seed=1'], ['--config.seed=2']]
  codes, logs = _finish(_launch(2, tmp_path / 'run', each=flags))
  assert codes == [2, 2], logs
  for log in logs:
    assert 'the config of process 1 is not that of process 0' in log
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_a_workdir_that_is_not_shared_is_refused_by_all(tmp_path):
  flags = [[f'--workdir={tmp_path}/a'], [f'--workdir={tmp_path}/b']]
  codes, logs = _finish(_launch(2, tmp_path / 'run', each=flags))
  assert codes == [2, 2], logs
  for log in logs:
    assert 'the --workdir of process 1 is not that of process 0' in log


@pytest.mark.parametrize(
  'given',
  [
    ('localhost:1234', 2, 2),
    ('localhost', 2, 0),
    ('localhost:1234', None, 0),
    ('localhost:1234', 2, None),
  ],
)
def test_what_is_no_job_is_refused(given):
  with pytest.raises(errors.UserError, match='is no job: needed are'):
    processes.join(*given)


def test_a_process_alone_needs_no_others(monkeypatch):
  processes.join()
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '1')
  monkeypatch.setenv('SLURM_PROCID', '0')
  # A pod of Kubernetes may be one of many independent runs.
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '3')
  processes.join()
  processes.join('localhost:1234', 1, 0)
  assert not processes.joined()
  assert processes.is_first()
  assert processes.highest(7) == 7
  with pytest.raises(errors.UserError, match='mine'), processes.agreement():
    raise errors.UserError('mine')
