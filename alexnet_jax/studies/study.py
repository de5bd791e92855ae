"""Study definitions: a question, the variants to compare, and the claim.

Each file of `configs/studies/` defines one study. This module only describes
studies; `runs` executes them.
"""

from collections.abc import Mapping
import dataclasses
import importlib
import itertools
import re
from typing import Any, ClassVar, Self

from ml_collections import config_dict

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import settings
from alexnet_jax import setup

# Metrics of a finished run; each measure defines its own.
TOP1 = 'top1_error'
# Followed by an error, such as 0.25; of the training or of the test images.
EPOCHS_TO, EPOCHS_TO_TEST = 'epochs_to_', 'epochs_to_test_'
_METRICS = (
  TOP1, 'top5_error', 'nll', 'train_error', 'gap', 'seconds', 'parameters',
  'multiply_adds', 'exchanged_bytes',
)  # fmt: skip
# What `files.write_csv` escapes.
_FORMULA = ('=', '+', '-', '@')
# Separates the name of a variant from a value of its grid. Comparisons use the
# best value of the grid.
GRID = ' @ '

# Relative overrides, so that a study applies to any base: ('times', 0.5) halves
# the base's value, ('plus', 'pool') appends to it, ('replace', 'pool') removes
# all 'pool' from it, which values that follow would replace, and ('copy', KEY)
# is the base's value of another key.
TIMES, PLUS, REPLACE, COPY = 'times', 'plus', 'replace', 'copy'
# ('share', 0.5) is half the number of the base's training images.
SHARE = 'share'
# ('fan_in',) as a layer's init_std keeps the variance of its sums at the start,
# whatever the number of its inputs.
FAN_IN = 'fan_in'

