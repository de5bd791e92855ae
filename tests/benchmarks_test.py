"""The scripts with tiny settings, and what they count, by number.

In most tests contenders live in this process: what is tested is the scripts.
Whether separate processes are timed and stopped as promised has its own tests.
"""

import contextlib
import os
import pathlib
import pkgutil
import subprocess
import sys
import time
from typing import ClassVar

from absl import flags
from absl.testing import flagsaver
import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
from PIL import Image
import pytest

from alexnet_jax import architecture
from alexnet_jax import presets
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense
from benchmarks import collectives
from benchmarks import counts
from benchmarks import end_to_end
from benchmarks import harness
from benchmarks import input_pipeline
from benchmarks import layers
from benchmarks import part
from benchmarks import parts
from benchmarks import report
from benchmarks import scaling
from benchmarks import serving
from benchmarks import train_step
from configs import imagenet

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Two towers that meet before conv2 and fc6, for images of 8x8.
_NETWORK = architecture.Architecture(
  layers=(
    Conv('conv1', 4, 3, order=('activation', 'pool', 'response_norm')),
    Conv('conv2', 8, 3, padding=(1, 1), reads='all'),
    Dense('fc6', 16),
    Dense('fc8', 10, order=()),
  )
)
_TINY = {
  'preset': 'tiny', 'crop_size': 8, 'batch_size': 4, 'batch_sizes': ['4'],
  'rounds': 2, 'turn_seconds': 0.0, 'matrix_side': 64, 'platform': 'cpu',
}  # fmt: skip


def test_operations_and_bytes_of_the_paper_network():
  paper = presets.paper()
  # 724,406,816 multiply-adds an image, of which conv1 has 105,415,200 and
  # needs no gradient of its input.
  assert counts.step_flops(paper, 224) == 6 * 724_406_816 - 2 * 105_415_200
  floats = {join.before: join.floats for join in counts.joins(paper, 224)}
  assert floats == {
    'conv3': 13 * 13 * 128, 'fc6': 6 * 6 * 128, 'fc7': 2048, 'fc8': 2048,
    'loss': 500,
  }  # fmt: skip
  # 61,172 floats an image and tower (section 5 of the paper's source).
  assert counts.join_bytes(paper, 224, rows=3, devices=2) == 3 * 4 * 61_172
  assert counts.join_bytes(paper, 224, rows=3, devices=1) == 0
  assert counts.gradient_bytes(paper, 224, copies=1, devices=2) == 0
  half = 60_965_224 // 2
  assert counts.gradient_bytes(paper, 224, copies=2, devices=2) == 4 * half + 20


_PROGRAM = """
 %a = f32[2,13,13,256]{3,2,1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, d
 %b = f32[2,2048]{1,0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, to
 %c = (f32[10]{0}, bf16[3]{0}) all-reduce(%x, %y), replica_groups={{0,2},{1,3}}
 %d = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), channel_id=1, \
replica_groups=mesh['data'=2,'tower'=2] {'tower'}, dimensions={0}
 %e = f32[99]{0} add(%x, %y)
"""


def test_bytes_of_a_program():
  found = collectives.read(_PROGRAM)
  pairs, copies = ((0, 1), (2, 3)), ((0, 2), (1, 3))
  assert found == [
    ('all-gather', 4 * 2 * 13 * 13 * 256, pairs),
    ('reduce-scatter', 4 * 2 * 2048, pairs),
    ('all-reduce', 4 * 10 + 2 * 3, copies),
    ('all-gather', 4 * 8, pairs),
  ]
  # Half of what is gathered, and all of what the other tower keeps.
  between_towers = 2 * 2 * 13 * 13 * 256 + 4 * 2 * 2048 + 4 * 4
  assert collectives.sent_between(found, 2) == (between_towers, 46)


def test_an_unexpected_exchange_is_refused():
  line = '%a = f32[2]{0} all-to-all(%x), replica_groups={{0,1}}'
  with pytest.raises(ValueError, match='all-to-all'):
    collectives.sent_between(collectives.read(line), 2)


def test_table():
  assert report.table(('a', 'long'), [('1', '2'), ('10', '20')]) == (
    '| a  | long |\n| -- | ---- |\n| 1  | 2    |\n| 10 | 20   |'
  )


def test_milliseconds():
  assert report.milliseconds([10.74, 0.0012345], 1.0) == (
    '1000', '1.234 to 10740'
  )  # fmt: skip


@contextlib.contextmanager
def _workers(**settings):
  """Starts a `Counter` for each name, with these settings."""
  with contextlib.ExitStack() as stack:
    workers = [
      stack.enter_context(
        harness.Worker(name, 'benchmarks_testing:Counter', own)
      )
      for name, own in settings.items()
    ]
    yield [worker.wait() for worker in workers]


