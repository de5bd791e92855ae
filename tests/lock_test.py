"""Locks: who holds one says so, and a stale one is taken over."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from alexnet_jax import errors
from alexnet_jax import lock

_ROOT = pathlib.Path(__file__).parents[1]
_HOLDER = """
import pathlib, sys
from alexnet_jax import lock
with lock.held(pathlib.Path(sys.argv[1]), 'wait'):
  print('held', flush=True)
  sys.stdin.read()
"""


def _hold(path):
  holder = subprocess.Popen(
    [sys.executable, '-c', _HOLDER, str(path)],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert holder.stdout.readline() == 'held\n'
  return holder


def test_a_second_process_is_told_who_holds_it(tmp_path):
  path = tmp_path / 'run' / 'lock'
  with _hold(path) as holder:
    expected = f'process {holder.pid} on {socket.gethostname()}, since .*: wait'
    with (
      pytest.raises(errors.UserError, match=expected),
      lock.held(path, 'wait for it'),
    ):
      pass
    holder.stdin.close()
  with lock.held(path, ''):
    pass


def test_a_stale_lock_is_taken_over(tmp_path):
  path = tmp_path / 'lock'
  with _hold(path) as holder:
    holder.send_signal(signal.SIGKILL)
  assert f'process {holder.pid}' in path.read_text()
  with lock.held(path, ''):
    assert f'process {os.getpid()}' in path.read_text()
  assert path.read_text() == ''


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(errors.UserError, match='cannot be written'),
    lock.held(tmp_path / 'file' / 'lock', ''),
  ):
    pass