Overrides = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A comparison of two variants, and the difference that the paper claims.

  Attributes:
    first: a variant's name, or the part before `GRID` shared by several.
    second: likewise.
    metric: the metric compared; '' for the study's metric.
    claim: the paper's figure for first - second, or first / second if `ratio`;
      None if the paper gives no figure.
    sign: the claimed sign if the paper gives no figure: 1 if the first is
      larger, -1 if it is smaller, 0 if the paper makes no claim.
    ratio: whether to compare by ratio instead of by difference.
  """

  first: str
  second: str
  metric: str = ''
  claim: float | None = None
  sign: int = 0
  ratio: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """A question about the paper and the runs that answer it.

  Attributes:
    name: the name of its file in `configs/studies/`.
    question: the question in one sentence.
    section: the section of the paper.
    claim: the paper's claim in words.
    answer: the answer in plain sentences, added once the results are known.
    answered: the base, the number of seeds and the digest of the images that
      the answer is about, such as 'cifar10_study, 3 seeds, images 12ab'.
    base: the config of all runs, optionally with a preset: 'imagenet' or
      'imagenet:paper'.
    base_overrides: overrides of the base set on the command line, such as
      another dtype or more epochs.
    data_dir: overrides the base's data.data_dir unless ''.
    store_dir: overrides the base's data.store_dir unless ''.
    overrides: overrides shared by all variants.
    quick: overrides of the base with --quick.
    variants: additional overrides per variant, by name.
    seeds: the number of runs per variant; their seeds are 0, 1, ...
    metric: the metric that is plotted, tabulated first and compared by default.
    measure: the name of a measure on the trained networks, which defines its
      own variants; '' for none.
    against: the metric on the x-axis of the plot; '' to plot by variant.
    per_byte: whether to report gains per byte exchanged between towers.
    comparisons: the comparisons; the verdict on the first is the study's.
    sizes: for each variant the size of what is varied, such as the training
      set, relative to the base's; a power law is fitted to the metric. Empty
      for no fit.
    larger: sizes at which to extrapolate the power law.
  """

  name: str
  question: str
  section: str
  claim: str
  answer: str
  answered: str
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
  per_byte: bool
  comparisons: tuple[Comparison, ...]
  sizes: Mapping[str, float]
  larger: tuple[float, ...]

  # The keys of `data` that it sets for all runs.
  FOLDERS: ClassVar = ('data_dir', 'store_dir')

  @classmethod
  def read(cls, config: config_dict.ConfigDict) -> Self:
    """Reads a config of `configs/studies/`.

    Raises:
      UserError: if it does not define a study, or overrides a key that the base
        lacks.
    """
    values: dict[str, Any] = config.to_dict()
    keys = {field.name for field in dataclasses.fields(cls)}
    if values.keys() != keys:
      different = sorted(values.keys() ^ keys)[0]
      raise errors.UserError(
        f'--config does not define a study ({different}): use a file of'
        ' configs/studies/'
      )
    in_base = _values_of(values['base'])
    _check_base_overrides(values['base_overrides'], in_base)
    in_base |= dict(values['base_overrides'])
    for name in ('overrides', 'quick'):
      values[name] = _resolved(values[name], in_base)
    values['variants'] = {
      name: _resolved(changes, in_base) for name, changes in values['variants']
    }
    values['comparisons'] = tuple(map(_comparison, values['comparisons']))
    values['sizes'] = dict(values['sizes'])
    study = cls(**values)
    study._check()
    return study

  def _check(self) -> None:
    if self.seeds < 1 or not self.variants:
      raise errors.UserError(
        f'--config.seeds={self.seeds} with {len(self.variants)} variants: a'
        ' study needs at least 1 of each'
      )
    if not re.fullmatch(r'\w+', self.name, re.ASCII):
      raise errors.UserError(
        f"--config.name='{self.name}' is not a valid file name: use letters,"
        ' digits and underscores'
      )
    for variant in self.variants:
      if variant.startswith(_FORMULA):
        raise errors.UserError(
          f"the study {self.name} has a variant '{variant}', which looks like a"
          f' formula in its table: begin it with none of {" ".join(_FORMULA)}'
        )
    if self.measure:  # Its variants and metrics are known once it has run.
      return
    for metric in sorted(self.metrics):
      if metric not in _METRICS and not _reached(metric):
        raise errors.UserError(
          f"the study {self.name} has the metric '{metric}', which is not one"
          f' of {", ".join(_METRICS)}, {EPOCHS_TO}ERROR or'
          f' {EPOCHS_TO_TEST}ERROR'
        )
    if unknown := sorted(self.sizes.keys() - self.variants.keys()):
      raise errors.UserError(
        f"the study {self.name} has a size for '{unknown[0]}', which is not one"
        f' of its variants: {", ".join(self.variants)}'
      )
    known = {*self.variants, *(each.split(GRID)[0] for each in self.variants)}
    for each in self.comparisons:
      for name in (each.first, each.second):
        if name not in known:
          raise errors.UserError(
            f"the study {self.name} compares '{name}', which is not one of its"
            f' variants: {", ".join(sorted(known))}'
          )

  @property
  def base_in_words(self) -> str:
    """The base and its overrides, such as 'cifar10_study, num_epochs=6'."""
    changes = (f'{key}={value}' for key, value in self.base_overrides)
    return ', '.join([self.base, *changes])

  @property
  def metrics(self) -> set[str]:
    """The study's metric and those of its comparisons."""
    compared = {each.metric for each in self.comparisons if each.metric}
    return {self.metric, *compared}

  def at_absolute_paths(self) -> Self:
    """Returns the study with absolute paths."""
    folders = {
      name: str(files.user_folder(folder, f'--config.{name}').absolute())
      for name in self.FOLDERS
      if (folder := getattr(self, name))
    }
    return dataclasses.replace(self, **folders)

  def counts_images(self) -> bool:
    """Returns whether an override is a share of the training images."""
    every = itertools.chain(self.overrides, *self.variants.values())
    return any(_is(SHARE, value) for _, value in every)

  def of_images(self, num_images: int) -> Self:
    """Returns the study with shares of images replaced by numbers of images.

    Args:
      num_images: the number of the base's training images.
    """

    def counted(changes: Overrides) -> Overrides:
      return tuple(
        (key, round(value[1] * num_images) if _is(SHARE, value) else value)
        for key, value in changes
      )

    return dataclasses.replace(
      self,
      overrides=counted(self.overrides),
      variants={
        name: counted(changes) for name, changes in self.variants.items()
      },
    )

  def quickly(self) -> Self:
    """Returns the study for --quick: one seed and a short training run."""
    overrides = (*self.base_overrides, *self.quick)
    return dataclasses.replace(self, seeds=1, base_overrides=overrides)

  def runs(self) -> list[tuple[str, int]]:
    """Returns the variant and seed of every run.

    All variants of one seed precede the next seed, so that an interrupted study
    has complete pairs.
    """
    return [
      (name, seed)
      for seed, name in itertools.product(range(self.seeds), self.variants)
    ]

  def equals_base(self, variant: str) -> bool:
    """Returns whether a variant has the values of the base."""
    in_base = self.base_values()
    changes = (*self.overrides, *self.variants[variant])
    return all(in_base[key] == value for key, value in changes)

  def differences(self, variant: str) -> dict[str, Any]:
    """Returns the values of a variant that are not the base's, by key."""
    in_base, values = self.base_values(), self.values(variant, 0)
    changes = dict((*self.overrides, *self.variants[variant]))
    return {key: values[key] for key in changes if values[key] != in_base[key]}

  def base_values(self) -> dict[str, Any]:
    """Returns the values of the config that variants change, by key."""
    return _values_of(self.base) | dict(self.base_overrides)

  def base_config(self) -> config_dict.ConfigDict:
    """Returns the config that variants change, with the study's folders."""
    config = _config_of(self.base)
    config.update_from_flattened_dict(
      dict(self.base_overrides) | self.folders()
    )
    return config

  def config(self, variant: str, seed: int) -> config_dict.ConfigDict:
    """Returns the config of a run."""
    config = _config_of(self.base)
    config.update_from_flattened_dict(self.changes(variant, seed))
    return config

  def values(self, variant: str, seed: int) -> dict[str, Any]:
    """Returns the values of a run's config, by key."""
    return _values_of(self.base) | self.changes(variant, seed)

  def changes(self, variant: str, seed: int) -> dict[str, Any]:
    """Returns a run's overrides of the base config, by key.

    Values equal to the base's are omitted, so that studies share runs; so are
    those of schedules other than the run's.
    """
    in_base = _values_of(self.base)
    changes = dict(
      (*self.base_overrides, *self.overrides, *self.variants[variant])
    )
    changes |= self._scaled(changes)
    schedule = (in_base | changes)['optimizer.schedule']
    changes = {
      key: value
      for key, value in changes.items()
      if value != in_base[key] and _schedule_of(key) in ('', schedule)
    }
    return changes | self.folders() | {'seed': seed}

  def _scaled(self, changes: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers that replace overrides of the kind `FAN_IN`."""
    keys = [key for key, value in changes.items() if _is(FAN_IN, value)]
    if not keys:
      return {}
    before = _fan_ins(self.base, dict(self.base_overrides))
    after = _fan_ins(
      self.base, {key: changes[key] for key in changes.keys() - keys}
    )
    in_base = self.base_values()
    return {
      key: in_base[key] * (after[layer] / before[layer]) ** -0.5
      for key in keys
      for layer in [key.split('.')[1]]
    }

  def folders(self) -> dict[str, str]:
    """Returns the overrides of the base's folders."""
    return {
      f'data.{name}': folder
      for name in self.FOLDERS
      if (folder := getattr(self, name))
    }


def _values_of(base: str) -> dict[str, Any]:
  """Returns the values of a base config, by key."""
  return dict(settings.flatten(_config_of(base).to_dict()))


def _config_of(base: str) -> config_dict.ConfigDict:
  name, _, preset = base.partition(':')
  try:
    module = importlib.import_module(f'configs.{name}')
  except ModuleNotFoundError as error:
    raise errors.UserError(
      f"--config.base='{base}': there is no configs/{name}.py"
    ) from error
  if not hasattr(module, 'get_config'):
    raise errors.UserError(
      f"--config.base='{base}': configs/{name}.py does not define a config"
    )
  return module.get_config(preset) if preset else module.get_config()


def _check_base_overrides(pairs: Any, in_base: Mapping[str, Any]) -> None:
  """Checks overrides from the command line."""
  is_pairs = isinstance(pairs, tuple) and all(
    isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str)
    for each in pairs
  )
  if not is_pairs:
    raise errors.UserError(
      f'--config.base_overrides={pairs!r} is not a tuple of pairs: write, for'
      ' example, --config.base_overrides="((\'num_epochs\', 6),)"'
    )
  for key, value in pairs:
    _check_key(key, in_base)
    if key == 'seed':
      raise errors.UserError(
        '--config.base_overrides sets the seed: set --config.seeds instead'
      )
    if type(value) is not type(in_base[key]):
      raise errors.UserError(
        f'--config.base_overrides sets {key} to {value!r}, of type'
        f' {type(value).__name__}: set it to one of type'
        f' {type(in_base[key]).__name__}, such as {in_base[key]!r}'
      )


