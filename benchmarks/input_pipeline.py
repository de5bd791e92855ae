"""Images per second and core, from JPEGs and from the prepared store.

  python -m benchmarks.input_pipeline --data_dir=DIR    # of class folders
  ALEXNET_DATA=DIR python -m benchmarks.input_pipeline  # imagenet_sample.tar

Every contender yields uint8 crops of 224 pixels, labels and three floats of
color shift: the same work on the same files. "A core" is a second of processor
time of all threads and processes together, whatever else the machine does.
"""

from collections.abc import Mapping, Sequence
import importlib.util
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import pillow_pipelines

HEADER = (
  'contender', 'images/s a core', 'lowest to highest', 'images/s',
  'against its floor', 'against torch',
)  # fmt: skip
_DECODE, _READ = 'floor: decode alone', 'floor: read alone'
_LOADER = 'torch DataLoader, Pillow'


class Pipeline(NamedTuple):
  """A factory in this package, the package it needs, settings, and its floor.

  `scratch` names the setting that takes a folder of its own.
  """

  factory: str
  package: str = 'tensorflow'
  settings: Mapping[str, Any] = {}
  floor: str = _DECODE
  scratch: str = ''


CONTENDERS = {
  'ours, JPEG': Pipeline('pipelines:from_folder'),
  _DECODE: Pipeline('pipelines:decode_alone'),
  'ours, JPEG, upright': Pipeline(
    'pipelines:from_folder', settings={'upright': True}
  ),
  'tf.data, plain': Pipeline('pipelines:plain_tf_data'),
  _LOADER: Pipeline('pillow_pipelines:torch_loader', 'torch'),
  'grain, threads': Pipeline(
    'pillow_pipelines:grain', 'grain', {'processes': False}
  ),
  'grain, processes': Pipeline(
    'pillow_pipelines:grain', 'grain', {'processes': True}
  ),
  'ours, store': Pipeline(
    'pipelines:from_folder', floor=_READ, scratch='store_dir'
  ),
  _READ: Pipeline('pipelines:read_alone', floor=_READ, scratch='scratch'),
}

_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  '',
  f'Class folders of images; default: ALEXNET_DATA/{pillow_pipelines.SAMPLE}.',
)
_PIPELINES = flags.DEFINE_multi_enum(
  'pipeline', list(CONTENDERS), list(CONTENDERS), 'Contenders to compare.'
)
# How often the sample is used, to make epochs longer.
_COPIES = 4


def measure(
  data_dir: pathlib.Path, scratch: pathlib.Path
) -> tuple[dict[str, list[harness.Turn]], dict[str, str]]:
  """Returns the turns, a batch per unit, and why some did not run.

  `scratch` is an empty folder, for a store and for files that are only read.
  """
  workers, missing = [], {}
  for name in _PIPELINES.value:
    pipeline = CONTENDERS[name]
    if not importlib.util.find_spec(pipeline.package):
      missing[name] = f'{pipeline.package} is not installed'
      continue
    settings = {
      'data_dir': str(data_dir),
      'batch_size': harness.BATCH_SIZE.value,
      **pipeline.settings,
    }
    if pipeline.scratch:
      settings[pipeline.scratch] = str(scratch / pipeline.scratch)
    factory = f'benchmarks.{pipeline.factory}'
    workers.append(harness.Worker(name, factory, settings))
  with harness.race(workers, all_must_work=False) as (turns, failures):
    return turns, missing | failures


def rows(turns: Mapping[str, Sequence[harness.Turn]]) -> list[list[str]]:
  """Returns the table's rows."""
  size = harness.BATCH_SIZE.value
  rates = {
    name: [size / turn.cpu for turn in taken] for name, taken in turns.items()
  }

  def against(name, other):
    if other not in rates:
      return ''
    return f'{harness.median(rates[name]) / harness.median(rates[other]):.2f}'

  lines = []
  for name, values in rates.items():
    per_second = harness.median(size / turn.wall for turn in turns[name])
    floor = CONTENDERS[name].floor
    lines.append(
      [
        name,
        *harness.spread(values),
        f'{per_second:,.0f}',
        against(name, floor),
        against(name, _LOADER) if floor == _DECODE else '',
      ]
    )
  return lines


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  harness.print_header()
  with tempfile.TemporaryDirectory() as temporary:
    scratch = pathlib.Path(temporary)
    data_dir = pathlib.Path(_DATA_DIR.value)
    if not _DATA_DIR.value:
      sample = os.environ.get('ALEXNET_DATA', '')
      if not pathlib.Path(sample, pillow_pipelines.SAMPLE).is_file():
        raise app.UsageError(
          f'--data_dir is not given, and ALEXNET_DATA ({sample or "not set"})'
          f' has no {pillow_pipelines.SAMPLE}'
        )
      data_dir = scratch / 'train'
      pillow_pipelines.unpack_sample(data_dir, _COPIES)
    turns, failures = measure(data_dir, scratch)
  print(harness.table(HEADER, rows(turns)), end='\n\n')
  print(harness.failure_lines(failures))


if __name__ == '__main__':
  app.run(main)