def test_turns_measure_time_and_processors():
  with _workers(
    sleep={'work': 'sleep', 'seconds': 0.05},
    compute={'work': 'compute', 'seconds': 0.05},
    child={'work': 'child', 'seconds': 0.2},
  ) as workers:
    turns, failures = harness.alternate(workers, 2, 0.2)
  assert not failures
  assert [len(taken) for taken in turns.values()] == [2, 2, 2]
  for turn in turns['sleep']:
    assert turn.wall >= 0.05
    assert turn.cpu < 0.02
  # Ticks of the clock that counts are 10 ms long, and a turn lasts 200.
  for turn in turns['compute']:
    assert turn.cpu == pytest.approx(0.05, abs=0.02)
    assert turn.wall >= 0.045
  for turn in turns['child']:
    assert 0.17 < turn.cpu < 0.5


def test_the_first_unit_of_a_turn_does_not_count():
  with _workers(one={'seconds': 0.01}) as (worker,):
    worker.turn(0.0)
    assert worker.call('units') == 2


def test_environment_is_there_before_python(monkeypatch):
  monkeypatch.delenv('ALEXNET_ADDED', raising=False)
  with harness.Worker(
    'a', 'benchmarks_testing:Counter', {}, {'ALEXNET_ADDED': '1'}
  ) as worker:
    worker.wait()
    assert worker.call('born_with', 'ALEXNET_ADDED')
    assert 'ALEXNET_ADDED' not in os.environ


def test_a_stopped_contender_stands_still():
  with _workers(one={}) as (worker,):
    worker.pause()
    time.sleep(0.05)  # for a tick under way
    with open(f'/proc/{worker.pid}/stat') as stat:
      assert stat.read().rsplit(')', 1)[1].split()[0] == 'T'
    worker.resume()
    before = worker.call('ticks')
    time.sleep(0.1)
    assert worker.call('ticks') > before


def test_reasons_of_failures():
  with _workers(
    fails={'work': 'fail'}, dies={'work': 'die'}, works={'seconds': 0.01}
  ) as workers:
    turns, failures = harness.alternate(workers, 3, 0.0)
  assert failures == {
    'fails': 'ValueError: no luck',
    'dies': 'its process ended with code 3',
  }
  assert len(turns['works']) == 3


def test_a_contender_that_cannot_be_built_or_takes_too_long():
  settings = {'unknown': 1}
  with (
    harness.Worker('a', 'benchmarks_testing:Counter', settings) as worker,
    pytest.raises(harness.ContenderError, match='TypeError: .*unknown'),
  ):
    worker.wait()
  settings = {'seconds': 60.0}
  with harness.Worker(
    'b', 'benchmarks_testing:Counter', settings, timeout=5.0
  ) as worker:
    worker.wait()
    start = time.perf_counter()
    worker.timeout = 0.1
    with pytest.raises(harness.ContenderError, match='more than 0.1 s'):
      worker.call('run', 1)
    assert time.perf_counter() - start < 2


class _InProcess:
  """Stands in for `harness.Worker`, without a process."""

  built: ClassVar[dict] = {}

  def __init__(self, name, factory, settings, environment=None, timeout=0.0):
    self.name = name
    # A second start finds what the first one built.
    key = f'{factory} {settings}'
    if key not in self.built:
      self.built[key] = pkgutil.resolve_name(factory)(**settings)
    self._contender = self.built[key]

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    pass

  def wait(self):
    return self

  def first_run(self):
    self.call('run', 1)
    return 1.25

  def call(self, method, *args):
    return getattr(self._contender, method)(*args)

  def turn(self, seconds):
    return serving.turn(self._contender, seconds)

  def pause(self):
    pass

  resume = close = pause


