"""From a config to the parts of a run: network, devices, recipe.

The lowest module that sees the ConfigDict: what it imports takes plain
arguments.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import fnmatch
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple
import warnings

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import config_dict
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax import views
from alexnet_jax.epochs import Epochs

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class _Range(NamedTuple):
  """What a number in the config may be.

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


_INT32 = 2**31 - 1  # Steps are counted in int32.
_FLOAT = 1e38  # Every float becomes a float32, which ends at 3.4e38.
_SIDE = 2**14  # Pixels; a square of this side has 0.8 GB as RGB.
_COUNT = 2**20  # Images in a batch, units of a layer: far beyond any memory.

# Every number in configs/imagenet.py, in its order; `*` is the name of a layer
# or of a group.
_RANGES = {
  # jax.random.key keeps the lower 32 bits alone: larger seeds would repeat.
  'seed': _Range(0, _INT32),
  'devices': _Range(0, 1024, zero='all there are'),
  'batch_size': _Range(1, _COUNT),
  'accumulation': _Range(1, _COUNT),
  'num_epochs': _Range(1, 10**6),
  'max_steps': _Range(0, _INT32, zero='num_epochs decides'),
  'validate_every_steps': _Range(0, _INT32, zero='once an epoch'),
  'network.towers': _Range(1, 1024),
  'network.dropout_rate': _Range(0.0, 1.0, excluded=1.0),
  'network.*.features': _Range(1, _COUNT),
  'network.*.kernel': _Range(1, _SIDE),
  'network.*.stride': _Range(1, _SIDE),
  'network.*.padding': _Range(0, _SIDE, shape=(2,)),
  'network.*.init_std': _Range(0.0, _FLOAT),
  'network.*.init_bias': _Range(-_FLOAT, _FLOAT),
  'network.*.size': _Range(1, _SIDE),
  'network.*.k': _Range(0.0, _FLOAT, excluded=0.0),
  'network.*.alpha': _Range(0.0, _FLOAT),
  'network.*.beta': _Range(0.0, _FLOAT),
  'data.num_examples': _Range(1, 10**8),
  'data.max_unreadable': _Range(0.0, 1.0),
  'data.max_pixels': _Range(1, _INT32),
  'data.threads': _Range(0, 1024, zero='all cores'),
  'input.image_size': _Range(1, _SIDE),
  'input.crop_size': _Range(1, _SIDE),
  'input.crop_chunk': _Range(1, _COUNT),
  'input.pixel_scale': _Range(0.0, _FLOAT, excluded=0.0),
  'optimizer.learning_rate': _Range(0.0, _FLOAT, zero='nothing is learned'),
  'optimizer.momentum': _Range(0.0, 1.0, excluded=1.0),
  'optimizer.weight_decay': _Range(0.0, _FLOAT),
  'optimizer.bias_decay': _Range(0.0, _FLOAT),
  'optimizer.color_noise': _Range(0.0, _FLOAT),
  'optimizer.rate_multipliers.*': _Range(0.0, _FLOAT, zero='frozen'),
  'optimizer.plateau.patience': _Range(1, _INT32),
  'optimizer.plateau.min_delta': _Range(0.0, 1.0),
  'optimizer.plateau.factor': _Range(1.0, _FLOAT, excluded=1.0),
  'optimizer.plateau.max_drops': _Range(
    0, _INT32, zero='the first plateau ends the run'
  ),
  # Epochs, rates and multipliers alike; a multiplier of 0 freezes its layer.
  'optimizer.phases.rows': _Range(0.0, 1e6, shape=(None, None)),
  'optimizer.cosine.warmup_epochs': _Range(0.0, 1e6, zero='no warm-up'),
  'optimizer.cosine.end_rate': _Range(0.0, _FLOAT),
  'checkpoint.every_steps': _Range(1, _INT32),
  'checkpoint.keep': _Range(1, _INT32),
  'log.every_steps': _Range(1, _INT32),
  'log.stuck_after_steps': _Range(0, _INT32, zero='no warning'),
  'evaluate.batch_size': _Range(1, _COUNT),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The parts of a run that need no data.

  Attributes:
    config: what the user asked for.
    network: the architecture.
    mesh: the devices.
    dtype: of the arithmetic.
  """

  config: config_dict.ConfigDict
  network: architecture.Architecture
  mesh: Mesh
  dtype: Any

  def plain_config(self) -> dict[str, Any]:
    """Returns the config as JSON types."""
    # Through JSON, so that it compares equal to what a checkpoint brings back.
    return json.loads(json.dumps(self.config.to_dict()))

  @functools.cached_property
  def plateau_rule(self) -> optimizer.PlateauRule:
    """The numbers of the plateau rule, used by schedule='plateau' alone."""
    return optimizer.PlateauRule(**self.config.optimizer.plateau)

  def devices(self) -> list[jax.Device]:
    """Returns the devices in use."""
    return list(self.mesh.devices.flat)


def build(config: config_dict.ConfigDict) -> Experiment:
  """Checks the config and builds what needs no data.

  Raises:
    UserError: if a value is impossible.
  """
  _keep_programs(config.compilation_cache)
  _choice(config, 'compute_dtype', _DTYPES)
  _choice(config, 'data.source', ('tfds', 'folder', 'idx', 'synthetic'))
  _choice(config, 'data.statistics', ('imagenet', 'computed'))
  _choice(config, 'input.color', ('paper', 'cuda_convnet', 'none'))
  _choice(config, 'input.mean', ('pixel', 'channel', 'none'))
  _choice(config, 'optimizer.schedule', _SCHEDULES)
  _choice(config, 'evaluate.checkpoint', ('last', 'best'))
  _check_ranges(config)
  network = architecture.from_dict(config.network.to_dict())
  model.activation(network.activation)
  sizes = config.input
  if sizes.crop_size > sizes.image_size:
    raise errors.UserError(
      f'input.crop_size {sizes.crop_size} is larger than input.image_size'
      f' {sizes.image_size}: a crop is cut out of the image, so make it smaller'
    )
  architecture.layer_shapes(network, sizes.crop_size)
  if sizes.mean == 'pixel' and config.data.statistics == 'imagenet':
    raise errors.UserError(
      "--config.input.mean='pixel' needs a mean image, and"
      " --config.data.statistics='imagenet' has one mean per channel: set"
      ' --config.input.mean=channel, or --config.data.statistics=computed'
    )
  mesh = sharding.make_mesh(network.towers, _devices(config, network.towers))
  sharding.check_batch(config.batch_size, config.accumulation, mesh)
  return Experiment(config, network, mesh, _DTYPES[config.compute_dtype])


def _keep_programs(folder: str) -> None:
  """Tells JAX where to keep what it compiles; the environment goes first."""
  if not folder or 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  path = pathlib.Path(folder).expanduser()
  jax.config.update('jax_compilation_cache_dir', str(path))
  # By default only what took a second is kept, but a run has hundreds of
  # small programs beside the step.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  # XLA cannot write down what calls oneDNN: that is compiled at every start.
  warnings.filterwarnings(
    'ignore', 'Error writing persistent compilation cache .*bad_alloc'
  )


def _get(config, key):
  return functools.reduce(getattr, key.split('.'), config)


def _choice(config, key, options):
  value = _get(config, key)
  if value not in options:
    raise errors.UserError(
      f"--config.{key}='{value}' is not a choice: set --config.{key} to one of"
      f' {", ".join(options)}'
    )


def _check_ranges(config: config_dict.ConfigDict) -> None:
  """Checks every number of the config against `_RANGES`.

  Raises:
    UserError: naming the first value outside its range, the range and the flag.
  """
  for key, value in flatten(config.to_dict()):
    for pattern, limits in _RANGES.items():
      if fnmatch.fnmatchcase(key, pattern):
        _check_range(key, value, limits)


def _check_range(key: str, value: Any, limits: _Range) -> None:
  flag = f'--config.{key}'
  values = _numbers(value, limits.shape)
  if values is None:
    length = limits.shape[-1]
    kind = 'rows of numbers' if length is None else f'{length} numbers'
    raise errors.UserError(
      f'{flag}={value} does not have {kind}: set {flag} to a tuple with {kind}'
    )
  for number in values:
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
  # A config restored from a checkpoint has lists.
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


def _devices(config, num_towers: int) -> list[jax.Device]:
  """Returns the devices to run on; on a CPU, simulates as many as asked for.

  Must come before JAX first touches a device.
  """
  wanted = config.devices
  sharding.simulate_devices(wanted or num_towers)
  devices = jax.devices()
  if wanted > len(devices):
    raise errors.UserError(
      f'devices is {wanted}, but there are {len(devices)}'
      f' {devices[0].platform} devices: set devices to at most'
      f' {len(devices)}, or to 0 for all of them'
    )
  return devices[:wanted] if wanted else devices


def _plateau(settings, steps_per_epoch, total_steps):
  del steps_per_epoch, total_steps
  return optimizer.plateau_schedule(
    settings.learning_rate, settings.plateau.factor, settings.color_noise
  )


def _phases(settings, steps_per_epoch, total_steps):
  del total_steps
  rows, layers = settings.phases.rows, settings.phases.layers
  for layer in layers:
    if layer not in settings.rate_multipliers:
      raise errors.UserError(
        f"--config.optimizer.phases.layers names '{layer}', which the network"
        ' does not have: leave it out, and its column in'
        ' --config.optimizer.phases.rows'
      )
  for row in rows:
    if len(row) != 4 + len(layers):
      raise errors.UserError(
        f'--config.optimizer.phases.rows has a row of {len(row)} numbers:'
        f' needed are {4 + len(layers)}, first epoch, rate, bias rate, color'
        ' noise and a multiplier for each of --config.optimizer.phases.layers='
        f'{tuple(layers)}'
      )
  starts = [row[0] for row in rows]
  if not starts or starts[0] != 0 or sorted(starts) != starts:
    raise errors.UserError(
      f'--config.optimizer.phases.rows start at epochs {starts}: needed are'
      ' rising epochs, the first 0'
    )
  if starts[-1] * steps_per_epoch > _INT32:
    raise errors.UserError(
      f'--config.optimizer.phases.rows start at epoch {starts[-1]}, which at'
      f' {steps_per_epoch} steps an epoch is beyond step {_INT32}: leave out'
      ' phases that are never reached'
    )
  return optimizer.phase_schedule(rows, steps_per_epoch, layers)


def _cosine(settings, steps_per_epoch, total_steps):
  warmup = round(settings.cosine.warmup_epochs * steps_per_epoch)
  if warmup >= total_steps:
    raise errors.UserError(
      f'optimizer.cosine.warmup_epochs {settings.cosine.warmup_epochs} are'
      f' {warmup} steps of a run of {total_steps}: make the warm-up shorter'
    )
  return optimizer.cosine_schedule(
    settings.learning_rate,
    warmup,
    total_steps,
    settings.cosine.end_rate,
    settings.color_noise,
  )


def _constant(settings, steps_per_epoch, total_steps):
  del steps_per_epoch, total_steps
  return optimizer.constant_schedule(
    settings.learning_rate, settings.color_noise
  )


_SCHEDULES = {
  'plateau': _plateau,
  'phases': _phases,
  'cosine': _cosine,
  'constant': _constant,
}


def total_steps(experiment: Experiment, epochs: Epochs) -> int:
  """Returns the number of updates after which a run ends at the latest."""
  config = experiment.config
  return config.max_steps or epochs.step(config.num_epochs)


def make_schedule(experiment: Experiment, epochs: Epochs) -> optimizer.Schedule:
  """Returns the schedule, a function of `epochs.place(step)`.

  Raises:
    UserError: if the config's schedule does not fit the run.
  """
  settings = experiment.config.optimizer
  last = epochs.place(total_steps(experiment, epochs))
  return _SCHEDULES[settings.schedule](settings, epochs.steps, last)


def make_recipe(
  experiment: Experiment, epochs: Epochs, mean: np.ndarray
) -> train_step.Recipe:
  """Returns the recipe of the training step.

  Args:
    experiment: the config and the network.
    epochs: of the training split.
    mean: what to subtract from the images; see `data.mean`.

  Raises:
    UserError: if the config's schedule or rates do not fit the run.
  """
  config, settings = experiment.config, experiment.config.optimizer
  multipliers = settings.rate_multipliers.to_dict()
  for layer in experiment.network.layers:
    if layer.name not in multipliers:
      raise errors.UserError(
        f'optimizer.rate_multipliers has no {layer.name}, which the network'
        ' has: add it to the config'
      )
  return train_step.Recipe(
    schedule=make_schedule(experiment, epochs),
    optimizer=optimizer.momentum_sgd(
      settings.momentum, settings.weight_decay, settings.bias_decay
    ),
    multipliers=multipliers,
    mean=mean,
    pixel_scale=config.input.pixel_scale,
    divide_by_noise=config.input.color == 'cuda_convnet',
    accumulation=config.accumulation,
    dtype=experiment.dtype,
    log_every=config.log.every_steps,
    epochs=epochs,
  )


def first_state(experiment: Experiment) -> train_state.TrainState:
  """Returns the state before the first step."""
  config = experiment.config
  return train_state.create(
    experiment.network,
    experiment.mesh,
    seed=config.seed,
    crop_size=config.input.crop_size,
  )


def abstract_state(experiment: Experiment) -> train_state.TrainState:
  """Returns the shapes and shardings of any state of the run."""
  return train_state.abstract(
    experiment.network,
    experiment.mesh,
    crop_size=experiment.config.input.crop_size,
  )


def center_view(experiment: Experiment) -> tuple[views.View, ...]:
  """Returns the one view by which a run is validated."""
  sizes = experiment.config.input
  return views.center_view(sizes.image_size, sizes.crop_size)


def log_network(experiment: Experiment) -> None:
  """Logs the network's table, layer by layer, and where it runs."""
  shapes = architecture.layer_shapes(
    experiment.network, experiment.config.input.crop_size
  )
  for row in shapes:
    logging.info(
      '%-6s %-14s %12s parameters %13s multiply-adds',
      row.name,
      'x'.join(map(str, row.output)),
      f'{row.weights + row.biases:,}',
      f'{row.multiply_adds:,}',
    )
  logging.info(
    '%s parameters, %s multiply-adds an image; %d towers on %s',
    f'{sum(row.weights + row.biases for row in shapes):,}',
    f'{sum(row.multiply_adds for row in shapes):,}',
    experiment.network.towers,
    ', '.join(str(device) for device in experiment.devices()),
  )


def flatten(
  value: Any, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
  """Yields the keys of nested mappings, joined by dots, and their values."""
  if not isinstance(value, Mapping):
    yield '.'.join(prefix), value
    return
  for key, item in value.items():
    yield from flatten(item, (*prefix, key))
