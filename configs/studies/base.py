"""Defaults of all studies: CIFAR-10 and five runs per variant."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
DENSE = ('fc6', 'fc7')


def times(factor: float, *keys: str) -> dict[str, tuple[str, float]]:
  """Returns changes that multiply what the base has."""
  return dict.fromkeys(keys, ('times', factor))


def times_features(factor: float, *layers: str) -> dict[str, tuple[str, float]]:
  """Returns changes that multiply the features of layers."""
  return times(factor, *(f'network.{name}.features' for name in layers))


def plus(key: str, *values: str) -> dict[str, tuple[str, ...]]:
  """Returns a change that appends values to what the base has."""
  return {key: ('plus', *values)}


def same_sums(*layers: str) -> dict[str, tuple[str]]:
  """Returns changes that keep the size of the sums of layers at the start.

  For layers that read more or fewer inputs by other changes: the variance of
  the initial weights is divided by the factor.
  """
  return {f'network.{name}.init_std': ('fan_in',) for name in layers}


def no_communication() -> dict[str, Any]:
  """Returns changes after which only the classifier reads both towers."""
  joined = ('conv3', 'fc6', 'fc7')
  reads = {f'network.{name}.reads': 'own' for name in joined}
  return {**reads, **same_sums(*joined)}


def sample(share: float) -> dict[str, tuple[str, float]]:
  """Returns changes for as many updates on a share of the training images.

  The sample is the same for all seeds.
  """
  return {
    'data.num_train': ('share', share),
    **times(
      1 / share,
      'num_epochs',
      'optimizer.warmup_epochs',
      'optimizer.plateau.patience',
    ),
  }


def study(
  name: str,
  *,
  question: str,
  section: str,
  claim: str,
  variants: Mapping[str, Mapping[str, Any]],
  comparisons: tuple[Mapping[str, Any], ...] = (),
  sizes: Mapping[str, float] | None = None,
  larger: tuple[float, ...] = (),
  answer: str = '',
  answered: str = '',
  base: str = 'cifar10_study',
  overrides: Mapping[str, Any] | None = None,
  seeds: int = 5,
  metric: str = 'top1_error',
  measure: str = '',
  against: str = '',
  per_byte: bool = False,
) -> config_dict.ConfigDict:
  """Returns a study; see `alexnet_jax.studies.study.Study`.

  Any study runs on other data: --config.base=imagenet, or --config.data_dir=DIR
  for another folder, --config.store_dir=STORE for a prepared one; or with other
  values in the base: --config.base_overrides="(('num_epochs', 6),)".
  """
  config = config_dict.ConfigDict()
  config.name = name
  config.question = question
  config.section = section
  config.claim = claim
  config.answer = answer
  config.answered = answered
  config.base = base
  config.base_overrides = ()
  config.data_dir = ''
  config.store_dir = ''
  config.overrides = _pairs(overrides or {})
  # So that a trial takes minutes even if an epoch takes hours.
  config.quick = _pairs({'max_steps': 1000})
  # Tuples, since keys of a ConfigDict have no dots and no spaces.
  config.variants = tuple(
    (variant, _pairs(changes)) for variant, changes in variants.items()
  )
  config.seeds = seeds
  config.metric = metric
  config.measure = measure
  config.against = against
  config.per_byte = per_byte
  config.comparisons = comparisons
  config.sizes = _pairs(sizes or {})
  config.larger = larger
  return config


def _pairs(changes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  return tuple(changes.items())
