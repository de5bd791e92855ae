"""How the cost grows with batch, classes, devices, and size of the set.

  python -m benchmarks.scaling

On a CPU devices are simulated. What they send is in `communication.py`.
"""

from collections.abc import Mapping
import importlib.util
from typing import Any

from absl import app

from alexnet_jax import architecture
from benchmarks import harness
from benchmarks import workload

BATCH_SIZES = (8, 32, 128)
CLASSES = (10, 1000, 10184)
DEVICES = (1, 2, 4)
SET_SIZES = (1000, 100000, 1281167)
STEP_HEADER = ('ms a step', 'lowest to highest', 'ms an image', 'peak memory')


def measure_steps(
  variants: Mapping[str, dict[str, Any]],
) -> dict[str, list[str]]:
  """Times variants of a step, given by name and changed settings, in turns.

  Returns the cells of `STEP_HEADER` by name.
  """
  workers = [harness.step_worker(name, **own) for name, own in variants.items()]
  cells = {}
  with harness.race(workers) as (turns, _):
    for worker in workers:
      seconds = [turn.wall for turn in turns[worker.name]]
      milliseconds = 1e3 * harness.median(seconds)
      cells[worker.name] = [
        *harness.milliseconds(seconds),
        f'{milliseconds / worker.settings["batch_size"]:.3g}',
        f'{turns[worker.name][-1].memory / 2**30:.2f} GiB',
      ]
  return cells


def batches() -> str:
  """Returns the table of batch sizes."""
  cells = measure_steps({str(n): {'batch_size': n} for n in BATCH_SIZES})
  rows = ([name, *row] for name, row in cells.items())
  return harness.table(('batch', *STEP_HEADER), rows)


def classes() -> str:
  """Returns the table of numbers of classes."""
  cells = measure_steps({f'{n:,}': {'num_classes': n} for n in CLASSES})
  rows = []
  for count, (name, row) in zip(CLASSES, cells.items(), strict=True):
    network = workload.network(harness.PRESET.value, count)
    shapes = architecture.layer_shapes(network, harness.CROP_SIZE.value)
    parameters = sum(shape.weights + shape.biases for shape in shapes)
    rows.append([name, f'{parameters:,}', *row])
  return harness.table(('classes', 'parameters', *STEP_HEADER), rows)


def devices() -> str:
  """Returns the table of devices."""
  cells = measure_steps({str(n): {'devices': n} for n in DEVICES})
  rows = ([name, *row] for name, row in cells.items())
  return harness.table(('devices', *STEP_HEADER), rows)


def set_sizes() -> str:
  """Returns the table of sizes of the training set, which is synthetic."""
  if not importlib.util.find_spec('tensorflow'):
    return 'tensorflow is not installed: no table of training sets.'
  size = harness.BATCH_SIZE.value
  workers = [
    harness.Worker(
      f'{count:,}', 'benchmarks.pipelines:Synthetic',
      {'num_images': count, 'batch_size': size},
    )
    for count in SET_SIZES
  ]  # fmt: skip
  rows = []
  with harness.race(workers) as (turns, _):
    for worker in workers:
      taken = turns[worker.name]
      rows.append(
        [
          worker.name,
          f'{worker.call("seconds_to_first_batch"):.2f} s',
          f'{size / harness.median(turn.cpu for turn in taken):,.0f}',
          f'{taken[-1].memory / 2**30:.2f} GiB',
        ]
      )
  header = ('images', 'to the first batch', 'images/s a core', 'peak memory')
  return harness.table(header, rows)


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  harness.print_header()
  print(batches(), end='\n\n')
  print(classes(), end='\n\n')
  print(devices(), end='\n\n')
  print(set_sizes())


if __name__ == '__main__':
  app.run(main)
