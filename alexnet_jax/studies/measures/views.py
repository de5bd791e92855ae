"""Test error by the number of views of an image (Section 4.1)."""

from collections.abc import Iterable, Sequence
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import views
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.studies.measures import scoring
from alexnet_jax.studies.results import Result

# Positions per side of the largest sets. 5 are all that CIFAR-10's 28 of 32
# pixels have; 50 views of an image are their number with the mirror images.
_GRIDS = (3, 4, 5)


def measure(runs: Sequence[TrainedNetwork]) -> Iterable[Result]:
  """Measures the mean of the predictions for 1 to 50 views of an image.

  Variants: '1 view', the center; '2 views', it and its mirror image; '5 views',
  the corners and the center; '10 views', the paper's; '18 views', '32 views'
  and '50 views', grids of 3x3, 4x4 and 5x5 positions and their mirror images.
  Views that coincide count once, and a set like an earlier one is left out.

  Values: `top1_error`, `top5_error`, `nll`, and `multiply_adds` per image.
  """
  for run in runs:
    seed = run.setup.settings.seed
    for name, values in _measure(run).items():
      yield Result(name, seed, values)


def view_sets(
  image_size: int, crop_size: int
) -> dict[str, tuple[views.View, ...]]:
  """Returns sets of different views by name; see `measure`.

  Args:
    image_size: side of the square image, pixels.
    crop_size: side of a view, pixels.
  """
  (center,) = views.center_view(image_size, crop_size)
  ten = views.ten_views(image_size, crop_size)
  candidates = [
    (center,),
    (center, views.View(center.top, center.left, True)),
    tuple(view for view in ten if not view.mirror),
    ten,
    *(_grid(image_size - crop_size, side) for side in _GRIDS),
  ]
  found: dict[str, tuple[views.View, ...]] = {}
  for some in candidates:
    unique = tuple(dict.fromkeys(some))
    if set(unique) not in map(set, found.values()):
      found[f'{len(unique)} view' + 's' * (len(unique) > 1)] = unique
  return found


def _grid(end: int, side: int) -> tuple[views.View, ...]:
  """Returns side x side positions from 0 to `end`, and the mirror images."""
  starts = np.linspace(0, end, side).round().astype(int).tolist()
  return tuple(
    views.View(top, left, mirror)
    for mirror, top, left in itertools.product((False, True), starts, starts)
  )


def _measure(run: TrainedNetwork) -> dict[str, dict[str, float]]:
  """Measures every set; each view is computed once per image."""
  sets = view_sets(run.transform.image_size, run.transform.crop_size)
  every = dict.fromkeys(view for some in sets.values() for view in some)
  scorer = scoring.Scorer(run)

  def predict(images):
    # Dozens of programs at once would take all threads of simulated devices,
    # which then wait for each other.
    each = {
      view: jax.block_until_ready(scorer.log_probs(run.params, images, (view,)))
      for view in every
    }
    for name, some in sets.items():
      yield name, _mean([each[view] for view in some])

  errors = scorer(run.splits.eval_source, predict, 'Views')
  cost = float(scoring.multiply_adds(run))
  return {
    name: {**values, 'multiply_adds': len(sets[name]) * cost}
    for name, values in errors.items()
  }


@jax.jit
def _mean(log_probs: Sequence[jax.Array]) -> jax.Array:
  """Returns the log of the mean of probabilities, [N, classes] each."""
  stacked = jnp.stack(log_probs)
  return jax.nn.logsumexp(stacked, axis=0) - np.log(len(log_probs))
