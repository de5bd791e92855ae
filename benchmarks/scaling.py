"""How the cost grows with batch, classes, devices, and size of the set.

  python -m benchmarks.scaling

The table of devices has the bytes that the compiled step sends between towers
and between copies of the network, compared with a count by hand; the script
exits with 1 if they differ. On a CPU devices are simulated.
"""

from collections.abc import Mapping
import importlib.util
from typing import Any

from absl import app

from alexnet_jax import architecture
from benchmarks import harness
from benchmarks import hlo
from benchmarks import workload

BATCH_SIZES = (8, 32, 128)
CLASSES = (10, 1000, 10184)
DEVICES = (1, 2, 4)
SET_SIZES = (1000, 100000, 1281167)
STEP_HEADER = ('ms a step', 'lowest to highest', 'ms an image', 'peak memory')


def measure_steps(
  variants: Mapping[str, dict[str, Any]], read_programs: bool = False
) -> tuple[dict[str, list[str]], dict[str, str]]:
  """Times variants of a step, given by name and changed settings, in turns.

  Returns the cells of `STEP_HEADER` and, if asked for, the texts of the
  compiled programs, both by name.
  """
  workers = [harness.step_worker(name, **own) for name, own in variants.items()]
  cells, programs = {}, {}
  with harness.race(workers) as (turns, _):
    for worker in workers:
      if read_programs:
        programs[worker.name] = worker.call('program')
      seconds = [turn.wall for turn in turns[worker.name]]
      milliseconds = 1e3 * harness.median(seconds)
      cells[worker.name] = [
        *harness.milliseconds(seconds),
        f'{milliseconds / worker.settings["batch_size"]:.3g}',
        f'{turns[worker.name][-1].memory / 2**30:.2f} GiB',
      ]
  return cells, programs


def batches() -> str:
  """Returns the table of batch sizes."""
  cells, _ = measure_steps({str(n): {'batch_size': n} for n in BATCH_SIZES})
  rows = ([name, *row] for name, row in cells.items())
  return harness.table(('batch', *STEP_HEADER), rows)


def classes() -> str:
  """Returns the table of numbers of classes."""
  cells, _ = measure_steps({f'{n:,}': {'num_classes': n} for n in CLASSES})
  rows = []
  for count, (name, row) in zip(CLASSES, cells.items(), strict=True):
    network = workload.network(harness.PRESET.value, count)
    shapes = architecture.layer_shapes(network, harness.CROP_SIZE.value)
    parameters = sum(shape.weights + shape.biases for shape in shapes)
    rows.append([name, f'{parameters:,}', *row])
  return harness.table(('classes', 'parameters', *STEP_HEADER), rows)


def devices() -> tuple[str, bool]:
  """Returns the table of devices, and whether all bytes are as counted."""
  cells, programs = measure_steps(
    {str(n): {'devices': n} for n in DEVICES}, read_programs=True
  )
  network = workload.network(harness.PRESET.value)
  crop_size = harness.CROP_SIZE.value
  rows, all_equal = [], True
  for count, (name, row) in zip(DEVICES, cells.items(), strict=True):
    across = min(count, network.towers)
    copies = count // across
    images = harness.BATCH_SIZE.value // copies
    found = hlo.sent_between(hlo.exchanges(programs[name]), across)
    counted = (
      workload.join_bytes(network, crop_size, images, across),
      workload.gradient_bytes(network, crop_size, copies, across),
    )
    all_equal &= found == counted
    pairs = zip(found, counted, strict=True)
    rows.append([name, *row, *(f'{a:,} / {b:,}' for a, b in pairs)])
  header = (
    'devices', *STEP_HEADER, 'bytes to other towers, program / by hand',
    'bytes to add up between copies, program / by hand',
  )  # fmt: skip
  return harness.table(header, rows), all_equal


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


def main(argv: list[str]) -> int:
  """Prints the tables; returns 1 if the bytes are not as counted."""
  del argv
  harness.print_header()
  print(batches(), end='\n\n')
  print(classes(), end='\n\n')
  table, equal = devices()
  verdict = 'equal' if equal else 'NOT equal'
  print(table)
  print(f'Bytes of the compiled step and counted by hand: {verdict}\n')
  print(set_sizes())
  return 0 if equal else 1


if __name__ == '__main__':
  app.run(main)
