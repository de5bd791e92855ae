"""The trained network and its data as the sections of the report use them."""

from collections.abc import Callable, Iterator
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax import settings
from alexnet_jax.analysis import activations
from alexnet_jax.input_pipeline.pipeline import Batch
from alexnet_jax.input_pipeline.sources import Source

BATCH = 128  # images at a time
# Multiply-adds that a section may spend: about two minutes of two CPU cores,
# or of one accelerator.
_BUDGET_OF_CPU = 6e12
_BUDGET = 1e15


class Examples(NamedTuple):
  """Images that could be read."""

  index: np.ndarray  # int64 [N], in their split
  images: np.ndarray  # uint8 [N, S, S, 3], as prepared
  labels: np.ndarray  # int32 [N]


class Scores(NamedTuple):
  """Test images and their five likeliest classes (or as many as there are)."""

  index: np.ndarray  # int64 [N], in their split
  label: np.ndarray  # int32 [N], the true classes
  top: np.ndarray  # int32 [N, 5], the likeliest class first
  probability: np.ndarray  # float32 [N, 5], of these

  @property
  def wrong(self) -> np.ndarray:
    """Whether the likeliest class is not the true one, bool [N]."""
    return self.top[:, 0] != self.label


def choose(total: int, count: int, seed: int = 0) -> np.ndarray:
  """Draws `count` of `total` examples, the same ones every time.

  Returns:
    Rising indices, int64 [min(count, total)].
  """
  if count >= total:
    return np.arange(total)
  drawn = np.random.default_rng(seed).choice(total, count, replace=False)
  return np.sort(drawn)


