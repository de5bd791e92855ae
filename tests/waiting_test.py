"""Batches that come, come late, fail, or never come."""

import itertools
import threading
import time

from absl import logging as absl_logging
import pytest

from alexnet_jax import waiting


def _watched(items, stopped=lambda: False):
  return waiting.Watched(iter(items), stopped, lambda: 'a.jpg and 3 others')


def _blocked(release):
  yield 'first'
  release.wait(60)
  yield 'second'


def test_items_come_in_order_and_end():
  assert list(_watched(range(100))) == list(range(100))


def test_errors_come_where_the_item_is_used():
  def failing():
    yield 1
    raise KeyError('no more')

  items = _watched(failing())
  assert next(items) == 1
  with pytest.raises(KeyError, match='no more'):
    next(items)


def test_an_item_that_never_comes_is_given_up_on_a_signal():
  release, stopped = threading.Event(), threading.Event()
  items = _watched(_blocked(release), stopped.is_set)
  assert next(items) == 'first'
  threading.Timer(0.3, stopped.set).start()
  started = time.monotonic()
  with pytest.raises(waiting.GivenUpError):
    next(items)
  assert time.monotonic() - started < 30
  assert waiting.is_stuck()
  release.set()
  items.close()
  assert not waiting.is_stuck()


def test_a_stalled_item_is_named_once(monkeypatch, caplog):
  monkeypatch.setattr(absl_logging.get_absl_logger(), 'propagate', True)
  monkeypatch.setattr(waiting, 'STALLED_SECONDS', 0.5)
  release = threading.Event()
  items = _watched(_blocked(release))
  next(items)
  threading.Timer(2, release.set).start()
  assert next(items) == 'second'
  (line,) = caplog.messages
  assert 'still reading a.jpg and 3 others' in line


def test_closing_ends_the_thread_and_the_generator():
  closed = threading.Event()

  def endless():
    try:
      yield from itertools.count()
    finally:
      closed.set()

  items = _watched(endless())
  assert next(items) == 0
  items.close()
  assert closed.is_set()
  assert not waiting.is_stuck()
