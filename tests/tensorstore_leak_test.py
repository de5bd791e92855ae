"""Checkpoints leave no memory behind."""

import gc
import sys

import jax.numpy as jnp
import pytest
import tensorstore

from alexnet_jax import checkpoint
from alexnet_jax import setup
from alexnet_jax import tensorstore_leak
from alexnet_jax.splits import Splits
from configs import smoke

_FOLDER = {'driver': 'file', 'path': '/a folder/ü/'}


def _blocks_left_by(function, times):
  """Returns how many blocks of memory each call of a function leaves."""
  function()
  gc.collect()
  before = sys.getallocatedblocks()
  for _ in range(times):
    function()
  gc.collect()
  return (sys.getallocatedblocks() - before) / times


@pytest.mark.parametrize(
  'spec',
  [
    _FOLDER,
    _FOLDER | {'file_io_locking': {'mode': 'non_atomic'}},
    {'driver': 'ocdbt', 'base': _FOLDER},
    {'driver': 'memory', 'path': 'a/'},
  ],
)
def test_specs_are_converted_as_before(spec):
  spec = tensorstore.KvStore.Spec(spec)
  expected = tensorstore_leak._convert(spec)
  tensorstore_leak.avoid()
  assert spec.to_json() == expected


def test_the_folder_of_an_array_leaves_nothing():
  tensorstore_leak.avoid()
  spec = tensorstore.KvStore.Spec(_FOLDER)
  assert _blocks_left_by(spec.to_json, 1000) < 1  # Without `avoid` it is 4.


def test_a_checkpoint_leaves_little(tmp_path):
  config = smoke.get_config()
  config.network.layers = ('conv1', 'fc8')
  parts = setup.build(config)
  identity = Splits(parts).identity()
  state = setup.first_state(parts)
  steps = iter(range(100))

  def save():
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(state.replace(step=jnp.int32(next(steps))), identity)
    checkpoints.close()

  for _ in range(5):  # Fills caches.
    save()
  # Without `tensorstore_leak` it is 750.
  assert _blocks_left_by(save, 5) < 300
