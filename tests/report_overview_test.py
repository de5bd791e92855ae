import json

import pytest

from alexnet_jax.analysis.report import overview
from alexnet_jax.analysis.report import page


def _train(step, rate, speed=100.0):
  return {
    'step': step, 'kind': 'train', 'epoch': step / 10, 'nll': 1.0,
    'top1_error': 0.5, 'learning_rate': rate, 'images_per_second': speed,
  }  # fmt: skip


_VALIDATION = {
  'step': 40, 'kind': 'validation', 'epoch': 4.0, 'nll': 1.1, 'top1_error': 0.6
}  # fmt: skip


def test_cuts_of_the_rate():
  rates = [0.01, 0.01, 0.001, 0.001, 0.001, 0.0005]
  lines = [_train(10 * i, rate) for i, rate in enumerate(rates)]
  lines.insert(3, _VALIDATION)
  assert overview.rate_cuts(lines) == [(2.0, 0.001), (5.0, 0.0005)]


def test_a_cosine_is_not_cut():
  rates = [0.04, 0.03, 0.02, 0.01, 0.004, 0.001, 0.0]
  lines = [_train(10 * i, rate) for i, rate in enumerate(rates)]
  assert overview.rate_cuts(lines) == []


def test_seconds_and_speed():
  lines = [_train(10, 0.1, 50.0), _VALIDATION, _train(40, 0.1, 200.0)]
  # 10 updates of 20 images at 50/s, then 30 at 200/s.
  seconds, speed = overview.time_in_updates(lines, 20)
  assert seconds == pytest.approx(200 / 50 + 600 / 200)
  assert speed == pytest.approx(800 / seconds)
  assert overview.time_in_updates([_VALIDATION], 20) == (0.0, 0.0)


def test_damaged_lines_are_left_out(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  good = json.dumps(_train(10, 0.1))
  path.write_text(f'{good}\n3\n{{"kind": "train"}}\n[]\n{good[:40]}')
  assert overview.read_metrics(path) == [_train(10, 0.1)]
  assert overview.read_metrics(tmp_path / 'missing.jsonl') == []


def test_a_number_that_was_not_finite_is_left_out(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  lines = [_train(10, 0.1), _train(20, 0.1, None), _VALIDATION]
  lines += [{**_VALIDATION, 'top1_error': None}, _train(30, 0.01)]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  read = overview.read_metrics(path)
  assert 'images_per_second' not in read[1]
  assert overview.time_in_updates(read, 20) == (
    pytest.approx(6.0),
    pytest.approx(100.0),
  )
  (figure,) = overview.learning_curves(read)
  assert len(figure.panels) == 3


def test_curves_with_what_there_is():
  (note,) = overview.learning_curves([_VALIDATION])
  assert isinstance(note, page.Note)
  assert 'no metrics.jsonl' in note.text
  training = [_train(10, 0.1), _train(20, 0.1), _train(30, 0.01)]
  figure, note = overview.learning_curves(training)
  assert isinstance(figure, page.Figure)
  assert 'epoch 3.0 (to 0.01)' in figure.caption
  assert 'not been validated' in note.text
  (figure,) = overview.learning_curves([*training, _VALIDATION])
  assert len(figure.panels) == 3
