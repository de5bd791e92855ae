"""Errors of a network on a whole split: one view or ten, every example once."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from alexnet_jax import files
from alexnet_jax import metrics
from alexnet_jax import model
from alexnet_jax import processes
from alexnet_jax import sharding
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.sharding import Placement
from alexnet_jax.views import InputTransform
from alexnet_jax.views import View
from alexnet_jax.views import cut

Batch = Mapping[str, np.ndarray]


def make_log_probs(
  placement: Placement,
  transform: InputTransform,
  dtype: Any = jnp.float32,
) -> Callable[[model.Params, jax.Array, Sequence[View]], jax.Array]:
  """Returns log_probs(params, images, views): float32 [N, classes].

  With several views it is the log of the mean of their probabilities (paper,
  Section 4.1; 2012 code, layer.cu:1808). Views are arguments of one compiled
  function, computed one after another, so ten need no more memory than one.

  Args:
    placement: of the network.
    transform: how squares become what the network reads.
    dtype: of the arithmetic.
  """

  def local(params, images, top, left, mirror):
    crops = cut(images, top, left, mirror, transform.crop_size)
    logits = model.forward(
      placement.network,
      params,
      transform(crops),
      placement=placement,
      dtype=dtype,
    )
    return jax.nn.log_softmax(logits)

  everywhere = PartitionSpec()
  mesh, rows = placement.mesh, placement.rows()
  one_view = jax.jit(
    sharding.shard_map(
      local,
      mesh,
      in_specs=(placement.params(), rows) + (everywhere,) * 3,
      out_specs=rows,
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

  def __init__(
    self,
    placement: Placement,
    transform: InputTransform,
    dtype: Any = jnp.float32,
  ):
    """Takes what `make_log_probs` takes."""
    self._placement = placement
    self.log_probs = make_log_probs(placement, transform, dtype)
    # Every process reads the sums.
    everywhere = NamedSharding(placement.mesh, PartitionSpec())
    self._score = jax.jit(metrics.score, out_shardings=everywhere)

  def __call__(
    self,
    params: model.Params,
    batches: Iterable[Batch],
    views: Mapping[str, Sequence[View]],
    interrupted: Callable[[], bool] = lambda: False,
  ) -> dict[str, dict[str, float]] | None:
    """Evaluates in one pass over the images.

    Args:
      params: the parameters.
      batches: image uint8 [N, S, S, 3], label int32 [N], mask and unreadable
        float32 [N]: this process's rows (see `Placement.local_rows`).
      views: what to cut out of every image, by the name of the result.
      interrupted: asked after every batch whether to give up.

    Returns:
      For each name: examples, views, nll, top1_error, top5_error (fractions)
      and unreadable. None if interrupted.
    """

    def predict(images):
      for name, cuts in views.items():
        yield name, self.log_probs(params, images, cuts)

    totals = self.add_up(predict, batches, interrupted)
    if totals is None:
      return None
    return {
      name: _summary(totals[name], len(cuts)) for name, cuts in views.items()
    }

  def add_up(
    self,
    predict: Callable[[jax.Array], Iterable[tuple[str, jax.Array]]],
    batches: Iterable[Batch],
    interrupted: Callable[[], bool] = lambda: False,
  ) -> Mapping[str, metrics.Sums] | None:
    """Scores any predictions in one pass over the images.

    Args:
      predict: yields named log-probabilities, float32 [N, classes], of images
        uint8 [N, S, S, 3] on the devices.
      batches: see `__call__`.
      interrupted: see `__call__`.

    Returns:
      The sums of each name, in float64: counts stay exact. None if interrupted.
    """
    totals = collections.defaultdict(lambda: np.zeros(5))
    for batch in batches:
      arrays = {
        name: self._placement.put(batch[name])
        for name in ('image', 'label', 'mask', 'unreadable')
      }
      for name, log_probs in predict(arrays['image']):
        sums = self._score(
          log_probs, arrays['label'], arrays['mask'], arrays['unreadable']
        )
        # In the order of `Sums`.
        totals[name] += np.asarray(jax.tree.leaves(sums), np.float64)
      if interrupted():
        return None
    return {name: metrics.Sums(*total) for name, total in totals.items()}


def _summary(sums: metrics.Sums, num_views: int) -> dict[str, float]:
  return {
    'examples': int(sums.examples),
    'views': num_views,
    **sums.means(),
    'unreadable': int(sums.unreadable),
  }


def make_predictor(
  run: TrainedNetwork, views: Sequence[View]
) -> Callable[[np.ndarray], np.ndarray]:
  """Returns predict(images) -> log-probabilities, as the evaluation has them.

  Args:
    run: the trained network.
    views: what to cut out of every image.

  Returns:
    A function of uint8 [N, S, S, 3], N divisible by the placement's shares, to
    float32 [N, classes].
  """
  placement = run.setup.placement
  log_probs = make_log_probs(placement, run.transform, run.setup.dtype)

  def predict(images):
    return np.asarray(log_probs(run.params, placement.put(images), views))

  return predict


def run(trained: TrainedNetwork, output: pathlib.Path) -> int:
  """Evaluates a trained network with one view and with ten.

  Logs the errors and writes them to evaluation.json.

  Args:
    trained: the network, on any number of devices.
    output: the folder to write into.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if the data are missing or do not fit, or no image can be read.
  """
  setup, splits = trained.setup, trained.splits
  evaluator = Evaluator(setup.placement, trained.transform, setup.dtype)
  source = splits.eval_source
  batches = splits.read(source, 'Evaluating', checked=True)
  results = evaluator(trained.params, batches, trained.transform.views) or {}
  for name, result in results.items():
    splits.check_result(source, result['examples'], result['unreadable'])
    logging.info('%-11s %s', name.replace('_', ' '), in_words(result))
  if processes.is_first():
    files.write_json(
      output / 'evaluation.json', {'step': trained.step, **results}
    )
  return 0


def in_words(result: Mapping[str, float]) -> str:
  """Returns the errors of a split in words."""
  return (
    f'top-1 error {100 * result["top1_error"]:.2f} %,'
    f' top-5 error {100 * result["top5_error"]:.2f} %,'
    f' loss {result["nll"]:.4f}, {result["examples"]} images'
  )
