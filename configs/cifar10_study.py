"""CIFAR-10, the base recipe of the studies."""

from ml_collections import config_dict

from configs import cifar10


def get_config(preset: str = 'study') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = cifar10.get_config(preset)
  config.num_epochs = 10
  return config
