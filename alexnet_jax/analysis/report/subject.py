"""The trained network as the sections of the report question it."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import data
from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax import views
from alexnet_jax.analysis import activations
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report import scoring
from alexnet_jax.architecture import Architecture

BATCH = 128  # images at a time
# Multiply-adds that a section may spend: about two minutes of two CPU cores,
# or of one accelerator.
_BUDGET_OF_CPU = 6e12
_BUDGET = 1e15


@dataclasses.dataclass(frozen=True)
class Subject:
  """A trained network on one device, all towers in turn.

  Attributes:
    run: where it comes from.
    params: float32, towers on each leading axis.
    mean: float32 [crop, crop, 3] or [3], what is subtracted from pixels.
  """

  run: inference.Trained
  params: model.Params
  mean: np.ndarray

  @property
  def _config(self) -> Any:
    return self.run.experiment.config

  @property
  def network(self) -> Architecture:
    return self.run.experiment.network

  @property
  def image_size(self) -> int:
    return self._config.input.image_size

  @property
  def crop_size(self) -> int:
    return self._config.input.crop_size

  @property
  def train_batch(self) -> int:
    return self._config.batch_size

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    return self.run.class_names

  @property
  def data_name(self) -> str:
    return names.printable(self.train_source.name)

  @property
  def train_source(self) -> Any:
    return self.run.data.train_source

  @property
  def eval_source(self) -> Any:
    return self.run.data.eval_source

  @functools.cached_property
  def shapes(self) -> tuple[architecture.LayerShape, ...]:
    return architecture.layer_shapes(self.network, self.crop_size)

  @functools.cached_property
  def is_gray(self) -> bool:
    """Whether the first test images have no color at all."""
    images = self.read(self.eval_source, self.scores.index[:16]).images
    return bool((images == images[..., :1]).all())

  def affordable(self, images: int, passes: int = 1) -> int:
    """Returns how many of the images a section may look at.

    Args:
      images: how many there are.
      passes: forward passes that each needs.
    """
    budget = _BUDGET_OF_CPU if jax.default_backend() == 'cpu' else _BUDGET
    cost = sum(shape.multiply_adds for shape in self.shapes)
    return max(1, min(images, int(budget / (cost * passes))))

  def batches(
    self, source: Any, indices: np.ndarray, what: str
  ) -> Iterator[data.Batch]:
    """Returns batches of at most `BATCH` examples; see `data.Data.read`."""
    return self.run.data.read(
      source, what, indices=indices, batch_size=min(BATCH, len(indices))
    )

  def read(self, source: Any, indices: np.ndarray) -> samples.Examples:
    """Returns the examples of these indices that can be read."""
    return samples.join(self.batches(source, indices, 'Reading images'))

  def choose_tests(self, count: int, seed: int = 0) -> np.ndarray:
    """Draws test images that can be read; see `samples.choose`."""
    readable = self.scores.index
    return readable[samples.choose(len(readable), count, seed)]

  def to_input(self, crops: jax.Array) -> jax.Array:
    """Turns pixels, [N, crop, crop, 3], into what conv1 reads."""
    return views.to_input(crops, self.mean, self._config.input.pixel_scale)

  def center(self, images: np.ndarray) -> np.ndarray:
    """Cuts the center view out of prepared images [N, S, S, 3]."""
    (view,) = views.center_view(self.image_size, self.crop_size)
    rows = slice(view.top, view.top + self.crop_size)
    columns = slice(view.left, view.left + self.crop_size)
    return images[:, rows, columns]

  def logits(self, params: model.Params, inputs: jax.Array) -> jax.Array:
    """Computes the logits [N, classes] of inputs [N, crop, crop, 3]."""
    dtype = self.run.experiment.dtype
    return model.forward(self.network, params, inputs, dtype=dtype)

  @functools.cached_property
  def _probabilities(self) -> Callable[..., jax.Array]:
    return jax.jit(
      lambda params, crops: jax.nn.softmax(
        self.logits(params, self.to_input(crops))
      )
    )

  def probabilities(self, crops: np.ndarray) -> np.ndarray:
    """Computes float32 [N, classes] of pixels [N, crop, crop, 3]."""
    return self.in_batches(self._probabilities, crops)

  def in_batches(
    self, function: Callable[..., Any], arrays: np.ndarray
  ) -> np.ndarray:
    """Applies function(params, array) to batches of one size.

    Args:
      function: of the parameters and an array [N, ...] to another.
      arrays: [N, ...], any N above 0.

    Returns:
      The results, [N, ...].
    """
    parts, size = [], min(BATCH, len(arrays))
    for first in range(0, len(arrays), size):
      part = arrays[first : first + size]
      result = function(self.params, pad(part, size))
      parts.append(np.asarray(result)[: len(part)])
    return np.concatenate(parts)

  def one(self, image: np.ndarray, count: int) -> np.ndarray:
    """Puts one image first in a batch as large as those of `count` images.

    Functions that were used on such batches need not be compiled again.
    """
    return pad(image[None], min(BATCH, count))

  @functools.cached_property
  def layers(self) -> Callable[..., dict[str, jax.Array]]:
    """Computes (params, pixels) -> the outputs of all layers by tower."""
    return self.layers_without(None)

  def layers_without(
    self, tower: int | None
  ) -> Callable[..., dict[str, jax.Array]]:
    """The same with a tower's maps zeroed where others read them."""

    def compute(params, crops):
      return activations.forward_all(
        self.network,
        params,
        self.to_input(crops),
        self.run.experiment.dtype,
        silence=tower,
      )

    return jax.jit(compute)

  @functools.cached_property
  def features(self) -> Callable[..., jax.Array]:
    """Computes (params, pixels) -> the last hidden activations [N, D]."""
    name = self.network.layers[-2].name

    def compute(params, crops):
      output = activations.layer_output(
        self.network,
        params,
        self.to_input(crops),
        name,
        self.run.experiment.dtype,
      )
      return output.reshape(len(output), -1)

    return jax.jit(compute)

  @functools.cached_property
  def scores(self) -> scoring.Scores:
    """Predictions for the test images, or for as many as are affordable.

    Those that cannot be read are left out.

    Raises:
      UserError: if none can be read.
    """
    source = self.eval_source
    count = self.affordable(source.num_examples)
    indices = samples.choose(source.num_examples, count)
    parts = []
    for batch in self.batches(source, indices, 'Predictions'):
      crops = self.center(batch['image'])
      probabilities = np.asarray(self._probabilities(self.params, crops))
      kept = batch['mask'] > 0
      parts.append(
        scoring.score(
          probabilities[kept],
          batch['label'][kept],
          indices[batch['index'][kept]],
        )
      )
    found = scoring.join(parts)
    if not len(found.label):
      raise errors.NothingReadableError(source)
    return found


def pad(array: np.ndarray, size: int) -> np.ndarray:
  """Returns the array with rows of zeros added up to a size."""
  missing = size - len(array)
  if not missing:
    return array
  zeros = np.zeros((missing, *array.shape[1:]), array.dtype)
  return np.concatenate([array, zeros])


def open_subject(run: inference.Trained) -> Subject:
  """Brings a run's parameters to one device.

  Raises:
    UserError: if its data are missing or do not fit.
  """
  params = jax.device_put(jax.device_get(run.params), jax.local_devices()[0])
  params = jax.tree.map(jnp.asarray, params)
  return Subject(run, params, run.mean)
