"""What is lost when runs are killed and their files are damaged: nothing.

  python -m benchmarks.faults
  python -m benchmarks.faults --faults=kills --times=100

Every fault is done for real, to main.py as a user starts it or to the files of
its run, and what comes out is compared with an undisturbed run: all arrays of
the last checkpoint and all lines of metrics.jsonl. docs/reliability.md has the
table.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import numpy as np

from alexnet_jax import checkpoint
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import train
from benchmarks import harness
from configs import smoke

_OVERRIDES = {
  'network.layers': ('conv1', 'conv3', 'fc7', 'fc8'),
  'network.conv1.features': 8,
  'network.conv3.features': 8,
  'network.fc7.features': 16,
  'data.num_examples': 80,
  'batch_size': 16,
  'log.every_steps': 2,
  'checkpoint.every_steps': 3,
  'optimizer.schedule': 'constant',
  # Low enough to be finite for thousands of steps.
  'optimizer.learning_rate': 0.001,
  'devices': 2,
}
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Of a line of metrics.jsonl; they are never equal.
_TIMES = ('time', 'images_per_second', 'data_wait')
_MAIN = pathlib.Path(__file__).parents[1] / 'main.py'


def _parts(max_steps: int) -> setup.Setup:
  config = smoke.get_config()
  config.update_from_flattened_dict({**_OVERRIDES, 'max_steps': max_steps})
  return setup.build(config)


def _start(workdir: pathlib.Path, max_steps: int) -> subprocess.Popen:
  overrides = {**_OVERRIDES, 'max_steps': max_steps}
  return subprocess.Popen(
    [
      sys.executable,
      str(_MAIN),
      '--config=configs/smoke.py',
      f'--workdir={workdir}',
      *(f'--config.{key}={value}' for key, value in overrides.items()),
    ],
    cwd=_MAIN.parent,
    stderr=subprocess.PIPE,
    text=True,
  )


def _restored(parts: setup.Setup, workdir: pathlib.Path) -> tuple[int, Any]:
  """Restores as a run that resumes does; returns the step and the arrays."""
  checkpoints = checkpoint.Checkpoints(workdir)
  abstract = setup.abstract_state(parts)

  def load(step: int) -> tuple[int, Any]:
    checkpoints.identity(step)
    return step, checkpoints.restore(abstract, step)

  with contextlib.closing(checkpoints):
    step, state = checkpoints.first_intact(
      lambda: checkpoints.order('last'), load
    )
  return step, jax.tree.map(np.asarray, state)


def _equal(one: Any, other: Any) -> bool:
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def _lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {key: value for key, value in line.items() if key not in _TIMES}
    for line in reporting.read(workdir / 'metrics.jsonl')
  ]


def _has_trained(workdir: pathlib.Path, since: float) -> bool:
  """Whether the run has written a line; a start rewrites the earlier ones."""
  lines = reporting.read(workdir / 'metrics.jsonl')
  return bool(lines) and lines[-1]['time'] > since


def _interrupted(
  folder: pathlib.Path, times: int, send: Callable[[int], signal.Signals]
) -> str:
  """Trains in so many lives, each ended by a signal at a random moment."""
  draws = np.random.default_rng(0)
  steps, codes = 60 * times, []
  workdir = folder / 'run'
  for life in range(times):
    began = time.time()
    process = _start(workdir, steps)
    while process.poll() is None and not _has_trained(workdir, began):
      time.sleep(0.01)
    time.sleep(draws.uniform(0, 0.4))
    process.send_signal(send(life))
    _, log = process.communicate()
    codes.append(process.returncode)
    if 'Traceback' in log:
      raise SystemExit(log)
  parts = _parts(steps)
  if train.train(parts, workdir) or train.train(parts, folder / 'whole'):
    raise SystemExit('a run has not come to its end')
  lost = 'nothing: all arrays and lines equal'
  if not _equal(*(_restored(parts, folder / x) for x in ('run', 'whole'))):
    lost = 'ARRAYS DIFFER'
  if _lines(workdir) != _lines(folder / 'whole'):
    lost = 'LINES DIFFER'
  expected = [send(life) for life in range(times)]
  if codes != [-x if x == signal.SIGKILL else 128 + x for x in expected]:
    lost = 'A WRONG EXIT CODE'
  found = {code: codes.count(code) for code in sorted(set(codes))}
  return f'{lost}; exit codes {found}'


def kills(folder: pathlib.Path, times: int) -> str:
  """SIGKILL at a random moment of training, then the same command again."""
  return _interrupted(folder, times, lambda life: signal.SIGKILL)


def signals(folder: pathlib.Path, times: int) -> str:
  """SIGTERM, SIGINT or SIGHUP at a random moment, then the same again."""
  return _interrupted(folder, times, lambda life: _SIGNALS[life % 3])


def early_signals(folder: pathlib.Path, times: int) -> str:
  """The same signals before the first step: imports, data, compilation."""
  obeyed, others = [], []
  for i in range(times):
    process = _start(folder / f'run{i}', 10**6)
    delay = 0.3 + 6 * i / times
    time.sleep(delay)
    sent = time.monotonic()
    process.send_signal(_SIGNALS[i % 3])
    _, log = process.communicate()
    number = _SIGNALS[i % 3]
    seconds = time.monotonic() - sent
    obeyed.append(
      process.returncode == 128 + number
      and f'main.py: {number.name}: ' in log
      and 'Traceback' not in log
      and seconds < 10
    )
    if not obeyed[-1]:
      others.append(
        f'{number.name} after {delay:.1f} s: code {process.returncode} in'
        f' {seconds:.1f} s, {log[-200:]!r}'
      )
  lost = 'nothing' if all(obeyed) else 'NOT OBEYED'
  told = f'{sum(obeyed)} of {times} ended with a line and code 128 + n'
  return '; '.join([lost, told, *others])


@contextlib.contextmanager
def _log_in(messages: list[str]) -> Iterator[None]:
  """Collects what is logged instead of printing it."""

  def collect(record: Any) -> bool:
    messages.append(record.getMessage())
    return False

  logger, level = logging.get_absl_logger(), logging.get_verbosity()
  logger.addFilter(collect)
  logging.set_verbosity(logging.WARNING)
  try:
    yield
  finally:
    logging.set_verbosity(level)
    logger.removeFilter(collect)


@contextlib.contextmanager
def _trained(folder: pathlib.Path) -> Iterator[tuple[Any, pathlib.Path, dict]]:
  """Trains to two checkpoints; yields their states by step."""
  parts = _parts(8)
  workdir = folder / 'run'
  train.train(parts, workdir)
  states = {}
  for step in checkpoint.Checkpoints(workdir).steps():
    copy = folder / f'copy{step}'
    shutil.copytree(workdir, copy)
    for other in checkpoint.Checkpoints(copy).steps():
      if other > step:
        shutil.rmtree(copy / f'checkpoints/{other}')
    states[step] = _restored(parts, copy)[1]
  yield parts, workdir, states


def _damaged(
  folder: pathlib.Path,
  damages: Callable[
    [list[pathlib.Path]], Iterator[tuple[pathlib.Path, Callable]]
  ],
) -> str:
  """Damages the last checkpoint, restores, and compares with what was saved."""
  count, fallbacks, wrong, in_silence = 0, 0, 0, 0
  said: list[str] = []
  with _trained(folder) as (parts, workdir, states), _log_in(said):
    last = max(states)
    kept = folder / 'kept'
    shutil.copytree(workdir / f'checkpoints/{last}', kept)
    names = [p.relative_to(kept) for p in kept.rglob('*') if p.is_file()]
    for name, damage in damages(sorted(names)):
      place = workdir / f'checkpoints/{last}'
      shutil.rmtree(place)
      shutil.copytree(kept, place)
      damage(place / name)
      said.clear()
      step, state = _restored(parts, workdir)
      expected = states[step]
      in_silence += step != last and not any('is damaged' in x for x in said)
      if step == last and 'validation' in name.name:
        # A validation that is lost is repeated.
        state = state.replace(
          plateau=expected.plateau, validated=expected.validated
        )
      count += 1
      fallbacks += step != last
      wrong += not _equal(state, expected)
  return (
    f'{wrong} of {count} restored other numbers; {fallbacks} went back to the'
    f' checkpoint before, {in_silence} of them in silence; in the others'
    ' nothing that is read changed'
  )


def bits(folder: pathlib.Path, times: int) -> str:
  """One bit of one file of the last checkpoint flipped, then a restore."""
  draws = np.random.default_rng(0)

  def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
      content[draws.integers(len(content))] ^= 1 << draws.integers(8)
      path.write_bytes(content)

  def damages(names):
    yield from ((name, flip) for name in draws.choice(names, times))

  return _damaged(folder, damages)


def files(folder: pathlib.Path, times: int) -> str:
  """Each file truncated, emptied, replaced, deleted, or now a folder."""
  del times

  def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

  def replace_by_folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()

  kinds = (
    truncate,
    lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(b'something else' * 100),
    pathlib.Path.unlink,
    replace_by_folder,
  )

  def damages(names):
    yield from ((name, kind) for name in names for kind in kinds)

  return _damaged(folder, damages)


def two_starts(folder: pathlib.Path, times: int) -> str:
  """Two starts of one workdir at once."""
  refused = 0
  for i in range(times):
    both = [_start(folder / f'run{i}', 200) for _ in range(2)]
    logs = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    if codes == [0, 2] and 'Traceback' not in ''.join(logs):
      refused += any('is in use by process' in log for log in logs)
  return f'nothing; {refused} of {times} times one trained and one said so'


FAULTS = {
  f.__name__: f
  for f in (kills, signals, early_signals, bits, files, two_starts)
}
_FAULTS = flags.DEFINE_list('faults', list(FAULTS), 'Which to do.')
_TIMES_EACH = flags.DEFINE_integer('times', 33, 'How often to do each.', 1)


def main(argv: list[str]) -> None:
  """Prints a row per fault."""
  del argv
  logging.set_verbosity(logging.ERROR)
  for number in _SIGNALS:  # `nohup` and shells have some of them ignored.
    signal.signal(number, signal.SIG_DFL)
  harness.print_header()
  rows = []
  for name in _FAULTS.value:
    with tempfile.TemporaryDirectory() as folder:
      fault = functools.partial(FAULTS[name], pathlib.Path(folder))
      rows.append([str(FAULTS[name].__doc__), fault(_TIMES_EACH.value)])
    print(' | '.join(rows[-1]), flush=True)
  print(harness.table(('fault', f'{_TIMES_EACH.value} times: lost'), rows))


if __name__ == '__main__':
  app.run(main)
