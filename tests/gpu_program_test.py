"""Reads programs that were compiled for a GPU, on a machine without one."""

import contextlib
import importlib.util
import math
import pathlib

from absl import flags
from absl.testing import flagsaver
import pytest

from alexnet_jax import presets
from benchmarks import communication
from benchmarks import gpu_compiler
from benchmarks import gpu_program
from benchmarks import hlo
from benchmarks import workload

_PROGRAM = (pathlib.Path(__file__).parent / 'gpu_program.hlo').read_text()


def test_launches_of_a_program():
  found = {launch.name: launch for launch in hlo.launches(_PROGRAM)}
  kinds = {name: launch.kind for name, launch in found.items()}
  assert kinds == {
    'conv': 'convolution', 'dw': 'convolution', 'dx': 'convolution',
    'half': 'layout copy', 'f': 'normalization', 'h': 'cast',
    'g': 'matrix product', 'lt': 'matrix product', 'ag': 'collective',
    'rs': 'collective',
  }  # fmt: skip
  x, w, y = 2 * 8 * 36 * 4, 2 * 16 * 9 * 4, 2 * 8 * 16 * 16
  quarter = y // 4
  sizes = {name: launch.bytes for name, launch in found.items()}
  assert sizes == {
    'conv': x + w + y + 100, 'dw': x + y + w, 'dx': y + w + x,
    'half': y + quarter,
    # Of its first operand it reads two slices.
    'f': quarter + 2 * 8 * 3 * 4 + quarter + quarter,
    'h': 4 * 6 + 2 * 6,
    'g': 2 * (128 * 64 + 64 * 32) + 4 * 128 * 32,
    # Both its operands are one array.
    'lt': 4 * 128 * 32 + 4 * 128 * 16 + 64,
    'ag': 2 * 6 + 2 * 12, 'rs': 2 * 12 + 2 * 6,
  }  # fmt: skip
  products = {n: (x.operations, x.dtype) for n, x in found.items() if x.dtype}
  convolution = 2 * (8 * 4 * 4 * 16) * (3 * 3 * 4), 'bf16'
  assert products == {
    'conv': convolution, 'dw': convolution, 'dx': convolution,
    'g': (2 * 128 * 64 * 32, 'bf16'), 'lt': (2 * 128 * 16 * 32, 'f32'),
  }  # fmt: skip
  assert found['conv'].scope == 's/conv1/conv'


_EXCHANGES = """
 %a = f32[2,13,13,256]{3,2,1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, d
 %b = f32[2,2048]{1,0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, to
 %c = (f32[10]{0}, bf16[3]{0}) all-reduce(%x, %y), replica_groups={{0,2},{1,3}}
 %d = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), channel_id=1, \
replica_groups=mesh['data'=2,'tower'=2] {'tower'}, dimensions={0}
 %e = f32[99]{0} add(%x, %y)
"""


def test_bytes_between_devices():
  found = hlo.exchanges(_EXCHANGES)
  pairs, copies = ((0, 1), (2, 3)), ((0, 2), (1, 3))
  assert found == [
    ('all-gather', 4 * 2 * 13 * 13 * 256, pairs),
    ('reduce-scatter', 4 * 2 * 2048, pairs),
    ('all-reduce', 4 * 10 + 2 * 3, copies),
    ('all-gather', 4 * 8, pairs),
  ]
  # Half of what is gathered, all of what the other tower keeps, and twice half
  # of what is added up.
  assert [one.sent for one in found] == [
    2 * 2 * 13 * 13 * 256, 4 * 2 * 2048, 46, 4 * 4,
  ]  # fmt: skip


def test_an_unexpected_exchange_is_refused():
  line = '%a = f32[2]{0} all-to-all(%x), replica_groups={{0,1}}'
  with pytest.raises(ValueError, match='all-to-all'):
    _ = hlo.exchanges(line)[0].sent


