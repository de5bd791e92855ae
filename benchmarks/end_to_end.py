"""A training run compared with its step alone and its input pipeline alone.

  python -m benchmarks.end_to_end
  python -m benchmarks.end_to_end --config=configs/fashion_mnist.py --steps=200

The run is main.py as a user starts it, with every flag of its config. On a CPU
its images are made on the cores that compute its steps, so it cannot be faster
than both in turn; on an accelerator, not faster than the slower of the two.

The default is configs/imagenet.py, plateau schedule included, on the sample of
ImageNet in ALEXNET_DATA or on synthetic images. The speed that a run prints is
compared with the times at which its lines arrive.
"""

import os
import pathlib
import tempfile
from typing import Any

from absl import app
from absl import flags
from ml_collections import config_dict

from benchmarks import harness
from benchmarks import pillow_pipelines
from benchmarks import training_run
from configs import imagenet

HEADER = ('what', 'images/s', 'lowest to highest', 'data wait')

# How far the printed speed may be from the clock.
_TOLERANCE = 0.1


def chosen_config(folder: str) -> tuple[list[str], config_dict.ConfigDict]:
  """Returns the run's flags, and the config they make.

  `folder` is an empty one, for the images of the sample.
  """
  if given := training_run.given_flags():
    return given, flags.FLAGS.config
  overrides: dict[str, Any] = {
    'batch_size': harness.BATCH_SIZE.value,
    'data.source': 'synthetic',
  }
  if os.environ.get('ALEXNET_DATA'):
    train = pathlib.Path(folder, 'train')
    pillow_pipelines.unpack_sample(train)
    overrides |= {
      'data.source': 'folder',
      'data.data_dir': folder,
      'data.eval_split': 'train',
      'network.fc8.features': len(list(train.iterdir())),
    }
  config = imagenet.get_config()
  config.update_from_flattened_dict(overrides)
  return training_run.as_flags('configs/imagenet.py', overrides), config


def measure() -> dict[str, list[float]]:
  """Returns images per second of each contender, and the data wait, by turn.

  Raises:
    SystemExit: if a run's printed speed is not what the clock measured.
  """
  with tempfile.TemporaryDirectory() as folder:
    run_flags, config = chosen_config(folder)
    run_settings = {'steps': training_run.STEPS.value, 'run_flags': run_flags}
    workers = [
      harness.Worker(name, f'benchmarks.{factory}', settings, timeout=None)
      for name, factory, settings in (
        ('run', 'training_run:TrainingRun', run_settings),
        ('step alone', 'pipelines:step_of_run', {'config': config}),
        ('pipeline alone', 'pipelines:pipeline_of_run', {'config': config}),
      )
    ]
    with harness.race(workers) as (turns, _):
      runs = turns.pop('run')
  for printed, clock, _ in runs:
    if abs(printed / clock - 1) > _TOLERANCE:
      raise SystemExit(
        f'the run printed {printed:.1f} images/s, but the clock measured'
        f' {clock:.1f}'
      )
  printed, clock, wait = map(list, zip(*runs, strict=True))
  alone = {
    name: [config.batch_size / turn.wall for turn in taken]
    for name, taken in turns.items()
  }
  return {'run': printed, 'by the clock': clock, **alone, 'wait': wait}


def rows(found: dict[str, list[float]]) -> list[list[str]]:
  """Returns the table's rows, with the two limits that the parts set."""
  wait = f'{100 * harness.median(found.pop("wait")):.1f} %'
  step = harness.median(found['step alone'])
  pipeline = harness.median(found['pipeline alone'])
  slower, in_turn = min(step, pipeline), 1 / (1 / step + 1 / pipeline)
  return [
    *(
      [name, *harness.spread(values, ',.1f'), wait if name == 'run' else '']
      for name, values in found.items()
    ),
    ['limit: the slower of the two', f'{slower:,.1f}', '', ''],
    ['limit: both in turn', f'{in_turn:,.1f}', '', ''],
  ]


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  harness.print_header()
  print(harness.table(HEADER, rows(measure())))


if __name__ == '__main__':
  app.run(main)
