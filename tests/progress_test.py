import logging

import pytest

from alexnet_jax import progress


@pytest.fixture
def clock(monkeypatch):
  """Sets the time by hand."""
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def test_a_line_every_ten_seconds(clock, caplog):
  caplog.set_level(logging.INFO, 'absl')
  done = progress.Progress('Computing fc7', 60_000)
  for seconds, count in ((5, 4000), (11, 8000), (15, 4000), (22, 8000)):
    clock[0] = 100 + seconds
    done.add(count)
  assert [record.getMessage() for record in caplog.records] == [
    'Computing fc7: 12,000 of 60,000 images (20 %), 1091 images/s, ETA 44 s',
    'Computing fc7: 24,000 of 60,000 images (40 %), 1091 images/s, ETA 33 s',
  ]


def test_short_work_says_nothing(clock, caplog):
  caplog.set_level(logging.INFO, 'absl')
  done = progress.Progress('Averaging', 10)
  clock[0] += 9
  done.add(10)
  assert not caplog.records


def test_work_that_has_not_begun_is_no_division_by_zero(clock, caplog):
  caplog.set_level(logging.INFO, 'absl')
  done = progress.Progress('Averaging', 10)
  clock[0] += 30
  done.add(0)
  assert '0 of 10' in caplog.text


@pytest.mark.parametrize(
  ('seconds', 'words'),
  [
    (0.4, '0 s'),
    (59.4, '59 s'),
    (200, '3 min 20 s'),
    (18_720, '5 h 12 min'),
    (3600 * 76, '3 d 4 h'),
    (float('nan'), '?'),
  ],
)
def test_duration(seconds, words):
  assert progress.duration(seconds) == words


def test_what_an_earlier_run_did_is_no_part_of_the_rate(clock, caplog):
  caplog.set_level(logging.INFO, 'absl')
  done = progress.Progress('Store', 1000, done=500)
  clock[0] += 10
  done.report(600)
  assert caplog.messages == [
    'Store: 600 of 1,000 images (60 %), 10 images/s, ETA 40 s'
  ]
