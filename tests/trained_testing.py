"""A saved run on real files, made in a second, for tests that use one."""

import pathlib

import jax
import numpy as np

from alexnet_jax import checkpoint
from alexnet_jax import setup
from alexnet_jax import splits
from configs import smoke
from tests import input_pipeline_testing as testing

CLASSES = 3
_TINY = {
  'network.layers': ('conv1', 'conv2', 'conv5', 'fc7', 'fc8'),
  'network.conv5.reads': 'all',
  **{f'network.conv{i}.features': 8 for i in (1, 2, 5)},
  'network.fc7.features': 16,
  'network.fc8.features': CLASSES,
  # A first state that tells images apart.
  **{f'network.conv{i}.init_std': 0.25 for i in (1, 2, 5)},
  'network.fc7.init_std': 0.4,
  'network.fc8.init_std': 0.1,
  'data.source': 'folder',
  'data.name': 'pictures',
  'evaluate.batch_size': 8,
  'data.max_unreadable': 0.2,
  'devices': 1,
}


def write_data(folder: pathlib.Path) -> pathlib.Path:
  """Writes 5 training and 4 test images a class, and one file that is none."""
  testing.write_folder(folder / 'train', CLASSES, 5)
  testing.write_folder(folder / 'test', CLASSES, 4, sides=(44, 36))
  (folder / 'test' / 'class1' / '001b.jpg').write_bytes(b'no image')
  return folder


def config(data_dir: pathlib.Path, **overrides):
  """Returns the config of a tiny network; keys have dots."""
  tiny = smoke.get_config()
  tiny.update_from_flattened_dict(
    {**_TINY, 'data.data_dir': str(data_dir), **overrides}
  )
  return tiny


def write_run(
  workdir: pathlib.Path, data_dir: pathlib.Path, step: int = 3, **overrides
) -> dict:
  """Saves a first state as if training had come to `step`; returns params."""
  parts = setup.build(config(data_dir, **overrides))
  return save_first_state(workdir, parts, step)


def save_first_state(
  workdir: pathlib.Path, parts: setup.Setup, step: int = 0
) -> dict:
  """Saves the state of a run that begins as that of `step`; see `write_run`."""
  state = setup.first_state(parts)
  checkpoints = checkpoint.Checkpoints(workdir)
  checkpoints.save(
    state.replace(step=state.step + step), splits.Splits(parts).identity()
  )
  checkpoints.close()
  return jax.tree.map(np.asarray, state.params)
