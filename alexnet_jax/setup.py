"""From a config to the parts of a run: network, devices, recipe, state."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any
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
    placement: of the network on the devices.
    dtype: of the arithmetic.
  """

  config: Mapping[str, Any]
  settings: settings.Settings
  placement: sharding.Placement
  dtype: Any

  @property
  def network(self) -> architecture.Architecture:
    """The architecture."""
    return self.placement.network

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


def build(config: config_dict.ConfigDict) -> Setup:
  """Checks a config and builds what needs no data.

  Raises:
    UserError: if a value is impossible.
  """
  # Through JSON, so that it compares equal to what a checkpoint brings back.
  plain = json.loads(json.dumps(config.to_dict()))
  read = settings.read(plain)
  settings.check_option(
    'optimizer.schedule', read.optimizer.schedule, SCHEDULES
  )
  _keep_programs(read.compilation_cache)
  network = architecture.from_dict(read.network)
  model.activation(network.activation)
  image_size, crop_size = read.input.image_size, read.input.crop_size
  if crop_size > image_size:
    raise errors.UserError(
      f'--config.input.crop_size={crop_size} is larger than'
      f' --config.input.image_size={image_size}: a crop is cut out of the'
      ' image, so make it smaller'
    )
  architecture.layer_shapes(network, crop_size)
  if read.input.mean == 'pixel' and read.data.statistics == 'imagenet':
    raise errors.UserError(
      "--config.input.mean='pixel' needs a mean image, and"
      " --config.data.statistics='imagenet' has one mean per channel: set"
      ' --config.input.mean=channel, or --config.data.statistics=computed'
    )
  devices = _choose_devices(read.devices, network.towers)
  placement = sharding.place(network, devices, read.parallelism)
  placement.check_batch(read.batch_size, read.accumulation)
  return Setup(plain, read, placement, _DTYPES[read.compute_dtype])


def _keep_programs(folder: str) -> None:
  """Tells JAX where to keep compiled programs, unless the environment does."""
  if not folder or 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  path = pathlib.Path(folder).expanduser()
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
  if not jax.distributed.is_initialized():
    sharding.simulate_devices(wanted or num_towers)
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


# From the settings, the steps of an epoch and the steps of the whole run.
_MakeSchedule = Callable[[settings.Optimizer, int, int], optimizer.Schedule]


def _plateau(
  chosen: settings.Optimizer, steps_per_epoch: int, total_steps: int
) -> optimizer.Schedule:
  del steps_per_epoch, total_steps
  return optimizer.plateau_schedule(
    chosen.learning_rate, chosen.plateau.factor, chosen.color_noise
  )


def _phases(
  chosen: settings.Optimizer, steps_per_epoch: int, total_steps: int
) -> optimizer.Schedule:
  del total_steps
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
  if starts[-1] * steps_per_epoch > settings.LAST_STEP:
    raise errors.UserError(
      f'--config.optimizer.phases.rows start at epoch {starts[-1]}, which at'
      f' {steps_per_epoch} steps per epoch is beyond step {settings.LAST_STEP}:'
      ' leave out phases that are never reached'
    )
  return optimizer.phase_schedule(rows, steps_per_epoch, layers)


def _cosine(
  chosen: settings.Optimizer, steps_per_epoch: int, total_steps: int
) -> optimizer.Schedule:
  warmup = round(chosen.cosine.warmup_epochs * steps_per_epoch)
  if warmup >= total_steps:
    raise errors.UserError(
      f'--config.optimizer.cosine.warmup_epochs={chosen.cosine.warmup_epochs}'
      f' is {warmup} steps of a run of {total_steps}: set'
      ' --config.optimizer.cosine.warmup_epochs to less'
    )
  return optimizer.cosine_schedule(
    chosen.learning_rate,
    warmup,
    total_steps,
    chosen.cosine.end_rate,
    chosen.color_noise,
  )


def _constant(
  chosen: settings.Optimizer, steps_per_epoch: int, total_steps: int
) -> optimizer.Schedule:
  del steps_per_epoch, total_steps
  return optimizer.constant_schedule(chosen.learning_rate, chosen.color_noise)


SCHEDULES: dict[str, _MakeSchedule] = {
  'plateau': _plateau,
  'phases': _phases,
  'cosine': _cosine,
  'constant': _constant,
}


def total_steps(setup: Setup, epochs: Epochs) -> int:
  """Returns the number of updates after which a run ends at the latest."""
  return setup.settings.max_steps or epochs.step(setup.settings.num_epochs)


def make_schedule(setup: Setup, epochs: Epochs) -> optimizer.Schedule:
  """Returns the schedule, a function of `epochs.place(step)`.

  Raises:
    UserError: if the config's schedule does not fit the run.
  """
  chosen = setup.settings.optimizer
  last = epochs.place(total_steps(setup, epochs))
  return SCHEDULES[chosen.schedule](chosen, epochs.steps, last)


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
    optimizer=optimizer.momentum_sgd(
      chosen.momentum, chosen.weight_decay, chosen.bias_decay
    ),
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
