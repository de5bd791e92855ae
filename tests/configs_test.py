"""A short run of every config, on generated data."""

import math

import numpy as np
import pytest

from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import train
from configs import cifar10
from configs import cifar10_four_layer
from configs import cifar10_study
from configs import fashion_mnist
from configs import imagenet
from configs import imagenet2010
from configs import imagenet_large_batch
from tests import input_pipeline_testing as testing

_CLASSES = 4
# The network keeps its layers, their order and their kernels.
_NARROW = {
  **{f'network.conv{i}.features': 8 for i in (1, 2, 3, 4, 5)},
  'network.fc6.features': 8,
  'network.fc7.features': 8,
  'network.fc8.features': _CLASSES,
}
_NARROW_FOUR = {
  **{f'network.conv{i}.features': 8 for i in (1, 2, 3)},
  'network.fc4.features': _CLASSES,
}
_SHORT = {
  'max_steps': 3,
  'optimizer.warmup_epochs': 0.5,
  'batch_size': 4,
  'log.every_steps': 1,
  'evaluate.batch_size': 4,
  'devices': 1,
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Generated JPEGs in class folders, and IDX files."""
  root = tmp_path_factory.mktemp('folders')
  for size in (32, 256):
    testing.write_folder(
      root / f'{size}/train', _CLASSES, 3, sides=(size, size + 8)
    )
    (root / f'{size}/test').symlink_to(root / f'{size}/train')
  rng = np.random.default_rng(0)
  for prefix in ('train', 't10k'):
    images = rng.integers(0, 256, (12, 28, 28), np.uint8)
    testing.write_idx(root / 'idx', prefix, images, np.arange(12) % 10)
  return root


@pytest.mark.parametrize(
  ('module', 'preset', 'folder', 'overrides'),
  [
    (fashion_mnist, 'small', 'idx', {'data.source': 'idx'}),
    (cifar10, 'small', '32', _NARROW),
    (cifar10_four_layer, 'four_layer', '32', _NARROW_FOUR),
    (cifar10_study, 'study', '32', _NARROW),
    (
      imagenet,
      'paper',
      '256',
      {**_NARROW, 'data.source': 'folder', 'data.eval_split': 'test'},
    ),
    (imagenet2010, 'cuda_convnet', '256', _NARROW),
    (
      imagenet_large_batch,
      'paper',
      '256',
      {
        **_NARROW,
        'accumulation': 2,
        'data.source': 'folder',
        'data.eval_split': 'test',
      },
    ),
  ],
  ids=lambda value: getattr(value, '__name__', None),
)
def test_three_steps_and_a_validation(
  folders, tmp_path, module, preset, folder, overrides
):
  config = module.get_config(preset)
  config.update_from_flattened_dict(
    {**_SHORT, 'data.data_dir': str(folders / folder), **overrides}
  )
  assert train.train(setup.build(config), tmp_path) == 0
  lines = reporting.read(tmp_path / 'metrics.jsonl')
  losses = [line['nll'] for line in lines if line['kind'] == 'train']
  assert len(losses) == 3
  assert all(map(math.isfinite, losses))
  # An untrained network knows nothing: about ln(classes).
  network = config.network
  classes = network[network.layers[-1]].features
  assert losses[0] == pytest.approx(math.log(classes), rel=0.5)
  (validation,) = (line for line in lines if line['kind'] == 'validation')
  assert validation['step'] == 3
  assert validation['examples'] == 12