def test_the_bound_is_the_longer_of_bytes_and_operations():
  rates = 100.0, {'bf16': 20.0, 'f32': 10.0}
  launch = hlo.Launch('a', 'convolution', 1000, 100, 'bf16', '')
  assert launch.seconds(*rates) == 10
  assert launch._replace(operations=300).seconds(*rates) == 15
  assert launch._replace(operations=300, dtype='f32').seconds(*rates) == 30
  assert launch._replace(operations=0, dtype='').seconds(*rates) == 10


def test_a_loop_is_refused():
  loop = '  %l = (f32[]) while(%t), condition=%c, body=%b\n  ROOT %t'
  with pytest.raises(ValueError, match='while'):
    hlo.launches(_PROGRAM.replace('  ROOT %t', loop))


def test_lines_and_their_types():
  assert hlo.parse_line('ENTRY %main (x: f32[2]) -> f32[2] {') is None
  assert hlo.parse_line('1 "make_train_step.<locals>.step"') is None
  line = '%a = (f32[2,3]{1,0:T(8,128)}, pred[], /*index=2*/u8[7]) tuple(%x)'
  found = hlo.parse_line(line)
  assert (found.opcode, found.bytes) == ('tuple', 24 + 1 + 7)


@contextlib.contextmanager
def _flags(**values):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(platform='cpu', **values):
    yield


def test_tables(monkeypatch, capsys):
  monkeypatch.setattr(
    gpu_program, 'compiled', lambda cases: [_PROGRAM] * len(cases)
  )
  measured = {1: 2e-9, 2: math.nan}
  monkeypatch.setattr(
    gpu_program, 'measure', lambda case: measured[case.devices]
  )
  with _flags(precisions=['bfloat16'], batch_sizes=['64'], largest=2):
    gpu_program.main([])
  lines = capsys.readouterr().out.splitlines()
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in lines
    if line.startswith('| bfloat16')
  ]
  found = hlo.launches(_PROGRAM)
  size = sum(launch.bytes for launch in found)
  # Nothing here has so many operations that they would take longer than bytes.
  seconds = size / 3.0e12
  operations = sum(launch.operations for launch in found)
  for devices, row in zip('12', cells, strict=True):
    row = dict(zip(gpu_program.HEADER, row, strict=True))
    assert row['devices'] == devices
    assert row['launches'] == '10'
    assert row['images/s at the bound'] == f'{64 / seconds:,.0f}'
    assert row['of matrix rate'] == f'{operations / seconds / 800e12:.2f}'
    assert row['collectives'] == '1 all-gather, 1 reduce-scatter'
  assert [row[-1] for row in cells] == [f'{seconds / 2e-9:.2f}', '']
  assert sum(line.startswith('| lt ') for line in lines) == 2
  assert sum(line.startswith('| h ') for line in lines) == 0


def test_without_the_packages(monkeypatch):
  monkeypatch.setattr(gpu_program.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(SystemExit, match=r"pip install 'jax\[cuda13\]'"):
    gpu_program.compiled([])


def test_the_program_of_a_small_network():
  if not any(map(importlib.util.find_spec, gpu_program.PLUGINS)):
    pytest.skip('jax[cuda13] is not installed')
  rows, side = 32, 32
  network = presets.get('small')
  one = gpu_compiler.Case('bfloat16', rows, 1)
  with _flags(preset='small', crop_size=side):
    found, two = gpu_program.compiled([one, one._replace(devices=2)])
  found = hlo.launches(found)
  # Each weighted sum of the step, and each once.
  operations = sum(launch.operations for launch in found)
  assert operations == rows * workload.step_flops(network, side)
  kinds = {launch.kind for launch in found}
  assert {'convolution', 'matrix product'} <= kinds
  assert {'normalization', 'pooling', 'dropout', 'update'} <= kinds
  assert 'collective' not in kinds
  exchanges = hlo.exchanges(two)
  # All joins but that of the logits are in bfloat16.
  counted = communication.count(network, side, rows, 'both', 2, float_bytes=2)
  assert len(exchanges) == len(counted) == 9
  assert communication.sums(exchanges) == communication.sums(counted)
