"""Every study of configs/studies/ fits its base config."""

import importlib
import pathlib

import pytest

from alexnet_jax import architecture
from alexnet_jax import setup
from alexnet_jax.studies.measures import MEASURES
from alexnet_jax.studies.study import Study
from configs.studies import base

_ROOT = pathlib.Path(__file__).parents[1]
_NAMES = sorted(
  path.stem
  for path in (_ROOT / 'configs/studies').glob('*.py')
  if path.stem not in ('__init__', 'base')
)


def _read(name):
  module = importlib.import_module(f'configs.studies.{name}')
  return Study.read(module.get_config())


def _config(study, variant):
  path, _, preset = study.base.partition(':')
  module = importlib.import_module(f'configs.{path}')
  config = module.get_config(preset) if preset else module.get_config()
  config.update_from_flattened_dict(study.changes(variant, 0))
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


def test_the_widths_are_those_of_the_base():
  network = setup.build(_config(_read('sizes'), 'base')).network
  features = {layer.name: layer.features for layer in network.layers[:-1]}
  assert base.width(1) == {
    f'network.{name}.features': number for name, number in features.items()
  }
