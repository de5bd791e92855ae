import numpy as np
import pytest

from alexnet_jax import inference
from alexnet_jax.analysis import features
from tests import trained_testing


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp('features')
  data = trained_testing.write_data(folder / 'data')
  trained_testing.write_run(folder / 'run', data)
  return folder


def test_devices_share_batches_that_they_do_not_divide(place):
  squares = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
  outputs = []
  for devices in (1, 4):
    config = trained_testing.config(place / 'data', devices=devices)
    run = inference.open_run(place / 'run', config)
    assert len(run.setup.devices) == devices
    outputs.append(np.asarray(features.make_extractor(run, 'fc7')(squares)))
  one, four = outputs
  assert one.shape == (7, 16)
  np.testing.assert_allclose(four, one, atol=1e-5)


def test_squares_are_those_of_the_split_in_any_order(place):
  run = inference.open_run(place / 'run')
  source = run.split('train')
  every = np.concatenate([b['image'] for b in run.data.read(source, '')])
  wanted = np.array([14, 0, 14, 7, 3, 2, 1, 5, 6])  # more than one batch
  squares = features.squares(run, source, wanted)
  np.testing.assert_array_equal(squares, every[wanted])
  assert features.last_hidden(run) == 'fc7'
  assert features.stem('fc7', source) == 'fc7-train'
