"""The benchmark scripts with tiny settings, and what they count, by hand.

Contenders of a script live in this process, where tests share them. The harness
itself is tested with processes.
"""

import os
import pathlib
import pkgutil
import subprocess
import sys
import threading
import time

from absl import flags
from absl.testing import flagsaver
import numpy as np
from PIL import Image
import pytest

from alexnet_jax import architecture
from alexnet_jax import presets
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense
from benchmarks import ceilings
from benchmarks import end_to_end
from benchmarks import harness
from benchmarks import input_pipeline
from benchmarks import layer_passes
from benchmarks import layers
from benchmarks import scaling
from benchmarks import soak
from benchmarks import train_step
from benchmarks import training_run
from benchmarks import workload
from configs import imagenet

# Two towers that meet before fc8, for images of 8x8.
_ORDER = ('activation', 'pool', 'response_norm', 'dropout')
_NETWORK = architecture.Architecture(
  layers=(Conv('conv1', 4, 3, order=_ORDER), Dense('fc8', 10, order=()))
)
_TINY = {
  'preset': 'tiny', 'crop_size': 8, 'batch_size': 4, 'batch_sizes': ['4'],
  'rounds': 2, 'turn_seconds': 0.0, 'platform': 'cpu',
}  # fmt: skip


def _flags(**values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return flagsaver.flagsaver(**{**_TINY, **values})


def test_operations_and_bytes_of_the_paper_network():
  paper = presets.paper()
  # 724,406,816 multiply-adds per image, of which conv1 has 105,415,200 and
  # needs no gradient of its input.
  assert workload.step_flops(paper, 224) == 6 * 724_406_816 - 2 * 105_415_200
  assert workload.join_floats(paper, 224) == {
    'conv3': 13 * 13 * 128, 'fc6': 6 * 6 * 128, 'fc7': 2048, 'fc8': 2048,
    'loss': 500,
  }  # fmt: skip


def test_table():
  assert harness.table(('a', 'long'), [('1', '2'), ('10', '20')]) == (
    '| a  | long |\n| -- | ---- |\n| 1  | 2    |\n| 10 | 20   |'
  )


def test_milliseconds_have_four_digits_and_no_exponent():
  assert harness.milliseconds([10.74, 0.0012345, 1.0]) == (
    '1000', '1.234 to 10740'
  )  # fmt: skip


def _counter(name, starts=1, environment=(), timeout=60.0, **settings):
  factory = 'benchmarks_testing:Counter'
  return harness.Worker(
    name, factory, settings, dict(environment), timeout, starts
  )


def test_a_race_measures_time_and_processor_time_and_reports_failures():
  workers = [
    _counter('sleep', work='sleep', seconds=0.05, starts=2),
    _counter('compute', work='compute', seconds=0.05),
    _counter('child', work='child', seconds=0.2),
    _counter('fails', work='fail'),
    _counter('dies', work='die'),
    _counter('not built', unknown=1),
    _counter('slow', seconds=60.0, timeout=1.0),
  ]
  with (
    _flags(turn_seconds=0.2),
    harness.race(workers, all_must_work=False) as (turns, failures),
  ):
    # One unit at the start; in two turns one that is not counted, and others.
    assert workers[0].call('units') >= 1 + 2 * 2
  assert {name: len(taken) for name, taken in turns.items()} == {
    'sleep': 2, 'compute': 2, 'child': 2,
  }  # fmt: skip
  for turn in turns['sleep']:
    assert turn.wall >= 0.05
    assert turn.cpu < 0.02
    assert 2**20 < turn.memory < 2**30
  # The clock that counts has ticks of 10 ms, and a turn takes 200.
  for turn in turns['compute']:
    assert turn.cpu == pytest.approx(0.05, abs=0.02)
  for turn in turns['child']:
    assert 0.17 < turn.cpu < 0.5
  assert len(workers[0].start_seconds) == 2
  assert min(workers[0].start_seconds) > 0.05
  assert 'unknown' in failures.pop('not built')
  assert failures == {
    'fails': 'ValueError: no luck',
    'dies': 'its process ended with code 3',
    'slow': 'took more than 1 s',
  }


def test_a_failure_can_end_the_script():
  with (
    _flags(),
    pytest.raises(SystemExit, match='fails: ValueError: no luck'),
    harness.race([_counter('fails', work='fail')]),
  ):
    pass


def test_a_contender_stands_still_between_calls():
  with _counter('one', environment={'ALEXNET_ADDED': '1'}) as worker:
    # The C library reads some variables before Python runs.
    assert worker.call('born_with', 'ALEXNET_ADDED')
    assert 'ALEXNET_ADDED' not in os.environ
    before = worker.call('ticks')
    time.sleep(0.5)
    # A tick takes 5 ms: a hundred, if it had not been stopped.
    assert worker.call('ticks') - before < 30


_BUILT = {}


class _InProcess(harness.Worker):
  """Stands in for a process; equal contenders are built once."""

  def __enter__(self):
    settings = self.settings
    if 'jax_step' in self.factory:
      # The tests have a compilation cache of their own.
      settings = {'precision': 'float32', **settings, 'cache_dir': ''}
    key = f'{self.factory} {settings}'
    if key not in _BUILT:
      _BUILT[key] = pkgutil.resolve_name(self.factory)(**settings)
    self._contender = _BUILT[key]
    self._started = time.perf_counter()
    return self

  def __exit__(self, *exc_info):
    pass

  def call(self, method, *args):
    return getattr(self._contender, method)(*args)


@pytest.fixture
def in_process(monkeypatch):
  monkeypatch.setattr(harness, 'Worker', _InProcess)
  monkeypatch.setitem(presets.PRESETS, 'tiny', lambda: _NETWORK)
  monkeypatch.setitem(ceilings.SIDES, 'cpu', 64)
  monkeypatch.setitem(ceilings.COPY_BYTES, 'cpu', 2**20)


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


def _number(cell):
  return float(cell.replace(',', ''))


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
  seconds = float(row['ms a step']) / 1e3
  assert _number(row['images/s']) == pytest.approx(4 / seconds, rel=0.01)
  flops = 4 * workload.step_flops(_NETWORK, 8) / seconds
  assert float(row['TFLOP/s']) == pytest.approx(flops / 1e12, rel=0.01)
  assert row['first step'].endswith(' s')
  assert row['second start'].endswith(' s')
  assert row['against torch'] == ''
  assert 0.1 < float(row['peak memory'].removesuffix(' GiB')) < 20
  assert 'Not run: torch: torch is not installed' in text


def test_summary_takes_the_fastest_torch():
  seconds = {
    'ours': [2.0, 9.0, 1.0], 'ours, 2 devices': [2.5], 'torch': [4.0],
    'torch, compiled': [3.0],
  }  # fmt: skip
  entries = [
    train_step.Entry(
      name, 'float32', 8, [harness.Turn(value, 0, 0) for value in values]
    )
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
    'input', 'conv1', 'pool 1', 'norm 1', 'dropout 1', 'join 8', 'fc8', 'loss',
    'update', 'sum', 'both passes', 'whole step', 'between parts',
  ]  # fmt: skip
  (built,) = (
    one for one in _BUILT.values() if isinstance(one, layer_passes.LayerPasses)
  )
  costs = {name: both for name, *both in built.costs()}
  flops = sum(a.flops + b.flops for a, b in costs.values())
  assert flops == 4 * workload.step_flops(_NETWORK, 8)
  # Four images. conv1: 8x8x3 to two towers' 6x6x2; the images need no gradient.
  kernels, maps = 2 * (3 * 3 * 3 * 2 + 2), 4 * (2 * 6 * 6 * 2)
  reads = 4 * 8 * 8 * 3 + kernels
  assert [cost.bytes for cost in costs['conv1']] == [
    4 * (reads + maps), 4 * (reads + maps + kernels),
  ]  # fmt: skip
  # fc8: 2x2x4, the maps of both towers, to two towers' 5.
  kernels, units = 2 * (16 * 5 + 5), 4 * (2 * 5)
  reads = 4 * 2 * 2 * 4 + kernels
  assert [cost.bytes for cost in costs['fc8']] == [
    4 * (reads + units), 4 * (2 * reads + units),
  ]  # fmt: skip


def test_floors():
  cost = layer_passes.Cost
  found = layers.compare(
    [('a', cost(4_000_000, 3000), cost(1, 9000))],
    [[(0.010, 0.02)], [(0.016, 0.04)], [(0.012, 0.03)]],
    product=1e9,
    copy=1e6,
  )
  # 4 ms by its operations against 3 by its bytes; 9 ms by its bytes.
  assert found == [('a', 0.012, 0.004, 0.03, 0.009)]
  assert layers.rows(found, 0.05)[0][-1] == '29.0'


def test_scaling(in_process, monkeypatch, capsys):
  monkeypatch.setattr(scaling, 'CLASSES', (7,))
  monkeypatch.setattr(scaling, 'DEVICES', (4,))
  monkeypatch.setattr(scaling, 'SET_SIZES', (40,))
  with _flags():
    with monkeypatch.context() as patch:
      cells = [''] * len(scaling.STEP_HEADER)
      patch.setattr(
        scaling, 'measure_steps', lambda own: dict.fromkeys(own, cells)
      )
      print(scaling.classes(), end='\n\n')
    print(scaling.devices(), end='\n\n')
    print(scaling.set_sizes())
  classes, devices, images = _tables(capsys.readouterr().out)
  # Seven classes need four units per tower.
  assert _number(classes[0]['parameters']) == ((4 * 27 + 4) + 8 * (16 + 1))
  seconds = float(devices[0]['ms a step']) / 1e3
  assert float(devices[0]['ms an image']) == pytest.approx(
    1e3 * seconds / 4, rel=0.01
  )
  assert images[0]['images'] == '40'


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
  ours, floor = (_number(row['images/s a core']) for row in rows[:2])
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
  speed, waiting = training_run.speed(lines)
  assert speed == pytest.approx(2 / 0.03)
  assert waiting == pytest.approx((1 * 0.1 + 2 * 0.4) / 3)


def test_end_to_end(in_process, monkeypatch, capsys):
  original = imagenet.get_config

  def small():
    config = original('tiny')
    config.input.image_size, config.input.crop_size = 10, 8
    config.data.num_examples = 16
    return config

  monkeypatch.setattr(imagenet, 'get_config', small)
  monkeypatch.delenv('ALEXNET_DATA', raising=False)
  runs = iter([(90.0, 92.0, 0.01), (110.0, 108.0, 0.03), (800.0, 41.0, 0.0)])
  monkeypatch.setattr(
    training_run.TrainingRun, 'turn', lambda self, seconds: next(runs)
  )
  with _flags():
    end_to_end.main([])
  (rows,) = _tables(capsys.readouterr().out)
  assert [row['what'] for row in rows] == [
    'run', 'by the clock', 'step alone', 'pipeline alone',
    'limit: the slower of the two', 'limit: both in turn',
  ]  # fmt: skip
  run, clock, step, pipeline, slower, in_turn = (
    _number(row['images/s']) for row in rows
  )
  assert run == clock == 100
  assert rows[0]['data wait'] == '2.0 %'
  assert slower == min(step, pipeline)
  assert in_turn == pytest.approx(1 / (1 / step + 1 / pipeline), rel=1e-2)
  # A printed speed that the clock contradicts.
  with _flags(rounds=1), pytest.raises(SystemExit, match=r'800.0 .* 41.0'):
    end_to_end.main([])


def test_soak_samples_a_process():
  before = soak.sample(7, os.getpid())
  assert before.step == 7
  assert before.threads >= threading.active_count()
  held, stop = np.ones(2**24), threading.Event()  # 128 MiB
  thread = threading.Thread(target=stop.wait)
  thread.start()
  with open(os.devnull), open(os.devnull):
    after = soak.sample(8, os.getpid())
  stop.set()
  thread.join()
  assert held.nbytes / 2**20 - 20 < after.memory - before.memory
  assert after.threads == before.threads + 1
  assert after.files == before.files + 2


def test_soak(monkeypatch, capsys):
  held = [
    soak.Sample(step, 500 + 0.003 * step, 9, 7 + (step % 10 == 0))
    for step in range(5, 61, 5)
  ]
  given = []
  monkeypatch.setattr(soak, 'watch', lambda flags: given.append(flags) or held)
  with _flags(steps=60, every=25, warm_up=20):
    soak.main([])
  out = capsys.readouterr().out
  (rows,) = _tables(out)
  assert [row['steps'] for row in rows] == ['1 to 25', '26 to 50', '51 to 60']
  assert [row['threads'] for row in rows] == ['9'] * 3
  assert '\nPer 1,000 steps after step 20: +3.00 MiB, +0.00 threads,' in out
  assert given == [[*soak._SMOKE, '--config.max_steps=60']]


def test_soak_reports_a_run_that_fails():
  run_flags = ['--config=configs/smoke.py', '--config.batch_size=0']
  with pytest.raises(SystemExit, match=r'main\.py failed: .*batch_size'):
    list(soak.watch(run_flags))


def test_torch_computes_the_same_function():
  pytest.importorskip('torch')
  from benchmarks import torch_step

  assert len(torch_step.Agreement('small', 4, 28).lines()) == 2


def test_steps_run_without_tensorflow(tmp_path):
  """A machine with a GPU may have only JAX, Flax and optax."""
  for name in ('tensorflow', 'ml_collections', 'tensorboardX', 'PIL', 'orbax'):
    (tmp_path / f'{name}.py').write_text('raise ImportError(__name__)')
  code = (
    'from benchmarks import gpu_program, layer_passes, layers, train_step\n'
    'from benchmarks import ceilings, jax_step\n'
    'import jax\n'
    'jax_step.lower("small", 2, 28, "float32", jax.devices())\n'
  )
  root = str(pathlib.Path(__file__).parents[1])
  environment = os.environ | {'PYTHONPATH': f'{tmp_path}:{root}'}
  subprocess.run([sys.executable, '-c', code], env=environment, check=True)
