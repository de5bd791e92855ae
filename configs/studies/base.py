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


def times_inputs(factor: float, *layers: str) -> dict[str, tuple[str, float]]:
  """Returns changes that keep the size of the sums of layers at the start.

  The layers read so many times the inputs, by another change.
  """
  return times(factor**-0.5, *(f'network.{name}.init_std' for name in layers))


def no_communication() -> dict[str, Any]:
  """Returns changes after which no layer reads the other tower."""
  joined = ('conv3', 'fc6', 'fc7')
  reads = {f'network.{name}.reads': 'own' for name in joined}
  return {**reads, **times_inputs(0.5, *joined)}


def sample(share: float) -> dict[str, tuple[str, float]]:
  """Returns changes for as many updates on a share of the training images.

  The sample is the same for all seeds.
  """
  return {
    'data.num_train': ('share', share),
    **times(1 / share, 'num_epochs', 'optimizer.warmup_epochs'),
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
  config.comparisons = comparisons
  config.sizes = _pairs(sizes or {})
  config.larger = larger
  return config


def _pairs(changes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  return tuple(changes.items())
