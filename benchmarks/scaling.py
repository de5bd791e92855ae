"""How the cost grows: with batch, classes, devices, and images of the set.

  python -m benchmarks.scaling

The table of devices holds the bytes that the compiled step sends between
towers, and between copies of the network, against a count by hand; the script
ends with 1 if they differ. Devices are simulated ones on a CPU.
"""

from collections.abc import Mapping, Sequence
import contextlib
import importlib.util
import sys
from typing import Any

from absl import app
from absl import flags

from alexnet_jax import architecture
from benchmarks import counts
from benchmarks import harness
from benchmarks import networks
from benchmarks import options
from benchmarks import report

_BATCHES = flags.DEFINE_list('batches', ['8', '32', '128'], 'Batch sizes.')
_CLASSES = flags.DEFINE_list('classes', ['10', '1000', '10184'], 'Classes.')
_DEVICES = ['1', '2', '4']
_IMAGES = flags.DEFINE_list(
  'set_sizes', ['1000', '100000', '1281167'], 'Images of the training set.'
)
STEP_HEADER = ('ms a step', 'lowest to highest', 'ms an image', 'peak memory')


def steps(
  variants: Mapping[str, dict[str, Any]], questions: Sequence[str] = ()
) -> tuple[dict[str, list[str]], dict[str, list[Any]]]:
  """Lets variants of a step work in turn.

  Args:
    variants: by name, the settings that make each another than the default.
    questions: methods of `ours.Step` to call afterwards.

  Returns:
    By name, the cells of `STEP_HEADER`, and the answers to the questions.
  """
  cells, answers = {}, {}
  with contextlib.ExitStack() as stack:
    workers = []
    for name, own in variants.items():
      settings = {
        'preset': options.PRESET.value,
        'crop_size': options.CROP_SIZE.value,
        'batch_size': options.BATCH_SIZE.value,
        'platform': options.platform(),
        **own,
      }
      worker = harness.Worker(
        name, 'benchmarks.ours:Step', settings, options.environment()
      )
      workers.append(stack.enter_context(worker).wait())
      worker.call('run', 1)
      worker.pause()
    turns, failures = harness.alternate(
      workers, options.ROUNDS.value, options.TURN_SECONDS.value
    )
    if failures:
      raise SystemExit(report.failures(failures))
    for worker in workers:
      worker.resume()
      seconds = [turn.wall for turn in turns[worker.name]]
      middle = harness.median(seconds)
      own = variants[worker.name]
      rows = own.get('batch_size', options.BATCH_SIZE.value)
      cells[worker.name] = [
        *report.milliseconds(seconds, middle),
        f'{1e3 * middle / rows:.3g}',
        f'{worker.call("memory") / 2**30:.2f} GiB',
      ]
      answers[worker.name] = [worker.call(method) for method in questions]
  return cells, answers


def batches() -> str:
  """Returns the table of batch sizes."""
  cells, _ = steps({n: {'batch_size': int(n)} for n in _BATCHES.value})
  return report.table(
    ('batch', *STEP_HEADER), ([name, *row] for name, row in cells.items())
  )


def classes() -> str:
  """Returns the table of numbers of classes."""
  cells, _ = steps({n: {'num_classes': int(n)} for n in _CLASSES.value})
  rows = []
  for name, row in cells.items():
    network = networks.get(options.PRESET.value, int(name))
    shapes = architecture.layer_shapes(network, options.CROP_SIZE.value)
    parameters = sum(shape.weights + shape.biases for shape in shapes)
    rows.append([f'{int(name):,}', f'{parameters:,}', *row])
  return report.table(('classes', 'parameters', *STEP_HEADER), rows)


def devices() -> tuple[str, bool]:
  """Returns the table of devices, and whether all bytes are as counted."""
  variants = {n: {'devices': int(n)} for n in options.DEVICES.value or _DEVICES}
  cells, answers = steps(variants, ['exchanges'])
  rows, equal = [], True
  for name, row in cells.items():
    (found,) = answers[name]
    counted = exchanged(int(name))
    equal &= tuple(found) == counted
    pairs = [f'{a:,} / {b:,}' for a, b in zip(found, counted, strict=True)]
    rows.append([name, *row, *pairs])
  header = (
    'devices', *STEP_HEADER, 'bytes to other towers, program / by hand',
    'bytes to add up between copies, program / by hand',
  )  # fmt: skip
  return report.table(header, rows), equal


def exchanged(count: int) -> tuple[int, int]:
  """Counts by hand what one of so many devices sends in a step, in bytes."""
  network = networks.get(options.PRESET.value)
  crop_size = options.CROP_SIZE.value
  across = min(count, network.towers)
  copies = count // across
  rows = options.BATCH_SIZE.value // copies
  return (
    counts.join_bytes(network, crop_size, rows, across),
    counts.gradient_bytes(network, crop_size, copies, across),
  )


def images() -> str:
  """Returns the table of sizes of the training set, of made-up images."""
  if not importlib.util.find_spec('tensorflow'):
    return 'tensorflow is not installed: no table of training sets.'
  size = options.BATCH_SIZE.value
  rows = []
  with contextlib.ExitStack() as stack:
    workers = []
    for name in _IMAGES.value:
      settings = {'num_images': int(name), 'batch_size': size}
      worker = harness.Worker(name, 'benchmarks.pipelines:MadeUp', settings)
      workers.append(stack.enter_context(worker).wait())
      worker.pause()
    turns, _ = harness.alternate(
      workers, options.ROUNDS.value, options.TURN_SECONDS.value
    )
    for worker in workers:
      worker.resume()
      rate = size / harness.median([t.cpu for t in turns[worker.name]])
      rows.append(
        [
          f'{int(worker.name):,}',
          f'{worker.call("first"):.2f} s',
          f'{rate:,.0f}',
          f'{worker.call("memory") / 2**30:.2f} GiB',
        ]
      )
  header = ('images', 'to the first batch', 'images/s a core', 'peak memory')
  return report.table(header, rows)


def main(argv: list[str]) -> int:
  """Prints the tables; returns 1 if the bytes are not as counted."""
  del argv
  print(f'{report.machine()}\n{" ".join(sys.argv[1:])}\n')
  print(batches(), end='\n\n')
  print(classes(), end='\n\n')
  table, equal = devices()
  print(table)
  said = 'equal' if equal else 'NOT equal'
  print(f'Bytes of the compiled step and counted by hand: {said}', end='\n\n')
  print(images())
  return 0 if equal else 1


if __name__ == '__main__':
  app.run(main)
