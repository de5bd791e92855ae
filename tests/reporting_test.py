"""What a run writes survives kills and restarts."""

import json
import logging as python_logging
import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from tensorboardX.proto import event_pb2

from alexnet_jax import errors
from alexnet_jax import reporting


def test_restart_forgets_lines_after_the_checkpoint(tmp_path):
  reporter = reporting.Reporter(tmp_path, 0)
  for step in (5, 10, 15):
    reporter.write(step, 'train', {'nll': 1.0 / step})
  reporter.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 20, "ki')  # as a kill leaves it

  reporter = reporting.Reporter(tmp_path, 10)
  reporter.write(15, 'train', {'nll': 0.5})
  reporter.close()

  lines = reporting.read(tmp_path / 'metrics.jsonl')
  assert [(line['step'], line['nll']) for line in lines] == [
    (5, 0.2),
    (10, 0.1),
    (15, 0.5),
  ]


def test_numbers_that_are_not_finite_are_null(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "kind": "train", "nll": NaN}\n')  # an older run
  reporter = reporting.Reporter(tmp_path, 1)
  reporter.write(2, 'train', {'nll': math.inf, 'images_per_second': math.nan})
  reporter.close()
  first, second = path.read_text().splitlines()
  assert json.loads(first) == {'step': 1, 'kind': 'train', 'nll': None}
  assert '"nll": null, "images_per_second": null' in second
  assert [line['nll'] for line in reporting.read(path)] == [None, None]


@pytest.mark.parametrize(
  ('path', 'expected'),
  [
    ('/x/alexnet_jax/predict.py', r'a\nb \xff'),
    ('/x/jax/core.py', 'a\nb \\xff'),
  ],
)
def test_a_message_of_ours_is_one_line(path, expected):
  record = python_logging.LogRecord(
    'absl', python_logging.INFO, path, 1, 'a\nb %s', ('\udcff',), None
  )
  assert reporting._Formatter('%(message)s').format(record) == expected


def _events(folder):
  """Reads TensorBoard's files: length, checksum, message, checksum."""
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      length = int.from_bytes(data[at : at + 8], 'little')
      event = event_pb2.Event()
      event.ParseFromString(data[at + 12 : at + 12 + length])
      yield event
      at += 16 + length


def test_events_hold_the_same_values(tmp_path):
  reporter = reporting.Reporter(tmp_path, 0)
  reporter.write(3, 'validation', {'nll': 2.5, 'top1_error': 0.25})
  reporter.close()
  values = {
    (value.tag, event.step): value.simple_value
    for event in _events(tmp_path / 'events')
    for value in event.summary.value
  }
  assert values == {
    ('validation/nll', 3): 2.5,
    ('validation/top1_error', 3): 0.25,
  }


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


def test_printing_never_fails():
  program = (
    'from alexnet_jax import reporting; reporting.set_up_terminal();'
    r" print('\u732b \udcff')"
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=pathlib.Path(__file__).parents[1],
    env={**os.environ, 'PYTHONIOENCODING': 'ascii'},
    capture_output=True,
    check=True,
  )
  assert done.stdout == rb'\u732b \udcff' + b'\n'


def test_metrics_that_are_no_file_are_refused(tmp_path):
  os.mkfifo(tmp_path / 'metrics.jsonl')
  with pytest.raises(errors.UserError, match='not a regular file'):
    reporting.read(tmp_path / 'metrics.jsonl')
