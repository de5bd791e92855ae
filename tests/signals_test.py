"""Signals at any moment of the program, and programs that do not obey."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from alexnet_jax import signals

_ROOT = pathlib.Path(__file__).parents[1]


def _start(tmp_path, *given):
  return subprocess.Popen(
    [
      sys.executable,
      'main.py',
      '--config=configs/smoke.py',
      f'--workdir={tmp_path}/run',
      '--config.compilation_cache=',
      *given,
    ],
    cwd=_ROOT,
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
  )


def _run(program):
  return subprocess.run(
    [sys.executable, '-c', program],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  ('number', 'seconds'),
  [(signal.SIGINT, 1.0), (signal.SIGHUP, 3.0), (signal.SIGTERM, 6.0)],
)
def test_before_the_first_step_it_ends_at_once(tmp_path, number, seconds):
  process = _start(tmp_path)
  time.sleep(seconds)
  if process.poll() is not None:
    pytest.fail(process.stderr.read())
  process.send_signal(number)
  _, log = process.communicate(timeout=60)
  assert process.returncode == 128 + number
  assert f'main.py: {number.name}: ' in log
  assert 'Traceback' not in log


def test_ignored_signals_stay_ignored(tmp_path):
  """As under `nohup`, and for Ctrl-C in a script's background."""
  program = """
import signal, time
from alexnet_jax import signals
signals.StopSignal().install()
for number in (signal.SIGHUP, signal.SIGINT):
  signal.raise_signal(number)
time.sleep(0.5)
print('still here')
"""
  done = subprocess.run(
    ['sh', '-c', 'trap "" HUP INT; exec "$@"', '-']
    + [sys.executable, '-c', program],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == 'still here\n'


_STUCK = """
import os, sys, time
from alexnet_jax import signals
signals.TO_END = 1.0
stop = signals.StopSignal()
stop.install()
reading, _ = os.pipe()
with stop.deferred(1.0):
  print('reading', flush=True)
  while True:
    try:
      os.read(reading, 1)
    except BaseException:
      pass
"""


@pytest.mark.parametrize('again', [False, True])
def test_a_program_that_does_not_obey_is_ended(again):
  process = subprocess.Popen(
    [
      sys.executable,
      '-c',
      _STUCK.replace('1.0)', '90.0)' if again else '1.0)'),
    ],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'reading\n'
  process.send_signal(signal.SIGTERM)
  if again:
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)  # Means the same as the first.
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
  _, log = process.communicate(timeout=30)
  assert process.returncode == 128 + (signal.SIGTERM)
  assert 'SIGTERM: saving, then stopping (again to stop at once)' in log
  assert ('SIGINT again' in log) == again
  assert ('not obeyed within 1 s' in log) != again


def test_saving_has_its_own_time():
  stop = signals.StopSignal()
  stop.number, stop._since = signal.SIGTERM, time.monotonic() - 50
  with stop.deferred(60):
    assert stop._seconds == 60
    stop.saving()
    assert stop._seconds == pytest.approx(50 + signals.TO_SAVE, abs=5)
  assert (stop.name, stop.exit_code) == ('SIGTERM', 143)
  stop.adopt(signal.SIGHUP)
  assert stop.name == 'SIGTERM'


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
  """`main.py --help | head -1`: the rest of the output is not wanted."""
  reading, writing = os.pipe()
  process = subprocess.Popen(
    [sys.executable, 'main.py', '--helpfull'],
    cwd=_ROOT,
    stdout=writing,
    stderr=subprocess.PIPE,
    text=True,
  )
  os.close(writing)
  os.close(reading)
  _, log = process.communicate(timeout=60)
  assert 'Traceback' not in log


@pytest.mark.parametrize('late', [False, True])
def test_the_own_signal_after_anothers_is_no_second_one(late):
  """Job managers signal the processes of a job seconds apart."""
  program = """
import os, signal, time
from alexnet_jax import signals
stop = signals.StopSignal()
stop.install()
with stop.deferred():
  stop.adopt(signal.SIGTERM)
  stop.saving()
  time.sleep(1.5)
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(SECONDS)
  if SECONDS > 1:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
  print('saved', flush=True)
"""
  seconds = '1.5' if late else '0.1'
  done = _run(program.replace('SECONDS', seconds))
  assert (done.stdout == 'saved\n') != late
  assert done.returncode == (128 + signal.SIGTERM if late else 0)


def test_a_busy_main_thread_gets_no_second_signal():
  program = """
import hashlib, os, signal, threading
from alexnet_jax import signals
stop = signals.StopSignal()
stop.install()
content = bytes(2**30)
with stop.deferred():
  threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
  for _ in range(3):
    hashlib.blake2b(content)
  print('saved', stop.name, flush=True)
"""
  done = _run(program)
  assert done.stdout == 'saved SIGTERM\n'


def test_the_end_waits_for_the_line_that_says_why():
  """The thread that writes it may be slower than the end of the program."""
  program = """
import hashlib, os, signal, threading, time
from alexnet_jax import signals
say = signals._say
def slow_say(text):
  time.sleep(2)
  say(text)
signals._say = slow_say
stop = signals.StopSignal()
stop.install()
try:
  threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGHUP)).start()
  hashlib.blake2b(bytes(2**29))
  time.sleep(5)
except signals.Stopped as stopped:
  os._exit(stopped.exit_code)
"""
  done = _run(program)
  assert done.returncode == 128 + signal.SIGHUP
  assert done.stderr == 'main.py: SIGHUP: stopping (again to stop at once)\n'
