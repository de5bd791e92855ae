"""Images a second and core: JPEGs and the prepared store, beside their floors.

  python -m benchmarks.input_pipeline --data_dir=DIR    # of class folders
  ALEXNET_DATA=DIR python -m benchmarks.input_pipeline  # imagenet_sample.tar

Every contender yields crops of 224 pixels of uint8, labels and three floats of
color shift, the same work on the same files. "A core" is by processor time,
of all threads and processes together, whatever else the machine does.
"""

import contextlib
import importlib.util
import os
import pathlib
import sys
import tempfile
from typing import Any

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import image_files
from benchmarks import options
from benchmarks import report
from benchmarks import serving

HEADER = (
  'contender', 'images/s a core', 'lowest to highest', 'images/s',
  'against its floor', 'against torch',
)  # fmt: skip
_DECODE, _READ = 'floor: decode alone', 'floor: read alone'
_LOADER = 'torch DataLoader, Pillow'
# Name: factory, settings, the floor it is held against, the package it needs.
CONTENDERS: dict[str, tuple[str, dict[str, Any], str, str]] = {
  'ours, JPEG': ('pipelines:Ours', {}, _DECODE, 'tensorflow'),
  _DECODE: ('pipelines:Decode', {}, _DECODE, 'tensorflow'),
  'ours, JPEG, upright': (
    'pipelines:Ours', {'upright': True}, _DECODE, 'tensorflow',
  ),
  'tf.data, plain': ('pipelines:PlainTfData', {}, _DECODE, 'tensorflow'),
  _LOADER: ('peers:TorchLoader', {}, _DECODE, 'torch'),
  'grain, threads': ('peers:Grain', {'processes': False}, _DECODE, 'grain'),
  'grain, processes': ('peers:Grain', {'processes': True}, _DECODE, 'grain'),
  'ours, store': ('pipelines:Ours', {}, _READ, 'tensorflow'),
  _READ: ('pipelines:Read', {}, _READ, 'tensorflow'),
}  # fmt: skip

_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  '',
  f"Class folders of images; '': {image_files.SAMPLE} from ALEXNET_DATA.",
)
_COPIES = flags.DEFINE_integer(
  'copies', 4, 'How often the sample is used, to make epochs longer.'
)
_PIPELINES = flags.DEFINE_multi_enum(
  'pipeline', list(CONTENDERS), list(CONTENDERS), 'Who takes part.'
)


def measure(
  data_dir: pathlib.Path, scratch: pathlib.Path
) -> tuple[dict[str, list[serving.Turn]], dict[str, str]]:
  """Returns the turns, a batch each, and why some did not run.

  Args:
    data_dir: of class folders.
    scratch: an empty folder for a store and for files that are only read.
  """
  failures: dict[str, str] = {}
  with contextlib.ExitStack() as stack:
    workers = []
    for name in _PIPELINES.value:
      factory, own, _, package = CONTENDERS[name]
      if not importlib.util.find_spec(package):
        failures[name] = f'{package} is not installed'
        continue
      settings = {'batch_size': options.BATCH_SIZE.value, **own}
      if name == _READ:
        count = len(image_files.listed(str(data_dir))[0])
        settings |= {'folder': str(scratch / 'files'), 'num_images': count}
      else:
        settings['data_dir'] = str(data_dir)
      if name == 'ours, store':
        settings['store_dir'] = str(scratch / 'store')
      worker = harness.Worker(name, f'benchmarks.{factory}', settings)
      stack.enter_context(worker)
      try:
        workers.append(worker.wait())
        worker.pause()
      except harness.ContenderError as e:
        failures[name] = str(e)
    turns, failed = harness.alternate(
      workers, options.ROUNDS.value, options.TURN_SECONDS.value
    )
  return turns, failures | failed


def rows(turns: dict[str, list[serving.Turn]]) -> list[list[str]]:
  """Returns the table's rows."""
  size = options.BATCH_SIZE.value
  rates = {
    name: [size / turn.cpu for turn in taken]
    for name, taken in turns.items()
    if taken
  }
  medians = {name: harness.median(values) for name, values in rates.items()}

  def against(name, other):
    if other not in medians:
      return ''
    return f'{medians[name] / medians[other]:.2f}'

  lines = []
  for name, values in rates.items():
    wall = harness.median([size / turn.wall for turn in turns[name]])
    floor = CONTENDERS[name][2]
    lines.append(
      [
        name,
        f'{medians[name]:,.0f}',
        f'{min(values):,.0f} to {max(values):,.0f}',
        f'{wall:,.0f}',
        against(name, floor),
        against(name, _LOADER) if floor == _DECODE else '',
      ]
    )
  return lines


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  print(f'{report.machine()}\n{" ".join(sys.argv[1:])}')
  with tempfile.TemporaryDirectory() as temporary:
    scratch = pathlib.Path(temporary)
    data_dir = pathlib.Path(_DATA_DIR.value)
    if not _DATA_DIR.value:
      data = pathlib.Path(os.environ.get('ALEXNET_DATA', ''))
      if not (data / image_files.SAMPLE).is_file():
        app.usage(
          detailed_error=f'no --data_dir, and no {image_files.SAMPLE} in'
          f' ALEXNET_DATA ({data})',
          exitcode=2,
        )
      data_dir = scratch / 'train'
      image_files.unpack_sample(data, data_dir, _COPIES.value)
    turns, failures = measure(data_dir, scratch)
  print('', report.table(HEADER, rows(turns)), '', sep='\n')
  print(report.failures(failures))


if __name__ == '__main__':
  app.run(main)