@pytest.fixture
def in_process(monkeypatch):
  monkeypatch.setattr(harness, 'Worker', _InProcess)
  monkeypatch.setitem(presets.PRESETS, 'tiny', lambda: _NETWORK)
  monkeypatch.setattr(_InProcess, 'built', {})
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
  )
  before = {name: getattr(jax.config, name) for name in names}
  yield _InProcess
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def _flags(**values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return flagsaver.flagsaver(**{**_TINY, **values})


def _tables(text):
  """Returns the Markdown tables in a text: lists of rows, cells by header."""
  tables, header = [], None
  for line in text.splitlines():
    if not line.startswith('|'):
      header = None
      continue
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    if header is None:
      header = cells
      tables.append([])
    elif set(cells[0]) != {'-'}:
      tables[-1].append(dict(zip(header, cells, strict=True)))
  return tables


def test_train_step(in_process, monkeypatch, capsys):
  # No torch, as where only requirements.txt is installed.
  found = train_step.importlib.util.find_spec
  monkeypatch.setattr(
    train_step.importlib.util,
    'find_spec',
    lambda name: None if name == 'torch' else found(name),
  )
  with _flags(contender=['ours', 'torch']):
    train_step.main([])
  text = capsys.readouterr().out
  ((row,),) = _tables(text)
  assert row['contender'] == 'ours'
  assert list(row) == list(train_step.HEADER)
  seconds = float(row['ms a step']) / 1e3
  speed = float(row['images/s'].replace(',', ''))
  assert speed == pytest.approx(4 / seconds, rel=0.01)
  flops = 4 * counts.step_flops(_NETWORK, 8) / seconds
  assert float(row['TFLOP/s']) == pytest.approx(flops / 1e12, rel=0.01)
  assert row['first step'] == row['second start'] == '1.2 s'
  assert row['against torch'] == ''
  assert 0.1 < float(row['peak memory'].removesuffix(' GiB')) < 20
  assert 'Not run: torch; float32; batch 4: torch is not installed' in text


def test_summary_takes_the_fastest_torch():
  seconds = {
    'ours': [2.0, 9.0, 1.0], 'ours, 2 devices': [2.5], 'torch': [4.0],
    'torch, compiled': [3.0],
  }  # fmt: skip
  entries = [
    train_step.contenders.Entry(name, 'float32', 8, seconds=values)
    for name, values in seconds.items()
  ]
  assert train_step.summary(entries) == [
    'float32: 1.50 times as fast as "torch, compiled"',
    'float32: two devices at 0.80 of one',
  ]


def test_layers(in_process, capsys):
  with _flags():
    layers.main([])
  (rows,) = _tables(capsys.readouterr().out)
  assert [row['part'] for row in rows] == [
    'input', 'conv1', 'pool 1', 'norm 1', 'join 2', 'conv2', 'join 6', 'fc6',
    'dropout 6', 'join 8', 'fc8', 'loss', 'update', 'sum', 'both passes',
    'whole step', 'between parts',
  ]  # fmt: skip
  (built,) = (
    one for one in in_process.built.values() if isinstance(one, parts.Parts)
  )
  costs = {name: one for name, *one in built.costs()}
  flops = sum(a.flops + b.flops for a, b in costs.values())
  assert flops == 4 * counts.step_flops(_NETWORK, 8)
  # Four images. conv1: 8x8x3 to two towers' 6x6x2; the images need no gradient.
  kernels, maps = 2 * (3 * 3 * 3 * 2 + 2), 4 * (2 * 6 * 6 * 2)
  reads = 4 * 8 * 8 * 3 + kernels
  assert [cost.bytes for cost in costs['conv1']] == [
    4 * (reads + maps), 4 * (reads + maps + kernels),
  ]  # fmt: skip
  # conv2: 2x2x4, all maps, to two towers' 2x2x4.
  kernels, maps = 2 * (3 * 3 * 4 * 4 + 4), 4 * (2 * 2 * 2 * 4)
  reads = 4 * 2 * 2 * 4 + kernels
  assert [cost.bytes for cost in costs['conv2']] == [
    4 * (reads + maps), 4 * (2 * reads + maps),
  ]  # fmt: skip


def test_floors():
  cost = part.Cost
  found = layers.against_floors(
    [('a', cost(4_000_000, 3000), cost(1, 9000))],
    [[(0.010, 0.02)], [(0.016, 0.04)], [(0.012, 0.03)]],
    product=1e9,
    copy=1e6,
  )
  # 4 ms by its operations against 3 by its bytes; 9 ms by its bytes.
  assert found == [('a', 0.012, 0.004, 0.03, 0.009)]
  assert found[0].above == pytest.approx(0.042 - 0.013)


def test_scaling(in_process, capsys):
  with _flags(classes=['7'], devices=['4'], set_sizes=['40']):
    print(scaling.classes(), end='\n\n')
    table, equal = scaling.devices
    print(table, end='\n\n')
    print(scaling.images())
  assert equal
  classes, devices, images = _tables(capsys.readouterr().out)
  # Seven classes need four units a tower.
  assert classes[0]['parameters'].replace(',', '') == str(
    (4 * 27 + 4) + (8 * 36 + 8) + (16 * 32 + 16) + 8 * (16 + 1)
  )
  # Four images, their maps before conv2, fc6 and fc8, and the logits.
  sent = 4 * 4 * (2 * (2 * 2 * 2 + 2 * 2 * 4 + 8) + 5)
  header = 'bytes to other towers, program / by hand'
  assert [row[header] for row in devices] == [
    f'{sent // 2:,} / {sent // 2:,}'
  ]  # fmt: skip
  assert list(images[0]) == [
    'images', 'to the first batch', 'images/s a core', 'peak memory'
  ]  # fmt: skip


def test_input_pipeline(in_process, tmp_path, capsys):
  rng = np.random.default_rng(0)
  for name in ('a', 'b'):
    (tmp_path / 'train' / name).mkdir(parents=True)
    for i in range(3):
      pixels = rng.integers(0, 256, (270, 280 + i, 3), np.uint8)
      Image.fromarray(pixels).save(tmp_path / 'train' / name / f'{i}.jpg')
  chosen = ['ours, JPEG', 'floor: decode alone', 'floor: read alone']
  with _flags(data_dir=str(tmp_path / 'train'), pipeline=chosen):
    input_pipeline.main([])
  (rows,) = _tables(capsys.readouterr().out)
  assert [row['contender'] for row in rows] == chosen
  assert rows[1]['against its floor'] == rows[2]['against its floor'] == '1.00'
  ours, floor = (float(r['images/s a core'].replace(',', '')) for r in rows[:2])
  share = float(rows[0]['against its floor'])
  assert share == pytest.approx(ours / floor, abs=0.02)


def test_speed_of_a_run():
  lines = [
    {'kind': 'train', 'images_per_second': 1.0, 'data_wait': 0.9},
    {'kind': 'train', 'images_per_second': 100.0, 'data_wait': 0.1},
    {'kind': 'validation'},
    {'kind': 'train', 'images_per_second': 50.0, 'data_wait': 0.4},
  ]
  # Two windows of the same number of images, of 1 and of 2 time units.
  speed, waiting = end_to_end.speed(lines)
  assert speed == pytest.approx(2 / 0.03)
  assert waiting == pytest.approx((1 * 0.1 + 2 * 0.4) / 3)


@pytest.fixture
def tiny_flagship(monkeypatch):
  """Makes the flagship's images small; its schedule stays."""
  original = imagenet.get_config

  def small():
    config = original('small')
    config.input.image_size, config.input.crop_size = 32, 28
    config.data.num_examples = 16
    return config

  monkeypatch.setattr(imagenet, 'get_config', small)


def test_end_to_end(in_process, tiny_flagship, monkeypatch, capsys):
  runs = iter([(90.0, 92.0, 0.01), (110.0, 108.0, 0.03)])
  commands = []
  monkeypatch.setattr(
    end_to_end,
    'run',
    lambda steps, given: commands.append(given) or next(runs),
  )
  monkeypatch.delenv('ALEXNET_DATA', raising=False)
  with _flags():
    end_to_end.main([])
  assert commands[0][0] == '--config=configs/imagenet.py'
  assert not any('schedule' in flag for flag in commands[0])
  (rows,) = _tables(capsys.readouterr().out)
  assert [row['what'] for row in rows] == [
    'run', 'by the clock', 'step alone', 'pipeline alone',
    'limit: the slower of the two', 'limit: both in turn',
  ]  # fmt: skip
  run, clock, step, pipeline, slower, in_turn = (
    float(row['images/s'].replace(',', '')) for row in rows
  )
  assert run == clock == 100
  assert rows[0]['data wait'] == '2.0 %'
  assert slower == min(step, pipeline)
  assert in_turn == pytest.approx(1 / (1 / step + 1 / pipeline), rel=1e-2)


def test_a_printed_speed_that_the_clock_denies(
  in_process, tiny_flagship, monkeypatch
):
  monkeypatch.setattr(end_to_end, 'run', lambda *args: (800.0, 41.0, 0.0))
  monkeypatch.delenv('ALEXNET_DATA', raising=False)
  with _flags(), pytest.raises(SystemExit, match=r'800.0 .* 41.0'):
    end_to_end.main([])


def test_torch_computes_the_same_function():
  pytest.importorskip('torch')
  from benchmarks import agreement

  lines = agreement.Check('small', 4, 28).lines()
  assert len(lines) == 2


def test_steps_are_timed_without_tensorflow(tmp_path):
  """The one line that a machine with a GPU and no TensorFlow needs."""
  for name in ('tensorflow', 'ml_collections', 'tensorboardX', 'PIL'):
    (tmp_path / f'{name}.py').write_text('raise ImportError(__name__)')
  done = subprocess.run(
    [
      sys.executable, '-m', 'benchmarks.train_step', '--preset=small',
      '--crop_size=28', '--batch_sizes=2', '--rounds=1', '--platform=cpu',
      '--turn_seconds=0', '--matrix_side=64', '--contender=ours',
    ],
    cwd=_ROOT,
    env={
      **os.environ,
      'PYTHONPATH': str(tmp_path),
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    },
    capture_output=True,
    text=True,
    check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  ((row,),) = _tables(done.stdout)
  assert row['contender'] == 'ours'
  first, second = (
    float(row[name].removesuffix(' s'))
    for name in ('first step', 'second start')
  )
  assert 0 < second < first
