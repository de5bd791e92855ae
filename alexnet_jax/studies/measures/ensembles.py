"""The error of averages of networks, and how far it would fall (Table 2)."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from alexnet_jax.analysis import ensemble
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.studies.measures import scoring
from alexnet_jax.studies.results import Result

_METRICS = ('top1_error', 'top5_error', 'nll')
_VIEWS = 'ten_views'  # as in the paper's Table 2


def measure(runs: Sequence[TrainedNetwork]) -> Iterable[Result]:
  """Measures the mean of the predictions of 1 to all networks, with ten views.

  Variants: '1 network', with a result per network; '2 networks' and so on, with
  one result, the mean over all subsets of that size (of more than ten networks,
  over at most a hundred), since subsets that share networks are not
  independent; 'limit', for two or more networks: see `extrapolate`.

  Values: `top1_error`, `top5_error`, `nll`, and `multiply_adds` per image, not
  available for the limit.

  Raises:
    UserError: if the networks differ in classes or validation images.
  """
  for other in runs[1:]:
    ensemble.check_comparable(runs[0], other)
  subsets = ensemble.measure_subsets(*ensemble.predict(runs, _VIEWS))
  views = len(runs[0].transform.views[_VIEWS])
  cost = views * scoring.multiply_adds(runs[0])
  for run, subset in zip(runs, subsets, strict=False):  # the networks alone
    values = {name: subset[name] for name in _METRICS}
    seed = run.setup.settings.seed
    yield Result('1 network', seed, {**values, 'multiply_adds': float(cost)})
  if len(runs) == 1:
    return
  sizes = ensemble.summarize(subsets)
  for size, errors in enumerate(sizes[1:], 2):
    values = {name: errors[name]['mean'] for name in _METRICS}
    values['multiply_adds'] = float(size * cost)
    yield Result(f'{size} networks', 0, values)
  yield Result('limit', 0, extrapolate(sizes))


def extrapolate(
  sizes: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, float]:
  """Returns the errors that averages of ever more networks would approach.

  The mean error of k networks is fitted with a + b / k by least squares, each
  size with the same weight; the limit is a. The squared error of a mean of k
  independent predictions follows this law; for the other metrics it is an
  empirical fit.

  Args:
    sizes: from `ensemble.summarize`: means of the errors of 1, 2, ... networks,
      at least two.
  """
  shares = 1 / np.arange(1, len(sizes) + 1)
  fits = {
    name: np.polyfit(shares, [size[name]['mean'] for size in sizes], 1)
    for name in _METRICS
  }
  return {name: float(constant) for name, (_, constant) in fits.items()}
