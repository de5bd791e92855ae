"""From a config to the parts of a run: network, devices, recipe.

The lowest module that sees the ConfigDict: what it imports takes plain
arguments.
"""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from typing import Any

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
from alexnet_jax import pixels
from alexnet_jax import towers
from alexnet_jax import train_state
from alexnet_jax import train_step

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


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
  network = architecture.from_dict(config.network.to_dict())
  model.activation(network.activation)
  _choice(config, 'compute_dtype', _DTYPES)
  _choice(config, 'optimizer.schedule', _SCHEDULES)
  _choice(config, 'input.color', ('paper', 'source', 'none'))
  _choice(config, 'input.mean', ('pixel', 'channel', 'none'))
  _choice(config, 'data.statistics', ('imagenet', 'computed'))
  for key in ('batch_size', 'accumulation', 'evaluate.batch_size'):
    _at_least(config, key, 1)
  for key in ('log.every_steps', 'checkpoint.keep', 'input.crop_size'):
    _at_least(config, key, 1)
  sizes = config.input
  if sizes.crop_size > sizes.image_size:
    raise errors.UserError(
      f'input.crop_size {sizes.crop_size} is larger than input.image_size'
      f' {sizes.image_size}: a crop is cut out of the image, so make it smaller'
    )
  architecture.layer_shapes(network, sizes.crop_size)
  mesh = towers.make_mesh(network.towers, _devices(config, network.towers))
  towers.check_batch(config.batch_size, config.accumulation, mesh)
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


def _get(config, key):
  return functools.reduce(getattr, key.split('.'), config)


def _choice(config, key, options):
  value = _get(config, key)
  if value not in options:
    raise errors.UserError(
      f"{key} is '{value}': use one of {', '.join(options)}"
    )


def _at_least(config, key, least):
  value = _get(config, key)
  if value < least:
    raise errors.UserError(f'{key} is {value}: at least {least} is needed')


def _devices(config, num_towers: int) -> list[jax.Device]:
  """Returns the devices to run on; on a CPU, simulates as many as asked for.

  Must come before JAX first touches a device.
  """
  wanted = config.devices
  towers.simulate_devices(wanted or num_towers)
  devices = jax.devices()
  if wanted > len(devices) or wanted < 0:
    raise errors.UserError(
      f'devices is {wanted}, but there are {len(devices)}'
      f' {devices[0].platform} devices: set devices to at most'
      f' {len(devices)}, or to 0 for all of them'
    )
  return devices[:wanted] if wanted else devices


def _plateau(settings, steps_per_epoch, total_steps):
  del steps_per_epoch, total_steps
  return optimizer.plateau_schedule(settings.color_noise)


def _phases(settings, steps_per_epoch, total_steps):
  del total_steps
  starts = [row[0] for row in settings.phases]
  if not starts or starts[0] != 0 or sorted(starts) != starts:
    raise errors.UserError(
      f'optimizer.phases start at epochs {starts}: needed are rising epochs,'
      ' the first 0'
    )
  return optimizer.phase_schedule(settings.phases, steps_per_epoch)


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


def total_steps(experiment: Experiment, steps_per_epoch: int) -> int:
  """Returns the number of updates after which a run ends at the latest."""
  config = experiment.config
  return config.max_steps or round(config.num_epochs * steps_per_epoch)


def make_recipe(
  experiment: Experiment, steps_per_epoch: int, mean: np.ndarray
) -> train_step.Recipe:
  """Returns the recipe of the training step.

  Args:
    experiment: the config and the network.
    steps_per_epoch: of the training split.
    mean: what to subtract from the images; see `data.Data.mean`.

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
  schedule = _SCHEDULES[settings.schedule](
    settings, steps_per_epoch, total_steps(experiment, steps_per_epoch)
  )
  return train_step.Recipe(
    schedule=schedule,
    optimizer=optimizer.momentum_sgd(
      settings.momentum, settings.weight_decay, settings.bias_decay
    ),
    multipliers=multipliers,
    mean=mean,
    pixel_scale=config.input.pixel_scale,
    divide_by_noise=config.input.color == 'source',
    accumulation=config.accumulation,
    dtype=experiment.dtype,
    log_every=config.log.every_steps,
    steps_per_epoch=steps_per_epoch,
  )


def first_state(experiment: Experiment) -> train_state.TrainState:
  """Returns the state before the first step."""
  config = experiment.config
  return train_state.create(
    experiment.network,
    experiment.mesh,
    seed=config.seed,
    crop_size=config.input.crop_size,
    learning_rate=config.optimizer.learning_rate,
  )


def centre_view(experiment: Experiment) -> tuple[pixels.View, ...]:
  """Returns the one view by which a run is validated."""
  sizes = experiment.config.input
  return pixels.centre_view(sizes.image_size, sizes.crop_size)


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


def check_same_network(
  experiment: Experiment, saved: dict[str, Any], workdir: pathlib.Path
) -> None:
  """Checks that a checkpoint belongs to this config's network.

  Other keys may differ: they are named in the log.

  Raises:
    UserError: if the network differs.
  """
  ours = dict(_flatten(experiment.plain_config()))
  theirs = dict(_flatten(saved))
  for key in sorted(ours.keys() | theirs.keys()):
    mine, other = ours.get(key), theirs.get(key)
    if mine == other:
      continue
    if key.startswith('network.') or key == 'input.crop_size':
      raise errors.UserError(
        f'{workdir} was trained with {key}={other}, the config says {mine}: use'
        ' another --workdir or the same network'
      )
    logging.warning('%s was %s in %s, now %s', key, other, workdir, mine)


def _flatten(value, prefix=()):
  if not isinstance(value, dict):
    return [('.'.join(prefix), value)]
  return itertools.chain.from_iterable(
    _flatten(item, (*prefix, key)) for key, item in value.items()
  )
