"""Specialization of the towers in color (Section 6.1, Figure 3)."""

from collections.abc import Iterable, Sequence

import numpy as np

from alexnet_jax import errors
from alexnet_jax.analysis.report import kernels
from alexnet_jax.architecture import Conv
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.studies.results import Result

_PERMUTATIONS = 9_999
_SIGNIFICANT = 0.05


def measure(runs: Sequence[TrainedNetwork]) -> Iterable[Result]:
  """Measures how colored the first layer's kernels are, by tower.

  The score of a kernel is that of `kernels.color_scores`: 0 responds to
  brightness only, 1 to color only, and random kernels have 2/3 on average. Gray
  images do not change it, so a study of them measures the initial values.

  Variant: the first layer's name.

  Values: `lowest` and `highest`, of the towers' medians; and of two or more
  towers their `difference`; `colorful_tower`, the number of the tower with the
  highest; `p_value` of the difference, see `permutation_test`; `specialized`, 1
  if the p-value is below 0.05, as by chance in one of 20 runs, and 0 otherwise.

  Raises:
    UserError: if the first layer is fully connected.
  """
  for run in runs:
    first = run.setup.network.layers[0]
    if not isinstance(first, Conv):
      raise errors.UserError(
        f'{first.name}, the first layer of {run.workdir}, is fully connected'
        ' and has no kernels: measure color_scores on a network whose'
        ' --config.network.layers begins with a convolution'
      )
    scores = kernels.color_scores(np.asarray(run.params[first.name]['kernel']))
    yield Result(first.name, run.setup.settings.seed, _values(scores))


def _values(scores: np.ndarray) -> dict[str, float]:
  medians = np.median(scores, axis=1)
  values = {'lowest': float(medians.min()), 'highest': float(medians.max())}
  if len(medians) > 1:
    values['difference'] = float(np.ptp(medians))
    values['colorful_tower'] = float(medians.argmax())
    values['p_value'] = permutation_test(scores)
    values['specialized'] = float(values['p_value'] < _SIGNIFICANT)
  return values


def permutation_test(scores: np.ndarray) -> float:
  """Returns the p-value of the hypothesis that towers' scores do not differ.

  It is the share of random assignments of the kernels to the towers in which
  the medians differ by at least as much, the actual one included.

  Args:
    scores: [towers, kernels].
  """
  rng = np.random.default_rng(0)
  repeated = np.tile(scores.reshape(-1), (_PERMUTATIONS, 1))
  shuffled = rng.permuted(repeated, axis=1).reshape(-1, *scores.shape)
  differences = np.ptp(np.median(shuffled, axis=2), axis=1)
  actual = np.ptp(np.median(scores, axis=1))
  return float((1 + np.sum(differences >= actual)) / (1 + _PERMUTATIONS))
