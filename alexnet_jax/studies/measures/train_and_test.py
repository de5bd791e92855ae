"""The error on training and on validation images after training."""

from collections.abc import Iterable, Sequence

from alexnet_jax.analysis.report import subject
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import sources
from alexnet_jax.studies.measures import scoring
from alexnet_jax.studies.results import Result

_MOST = 10_000  # training images


def measure(runs: Sequence[TrainedNetwork]) -> Iterable[Result]:
  """Measures the finished network on training and on validation images.

  Both with the center view and without dropout, so that the two differ in the
  images alone; the errors in the log of the training are of augmented images
  and of a network that still changed. Of more than 10,000 training images, a
  fixed sample.

  Variant: 'center view'.

  Values: `train_error` (top-1) and `train_nll` on training images;
  `top1_error`, `top5_error` and `nll` on validation images; `gap`, top1_error -
  train_error.
  """
  for run in runs:
    yield Result('center view', run.setup.settings.seed, _measure(run))


def _measure(run: TrainedNetwork) -> dict[str, float]:
  scorer = scoring.Scorer(run)

  def predict(images):
    yield 'center', scorer.log_probs(run.params, images, scorer.center)

  everything = run.splits.train_source
  chosen = subject.choose(everything.num_examples, _MOST)
  some = sources.Subset(everything, chosen)
  train = scorer(some, predict, 'Training images')['center']
  test = scorer(run.splits.eval_source, predict, 'Validation images')['center']
  return {
    'train_error': train['top1_error'],
    'train_nll': train['nll'],
    **test,
    'gap': test['top1_error'] - train['top1_error'],
  }
