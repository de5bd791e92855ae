"""Executes the runs of a study, each in its own process and workdir."""

from collections.abc import Mapping, Sequence
from concurrent import futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from absl import logging

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import lock
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax import settings
from alexnet_jax import signals
from alexnet_jax.studies.study import Study

_ROOT = pathlib.Path(__file__).parents[2]
# Written to a run's workdir when its process has ended.
_RECORD = 'study_run.json'
# Keys that depend on the machine and do not affect the result.
_OF_MACHINE = {
  *settings.MACHINE_KEYS,
  *(f'data.{name}_dir' for name in ('data', 'store', 'manual')),
}
# Bootstrap of a run's process: sets its CPU affinity, and asks the kernel for a
# SIGTERM when the parent dies (PR_SET_PDEATHSIG of linux/prctl.h is 1), so that
# the run saves and stops.
_START = """
import ctypes, json, os, signal, sys
if sys.platform == 'linux':
  ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if cores := json.loads(sys.argv[1]):
  os.sched_setaffinity(0, cores)
os.execv(sys.executable, [sys.executable, 'main.py', *sys.argv[2:]])
"""


class StudyRun(NamedTuple):
  """One run of a study.

  Attributes:
    variant: its variant of the study.
    seed: its random seed.
    workdir: its working directory.
    flags: the flags of main.py, without --workdir.
    config: a digest of its config without machine-dependent keys.
  """

  variant: str
  seed: int
  workdir: pathlib.Path
  flags: tuple[str, ...]
  config: str

  @property
  def name(self) -> str:
    return f'{self.variant}, seed {self.seed}'

  def record(self) -> dict[str, Any]:
    """Returns its exit code and last log line; empty if it has not ended."""
    path = self.workdir / _RECORD
    return files.loads(path.read_text()) if files.is_file(path) else {}

  def reason(self) -> str:
    """Returns why it has not finished, in one line."""
    record = self.record()
    if not record:
      return 'not executed'
    code = record['exit_code']
    how = f'exit code {code}'
    if code < 0:
      how = f'killed by {signal.Signals(-code).name}'
    return f'{how}: {record["last_line"]}'

  def has_diverged(self) -> bool:
    """Returns whether it has ended with a loss that is not finite."""
    return self.record().get('exit_code') == errors.DivergedError.exit_code

  def is_finished(self) -> bool:
    return self.record().get('exit_code') == 0


def plan(study: Study, workdir: pathlib.Path) -> list[StudyRun]:
  """Returns all runs of a study, in the order of execution.

  A run's workdir is named by a digest of its complete config. So studies share
  runs, such as those of the base, and a change of a preset or of the base leads
  to new runs.

  Args:
    study: the study.
    workdir: the working directory of all studies.
  """
  planned = []
  for variant, seed in study.runs():
    values = study.values(variant, seed)
    name = f'{names.for_file(study.base)}_{_digest(values)}'
    planned.append(
      StudyRun(
        variant,
        seed,
        workdir / 'runs' / name,
        _flags(study, variant, seed),
        config_digest(study, variant, seed),
      )
    )
  return planned


def config_digest(study: Study, variant: str, seed: int) -> str:
  """Returns a digest of a run's config without machine-dependent keys."""
  values = study.values(variant, seed)
  return _digest(
    {key: value for key, value in values.items() if key not in _OF_MACHINE}
  )


def _digest(values: Mapping[str, Any]) -> str:
  content = repr(sorted(values.items())).encode()
  return hashlib.blake2b(content, digest_size=6).hexdigest()


def _flags(study: Study, variant: str, seed: int) -> tuple[str, ...]:
  path, colon, preset = study.base.partition(':')
  return (
    f'--config=configs/{path}.py{colon}{preset}',
    *(
      f'--config.{key}={value if isinstance(value, str) else repr(value)}'
      for key, value in study.changes(variant, seed).items()
    ),
  )


def command_line(run: StudyRun) -> str:
  """Returns a run's shell command, to be run from the repository root."""
  flags = (f'--workdir={run.workdir}', *run.flags)
  return ' '.join(['python main.py', *map(shlex.quote, flags)])


def execute(
  todo: Sequence[StudyRun], jobs: int, stop: signals.StopSignal
) -> None:
  """Executes runs in parallel until all have ended or a signal arrives.

  A failing run is logged and does not affect the others. An error of this
  process, such as a full disk, is raised after the runs in progress.

  Args:
    todo: the runs, in the order in which to start them.
    jobs: the number of parallel processes; they share the CPU cores equally.
    stop: signals the runs to save and stop.
  """
  waiting: queue.SimpleQueue[StudyRun] = queue.SimpleQueue()
  for run in todo:
    waiting.put(run)
  began, finished = time.monotonic(), itertools.count(1)

  broken = threading.Event()

  def work(cores: list[int]) -> None:
    while not stop.received() and not broken.is_set():
      try:
        run = waiting.get_nowait()
      except queue.Empty:
        return
      try:
        _execute(run, cores, stop)
      except BaseException:
        broken.set()
        raise
      count = next(finished)
      # The other jobs are halfway through a run on average.
      done = count + (jobs - 1) / 2
      left = max(len(todo) - done, 0) * (time.monotonic() - began) / done
      logging.info(
        '%d of %d runs, ETA %s', count, len(todo), progress.duration(left)
      )

  with futures.ThreadPoolExecutor(jobs) as pool:
    for worker in [pool.submit(work, cores) for cores in _shares(jobs)]:
      worker.result()


def _shares(jobs: int) -> list[list[int]]:
  if not hasattr(os, 'sched_getaffinity'):  # Not available outside Linux.
    return [[]] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if jobs > len(cores):
    return [cores] * jobs
  return [cores[job::jobs] for job in range(jobs)]


def _execute(run: StudyRun, cores: list[int], stop: signals.StopSignal) -> None:
  """Executes a run unless another study finishes it first."""
  with lock.waiting_for(run.workdir / 'study.lock', stop.received):
    # A process left behind by a killed study is still saving.
    with lock.waiting_for(run.workdir / 'lock', stop.received):
      pass
    if not stop.received() and not run.is_finished():
      _execute_locked(run, cores, stop)


def _execute_locked(
  run: StudyRun, cores: list[int], stop: signals.StopSignal
) -> None:
  logging.info('%s: %s', run.name, run.workdir)
  with open(run.workdir / 'log.txt', 'ab') as log:
    process = subprocess.Popen(
      [
        sys.executable,
        '-c',
        _START,
        json.dumps(cores),
        f'--workdir={run.workdir}',
        *run.flags,
      ],
      cwd=_ROOT,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      start_new_session=True,  # Ctrl-C is forwarded once, by this process.
    )
    while (code := _poll(process)) is None:
      if stop.received():
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        break
  last = _last_line(run.workdir / 'log.txt')
  record = {'flags': list(run.flags), 'exit_code': code, 'last_line': last}
  files.write_json(run.workdir / _RECORD, record)
  if code and not stop.received():
    logging.warning('%s failed with exit code %d: %s', run.name, code, last)


def _poll(process: subprocess.Popen) -> int | None:
  with contextlib.suppress(subprocess.TimeoutExpired):
    return process.wait(0.2)
  return None


def _last_line(path: pathlib.Path) -> str:
  lines = path.read_text(errors='replace').split('\n')
  return next((line for line in reversed(lines) if line.strip()), '')
