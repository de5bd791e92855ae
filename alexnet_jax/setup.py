"""From a config to the parts of a run: network, devices, recipe, state."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import json
import os
from typing import Any, NamedTuple
import warnings

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import config_dict
import numpy as np
import optax

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import processes
from alexnet_jax import settings
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax import views
from alexnet_jax.epochs import Epochs
from alexnet_jax.identity import Statistics

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Setup:
  """The parts of a run that need no data.

  Attributes:
    config: what the user asked for, as JSON types.
    settings: the same, checked and typed.
    network: the architecture.
    dtype: of the arithmetic.
  """

  config: Mapping[str, Any]
  settings: settings.Settings
  network: architecture.Architecture
  dtype: Any

  @functools.cached_property
  def placement(self) -> sharding.Placement:
    """The placement of the network on the devices, which JAX now opens."""
    devices = _choose_devices(self.settings.devices, self.network.towers)
    return _place(self.network, devices, self.settings)

  @property
  def mesh(self) -> Mesh:
    """The devices in use, by axis."""
    return self.placement.mesh

  @property
  def plateau_rule(self) -> optimizer.PlateauRule:
    """The numbers of the plateau rule, used by schedule='plateau' alone."""
    rule = self.settings.optimizer.plateau
    return optimizer.PlateauRule(**dataclasses.asdict(rule))

  @property
  def devices(self) -> list[jax.Device]:
    """The devices in use."""
    return list(self.mesh.devices.flat)


def build(config: config_dict.ConfigDict | Mapping[str, Any]) -> Setup:
  """Checks a config and builds what needs no data, the placement included.

  See `read`.
  """
  made = read(config)
  _ = made.placement  # Its errors are to come now.
  return made


def read(config: config_dict.ConfigDict | Mapping[str, Any]) -> Setup:
  """Checks a config, without opening a device.

  Args:
    config: from a config file, or nested mappings as a checkpoint holds them.

  Raises:
    UserError: if a value is impossible.
  """
  # Through JSON, so that it compares equal to what a checkpoint brings back.
  if isinstance(config, config_dict.ConfigDict):
    config = config.to_dict()
  plain = json.loads(json.dumps(config))
  checked = settings.read(plain)
  settings.check_option(
    'optimizer.schedule', checked.optimizer.schedule, SCHEDULES
  )
  _keep_programs(checked.compilation_cache)
  network = architecture.from_dict(checked.network)
  model.activation(network.activation)
  image_size, crop_size = checked.input.image_size, checked.input.crop_size
  if crop_size > image_size:
    raise errors.UserError(
      f'--config.input.crop_size={crop_size} is larger than'
      f' --config.input.image_size={image_size}: a crop is cut out of the'
      ' image, so make it smaller'
    )
  architecture.layer_shapes(network, crop_size)
  if checked.input.mean == 'pixel' and checked.data.statistics == 'imagenet':
    raise errors.UserError(
      "--config.input.mean='pixel' needs a mean image, and"
      " --config.data.statistics='imagenet' has one mean per channel: set"
      ' --config.input.mean=channel, or --config.data.statistics=computed'
    )
  return Setup(plain, checked, network, _DTYPES[checked.compute_dtype])


def _place(
  network: architecture.Architecture,
  devices: list[jax.Device],
  read: settings.Settings,
) -> sharding.Placement:
  """Returns the placement on the devices.

  Where nobody has chosen their number, it is that of the most that can share
  the work: a run of two towers can be evaluated on a machine of three devices.

  Raises:
    UserError: if the devices cannot share the work.
  """

  def place(count: int) -> sharding.Placement:
    placement = sharding.place(network, devices[:count], read.parallelism)
    placement.check_batch(read.batch_size, read.accumulation)
    return placement

  try:
    return place(len(devices))
  except errors.UserError as refused:
    if read.devices or processes.joined():
      raise
    for count in range(len(devices) - 1, 0, -1):
      with contextlib.suppress(errors.UserError):
        placement = place(count)
        logging.warning('%s. Using %d of %d', refused, count, len(devices))
        return placement
    raise


def _keep_programs(folder: str) -> None:
  """Tells JAX where to keep compiled programs, unless the environment does.

  Where they cannot be kept, a run does without.

  Raises:
    UserError: if a folder other than the default is not a local folder.
  """
  if not folder or 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  flag = '--config.compilation_cache'
  try:
    path = files.user_folder(folder, flag)
  except errors.UserError as error:
    if folder != settings.MACHINE_KEYS['compilation_cache']:
      raise
    logging.warning('Compiled programs are not kept: %s', error)
    return
  if not files.is_writable(path):
    logging.warning(
      'Compiled programs are not kept: %s=%s cannot be written', flag, path
    )
    return
  jax.config.update('jax_compilation_cache_dir', str(path))
  # By default only what took a second is kept, but a run has hundreds of
  # small programs beside the step.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  # XLA cannot serialize programs that call oneDNN: they are compiled at every
  # start.
  warnings.filterwarnings(
    'ignore', 'Error writing persistent compilation cache .*bad_alloc'
  )


def _choose_devices(wanted: int, num_towers: int) -> list[jax.Device]:
  """Returns the devices to run on; on a CPU, simulates as many as asked for.

  Must come before JAX first touches a device. Of several processes each has
  its own devices; they follow one another in the order of the processes.
  """
  sharding.simulate_devices(-(-(wanted or num_towers) // processes.count()))
  devices = sorted(jax.devices(), key=lambda device: device.process_index)
  if wanted > len(devices):
    raise errors.UserError(
      f'--config.devices={wanted}, but there are {len(devices)}'
      f' {devices[0].platform} devices: set --config.devices to at most'
      f' {len(devices)}, or to 0 for all of them'
    )
  chosen = devices[:wanted] if wanted else devices
  if chosen[-1].process_index != devices[-1].process_index:
    raise errors.UserError(
      f'--config.devices={wanted} leaves processes without a device: set'
      f' --config.devices to {len(devices)}, or to 0 for all of them'
    )
  return chosen


class Span(NamedTuple):
  """The length of a run, to which a schedule is fitted.

  Attributes:
    epoch: steps of an epoch.
    total: steps of the whole run.
    warmup: steps of the warm-up.
    start: by what the learning rates are multiplied at step 0 of a warm-up.
  """

  epoch: int
  total: int
  warmup: int
  start: float


_MakeSchedule = Callable[[settings.Optimizer, Span], optimizer.Schedule]


def _plateau(chosen: settings.Optimizer, span: Span) -> optimizer.Schedule:
  del span
  return optimizer.plateau_schedule(
    chosen.learning_rate, chosen.plateau.factor, chosen.color_noise
  )


def _phases(chosen: settings.Optimizer, span: Span) -> optimizer.Schedule:
  rows, layers = chosen.phases.rows, chosen.phases.layers
  for layer in layers:
    if layer not in chosen.rate_multipliers:
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
        f'{layers}'
      )
  starts = [row[0] for row in rows]
  if not starts or starts[0] != 0 or sorted(starts) != starts:
    raise errors.UserError(
      f'--config.optimizer.phases.rows start at epochs {starts}: needed are'
      ' rising epochs, the first 0'
    )
  if starts[-1] * span.epoch > settings.LAST_STEP:
    raise errors.UserError(
      f'--config.optimizer.phases.rows start at epoch {starts[-1]}, which at'
      f' {span.epoch} steps per epoch is beyond step {settings.LAST_STEP}:'
      ' leave out phases that are never reached'
    )
  return optimizer.phase_schedule(rows, span.epoch, layers)


def _cosine(chosen: settings.Optimizer, span: Span) -> optimizer.Schedule:
  return optimizer.cosine_schedule(
    span.start * chosen.learning_rate,
    chosen.learning_rate,
    span.warmup,
    span.total,
    chosen.cosine.end_rate,
    chosen.color_noise,
  )


def _polynomial(chosen: settings.Optimizer, span: Span) -> optimizer.Schedule:
  return optimizer.polynomial_schedule(
    chosen.learning_rate,
    span.total,
    chosen.polynomial.power,
    chosen.color_noise,
  )


def _constant(chosen: settings.Optimizer, span: Span) -> optimizer.Schedule:
  del span
  return optimizer.constant_schedule(chosen.learning_rate, chosen.color_noise)


SCHEDULES: dict[str, _MakeSchedule] = {
  'plateau': _plateau,
  'phases': _phases,
  'cosine': _cosine,
  'polynomial': _polynomial,
  'constant': _constant,
}


def total_steps(setup: Setup, epochs: Epochs) -> int:
  """Returns the number of updates after which a run ends at the latest.

  Raises:
    UserError: if they are more than can be counted.
  """
  chosen = setup.settings
  steps = chosen.max_steps or epochs.step(chosen.num_epochs)
  if steps > settings.LAST_STEP:
    raise errors.UserError(
      f'--config.num_epochs={chosen.num_epochs} is {steps:,} steps, and'
      f' {settings.LAST_STEP:,} can be counted: set --config.num_epochs to at'
      f' most {int(epochs.at(settings.LAST_STEP)):,}'
    )
  return steps


def _warmup_steps(chosen: settings.Optimizer, steps_per_epoch: int) -> int:
  return round(chosen.warmup_epochs * steps_per_epoch)


def make_schedule(setup: Setup, epochs: Epochs) -> optimizer.Schedule:
  """Returns the schedule, a function of `epochs.place(step)`.

  Raises:
    UserError: if the config's schedule does not fit the run.
  """
  chosen = setup.settings.optimizer
  # At least 1: a run may have passed an end that was moved to an earlier step.
  last = max(1, epochs.place(total_steps(setup, epochs)))
  warmup = _warmup_steps(chosen, epochs.steps)
  if warmup >= last:
    raise errors.UserError(
      f'--config.optimizer.warmup_epochs={chosen.warmup_epochs} is {warmup}'
      f' steps of a run of {last}: set --config.optimizer.warmup_epochs to less'
    )
  base = chosen.base_batch_size
  scale = setup.settings.batch_size / base if base else 1.0
  span = Span(epochs.steps, last, warmup, start=1 / scale if base else 0.0)
  schedule = SCHEDULES[chosen.schedule](chosen, span)
  if chosen.schedule != 'cosine':  # It begins to fall after its own warm-up.
    schedule = optimizer.warm_schedule(schedule, span.warmup, span.start)
  return optimizer.scaled_schedule(schedule, scale)


def plateau_rules(setup: Setup, epochs: Epochs, step: int) -> bool:
  """Whether the plateau rule counts the validation at a step.

  It judges a learning rate, so it does not count under other schedules, nor
  before the warm-up has reached the rate.
  """
  chosen = setup.settings.optimizer
  warmup = _warmup_steps(chosen, epochs.steps)
  return chosen.schedule == 'plateau' and epochs.place(step) > warmup


def _make_rule(
  chosen: settings.Optimizer,
) -> optax.GradientTransformationExtraArgs:
  common = (chosen.momentum, chosen.weight_decay, chosen.bias_decay)
  if chosen.rule == 'lars':
    return optimizer.lars(*common, **dataclasses.asdict(chosen.lars))
  return optimizer.momentum_sgd(*common)


def make_recipe(
  setup: Setup, epochs: Epochs, mean: np.ndarray
) -> train_step.Recipe:
  """Returns the recipe of the training step.

  Args:
    setup: of the run.
    epochs: of the training split.
    mean: what to subtract from the images; see `views.mean`.

  Raises:
    UserError: if the config's schedule or rates do not fit the run.
  """
  chosen = setup.settings.optimizer
  for layer in setup.network.layers:
    if layer.name not in chosen.rate_multipliers:
      raise errors.UserError(
        f'the config has no optimizer.rate_multipliers.{layer.name}, a layer of'
        ' the network: add it'
      )
  return train_step.Recipe(
    schedule=make_schedule(setup, epochs),
    optimizer=_make_rule(chosen),
    multipliers=chosen.rate_multipliers,
    mean=mean,
    pixel_scale=setup.settings.input.pixel_scale,
    divide_by_noise=setup.settings.input.color == 'cuda_convnet',
    accumulation=setup.settings.accumulation,
    dtype=setup.dtype,
    log_every=setup.settings.log.every_steps,
    epochs=epochs,
  )


def first_state(setup: Setup) -> train_state.TrainState:
  """Returns the state before the first step."""
  return train_state.create(
    setup.placement,
    seed=setup.settings.seed,
    crop_size=setup.settings.input.crop_size,
  )


def abstract_state(setup: Setup) -> train_state.TrainState:
  """Returns the shapes and shardings of any state of the run."""
  return train_state.abstract(
    setup.placement, crop_size=setup.settings.input.crop_size
  )


def input_transform(
  setup: Setup, statistics: Statistics
) -> views.InputTransform:
  """Returns how squares become what the network reads.

  Args:
    setup: of the run.
    statistics: of the training split.
  """
  chosen = setup.settings.input
  return views.InputTransform(
    image_size=chosen.image_size,
    crop_size=chosen.crop_size,
    mean=views.mean(chosen.mean, statistics, chosen.crop_size),
    pixel_scale=chosen.pixel_scale,
  )


def log_network(setup: Setup) -> None:
  """Logs the network's table, layer by layer, and where it runs."""
  shapes = architecture.layer_shapes(
    setup.network, setup.settings.input.crop_size
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
    '%s parameters, %s multiply-adds per image; %d towers on %s',
    f'{sum(row.weights + row.biases for row in shapes):,}',
    f'{sum(row.multiply_adds for row in shapes):,}',
    setup.network.towers,
    ', '.join(map(str, setup.devices)),
  )
