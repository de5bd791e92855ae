"""A queue that brings records that only Python can fetch into a tf.data graph.

A thread fetches them in order and waits while the queue is full. Nothing in the
graph calls Python, which could deadlock when an iterator is dropped: its
destructor waits for calls that wait for the GIL.
"""

import atexit
from collections.abc import Iterator
import contextlib
import functools
import threading

import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import retry
from alexnet_jax.input_pipeline import sources

_CAPACITY = 2  # steps, 28 MB of ImageNet's records at 128 images
_ENDLESS = 2**62


@contextlib.contextmanager
def feeding(
  source: sources.Source, steps: tf.data.Dataset
) -> Iterator[tf.data.Dataset]:
  """Adds the records of their examples to steps, if Python must fetch them.

  Args:
    source: where the records come from.
    steps: elements are dicts of vectors, including 'index' int64, -1 for no
      example.

  Yields:
    The same data set, with strings 'record' where the source `is_fetched`. An
    error of `source.fetch` ends it and is raised in place of TensorFlow's.
  """
  if not source.is_fetched:
    yield steps
    return
  feeder = _Feeder(source, steps)
  # Looked up now: modules are already gone at the interpreter's exit.
  op_error = tf.errors.OpError
  try:
    yield feeder.steps()
  except op_error:
    feeder.raise_error()
    raise
  finally:
    feeder.close()


class _Feeder:
  """The thread, its queue, and the error that ended it."""

  def __init__(self, source: sources.Source, steps: tf.data.Dataset):
    self._source, self._steps = source, steps
    self._error: BaseException | None = None
    self._closed = threading.Event()
    # Taken by the first to close, and never waited for: the interpreter's exit
    # stops the thread wherever it is, and whatever it holds stays held.
    self._closing = threading.Lock()
    rows = steps.element_spec['index'].shape
    specs = steps.element_spec | {'record': tf.TensorSpec(rows, tf.string)}
    self._names = sorted(specs)
    self._queue = tf.queue.FIFOQueue(
      _CAPACITY,
      [specs[name].dtype for name in self._names],
      [specs[name].shape for name in self._names],
      self._names,
    )
    # Otherwise batches still in use at exit would be closed after TensorFlow.
    atexit.register(self._exit)
    threading.Thread(target=self._run, daemon=True).start()

  def steps(self) -> tf.data.Dataset:
    count = int(self._steps.cardinality())
    numbers = tf.data.Dataset.range(count if count >= 0 else _ENDLESS)
    # Not in parallel: the order of the queue is that of the calls.
    return numbers.map(lambda _: self._queue.dequeue())

  def _run(self) -> None:
    try:
      for step in self._steps.as_numpy_iterator():
        real = step['index'] >= 0
        records = np.full(len(real), b'', object)
        fetch = functools.partial(self._source.fetch, step['index'][real])
        # Closing ends the waits.
        records[real] = retry.call(fetch, self._closed.wait)
        self._queue.enqueue(step | {'record': records})
    except BaseException as error:  # Raised where the batches are used.
      if not self._closed.is_set():
        self._error = error
    self.close()

  def close(self) -> None:
    """Ends the data set, and the thread if it waits for room in the queue."""
    if self._closing.acquire(blocking=False):
      self._closed.set()
      self._queue.close(cancel_pending_enqueues=True)
      atexit.unregister(self._exit)

  def _exit(self) -> None:
    # Ends a thread that waits for a batch, without a traceback.
    self._error = SystemExit()
    self.close()

  def raise_error(self) -> None:
    if self._error is not None:
      raise self._error from None
