import logging

from alexnet_jax.input_pipeline import progress


def lines(monkeypatch, caplog, reports, **kwargs):
  clock = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
  shown = progress.Progress('Store', 1000, **kwargs)
  with caplog.at_level(logging.INFO, logger='absl'):
    for second, done in reports:
      clock[0] = second
      shown.report(done)
  return caplog.messages


def test_share_rate_and_time_left(monkeypatch, caplog):
  assert lines(monkeypatch, caplog, [(5, 50), (10, 100), (12, 120)]) == [
    'Store: 100 of 1000 images (10 %), 10 images/s, 1 min 30 s left'
  ]


def test_the_end_is_always_reported(monkeypatch, caplog):
  assert lines(monkeypatch, caplog, [(2, 1000)]) == [
    'Store: 1000 of 1000 images (100 %), 500 images/s, 0 s left'
  ]


def test_what_an_earlier_run_did_is_no_part_of_the_rate(monkeypatch, caplog):
  assert lines(monkeypatch, caplog, [(10, 501)], done=500) == [
    'Store: 501 of 1000 images (50 %), 0 images/s, 1 h 23 min left'
  ]
