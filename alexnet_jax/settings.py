"""A config as typed values: every key once, with the values it may have.

`configs/imagenet.py` says what each key means and where its number comes from.
Everything takes the values it needs from what `read` returns; only code that
compares configs, or renames their keys, looks into one.
"""

from collections.abc import Iterator, Mapping
import copy
import dataclasses
import fnmatch
from typing import Any, NamedTuple

from alexnet_jax import errors

LAST_STEP = 2**31 - 1  # Steps are counted in int32.
_FLOAT = 1e38  # Every float becomes a float32, which ends at 3.4e38.
_SIDE = 2**14  # Pixels; a square of this side has 0.8 GB as RGB.
_COUNT = 2**20  # Images in a batch, units of a layer: far beyond any memory.


# Keys that say how this machine is used, and their defaults. A checkpoint may
# come from a stranger and from elsewhere: where it runs, and from which folder
# compiled programs are loaded and executed, is not for its config to say.
MACHINE_KEYS = {
  'devices': 0,
  'parallelism': 'both',
  'compilation_cache': '~/.cache/alexnet_jax/programs',
  'data.threads': 0,
}


class Range(NamedTuple):
  """The numbers that a key may have.

  Attributes:
    low: the least permitted value; if it is an int, only ints are permitted.
    high: the greatest permitted value. It is finite, so that infinities and
      NaN are outside every range.
    zero: what 0 means, where it is special.
    excluded: the end that is not permitted itself, if there is one.
    shape: of a nested tuple, all of whose numbers are in the range; None is
      any length. () is a single number.
  """

  low: float
  high: float
  zero: str = ''
  excluded: float | None = None
  shape: tuple[int | None, ...] = ()

  def __str__(self):
    low, high = (
      str(end) if isinstance(end, int) else f'{end:g}'
      for end in (self.low, self.high)
    )
    notes = []
    if self.zero:
      notes.append(f'0: {self.zero}')
    if self.excluded is not None:
      notes.append(f'{self.excluded:g} excluded')
    if self.shape and isinstance(self.low, int):
      notes.append('whole numbers')
    return f'{low}..{high}' + (f' ({", ".join(notes)})' if notes else '')

  def contains(self, value: Any) -> bool:
    kinds = int if isinstance(self.low, int) else (int, float)
    return (
      isinstance(value, kinds)
      and not isinstance(value, bool)
      and self.low <= value <= self.high
      and value != self.excluded
    )


# Keys that have another name now.
_FORMER_KEYS = {'optimizer.cosine.warmup_epochs': 'optimizer.warmup_epochs'}


def _number(*limits: Any, **notes: Any) -> Any:
  return dataclasses.field(metadata={'range': Range(*limits, **notes)})


def _choice(*options: str, former: Mapping[str, str] | None = None) -> Any:
  """A key with these options, some of which had other names before."""
  metadata = {'options': options, 'former': former or {}}
  return dataclasses.field(metadata=metadata)


def _numbers_by_name(ranges: Mapping[str, Range]) -> Any:
  """A group whose keys depend on the network's layers; patterns of keys."""
  return dataclasses.field(metadata={'ranges': ranges})


