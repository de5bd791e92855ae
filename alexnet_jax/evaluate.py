"""Errors of a network on a whole split: one view or ten, every example once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from alexnet_jax import files
from alexnet_jax import inference
from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import reporting
from alexnet_jax import sharding
from alexnet_jax import views
from alexnet_jax.architecture import Architecture
from alexnet_jax.inference import Trained
from alexnet_jax.setup import Experiment

Batch = Mapping[str, np.ndarray]


def make_log_probs(
  network: Architecture,
  mesh: Mesh,
  *,
  crop_size: int,
  mean: np.ndarray,
  pixel_scale: float,
  dtype: Any = jnp.float32,
) -> Callable[[model.Params, jax.Array, Sequence[views.View]], jax.Array]:
  """Returns log_probs(params, images, views): float32 [N, classes].

  With several views it is the log of the mean of their probabilities (paper,
  Section 4.1; 2012 code, layer.cu:1808). Views are arguments of one compiled
  function, computed one after another, so ten need no more memory than one.
  """
  join = sharding.make_join(mesh)

  def local(params, images, top, left, mirror):
    crops = views.cut(images, top, left, mirror, crop_size)
    inputs = views.to_input(crops, mean, pixel_scale)
    logits = model.forward(network, params, inputs, join=join, dtype=dtype)
    return jax.nn.log_softmax(logits)

  everywhere = PartitionSpec()
  example = sharding.by_example(mesh)
  one_view = jax.jit(
    sharding.shard_map(
      local,
      mesh,
      in_specs=(sharding.by_tower(mesh), example) + (everywhere,) * 3,
      out_specs=example,
    ),
    compiler_options=sharding.compiler_options(mesh, dtype),
  )

  def log_probs(params, images, views):
    each = [
      one_view(params, images, view.top, view.left, view.mirror)
      for view in views
    ]
    total = functools.reduce(jnp.logaddexp, each)
    return total - np.float32(np.log(len(views)))

  return log_probs


class Evaluator:
  """Evaluates parameters on a split, compiled once for the whole run."""

  def __init__(self, network: Architecture, mesh: Mesh, **kwargs):
    """Takes what `make_log_probs` takes."""
    self._mesh = mesh
    self._log_probs = make_log_probs(network, mesh, **kwargs)
    self._score = jax.jit(metrics.score)

  def __call__(
    self,
    params: model.Params,
    batches: Iterable[Batch],
    views: Mapping[str, Sequence[views.View]],
    interrupted: Callable[[], bool] = lambda: False,
  ) -> dict[str, dict[str, float]] | None:
    """Evaluates in one pass over the images.

    Args:
      params: the parameters.
      batches: image uint8 [N, S, S, 3], label int32 [N], mask and unreadable
        float32 [N], N divisible by the copies of the network.
      views: what to cut out of every image, by the name of the result.
      interrupted: asked after every batch whether to give up.

    Returns:
      For each name: examples, views, nll, top1_error, top5_error (fractions)
      and unreadable. None if interrupted.
    """
    placement = NamedSharding(self._mesh, sharding.by_example(self._mesh))
    # Sums of many batches are added in float64: counts stay exact.
    totals = {name: np.zeros(5) for name in views}  # in the order of `Sums`
    for batch in batches:
      arrays = {
        name: jax.device_put(batch[name], placement)
        for name in ('image', 'label', 'mask', 'unreadable')
      }
      for name, cuts in views.items():
        sums = self._score(
          self._log_probs(params, arrays['image'], cuts),
          arrays['label'],
          arrays['mask'],
          arrays['unreadable'],
        )
        totals[name] += np.asarray(jax.tree.leaves(sums), np.float64)
      if interrupted():
        return None
    return {
      name: _summary(total, len(views[name])) for name, total in totals.items()
    }


def _summary(totals: np.ndarray, num_views: int) -> dict[str, float]:
  sums = metrics.Sums(*totals)
  return {
    'examples': int(sums.examples),
    'views': num_views,
    **sums.means(),
    'unreadable': int(sums.unreadable),
  }


def make_evaluator(experiment: Experiment, mean: np.ndarray) -> Evaluator:
  """Returns the evaluator of a config's network.

  Args:
    experiment: the config and the network.
    mean: what to subtract from the images; see `views.mean`.
  """
  return Evaluator(
    experiment.network, experiment.mesh, **_settings(experiment, mean)
  )


def _settings(experiment: Experiment, mean: np.ndarray) -> dict[str, Any]:
  """Returns what `make_log_probs` takes besides network and mesh."""
  return {
    'crop_size': experiment.config.input.crop_size,
    'mean': mean,
    'pixel_scale': experiment.config.input.pixel_scale,
    'dtype': experiment.dtype,
  }


def make_predictor(
  run: Trained, views: Sequence[views.View]
) -> Callable[[np.ndarray], np.ndarray]:
  """Returns predict(images) -> log-probabilities, as the evaluation has them.

  Args:
    run: the trained run.
    views: what to cut out of every image.

  Returns:
    A function of uint8 [N, S, S, 3], N divisible by the copies of the network,
    to float32 [N, classes].
  """
  experiment = run.experiment
  log_probs = make_log_probs(
    experiment.network, experiment.mesh, **_settings(experiment, run.mean)
  )
  placement = NamedSharding(
    experiment.mesh, sharding.by_example(experiment.mesh)
  )

  def predict(images):
    there = jax.device_put(images, placement)
    return np.asarray(log_probs(run.params, there, views))

  return predict


def view_sets(experiment: Experiment) -> dict[str, tuple[views.View, ...]]:
  """Returns the two ways to look at an image, by the name of the result."""
  sizes = experiment.config.input
  return {
    'center_view': views.center_view(sizes.image_size, sizes.crop_size),
    'ten_views': views.ten_views(sizes.image_size, sizes.crop_size),
  }


def run(experiment: Experiment | None, workdir: pathlib.Path) -> int:
  """Evaluates a trained run with one view and with ten.

  Prints the errors and writes them to `<workdir>/evaluation.json`.

  Args:
    experiment: from `setup.build`, on any number of devices; None for the
      run's own.
    workdir: of a run that has saved a checkpoint.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no checkpoint, or it is of another network, or no
      image can be read.
  """
  opened = inference.open_run(workdir, experiment)
  data = opened.data
  evaluator = make_evaluator(opened.experiment, opened.mean)
  batches = data.read(data.eval_source, 'Evaluating', strict=True)
  results = evaluator(opened.params, batches, view_sets(opened.experiment))
  for name, result in (results or {}).items():
    logging.info('%-11s %s', name.replace('_', ' '), line(result))
  reporting.replace_text(
    workdir / 'evaluation.json',
    files.dumps({'step': opened.step, **(results or {})}, indent=2) + '\n',
  )
  return 0


def line(result: Mapping[str, float]) -> str:
  """Returns the errors of a split in words."""
  return (
    f'top-1 error {100 * result["top1_error"]:.2f} %,'
    f' top-5 error {100 * result["top5_error"]:.2f} %,'
    f' loss {result["nll"]:.4f}, {result["examples"]} images'
  )
