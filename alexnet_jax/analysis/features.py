"""What one layer computes for the images of a source, batch by batch."""

from collections.abc import Callable, Iterator
import functools
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from alexnet_jax import setup
from alexnet_jax import sharding
from alexnet_jax import views
from alexnet_jax.analysis import activations
from alexnet_jax.inference import Trained


class Rows(NamedTuple):
  """The images of a batch that could be read.

  Attributes:
    features: float32 [N, ...], of all towers side by side.
    labels: int32 [N], -1 where there is none.
    indices: int64 [N], the examples' numbers in their source.
  """

  features: np.ndarray
  labels: np.ndarray
  indices: np.ndarray


def last_hidden(run: Trained) -> str:
  """Returns the layer before the classifier: fc7 in the paper's network."""
  return run.experiment.network.layers[-2].name


def stem(layer: str, source: Any) -> str:
  """Returns what files of a layer's features of a source are called."""
  split = re.sub(r'[^\w.-]+', '_', source.split or 'all')
  return f'{layer}-{split}'


def make_extractor(
  run: Trained, layer: str
) -> Callable[[np.ndarray], jax.Array]:
  """Returns extract(squares): uint8 [N, S, S, 3] -> float32 [N, ...].

  It cuts the center view. Every device has the whole network and a share of the
  batch.

  Raises:
    UserError: if there is no such layer.
  """
  experiment, sizes = run.experiment, run.experiment.config.input
  activations.check_layer(experiment.network, layer)
  (view,) = setup.center_view(experiment)
  mean = run.mean
  mesh = Mesh(np.array(experiment.devices()), ('example',))
  by_example = NamedSharding(mesh, PartitionSpec('example'))
  everywhere = NamedSharding(mesh, PartitionSpec())

  options = sharding.compiler_options(mesh, experiment.dtype)

  @functools.partial(jax.jit, compiler_options=options)
  def compute(params, squares):
    crops = views.cut(
      squares, view.top, view.left, view.mirror, sizes.crop_size
    )
    return activations.layer_output(
      experiment.network,
      params,
      views.to_input(crops, mean, sizes.pixel_scale),
      layer,
      experiment.dtype,
    )

  params = jax.device_put(run.params, everywhere)

  def extract(squares):
    count = len(squares)
    # Equal shares: a few images more that nobody asked for.
    filled = np.resize(
      squares, (count + -count % mesh.size, *squares.shape[1:])
    )
    return compute(params, jax.device_put(filled, by_example))[:count]

  return extract


def stream(run: Trained, source: Any, layer: str) -> Iterator[Rows]:
  """Yields a layer's output for all images of a source, in its order.

  What cannot be read is left out, named in the log and counted.

  Args:
    run: the trained run.
    source: of images, labeled or not (see `sources.Source`).
    layer: the layer's name.

  Raises:
    UserError: if there is no such layer.
  """
  extract = make_extractor(run, layer)
  return _stream(run, source, layer, extract)


def _stream(run, source, layer, extract) -> Iterator[Rows]:
  for batch in run.data.read(source, f'Computing {layer}'):
    readable = np.flatnonzero(batch['mask'])
    yield Rows(
      np.asarray(extract(batch['image']))[readable],
      batch['label'][readable],
      batch['index'][readable].astype(np.int64),
    )


def squares(run: Trained, source: Any, indices: np.ndarray) -> np.ndarray:
  """Returns some images of a source as prepared: uint8 [N, S, S, 3].

  Args:
    run: the trained run.
    source: of the images.
    indices: int [N], their numbers there; few enough to hold in memory.
  """
  batches = run.data.read(source, 'Reading images', indices=indices)
  return np.concatenate(
    [batch['image'][batch['index'] >= 0] for batch in batches]
  )
