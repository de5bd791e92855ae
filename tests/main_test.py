"""The command line: mistakes are one line and exit code 2."""

import pathlib
import platform
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


def _main(*flags, timeout=120):
  return subprocess.run(
    [sys.executable, 'main.py', *flags],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], ['--config']),
    (['--config=configs/smoke.py'], ['--workdir']),
    (['--config=configs/smoke.py', '--workdri=x'], ['workdri', 'workdir']),
    (['--config=configs/nothing.py', '--workdir=x'], ['configs/nothing.py']),
    (['--config=configs/imagenet.py:papier'], ['papier', 'paper, source']),
    (['--config=configs/smoke.py', '--config.batchsize=3'], ['batchsize']),
    (
      ['--config=configs/smoke.py', '--config.batch_size=many'],
      ['batch_size', 'many'],
    ),
    (['--config=configs/smoke.py', '--mode=tain'], ['tain', 'train']),
    (['--config=configs/smoke.py', 'stray', '--workdir=x'], ['stray']),
    (
      [
        '--config=configs/cifar10.py',
        '--workdir=x',
        '--config.data.data_dir=no/such/folder',
      ],
      ['no/such/folder', 'data_dir'],
    ),
    (
      ['--config=configs/smoke.py', '--workdir=x', '--mode=evaluate'],
      ['x', 'train first'],
    ),
  ],
)
def test_mistake_is_one_line_and_exit_code_2(flags, words, tmp_path):
  # A run that should never begin leaves nothing behind.
  flags = [
    flag.replace('--workdir=x', f'--workdir={tmp_path}/x') for flag in flags
  ]
  done = _main(*flags)
  assert done.returncode == 2, done.stderr
  lines = [line for line in done.stderr.splitlines() if 'main.py:' in line]
  assert len(lines) == 1, done.stderr
  assert 'Traceback' not in done.stderr
  for word in words:
    assert word in lines[0]
  assert not (tmp_path / 'x' / 'checkpoints').exists()


def test_help_names_the_flags():
  done = _main('--help')
  for flag in ('--config', '--workdir', '--mode', 'train|evaluate|prepare'):
    assert flag in done.stdout


def test_the_program_starts_anew_with_large_pages():
  program = (
    'import os; from alexnet_jax import large_pages;'
    ' large_pages.use(); print(os.environ.get("GLIBC_TUNABLES"))'
  )
  environment = {'PATH': '/usr/bin', 'PYTHONPATH': str(_ROOT)}
  for given, expected in (
    ({}, 'glibc.malloc.hugetlb=1'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}, 'glibc.malloc.hugetlb=0'),
  ):
    done = subprocess.run(
      [sys.executable, '-c', program],
      env=environment | given,
      capture_output=True,
      text=True,
      timeout=60,
      check=True,
    )
    if platform.libc_ver()[0] == 'glibc':
      assert done.stdout.split() == [expected]
