"""The step and the input pipeline of a training run, each alone."""

import itertools

import jax.numpy as jnp
from ml_collections import config_dict

from alexnet_jax import setup
from alexnet_jax import train_step
from alexnet_jax.data import Data


class StepAlone:
  """The run's step on one batch of its images, over and over."""

  def __init__(self, config: config_dict.ConfigDict):
    parts = setup.build(config)
    data = Data(parts)
    recipe = setup.make_recipe(parts, data.identity().epochs, data.mean)
    self._step = train_step.make_train_step(parts.network, parts.mesh, recipe)
    self._state = setup.first_state(parts)
    batch = next(data.train_batches(0))
    self._batch = train_step.put_batch(batch, config.accumulation, parts.mesh)
    self.run(1)

  def run(self, count: int) -> None:
    loss = jnp.float32(0)
    for _ in range(count):
      # As in the training loop: one step runs while the next is prepared.
      previous, (self._state, loss) = loss, self._step(self._state, self._batch)
      previous.block_until_ready()
    loss.block_until_ready()


class PipelineAlone:
  """The run's batches, which nobody uses."""

  def __init__(self, config: config_dict.ConfigDict):
    data = Data(setup.build(config))
    self._batches = data.train_batches(0)
    self.run(1)

  def run(self, count: int) -> None:
    for _ in itertools.islice(self._batches, count):
      pass
