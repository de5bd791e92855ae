"""What a run writes survives kills, restarts and full disks."""

import contextlib
import json
import logging as python_logging
import math
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

from absl import logging
import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax import reporting
from tests import files_testing

_ROOT = pathlib.Path(__file__).parents[1]


@contextlib.contextmanager
def _reporter(workdir, first_step=0, validated=-1):
  with contextlib.closing(
    reporting.Reporter(workdir, first_step, validated)
  ) as reporter:
    yield reporter


def _write(reporter, *steps, kinds=('train',)):
  for step in steps:
    for kind in kinds:
      reporter.write(step, kind, {'nll': 1 / step, 'top1_error': 0.5})


def _lines(workdir):
  return [
    (line['step'], line['kind'], line['nll'])
    for line in reporting.read(workdir / 'metrics.jsonl')
  ]


def _events(workdir):
  """Returns run, tag, step, value and time of all that a reader finds."""
  found = []
  for folder in sorted((workdir / 'events').glob('**/')):
    paths = sorted(str(path) for path in folder.glob('*tfevents*'))
    for data in tf.data.TFRecordDataset(paths).as_numpy_iterator():
      event = event_pb2.Event.FromString(data)
      run = str(folder.relative_to(workdir / 'events'))
      found += [
        (run, value.tag, event.step, value.simple_value, event.wall_time)
        for value in event.summary.value
      ]
  return sorted(found)


def _assert_events_are_the_lines(workdir):
  expected = [
    (line['kind'], name, line['step'], np.float32(value), line['time'])
    for line in reporting.read(workdir / 'metrics.jsonl')
    for name, value in line.items()
    if name not in ('step', 'kind', 'time') and value is not None
  ]
  assert _events(workdir) == sorted(expected)


def test_restart_forgets_lines_after_the_checkpoint(tmp_path):
  with _reporter(tmp_path) as reporter:
    _write(reporter, 5, 10, 15)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 20, "ki')  # as a kill leaves it
  with _reporter(tmp_path, 10) as reporter:
    reporter.write(15, 'train', {'nll': 7.0})
  assert _lines(tmp_path) == [
    (5, 'train', 1 / 5),
    (10, 'train', 1 / 10),
    (15, 'train', 7.0),
  ]
  _assert_events_are_the_lines(tmp_path)


@pytest.mark.parametrize(('validated', 'kept'), [(10, True), (5, False)])
def test_restart_forgets_a_validation_that_the_state_lacks(
  tmp_path, validated, kept
):
  with _reporter(tmp_path) as reporter:
    _write(reporter, 5, 10, 15, kinds=reporting.KINDS)
  with _reporter(tmp_path, 10, validated):
    pass
  expected = [(5, kind, 1 / 5) for kind in reporting.KINDS]
  expected += [
    (10, kind, 1 / 10)
    for kind in reporting.KINDS
    if kind != 'validation' or kept
  ]
  assert _lines(tmp_path) == expected
  _assert_events_are_the_lines(tmp_path)


def test_nothing_is_missing_or_doubled_after_kills(tmp_path):
  program = """
import itertools, pathlib, sys
from alexnet_jax import reporting
first = int(sys.argv[2])
reporter = reporting.Reporter(pathlib.Path(sys.argv[1]), first, first)
for step in itertools.count(first + 1):
  for kind in reporting.KINDS:
    reporter.write(step, kind, {'nll': 1 / step, 'top1_error': 0.5})
"""
  path = tmp_path / 'metrics.jsonl'
  first = 0
  for _ in range(3):
    run = subprocess.Popen(
      [sys.executable, '-c', program, str(tmp_path), str(first)], cwd=_ROOT
    )
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b'\n') < 3 * first + 50:
      assert run.poll() is None
      assert time.monotonic() < deadline
      time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    first += 10
    with _reporter(tmp_path, first, first):
      pass
    assert [line[:2] for line in _lines(tmp_path)] == [
      (step, kind) for step in range(1, first + 1) for kind in reporting.KINDS
    ]
    _assert_events_are_the_lines(tmp_path)


def test_damaged_lines_are_dropped_wherever_they_are(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  good = '{"step": %d, "kind": "train", "nll": 1.0}\n'
  damaged = [
    b'{"step": 2, "ki{"step": 3, "kind": "train", "nll": 1.0}\n',
    b'\xff\xfe"\n',
    b'{"step": 3, "kind": "tr\xe1in", "nll": 1.0}\n',
    b'\0' * 4096 + b'\n',
    b'3\n[]\n{}\n{"step": null, "kind": "train"}\n{"kind": "train"}\n',
    b'{"step": 5, "kind": "train", "nl',
  ]
  text = (good % 1).encode() + b''.join(damaged[:4]) + (good % 4).encode()
  path.write_bytes(text + b''.join(damaged[4:]))
  with _reporter(tmp_path, 5) as reporter:
    _write(reporter, 6)
  written = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['step'] for line in written] == [1, 4, 6]


