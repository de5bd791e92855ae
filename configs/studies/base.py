"""What the studies have in common: CIFAR-10, and five runs a variant."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

# 2x2 windows at distance 2 that may reach past the border, as in net 147: as
# many windows as 3x3 have.
PLAIN_POOLING = {'network.pool.size': 2}

# Features of the convolutions of the base, all towers together.
_FEATURES = {'conv1': 32, 'conv2': 64, 'conv3': 64, 'conv4': 64, 'conv5': 64}
_DENSE = {'fc6': 256, 'fc7': 256}

# The paper's net for one GPU halves conv1 to conv4 and leaves the rest whole.
HALF_THE_KERNELS = {
  f'network.{name}.features': _FEATURES[name] // 2
  for name in ('conv1', 'conv2', 'conv3', 'conv4')
}


def width(factor: float) -> dict[str, int]:
  """Returns the features of all hidden layers, multiplied by a factor."""
  return {
    f'network.{name}.features': round(factor * features)
    for name, features in (_FEATURES | _DENSE).items()
  }


def study(
  name: str,
  *,
  question: str,
  section: str,
  claim: str,
  variants: Mapping[str, Mapping[str, Any]],
  comparisons: tuple[Mapping[str, Any], ...] = (),
  answer: str = '',
  base: str = 'cifar10_study',
  overrides: Mapping[str, Any] | None = None,
  seeds: int = 5,
  metric: str = 'top1_error',
  measure: str = '',
) -> config_dict.ConfigDict:
  """Returns a study; `alexnet_jax.studies.study.Study` says what is what.

  Any study runs on other data: --config.base=imagenet, or --config.data_dir=DIR
  for another folder.
  """
  config = config_dict.ConfigDict()
  config.name = name
  config.question = question
  config.section = section
  config.claim = claim
  config.answer = answer
  config.base = base
  config.data_dir = ''
  config.overrides = _pairs(overrides or {})
  config.quick = _pairs({'num_epochs': 2})
  # Tuples, since keys of a ConfigDict have no dots and no spaces.
  config.variants = tuple(
    (variant, _pairs(changes)) for variant, changes in variants.items()
  )
  config.seeds = seeds
  config.metric = metric
  config.measure = measure
  config.comparisons = comparisons
  return config


def _pairs(changes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  return tuple(changes.items())