def _check_key(key: str, in_base: Mapping[str, Any]) -> None:
  if key not in in_base:
    raise errors.UserError(
      f'the study overrides {key}, which the base does not have: choose'
      ' another --config.base'
    )


def _fan_ins(base: str, changes: Mapping[str, Any]) -> dict[str, float]:
  """Returns the number of inputs of each layer, by name."""
  config = _config_of(base)
  config.update_from_flattened_dict(changes)
  network = architecture.from_dict(config.network.to_dict())
  rows = architecture.layer_shapes(network, config.input.crop_size)
  return {row.name: row.weights / row.output[-1] for row in rows}


def _schedule_of(key: str) -> str:
  """Returns the schedule that a key belongs to; '' if to none."""
  first, _, rest = key.partition('.')
  name = rest.partition('.')[0]
  return name if first == 'optimizer' and name in setup.SCHEDULES else ''


def _comparison(fields: Mapping[str, Any]) -> Comparison:
  try:
    return Comparison(**fields)
  except TypeError as error:
    raise errors.UserError(f'a comparison of the study: {error}') from error


def _reached(metric: str) -> bool:
  """Returns whether a metric is the epochs to an error."""
  if not metric.startswith(EPOCHS_TO):
    return False
  try:
    return 0 < error_of(metric) < 1
  except ValueError:
    return False


def error_of(metric: str) -> float:
  """Returns the error of a metric such as 'epochs_to_test_0.25'."""
  return float(metric.removeprefix(EPOCHS_TO_TEST).removeprefix(EPOCHS_TO))


def _resolved(changes: Overrides, in_base: Mapping[str, Any]) -> Overrides:
  """Returns overrides; those that need nothing but the base are resolved."""
  found = []
  for key, value in changes:
    _check_key(key, in_base)
    own = in_base[key]
    if _is(TIMES, value):
      number = own * value[1]
      value = round(number) if isinstance(own, int) else number
    elif _is(PLUS, value):
      value = (*own, *value[1:])
    elif _is(REPLACE, value):
      value = _with_replaced(own, *value[1:])
    elif _is(COPY, value):
      value = in_base[value[1]]
    found.append((key, value))
  return tuple(found)


def _with_replaced(values: tuple[Any, ...], old: Any, *new: Any) -> tuple:
  return tuple(
    itertools.chain(*(new if each == old else (each,) for each in values))
  )


def _is(kind: str, value: Any) -> bool:
  """Returns whether a value is relative, of a kind such as `TIMES`."""
  return isinstance(value, tuple) and value[:1] == (kind,)