_NETWORK = {
  'towers': Range(1, 1024),
  'dropout_rate': Range(0.0, 1.0, excluded=1.0),
  '*.features': Range(1, _COUNT),
  '*.kernel': Range(1, _SIDE),
  '*.stride': Range(1, _SIDE),
  '*.padding': Range(0, _SIDE, shape=(2,)),
  '*.init_std': Range(0.0, _FLOAT),
  '*.init_bias': Range(-_FLOAT, _FLOAT),
  '*.size': Range(1, _SIDE),
  '*.k': Range(0.0, _FLOAT, excluded=0.0),
  '*.alpha': Range(0.0, _FLOAT),
  '*.beta': Range(0.0, _FLOAT),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Where the images come from: `config.data`."""

  source: str
  name: str
  data_dir: str
  manual_dir: str
  store_dir: str
  train_split: str
  eval_split: str
  num_train: int = _number(0, 10**8, zero='all')
  class_names: tuple[str, ...]
  num_examples: int = _number(1, 10**8)
  statistics: str = _choice('imagenet', 'computed')
  max_unreadable: float = _number(0.0, 1.0)
  max_pixels: int = _number(1, LAST_STEP)
  upright: bool
  threads: int = _number(0, 1024, zero='all cores')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
  """What is cut out of the images and subtracted: `config.input`."""

  image_size: int = _number(1, _SIDE)
  displacement: float = _number(0.0, 1e4, zero='no warp')
  # The field is drawn three deviations beyond the image, on every side.
  displacement_sigma: float = _number(0.0, 64.0, excluded=0.0)
  crop_size: int = _number(1, _SIDE)
  random_crop: bool
  flip: bool
  crop_chunk: int = _number(1, _COUNT)
  shuffle: bool
  color: str = _choice(
    'paper', 'cuda_convnet', 'none', former={'source': 'cuda_convnet'}
  )
  mean: str = _choice('pixel', 'channel', 'none')
  pixel_scale: float = _number(0.0, _FLOAT, excluded=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau:
  """`config.optimizer.plateau`."""

  patience: int = _number(1, LAST_STEP)
  min_delta: float = _number(0.0, 1.0)
  factor: float = _number(1.0, _FLOAT, excluded=1.0)
  max_drops: int = _number(0, LAST_STEP, zero='the first plateau ends the run')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phases:
  """`config.optimizer.phases`."""

  layers: tuple[str, ...]
  # Epochs, rates and multipliers alike; a multiplier of 0 freezes its layer.
  rows: tuple[tuple[float, ...], ...] = _number(0.0, 1e6, shape=(None, None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
  """`config.optimizer.cosine`."""

  end_rate: float = _number(0.0, _FLOAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Polynomial:
  """`config.optimizer.polynomial`."""

  power: float = _number(0.0, 1e6, zero='constant')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lars:
  """`config.optimizer.lars`."""

  trust_coefficient: float = _number(0.0, _FLOAT, excluded=0.0)
  eps: float = _number(0.0, _FLOAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """The update rule and its schedule: `config.optimizer`."""

  rule: str = _choice('momentum', 'lars')
  schedule: str
  learning_rate: float = _number(0.0, _FLOAT, zero='nothing is learned')
  base_batch_size: int = _number(0, _COUNT, zero='rates are as given')
  warmup_epochs: float = _number(0.0, 1e6, zero='no warm-up')
  momentum: float = _number(0.0, 1.0, excluded=1.0)
  weight_decay: float = _number(0.0, _FLOAT)
  bias_decay: float = _number(0.0, _FLOAT)
  color_noise: float = _number(0.0, _FLOAT)
  rate_multipliers: Mapping[str, float] = _numbers_by_name(
    {'*': Range(0.0, _FLOAT, zero='frozen')}
  )
  plateau: Plateau
  phases: Phases
  cosine: Cosine
  polynomial: Polynomial
  lars: Lars


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """`config.checkpoint`."""

  every_steps: int = _number(1, LAST_STEP)
  keep: int = _number(1, LAST_STEP)
  accept_changes: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
  """`config.log`."""

  every_steps: int = _number(1, LAST_STEP)
  stuck_after_steps: int = _number(0, LAST_STEP, zero='no warning')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
  """`config.evaluate`."""

  batch_size: int = _number(1, _COUNT)
  checkpoint: str = _choice('last', 'best')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """All keys of a config, in the order of configs/imagenet.py."""

  # jax.random.key keeps the lower 32 bits alone: larger seeds would repeat.
  seed: int = _number(0, LAST_STEP)
  devices: int = _number(0, 1024, zero='all available')
  parallelism: str
  compilation_cache: str
  compute_dtype: str = _choice('float32', 'bfloat16')
  batch_size: int = _number(1, _COUNT)
  accumulation: int = _number(1, _COUNT)
  num_epochs: int = _number(1, 10**6)
  max_steps: int = _number(0, LAST_STEP, zero='num_epochs decides')
  validate_every_steps: int = _number(0, LAST_STEP, zero='once an epoch')
  network: Mapping[str, Any] = _numbers_by_name(_NETWORK)
  data: Data
  input: Input
  optimizer: Optimizer
  checkpoint: Checkpoint
  log: Log
  evaluate: Evaluate


def on_this_machine(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a checkpoint's config with the defaults of `MACHINE_KEYS`."""
  changed = copy.deepcopy(dict(config))
  for key, value in MACHINE_KEYS.items():
    *groups, name = key.split('.')
    group: Any = changed
    for each in groups:
      group = group.get(each)
    if isinstance(group, dict):  # Otherwise `read` says what is missing.
      group[name] = value
  return changed


def read(config: Mapping[str, Any]) -> Settings:
  """Returns the values of a config.

  Args:
    config: nested mappings, as `ConfigDict.to_dict` returns them or as a
      checkpoint holds them, which has lists for tuples.

  Raises:
    UserError: for a key that is missing or that nothing reads, and for a value
      that is not permitted; it names the flag and what is permitted.
  """
  return _read_group(Settings, config, '')


def _read_group(kind: type, group: Mapping[str, Any], prefix: str) -> Any:
  if not isinstance(group, Mapping):
    raise errors.UserError(
      f'--config.{prefix[:-1]}={group!r} is not a group of keys: set one of its'
      f' keys, such as --config.{prefix}{dataclasses.fields(kind)[0].name}'
    )
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for name in group:
    if name not in fields:
      key = prefix + name
      remedy = (
        f'it is now called {_FORMER_KEYS[key]}'
        if key in _FORMER_KEYS
        else 'leave it out'
      )
      raise errors.UserError(
        f'nothing reads the key {key} of the config: {remedy}'
      )
  values = {}
  for name, field in fields.items():
    key = prefix + name
    if name not in group:
      raise errors.UserError(
        f'the config has no {key}: add it as in configs/imagenet.py, or, for a'
        ' checkpoint of an older version, name its config with --config'
      )
    value = group[name]
    if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
      values[name] = _read_group(field.type, value, key + '.')
    else:
      values[name] = _checked(key, value, field)
  return kind(**values)


def _checked(key: str, value: Any, field: dataclasses.Field) -> Any:
  """Returns a value, lists as tuples, if it is one that is permitted."""
  allowed = field.metadata
  if 'ranges' in allowed:
    for inner, number in flatten(value):
      for pattern, limits in allowed['ranges'].items():
        if fnmatch.fnmatchcase(inner, pattern):
          _check_range(f'{key}.{inner}', number, limits)
    return value
  if field.type == tuple[str, ...]:
    _check_texts(key, value)
  if 'options' in allowed:
    if value in allowed['former']:
      name = allowed['former'][value]
      raise errors.UserError(
        f"--config.{key}='{value}' is now called '{name}': set"
        f' --config.{key}={name}'
      )
    check_option(key, value, allowed['options'])
  if 'range' in allowed:
    _check_range(key, value, allowed['range'])
  if field.type in (bool, str) and not isinstance(value, field.type):
    raise errors.UserError(
      f'--config.{key}={value!r} is not permitted: set --config.{key} to a'
      f' {field.type.__name__}'
    )
  return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
  if isinstance(value, list | tuple):
    return tuple(map(_as_tuple, value))
  return value


def check_option(key: str, value: Any, options: Any) -> None:
  """Raises a UserError for a value that is not among the options of a key."""
  if value not in options:
    raise errors.UserError(
      f"--config.{key}='{value}' is not a choice: set --config.{key} to one of"
      f' {", ".join(options)}'
    )


def _check_texts(key: str, value: Any) -> None:
  is_list = isinstance(value, tuple | list)
  if not (is_list and all(isinstance(item, str) for item in value)):
    raise errors.UserError(
      f'--config.{key}={value!r} is not a tuple of texts: set --config.{key} to'
      " one, such as ('a', 'b')"
    )


def _check_range(key: str, value: Any, limits: Range) -> None:
  flag = f'--config.{key}'
  numbers = _numbers(value, limits.shape)
  if numbers is None:
    length = limits.shape[-1]
    kind = 'rows of numbers' if length is None else f'{length} numbers'
    raise errors.UserError(
      f'{flag}={value} does not have {kind}: set {flag} to a tuple with {kind}'
    )
  for number in numbers:
    if not limits.contains(number):
      where = f'{number!r} in {flag}' if limits.shape else f'{flag}={number}'
      raise errors.UserError(
        f'{where} is outside {limits}: set {flag} to'
        f' {"values" if limits.shape else "a value"} in that range'
      )


def _numbers(value: Any, shape: tuple[int | None, ...]) -> list[Any] | None:
  """Returns the items of nested tuples, or None if they have another shape."""
  if not shape:
    return [value]
  if not isinstance(value, tuple | list):
    return None
  if shape[0] not in (None, len(value)):
    return None
  numbers = []
  for item in value:
    inner = _numbers(item, shape[1:])
    if inner is None:
      return None
    numbers += inner
  return numbers


def flatten(
  value: Any, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
  """Yields the keys of nested mappings, joined by dots, and their values."""
  if not isinstance(value, Mapping):
    yield '.'.join(prefix), value
    return
  for key, item in value.items():
    yield from flatten(item, (*prefix, key))