def test_numbers_that_are_not_finite_are_null(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "kind": "train", "nll": NaN}\n')  # an older run
  with _reporter(tmp_path, 1) as reporter:
    reporter.write(2, 'train', {'nll': math.inf, 'images_per_second': math.nan})
  first, second = path.read_text().splitlines()
  assert json.loads(first) == {'step': 1, 'kind': 'train', 'nll': None}
  assert '"nll": null, "images_per_second": null' in second
  assert [line['nll'] for line in reporting.read(path)] == [None, None]


@pytest.mark.parametrize(
  ('path', 'expected'),
  [
    ('alexnet_jax/analysis/predict.py', r'a\nb \xff'),
    # A checkout of that name, with an environment in it.
    ('/x/alexnet_jax/.venv/jax/core.py', 'a\nb \\xff'),
  ],
)
def test_a_message_of_ours_is_one_line(path, expected):
  place = str(_ROOT / path)
  record = python_logging.LogRecord(
    'absl', python_logging.INFO, place, 1, 'a\nb %s', ('\udcff',), None
  )
  assert reporting._Formatter('%(message)s').format(record) == expected


def test_training_and_validation_share_tags(tmp_path):
  with _reporter(tmp_path) as reporter:
    reporter.write(3, 'train', {'nll': 3.5, 'data_wait': math.nan})
    reporter.write(3, 'validation', {'nll': 2.5, 'examples': 10**12})
    reporter.write(3, 'epoch', {'nll': 1e300})
  assert [event[:4] for event in _events(tmp_path)] == [
    ('epoch', 'nll', 3, math.inf),
    ('train', 'nll', 3, 3.5),
    ('validation', 'examples', 3, np.float32(1e12)),
    ('validation', 'nll', 3, 2.5),
  ]


def test_events_of_earlier_lives_are_removed_and_nothing_else(tmp_path):
  folder = tmp_path / 'events'
  (folder / 'train').mkdir(parents=True)
  (folder / 'mine').mkdir()
  kept = ['notes.txt', 'train/notes.txt', 'mine/events.out.tfevents.1.host']
  for name in (*kept, 'events.out.tfevents.1700000000.host'):
    (folder / name).write_text('text')
  for first in (0, 2, 2, 2):
    with _reporter(tmp_path, first) as reporter:
      _write(reporter, 1, 2, 3)
  (folder / kept[2]).unlink()
  left = {
    str(path.relative_to(folder)): path.stat().st_size
    for path in folder.glob('**/*')
    if path.is_file()
  }
  assert left.pop('notes.txt') == left.pop('train/notes.txt') == 4
  # The one before is left, empty: a TensorBoard may be reading it.
  for kind in reporting.KINDS:
    before, last = sorted(name for name in left if name.startswith(kind))
    assert left.pop(before) == 0 < left.pop(last)
  assert not left


def test_lines_of_an_earlier_version_are_kept(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    '{"step": 1, "kind": "train", "nll": 1.0, "rate": 0.5}\n'
  )
  started = time.time()
  with _reporter(tmp_path, 1):
    pass
  (rate, nll) = _events(tmp_path)
  assert rate[:4] == ('train', 'learning_rate', 1, 0.5)
  assert nll[:4] == ('train', 'nll', 1, 1.0)
  assert nll[4] >= started


def test_only_one_of_several_processes_writes(tmp_path):
  reporter = reporting.Reporter(tmp_path / 'run', 0, -1, writes=False)
  _write(reporter, 1)
  reporter.sync()
  reporter.close()
  assert not (tmp_path / 'run').exists()


def test_lines_are_on_the_disk_before_a_checkpoint(tmp_path, monkeypatch):
  path, synced = tmp_path / 'metrics.jsonl', []
  with _reporter(tmp_path) as reporter:
    _write(reporter, 1)
    monkeypatch.setattr(os, 'fsync', lambda file: synced.append(os.fstat(file)))
    reporter.sync()
  (status,) = synced
  assert os.path.samestat(status, path.stat())
  assert status.st_size == path.stat().st_size > 0


