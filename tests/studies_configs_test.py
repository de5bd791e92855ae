"""Every study of configs/studies/ fits its base config."""

import importlib
import pathlib

import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import presets
from alexnet_jax import setup
from alexnet_jax.studies.measures import MEASURES
from alexnet_jax.studies.study import Study

_ROOT = pathlib.Path(__file__).parents[1]
_NAMES = sorted(
  path.stem
  for path in (_ROOT / 'configs/studies').glob('*.py')
  if path.stem not in ('__init__', 'base')
)


def _read(name):
  module = importlib.import_module(f'configs.studies.{name}')
  return Study.read(module.get_config()).of_images(50_000)


def _config(study, variant):
  config = study.config(variant, 0)
  config.devices = 1
  return config


@pytest.mark.parametrize('name', _NAMES)
def test_every_variant_is_a_run(name):
  study = _read(name)
  assert study.name == name
  assert not study.measure or study.measure in MEASURES
  for variant in study.variants:
    parts = setup.build(_config(study, variant))
    assert parts.settings.seed == 0


def test_plain_pooling_has_as_many_windows():
  study = _read('pooling')
  shapes = [
    architecture.layer_shapes(setup.build(config).network, 28)
    for config in (_config(study, variant) for variant in study.variants)
  ]
  assert shapes[0] == shapes[1]


def test_a_study_asks_the_same_of_another_base():
  module = importlib.import_module('configs.studies.towers')
  config = module.get_config()
  config.base = 'imagenet'
  half = setup.build(_config(Study.read(config), 'half the kernels'))
  assert half.network == presets.one_gpu()
  config.base = 'cifar10_four_layer'
  with pytest.raises(errors.UserError, match='which the base does not have'):
    Study.read(config)
