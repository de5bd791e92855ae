"""Gradient norms by layer, with and without dropout (Section 4.2)."""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import setup as setups
from alexnet_jax import sharding
from alexnet_jax import train_step
from alexnet_jax.analysis.report import subject
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import sources
from alexnet_jax.studies.results import Result

_MOST = 2_048  # training images
_VARIANTS = ('with dropout', 'without dropout')


def measure(runs: Sequence[TrainedNetwork]) -> Iterable[Result]:
  """Measures the norm of the training loss's gradient by layer.

  The gradient, without weight decay, is that of the mean loss of the center
  views of 2,048 training images, the same for every network, with respect to a
  layer's weights in all towers together, without biases.

  Variants: 'with dropout', with one mask per image, unless the network's rate
  is 0; and 'without dropout', the network of test time.

  Values, for every layer, here of conv1: `gradient_conv1`, the norm, and
  `gradient_conv1_relative`, the norm divided by that of the weights.
  """
  for run in runs:
    seed = run.setup.settings.seed
    of_weights = _norms(run.params)
    gradients = _gradients(run)
    if not run.setup.network.dropout_rate:  # Both are the same.
      del gradients['with dropout']
    for variant, gradient in gradients.items():
      values = {}
      for layer, norm in _norms(gradient).items():
        values[f'gradient_{layer}'] = norm
        values[f'gradient_{layer}_relative'] = norm / of_weights[layer]
      yield Result(variant, seed, values)


def _norms(params: model.Params) -> dict[str, float]:
  return {
    layer: float(np.linalg.norm(np.asarray(own['kernel'], np.float64)))
    for layer, own in params.items()
  }


def _gradients(run: TrainedNetwork) -> dict[str, model.Params]:
  """Returns the gradient of the mean loss for each of the variants."""
  everything = run.splits.train_source
  chosen = subject.choose(everything.num_examples, _MOST)
  source = sources.Subset(everything, chosen)
  size = run.setup.settings.batch_size
  batches = run.splits.read(source, 'Gradients', batch_size=size, checked=True)
  gradient = _make_gradient(run)
  totals: dict[str, tuple[model.Params, metrics.Sums]] = {}
  for number, batch in enumerate(batches):
    placed = _put(run, batch)
    masks = jax.random.fold_in(jax.random.key(0), number)
    keys = jax.random.key_data(masks), None
    for variant, key in zip(_VARIANTS, keys, strict=True):
      added = gradient(run.params, placed, key)
      if variant in totals:
        added = jax.tree.map(jnp.add, totals[variant], added)
      totals[variant] = added
  for _, sums in totals.values():
    run.splits.check_result(
      source, float(sums.examples), float(sums.unreadable)
    )
  return {
    variant: jax.tree.map(lambda g, n=sums.examples: g / n, gradients)
    for variant, (gradients, sums) in totals.items()
  }


def _make_gradient(
  run: TrainedNetwork,
) -> Callable[..., tuple[model.Params, metrics.Sums]]:
  """Returns gradient(params, batch, key) of the sum of a batch's losses."""
  setup = run.setup
  recipe = setups.make_recipe(setup, run.identity.epochs, run.transform.mean)
  of_mean = train_step.make_gradient(setup.placement, recipe)

  def gradient(params, batch, key):
    gradients, sums = of_mean(params, batch, key, jnp.float32(0))
    return jax.tree.map(lambda g: g * sums.examples, gradients), sums

  options = sharding.compiler_options(setup.mesh, setup.dtype)
  return jax.jit(gradient, compiler_options=options)


def _put(run: TrainedNetwork, batch: pipeline.Batch) -> train_step.Batch:
  """Puts the center views on the devices, without a color shift."""
  crops = run.transform.center(batch['image'])
  labels = {key: batch[key] for key in ('label', 'mask', 'unreadable')}
  lighting = np.zeros((len(crops), 3), np.float32)
  return train_step.put_batch(
    {**labels, 'image': crops, 'lighting': lighting},
    run.setup.settings.accumulation,
    run.setup.placement,
  )