class Subject:
  """A trained network with all towers on one device, and its data."""

  def __init__(self, run: inference.TrainedNetwork):
    """Moves the parameters to one device.

    Raises:
      UserError: if data are missing or do not fit.
    """
    self._splits, self._dtype = run.splits, run.setup.dtype
    self.transform = run.transform
    self.workdir, self.step = run.workdir, run.step
    self.config = run.setup.config
    self.network = run.setup.network
    self.image_size = run.transform.image_size
    self.crop_size = run.transform.crop_size
    self.shapes = architecture.layer_shapes(self.network, self.crop_size)
    self.class_names = run.class_names
    self.mean = run.transform.mean  # subtracted from pixels; see `views.mean`
    self.train_source: Source = run.splits.train_source
    self.eval_source: Source = run.splits.eval_source
    self.data_name = names.printable(self.train_source.name)
    self.params: model.Params = jax.device_put(
      jax.device_get(run.params), jax.local_devices()[0]
    )

  def config_rows(self) -> list[tuple[str, object]]:
    """Returns the config's keys, with dots, and their values."""
    return list(settings.flatten(self.config))

  @functools.cached_property
  def is_gray(self) -> bool:
    """Whether the first test images have no color at all."""
    images = self.read(self.eval_source, self.scores.index[:16]).images
    return bool((images == images[..., :1]).all())

  def affordable(self, images: int, passes: int = 1) -> int:
    """Returns how many of so many images a section may look at.

    Args:
      images: how many there are.
      passes: forward passes per image.
    """
    budget = _BUDGET_OF_CPU if jax.default_backend() == 'cpu' else _BUDGET
    cost = sum(shape.multiply_adds for shape in self.shapes)
    return max(1, min(images, int(budget / (cost * passes))))

  def choose_tests(self, most: int, seed: int, passes: int = 1) -> np.ndarray:
    """Draws test images that can be read, as many as are affordable.

    Args:
      most: how many at most.
      seed: of the draw; see `choose`.
      passes: forward passes per image.
    """
    readable = self.scores.index
    count = self.affordable(min(most, self.eval_source.num_examples), passes)
    return readable[choose(len(readable), count, seed)]

  def batches(
    self, source: Source, indices: np.ndarray, what: str
  ) -> Iterator[Batch]:
    """Returns batches of `BATCH` examples; see `splits.Splits.read`."""
    size = min(BATCH, len(indices))
    return self._splits.read(source, what, indices=indices, batch_size=size)

  def read(self, source: Source, indices: np.ndarray) -> Examples:
    """Returns those of the examples that can be read."""
    parts = []
    for batch in self.batches(source, indices, 'Reading images'):
      kept = batch['mask'] > 0
      parts.append([batch[key][kept] for key in ('index', 'image', 'label')])
    places, *rest = map(np.concatenate, zip(*parts, strict=True))
    return Examples(indices[places], *rest)

  def test_views(self, indices: np.ndarray) -> np.ndarray:
    """Returns the center views of test images, uint8 [N, crop, crop, 3]."""
    return self.center(self.read(self.eval_source, indices).images)

  def center(self, images: np.ndarray) -> np.ndarray:
    """Cuts the center view out of prepared images [N, S, S, 3]."""
    return self.transform.center(images)

  def to_input(self, crops: jax.Array) -> jax.Array:
    """Turns pixels [N, crop, crop, 3] into what conv1 reads."""
    return self.transform(crops)

  def logits(self, params: model.Params, inputs: jax.Array) -> jax.Array:
    """Computes the logits [N, classes] of inputs [N, crop, crop, 3]."""
    return model.forward(self.network, params, inputs, dtype=self._dtype)

  def layers(
    self, params: model.Params, crops: jax.Array, ablated: int | None = None
  ) -> dict[str, jax.Array]:
    """Computes the outputs of all layers; see `activations.layer_outputs`.

    Args:
      params: of the network.
      crops: pixels [N, crop, crop, 3].
      ablated: a tower whose activations the other towers and the classifier
        read as zeros; None for no tower.
    """
    return activations.layer_outputs(
      self.network,
      params,
      self.to_input(crops),
      self._dtype,
      ablated_tower=ablated,
    )

  @functools.cached_property
  def features(self) -> Callable[..., jax.Array]:
    """Computes (params, pixels) -> the last hidden activations [N, D]."""
    name = self.network.layers[-2].name

    def compute(params, crops):
      inputs = self.to_input(crops)
      output = activations.layer_output(
        self.network, params, inputs, name, self._dtype
      )
      return output.reshape(len(output), -1)

    return jax.jit(compute)

  @functools.cached_property
  def _probabilities(self) -> Callable[..., jax.Array]:
    return jax.jit(lambda *args: jax.nn.softmax(self._logits_of_pixels(*args)))

  def _logits_of_pixels(self, params, crops) -> jax.Array:
    return self.logits(params, self.to_input(crops))

  def probabilities(self, crops: np.ndarray) -> np.ndarray:
    """Computes float32 [N, classes] of pixels [N, crop, crop, 3]."""
    parts = [
      self._padded(self._probabilities, crops[first : first + BATCH])
      for first in range(0, len(crops), BATCH)
    ]
    return np.concatenate(parts)

  def _padded(self, function: Callable[..., Any], crops: np.ndarray) -> Any:
    """Calls function(params, crops), compiled for batches of one size."""
    padding = [(0, BATCH - len(crops))] + [(0, 0)] * 3
    result = jax.device_get(function(self.params, np.pad(crops, padding)))
    return jax.tree.map(lambda array: array[: len(crops)], result)

  def over(
    self,
    function: Callable[..., Any],
    source: Source,
    indices: np.ndarray,
    what: str,
  ) -> tuple[np.ndarray, np.ndarray, Any]:
    """Applies a function to the center views of examples.

    Args:
      function: jitted, of (params, pixels [N, crop, crop, 3]) to a tree of
        arrays [N, ...].
      source: a split.
      indices: of the examples.
      what: is being done, for the lines of progress.

    Returns:
      The indices of the examples that could be read, their labels, and the
      results of them all.

    Raises:
      UserError: if none can be read.
    """
    parts = []
    for batch in self.batches(source, indices, what):
      kept = batch['mask'] > 0
      result = self._padded(function, self.center(batch['image'][kept]))
      parts.append(
        (indices[batch['index'][kept]], batch['label'][kept], result)
      )
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    if not len(joined[0]):
      raise errors.NothingReadableError(source)
    return joined

  @functools.cached_property
  def scores(self) -> Scores:
    """The predictions for as many test images as are affordable.

    Raises:
      UserError: if none can be read.
    """
    total = self.eval_source.num_examples

    @jax.jit
    def top5(params, crops):
      probabilities = jax.nn.softmax(self._logits_of_pixels(params, crops))
      return jax.lax.top_k(probabilities, min(5, probabilities.shape[1]))

    index, label, (probability, top) = self.over(
      top5,
      self.eval_source,
      choose(total, self.affordable(total)),
      'Predictions',
    )
    return Scores(index, label, top, probability)
