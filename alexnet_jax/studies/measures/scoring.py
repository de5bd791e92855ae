"""Errors of a network's predictions, whichever way they are made."""

from collections.abc import Callable, Iterable

import jax

from alexnet_jax import architecture
from alexnet_jax import evaluate
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import sources

# Yields named log-probabilities of images; see `evaluate.Evaluator.add_up`.
Predict = Callable[[jax.Array], Iterable[tuple[str, jax.Array]]]


class Scorer:
  """Scores predictions of one trained network on its images."""

  def __init__(self, run: TrainedNetwork):
    """Compiles nothing yet."""
    self._run = run
    self._evaluator = evaluate.Evaluator(
      run.setup.placement, run.transform, run.setup.dtype
    )
    # See `evaluate.make_log_probs`.
    self.log_probs = self._evaluator.log_probs
    self.center = run.transform.views['center_view']

  def __call__(
    self, source: sources.Source, predict: Predict, what: str
  ) -> dict[str, dict[str, float]]:
    """Scores predictions in one pass over the images.

    Args:
      source: one of the run's splits, or some of its images.
      predict: the predictions.
      what: is being done, for the lines of progress.

    Returns:
      `nll` (nats), `top1_error` and `top5_error` by name.

    Raises:
      UserError: if no image can be read, or fewer than the config demands.
    """
    batches = self._run.splits.read(source, what, checked=True)
    totals = self._evaluator.add_up(predict, batches) or {}
    for sums in totals.values():
      self._run.splits.check_result(
        source, float(sums.examples), float(sums.unreadable)
      )
    return {name: sums.means() for name, sums in totals.items()}


def multiply_adds(run: TrainedNetwork) -> int:
  """Returns the multiply-adds of one forward pass of one image."""
  shapes = architecture.layer_shapes(run.setup.network, run.transform.crop_size)
  return sum(shape.multiply_adds for shape in shapes)