@pytest.fixture
def log(monkeypatch, caplog):
  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  caplog.set_level(python_logging.INFO, 'absl')
  return caplog


@pytest.fixture
def small_disk(tmp_path):
  with files_testing.mounted(tmp_path / 'disk', 'size=64k') as folder:
    yield folder


def _fill(reporter):
  """Writes until the disk is full; returns how many lines it took."""
  for step in range(1, 10000):
    try:
      _write(reporter, step)
    except errors.UserError as error:
      return step - 1, str(error)
  raise AssertionError('never full')


def test_a_full_disk_ends_the_run_in_one_line(small_disk):
  workdir = small_disk / 'run'
  path = workdir / 'metrics.jsonl'
  with _reporter(workdir) as reporter:
    (small_disk / 'other').write_bytes(bytes(30000))
    count, message = _fill(reporter)
  assert message == (
    f'the disk is full at {path}: make room and run the same command again;'
    ' it resumes from the last checkpoint'
  )
  # Without room it cannot start either, and damages nothing.
  with pytest.raises(errors.UserError, match='the disk is full at .*metrics'):
    reporting.Reporter(workdir, count, -1)
  assert [step for step, *_ in _lines(workdir)] == [*range(1, count + 1)]
  (small_disk / 'other').unlink()
  with _reporter(workdir, count) as reporter:
    _write(reporter, count + 1)
  assert [step for step, *_ in _lines(workdir)] == [*range(1, count + 2)]


def test_a_file_that_may_not_grow_ends_the_run_in_one_line(tmp_path):
  # Large enough for whatever else is written meanwhile.
  size = 2**22
  path = tmp_path / 'metrics.jsonl'
  with _reporter(tmp_path) as reporter:
    path.write_bytes(b' ' * (size - 999) + b'\n')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
      count, message = _fill(reporter)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert message.startswith(f'a file may not get larger at {path}: raise the')
  assert path.stat().st_size == size
  with _reporter(tmp_path, count):
    pass
  assert [step for step, *_ in _lines(tmp_path)] == [*range(1, count + 1)]


def test_a_full_disk_for_events_is_one_warning(tmp_path, small_disk, log):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  (workdir / 'events').symlink_to(small_disk)
  with _reporter(workdir) as reporter:
    _write(reporter, *range(1, 1500))
  (warning,) = log.messages
  for words in (f'{workdir}/events', 'No space left', 'metrics.jsonl has all'):
    assert words in warning
  assert [step for step, *_ in _lines(workdir)] == [*range(1, 1500)]
  # Nor is there room for them at the next start.
  log.clear()
  with _reporter(workdir, 1499) as reporter:
    _write(reporter, 1500)
  assert log.messages == [warning]
  assert [step for step, *_ in _lines(workdir)] == [*range(1, 1501)]
  log.clear()
  with _reporter(workdir, 100) as reporter:
    _write(reporter, 101)
  assert not log.messages
  _assert_events_are_the_lines(workdir)


@pytest.mark.parametrize(
  ('place', 'make', 'words'),
  [
    ('', pathlib.Path.touch, 'run cannot be written'),
    (
      'metrics.jsonl',
      pathlib.Path.mkdir,
      'not a regular file',
    ),
    ('metrics.jsonl', os.mkfifo, 'not a regular file'),
    ('events', pathlib.Path.touch, 'events cannot be written'),
    ('events', os.mkfifo, 'events cannot be written'),
    ('events/validation', pathlib.Path.touch, 'events cannot be written'),
  ],
)
def test_what_cannot_be_opened_is_named(tmp_path, place, make, words):
  path = tmp_path / 'run' / place
  path.parent.mkdir(parents=True, exist_ok=True)
  make(path)
  with pytest.raises(errors.UserError, match=f'{tmp_path}/run.*{words[3:]}'):
    reporting.Reporter(tmp_path / 'run', 0, -1)


@pytest.mark.parametrize('place', ['', 'events'])
def test_a_disk_that_cannot_be_written_is_named(tmp_path, place):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  with (
    files_testing.mounted(workdir / place, 'ro') as disk,
    pytest.raises(errors.UserError, match=f'{disk} cannot be written .*Read-'),
  ):
    reporting.Reporter(workdir, 0, -1)


@pytest.mark.parametrize('mode', [0o000, 0o500])
def test_a_folder_without_permission_is_named(tmp_path, mode):
  workdir = tmp_path / 'run'
  workdir.mkdir(mode=mode)
  if os.access(workdir, os.W_OK):
    pytest.skip('root may do everything')
  with pytest.raises(errors.UserError, match=f'{workdir}.*Permission denied'):
    reporting.Reporter(workdir, 0, -1)
  workdir.chmod(0o700)


