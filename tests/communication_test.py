"""Bytes between devices, read off compiled steps and counted by hand."""

from absl import flags
from absl.testing import flagsaver
import jax
import pytest

from alexnet_jax import architecture
from alexnet_jax import presets
from alexnet_jax import sharding
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense
from benchmarks import communication
from benchmarks import hlo
from benchmarks import jax_step
from benchmarks.communication import Cluster

# Like the paper's: towers meet before conv2 and in every dense layer.
_NETWORK = architecture.Architecture(
  layers=(
    Conv('conv1', 4, 3, order=('activation', 'pool')),
    Conv('conv2', 4, 2, reads='all'),
    Dense('fc6', 16),
    Dense('fc7', 8),
    Dense('fc8', 5, order=()),
  )
)
# Parameters of the network for images of 8x8. conv1 makes 6x6 maps, pooled to
# 2x2, and conv2 1x1; fc8 has three units per tower.
_CONV = 4 * (27 + 1) + 4 * (16 + 1)
_DENSE = 16 * (4 + 1) + 8 * (16 + 1) + 6 * 8
_FC8_BIAS = 6
_METRICS = 5


if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(presets.PRESETS, 'tiny', lambda: _NETWORK)


@pytest.mark.parametrize(
  ('parallelism', 'devices', 'activations', 'gradients'),
  [
    # By image and tower 2x2x2 maps, 2 maps, 8 and 4 features, both ways; three
    # logits one way. Each device sends its own to the other.
    ('towers', 2, 8 * (2 * (8 + 2 + 8 + 4) + 3), 0),
    ('both', 4, 4 * (2 * (8 + 2 + 8 + 4) + 3),
     (_CONV + _DENSE + _FC8_BIAS) / 2 + _METRICS),
    ('data', 4, 0, 1.5 * (_CONV + _DENSE + _FC8_BIAS + _METRICS)),
    # conv2's maps, fc6's features and six logits, both ways; the place of each
    # example once. Three quarters of each.
    ('one_weird_trick', 4, 0.75 * 8 * (2 * (4 + 16 + 6) + 1),
     1.5 * (_CONV + _FC8_BIAS + _METRICS)),
  ],
)  # fmt: skip
def test_the_program_sends_what_is_counted(
  parallelism, devices, activations, gradients
):
  counted = communication.count(_NETWORK, 8, 8, parallelism, devices)
  assert communication.sums(counted) == (4 * activations, 4 * gradients)
  lowered = jax_step.lower(
    'tiny', 8, 8, 'float32', jax.devices()[:devices], parallelism
  )
  found = hlo.exchanges(lowered.compile().as_text())
  assert communication.sums(found) == pytest.approx((
    4 * activations, 4 * gradients,
  ))  # fmt: skip


def test_one_device_sends_nothing():
  for parallelism in sharding.PARALLELISM:
    assert communication.count(_NETWORK, 8, 8, parallelism, 1) == []


def test_bytes_of_the_paper_network():
  paper = presets.paper()
  # 61,172 floats per image and tower.
  counted = communication.count(paper, 224, 3, 'towers', 2)
  assert communication.sums(counted) == (3 * 4 * 61_172, 0)
  _, gradients = communication.sums(
    communication.count(paper, 224, 4, 'both', 4)
  )
  assert gradients == 4 * (60_965_224 // 2 + 5)
  # Half of the convolutions and of the biases of fc8, twice.
  counted = communication.count(paper, 224, 8, 'one_weird_trick', 2)
  convolutions = 60_965_224 - 58_631_144
  assert communication.sums(counted) == (
    4 * (8 * (9216 + 4096 + 1000) + 4), 4 * (convolutions + 1000 + 5),
  )  # fmt: skip


def test_prediction_by_hand():
  # A byte a second between devices, a tenth of that to another host.
  cluster = Cluster('', 1.0, 0.1, 0.5, fixed=7.0, image=3.0, float_bytes=4)
  computing, exchanging = communication.seconds(
    cluster, _NETWORK, 8, 16, 'both', 4
  )
  assert computing == 3.0 * 16 / 4 + 7.0 / 2
  activations, gradients = communication.sums(
    communication.count(_NETWORK, 8, 16, 'both', 4)
  )
  # Nine joins and one sum, all between two devices.
  assert exchanging == pytest.approx(activations + gradients + 10 * 0.5)
  # Sixteen devices on two hosts: the sums of both towers share the network,
  # and the towers of a copy stay on a host.
  _, exchanging = communication.seconds(cluster, _NETWORK, 8, 16, 'both', 16)
  activations, gradients = communication.sums(
    communication.count(_NETWORK, 8, 16, 'both', 16)
  )
  expected = activations + gradients / 0.05 + 9 * 0.5 + 3 * 0.5
  assert exchanging == pytest.approx(expected)


def test_tables():
  with flagsaver.flagsaver(preset='paper', crop_size=224):
    lines = communication.predict().splitlines()
  assert len(lines) == 2 + 3 * 2 * 3
  for line in lines[2:]:
    _, devices, batch, *steps, images, _ = (
      cell.strip() for cell in line.split('|')[1:-1]
    )
    size = 128 * int(devices) if 'each' in batch else 1024
    assert batch.split()[0] == f'{size:,}'
    fastest = min(sum(map(float, step.split('+'))) for step in steps)
    found = float(images.replace(',', ''))
    assert found == pytest.approx(1e3 * size / fastest, rel=0.05)
  # What is predicted for 2014 is above what was measured, and not by much.
  for line in communication.look_back().splitlines()[2:]:
    _, predicted, measured = map(float, line.split('|')[2:5])
    assert measured < predicted < 1.25 * measured
