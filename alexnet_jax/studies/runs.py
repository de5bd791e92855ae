"""The runs of a study: each an ordinary run of main.py in its own folder."""

from collections.abc import Iterator, Mapping, Sequence
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
import time
from typing import Any, NamedTuple

from absl import logging

from alexnet_jax import files
from alexnet_jax import lock
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax import settings
from alexnet_jax import signals
from alexnet_jax.studies.study import Study

_ROOT = pathlib.Path(__file__).parents[2]
# Written beside a run's files when it has come to its end.
_RECORD = 'study_run.json'
# Where a machine has its data, and how it computes.
_OF_MACHINE = {
  *settings.MACHINE_KEYS,
  *(f'data.{name}_dir' for name in ('data', 'store', 'manual')),
}
# What a new process does first: it takes its cores, and it will be told to save
# and stop when its parent has ended (PR_SET_PDEATHSIG of linux/prctl.h is 1).
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
    variant: of the study.
    seed: of the run.
    workdir: of the run.
    flags: of main.py, without --workdir.
    config: a digest of its config without what depends on the machine.
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
    """Returns how it ended, exit code and last line; empty if it has not."""
    path = self.workdir / _RECORD
    return files.loads(path.read_text()) if files.is_file(path) else {}

  def is_finished(self) -> bool:
    return self.record().get('exit_code') == 0


def plan(study: Study, workdir: pathlib.Path) -> list[StudyRun]:
  """Returns all runs of a study, in the order in which they are to be made.

  The folder of a run depends on its whole config, so that one that several
  studies need, such as that of the base, is made once, and all are made again
  when a preset or the base changes.

  Args:
    study: which.
    workdir: of all studies.
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
  """Returns what a run's config has in common on all machines, as 12 digits."""
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
  """Returns a run's command, for a shell in the folder of the project."""
  flags = (f'--workdir={run.workdir}', *run.flags)
  return ' '.join(['python main.py', *map(shlex.quote, flags)])


def make(todo: Sequence[StudyRun], jobs: int, stop: signals.StopSignal) -> None:
  """Makes runs, several at a time, until all have ended or a signal arrives.

  A run that fails is reported, and the others go on.

  Args:
    todo: the runs, in the order in which they are begun.
    jobs: how many at a time. On a CPU they share the cores equally.
    stop: on whose signal the runs save and stop.
  """
  waiting: queue.SimpleQueue[StudyRun] = queue.SimpleQueue()
  for run in todo:
    waiting.put(run)
  began, made = time.monotonic(), itertools.count(1)

  def work(cores: list[int]) -> None:
    while not stop.received():
      try:
        run = waiting.get_nowait()
      except queue.Empty:
        return
      _make(run, cores, stop)
      count = next(made)
      # The others are half through theirs, on average.
      done = count + (jobs - 1) / 2
      left = max(len(todo) - done, 0) * (time.monotonic() - began) / done
      logging.info(
        '%d of %d runs, ETA %s', count, len(todo), progress.duration(left)
      )

  with futures.ThreadPoolExecutor(jobs) as pool:
    for worker in [pool.submit(work, cores) for cores in _shares(jobs)]:
      worker.result()


def _shares(jobs: int) -> list[list[int]]:
  if not hasattr(os, 'sched_getaffinity'):  # Linux alone has it.
    return [[]] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if jobs > len(cores):
    return [cores] * jobs
  return [cores[job::jobs] for job in range(jobs)]


def _make(run: StudyRun, cores: list[int], stop: signals.StopSignal) -> None:
  """Makes one run, and writes down how it ended."""
  with _waiting_for(run.workdir / 'study.lock', stop):
    # One that a killed study has left behind saves, and ends.
    with _waiting_for(run.workdir / 'lock', stop):
      pass
    if not stop.received() and not run.is_finished():
      _make_alone(run, cores, stop)


def _make_alone(
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
      start_new_session=True,  # Ctrl-C reaches it once, through this process.
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


@contextlib.contextmanager
def _waiting_for(
  path: pathlib.Path, stop: signals.StopSignal
) -> Iterator[None]:
  """Holds a lock as soon as no other process does; a signal ends the wait."""
  with contextlib.ExitStack() as stack:
    while not stop.received():
      try:
        stack.enter_context(lock.held(path, 'wait for it'))
        break
      except lock.InUseError:
        time.sleep(1)
    yield


def _last_line(path: pathlib.Path) -> str:
  lines = path.read_text(errors='replace').split('\n')
  return next((line for line in reversed(lines) if line.strip()), '')