def test_run_record(tmp_path):
  reporting.write_run_record(tmp_path, {'a': [1, 2]}, jax.devices()[:2])
  assert json.loads((tmp_path / 'config.json').read_text()) == {'a': [1, 2]}
  record = json.loads((tmp_path / 'run.json').read_text())
  assert record['versions']['jax'] == jax.__version__
  assert record['devices'] == ['cpu:0 cpu', 'cpu:1 cpu']
  assert record['git_revision'] is None or len(record['git_revision']) >= 40


def test_a_training_line():
  values = {
    'epoch': 0.213, 'nll': 1.1308, 'top1_error': 0.397, 'learning_rate': 0.03,
    'images_per_second': 1065.2, 'data_wait': 0.079,
  }  # fmt: skip
  assert reporting.train_line(200, 4690, values, 270.0) == (
    'step 200/4690  epoch 0.21  loss 1.1308  error 39.7 %  learning rate 0.03'
    '  1065 images/s  data wait 7.9 %  ETA 4 min 30 s'
  )
  unknown = {**values, 'images_per_second': math.nan, 'data_wait': math.nan}
  line = reporting.train_line(1, 4690, unknown, math.nan)
  assert line.endswith('  ? images/s  data wait ? %  ETA ?')


def test_curve_goes_from_low_to_high():
  assert reporting.curve([0.0, 0.5, 1.0]) == '▁▄█'
  assert reporting.curve([0.3, 0.3]) == '▁▁'
  assert len(reporting.curve([float(i) for i in range(100)], width=40)) == 40


# What absl's app.run does before it calls main().
_AS_APP = """
import pathlib
import sys
from absl import flags
from absl import logging
from alexnet_jax import reporting
flags.FLAGS(['program'])
logging.use_absl_handler()
reporting._PACKAGE = pathlib.Path(__file__).parent
"""


@pytest.fixture
def program(tmp_path):
  """Starts a program whose log lines count as ours."""

  def start(source, **options):
    path = tmp_path / 'program.py'
    path.write_text(_AS_APP + source)
    return subprocess.Popen(
      [sys.executable, str(path)],
      cwd=_ROOT,
      env={**os.environ, 'PYTHONPATH': str(_ROOT), 'PYTHONIOENCODING': 'ascii'},
      **options,
    )

  return start


def test_printing_never_fails(program):
  run = program(
    'reporting.set_up_terminal()\n' + r"print('\u732b \udcff')",
    stdout=subprocess.PIPE,
  )
  assert run.communicate()[0] == rb'\u732b \udcff' + b'\n'
  assert run.returncode == 0


def test_other_processes_log_only_warnings_and_their_number(program):
  run = program(
    """
for process in (0, 2):
  reporting.set_up_terminal(process)
  logging.info('one')
  logging.warning('two')
  logging.error('three')
""",
    stderr=subprocess.PIPE,
    text=True,
  )
  lines = run.communicate()[1].splitlines()
  found = [re.sub(r'\d\d:\d\d:\d\d ', '', line) for line in lines]
  others = ['process 2: two', 'process 2: three']
  assert found == ['one', 'two', 'three', *others]


_LOGGING = """
import warnings
reporting.set_up_terminal()
for i in range(3):
  logging.info('line %d', i)
sys.stdin.readline()
for i in range(2000):
  logging.warning('line %d', i)
warnings.warn('once')
print('main.py: a mistake', file=sys.stderr)
print('to its end')
sys.exit(3)
"""


def test_a_log_whose_reader_has_left_changes_nothing(program):
  pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
  run = program(_LOGGING, **pipes, text=True)
  lines = [run.stderr.readline() for _ in range(3)]
  assert lines[-1].endswith('line 2\n')
  run.stderr.close()
  assert run.communicate('go on\n')[0] == 'to its end\n'
  assert run.returncode == 3


def test_a_log_on_a_full_disk_changes_nothing(program):
  with open('/dev/full', 'w') as full:
    run = program(
      _LOGGING, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=full
    )
  assert run.communicate()[0] == b'to its end\n'
  assert run.returncode == 3


def test_metrics_that_are_no_file_are_refused(tmp_path):
  os.mkfifo(tmp_path / 'metrics.jsonl')
  with pytest.raises(errors.UserError, match='not a regular file'):
    reporting.read(tmp_path / 'metrics.jsonl')
