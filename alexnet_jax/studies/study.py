"""A study as data: a question, the variants that answer it, and the claim.

`configs/studies/` has one file per study. Nothing here runs anything.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import importlib
import itertools
import os
import re
from typing import Any, Self

from ml_collections import config_dict

from alexnet_jax import errors
from alexnet_jax import settings

# Metrics of a run that is at its end; measures bring their own.
TOP1, EPOCHS_TO = 'top1_error', 'epochs_to_'
# Between a variant and one value of its grid, of which the best is compared.
GRID = ' @ '

# ('times', 0.5) instead of a value is half of what the base has, whichever that
# is: a study asks the same of another network.
TIMES = 'times'

Overrides = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two variants, and how much the first exceeds the second by the paper.

  Attributes:
    first: the name of a variant, or what precedes `GRID` in several names.
    second: the same.
    metric: what is compared; '' for that of the study.
    claim: the paper's figure: first - second, or first / second where `ratio`.
      None if the paper gives none.
    sign: of the claim, where the paper gives no figure: 1 if the first is
      larger, -1 if it is smaller, 0 if the paper says neither.
    ratio: whether factors are compared instead of differences.
  """

  first: str
  second: str
  metric: str = ''
  claim: float | None = None
  sign: int = 0
  ratio: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """One question and how to answer it.

  Attributes:
    name: of the file in `configs/studies/`.
    question: in one sentence, as readers ask it.
    section: of the paper.
    claim: what the paper says, in words.
    answer: in plain sentences, written when the results are known.
    base: the config that every run begins with: 'imagenet', or with a preset,
      'imagenet:paper'.
    base_overrides: changes of the base's keys, for whoever makes the study:
      another dtype, more epochs.
    data_dir: in place of the base's data.data_dir; '' leaves that.
    store_dir: in place of the base's data.store_dir; '' leaves that.
    overrides: of the study, the same for all variants.
    quick: further ones, with --quick.
    variants: by name, further overrides.
    seeds: how many runs a variant has, with the seeds 0, 1, ...
    metric: the one that is drawn, tabulated first, and compared by default.
    measure: '' or the name of a measure on the trained networks, whose variants
      replace those of the runs.
    against: a metric, along which the other is drawn as a curve; '' for none.
    comparisons: what the verdict is about; the first one is the study's.
    sizes: what the variants have different amounts of, such as images, by the
      name of the variant; a power law of the metric in it is fitted. Empty for
      none.
    larger: sizes for which the law predicts the metric.
  """

  name: str
  question: str
  section: str
  claim: str
  answer: str
  base: str
  base_overrides: Overrides
  data_dir: str
  store_dir: str
  overrides: Overrides
  quick: Overrides
  variants: Mapping[str, Overrides]
  seeds: int
  metric: str
  measure: str
  against: str
  comparisons: tuple[Comparison, ...]
  sizes: Mapping[str, float]
  larger: tuple[float, ...]

  @classmethod
  def read(cls, config: config_dict.ConfigDict) -> Self:
    """Reads a config of `configs/studies/`.

    Raises:
      UserError: if it is no study, or changes a key that its base lacks.
    """
    values: dict[str, Any] = config.to_dict()
    keys = {field.name for field in dataclasses.fields(cls)}
    if values.keys() != keys:
      different = sorted(values.keys() ^ keys)[0]
      raise errors.UserError(
        f'--config is no study ({different}): use a file of configs/studies/'
      )
    in_base = _values_of(values['base'])
    own = _resolved(values['base_overrides'], in_base)
    values['base_overrides'] = own
    in_base |= dict(own)
    for name in ('overrides', 'quick'):
      values[name] = _resolved(values[name], in_base)
    values['variants'] = {
      name: _resolved(changes, in_base) for name, changes in values['variants']
    }
    values['comparisons'] = tuple(
      Comparison(**each) for each in values['comparisons']
    )
    values['sizes'] = dict(values['sizes'])
    study = cls(**values)
    study._check()
    return study

  def _check(self) -> None:
    if self.seeds < 1 or not self.variants:
      raise errors.UserError(
        f'--config.seeds={self.seeds} and {len(self.variants)} variants make no'
        ' study: at least 1 of each is needed'
      )
    if not re.fullmatch(r'\w+', self.name, re.ASCII):
      raise errors.UserError(
        f"--config.name='{self.name}' is no name of a file: use letters, digits"
        ' and underscores'
      )
    if self.measure:  # Its variants are not known before it has run.
      return
    if unknown := sorted(self.sizes.keys() - self.variants.keys()):
      raise errors.UserError(
        f"the study {self.name} has a size of '{unknown[0]}', which is none of"
        f' its variants: {", ".join(self.variants)}'
      )
    self.check_comparisons(self.variants)

  def check_comparisons(self, variants: Iterable[str]) -> None:
    """Checks that variants of these names are compared, or their grids.

    Raises:
      UserError: if a comparison names another.
    """
    known = {name for each in variants for name in (each, each.split(GRID)[0])}
    for each in self.comparisons:
      for name in (each.first, each.second):
        if name not in known:
          raise errors.UserError(
            f"the study {self.name} compares '{name}', which is none of its"
            f' variants: {", ".join(sorted(known))}'
          )

  @property
  def base_in_words(self) -> str:
    """The base with its changes: 'cifar10_study, num_epochs=6'."""
    changes = (f'{key}={value}' for key, value in self.base_overrides)
    return ', '.join([self.base, *changes])

  @property
  def metrics(self) -> set[str]:
    """The metrics that the study is about."""
    compared = {each.metric for each in self.comparisons if each.metric}
    return {self.metric, *compared}

  def at_absolute_paths(self) -> Self:
    """Returns the study with folders that mean the same from anywhere."""
    data_dir, store_dir = (
      os.path.abspath(folder) if folder else ''
      for folder in (self.data_dir, self.store_dir)
    )
    return dataclasses.replace(self, data_dir=data_dir, store_dir=store_dir)

  def quickly(self) -> Self:
    """Returns the study as --quick does it: one seed, and a short training."""
    variants = {
      name: (*changes, *self.quick) for name, changes in self.variants.items()
    }
    return dataclasses.replace(self, seeds=1, variants=variants)

  def runs(self) -> list[tuple[str, int]]:
    """Returns variant and seed of every run.

    All variants of one seed come before the next seed, so that a study that is
    not finished has pairs.
    """
    return [
      (name, seed)
      for seed, name in itertools.product(range(self.seeds), self.variants)
    ]

  def values(self, variant: str, seed: int) -> dict[str, Any]:
    """Returns the whole config of a run, by key."""
    return _values_of(self.base) | self.changes(variant, seed)

  def changes(self, variant: str, seed: int) -> dict[str, Any]:
    """Returns what a run changes in the base config, by key.

    What is as in the base is not among it, so that studies share runs.
    """
    in_base = _values_of(self.base)
    changes = dict(
      (*self.base_overrides, *self.overrides, *self.variants[variant])
    )
    changes = {
      key: value for key, value in changes.items() if value != in_base[key]
    }
    for name in ('data_dir', 'store_dir'):
      if folder := getattr(self, name):
        changes[f'data.{name}'] = folder
    return changes | {'seed': seed}


def _values_of(base: str) -> dict[str, Any]:
  """Returns the values of a base config by key."""
  name, _, preset = base.partition(':')
  try:
    module = importlib.import_module(f'configs.{name}')
  except ModuleNotFoundError as error:
    raise errors.UserError(
      f"--config.base='{base}': there is no configs/{name}.py"
    ) from error
  config = module.get_config(preset) if preset else module.get_config()
  return dict(settings.flatten(config.to_dict()))


def _resolved(changes: Overrides, in_base: Mapping[str, Any]) -> Overrides:
  """Returns changes with numbers in place of `TIMES`."""
  found = []
  for key, value in changes:
    if key not in in_base:
      raise errors.UserError(
        f'the study changes {key}, which its base does not have: set'
        ' --config.base to another'
      )
    if isinstance(value, tuple) and value[:1] == (TIMES,):
      number = in_base[key] * value[1]
      value = round(number) if isinstance(in_base[key], int) else number
    found.append((key, value))
  return tuple(found)
