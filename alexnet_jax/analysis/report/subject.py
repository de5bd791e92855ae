"""The trained network and its data as the sections of the report use them."""

from collections.abc import Callable, Iterator
import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax import setup
from alexnet_jax import views
from alexnet_jax.analysis import activations
from alexnet_jax.data import Batch

if TYPE_CHECKING:  # It imports TensorFlow, which takes seconds.
  from alexnet_jax.input_pipeline.sources import Source

BATCH = 128  # images at a time
# Multiply-adds that a section may spend: about two minutes of two CPU cores,
# or of one accelerator.
_BUDGET_OF_CPU = 6e12
_BUDGET = 1e15


class Examples(NamedTuple):
  """Images that could be read.

  Attributes:
    places: int [N], their places among the indices that were asked for.
    images: uint8 [N, S, S, 3].
    labels: int32 [N].
  """

  places: np.ndarray
  images: np.ndarray
  labels: np.ndarray


class Scores(NamedTuple):
  """The predictions for test images.

  Attributes:
    index: int64 [N], the examples.
    label: int32 [N], their true classes.
    top: int [N, 5] (fewer for fewer classes), the likeliest classes first.
    top_probability: float32 [N, 5].
    true_probability: float32 [N], of the true class.
  """

  index: np.ndarray
  label: np.ndarray
  top: np.ndarray
  top_probability: np.ndarray
  true_probability: np.ndarray

  @property
  def wrong(self) -> np.ndarray:
    """Whether the likeliest class is not the true one, bool [N]."""
    return self.top[:, 0] != self.label


def score(
  probabilities: np.ndarray, labels: np.ndarray, indices: np.ndarray
) -> Scores:
  """Returns the scores of probabilities [N, classes]."""
  top = np.argsort(-probabilities, axis=1, kind='stable')[:, :5]
  return Scores(
    indices,
    labels,
    top,
    np.take_along_axis(probabilities, top, axis=1),
    probabilities[np.arange(len(labels)), labels],
  )


def choose(total: int, count: int, seed: int = 0) -> np.ndarray:
  """Draws `count` of `total` examples, the same ones every time.

  Returns:
    Rising indices, int64 [min(count, total)].
  """
  if count >= total:
    return np.arange(total)
  drawn = np.random.default_rng(seed).choice(total, count, replace=False)
  return np.sort(drawn)


def pad(array: np.ndarray, size: int) -> np.ndarray:
  """Returns an array with rows of zeros added up to a size."""
  return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))


class Subject:
  """A trained network with all towers on one device, and its data.

  Attributes:
    workdir: of the run.
    step: updates made.
    config: all keys, plain values.
    network: the architecture.
    shapes: of its layers.
    params: float32, towers on each leading axis.
    mean: float32 [crop, crop, 3] or [3], what is subtracted from pixels.
    image_size: side of a prepared image, in pixels.
    crop_size: side of a view.
    class_names: printable, by label.
    train_source: the training split.
    eval_source: the test images.
  """

  def __init__(self, run: inference.Trained):
    """Moves the parameters to one device.

    Raises:
      UserError: if data are missing or do not fit.
    """
    self._run = run
    self.workdir, self.step = run.workdir, run.step
    self.config = run.experiment.plain_config()
    self.network = run.experiment.network
    self._dtype = run.experiment.dtype
    device = jax.local_devices()[0]
    self.params: model.Params = jax.device_put(
      jax.device_get(run.params), device
    )
    self.mean = run.mean
    self.image_size: int = self.config['input']['image_size']
    self.crop_size: int = self.config['input']['crop_size']
    self.class_names = run.class_names
    self.shapes = architecture.layer_shapes(self.network, self.crop_size)
    self.train_source: Source = run.data.train_source
    self.eval_source: Source = run.data.eval_source
    self.data_name = names.printable(self.train_source.name)
    self._probabilities = jax.jit(
      lambda params, crops: jax.nn.softmax(
        self.logits(params, self.to_input(crops))
      )
    )

  def config_rows(self) -> list[tuple[str, object]]:
    """Returns the config's keys, with dots, and their values."""
    return list(setup.flatten(self.config))

  @functools.cached_property
  def is_gray(self) -> bool:
    """Whether the first test images have no color at all."""
    images = self.read(self.eval_source, self.scores.index[:16]).images
    return bool((images == images[..., :1]).all())

  def affordable(self, images: int, passes: int = 1) -> int:
    """Returns how many images a section may look at.

    Args:
      images: how many there are.
      passes: forward passes per image.
    """
    budget = _BUDGET_OF_CPU if jax.default_backend() == 'cpu' else _BUDGET
    cost = sum(shape.multiply_adds for shape in self.shapes)
    return max(1, min(images, int(budget / (cost * passes))))

  def batches(
    self, source: 'Source', indices: np.ndarray, what: str
  ) -> Iterator[Batch]:
    """Returns batches of at most `BATCH` examples; see `data.Data.read`."""
    return self._run.data.read(
      source, what, indices=indices, batch_size=min(BATCH, len(indices))
    )

  def read(self, source: 'Source', indices: np.ndarray) -> Examples:
    """Returns those of the examples that can be read."""
    parts = []
    for batch in self.batches(source, indices, 'Reading images'):
      kept = batch['mask'] > 0
      parts.append([batch[key][kept] for key in ('index', 'image', 'label')])
    return Examples(*map(np.concatenate, zip(*parts, strict=True)))

  def choose_tests(self, count: int, seed: int = 0) -> np.ndarray:
    """Draws test images that can be read; see `choose`."""
    readable = self.scores.index
    return readable[choose(len(readable), count, seed)]

  def to_input(self, crops: jax.Array) -> jax.Array:
    """Turns pixels [N, crop, crop, 3] into what conv1 reads."""
    scale = self.config['input']['pixel_scale']
    return views.to_input(crops, self.mean, scale)

  def center(self, images: np.ndarray) -> np.ndarray:
    """Cuts the center view out of prepared images [N, S, S, 3]."""
    (view,) = views.center_view(self.image_size, self.crop_size)
    rows = slice(view.top, view.top + self.crop_size)
    columns = slice(view.left, view.left + self.crop_size)
    return images[:, rows, columns]

  def logits(self, params: model.Params, inputs: jax.Array) -> jax.Array:
    """Computes the logits [N, classes] of inputs [N, crop, crop, 3]."""
    return model.forward(self.network, params, inputs, dtype=self._dtype)

  def probabilities(self, crops: np.ndarray) -> np.ndarray:
    """Computes float32 [N, classes] of pixels [N, crop, crop, 3]."""
    return self.in_batches(self._probabilities, crops)

  def in_batches(
    self,
    function: Callable[[model.Params, np.ndarray], jax.Array],
    arrays: np.ndarray,
  ) -> np.ndarray:
    """Applies function(params, array) to [N, ...] in batches of one size."""
    parts, size = [], min(BATCH, len(arrays))
    for first in range(0, len(arrays), size):
      part = arrays[first : first + size]
      result = function(self.params, pad(part, size))
      parts.append(np.asarray(result)[: len(part)])
    return np.concatenate(parts)

  def layers(
    self, ablated: int | None = None
  ) -> Callable[[model.Params, np.ndarray], dict[str, jax.Array]]:
    """Returns (params, pixels) -> the outputs of all layers by tower.

    Args:
      ablated: a tower whose activations other towers and the classifier read
        as zeros; None for no tower. See `activations.forward_all`.
    """

    def compute(params, crops):
      inputs = self.to_input(crops)
      return activations.forward_all(
        self.network, params, inputs, self._dtype, silence=ablated
      )

    return jax.jit(compute)

  @functools.cached_property
  def features(self) -> Callable[[model.Params, np.ndarray], jax.Array]:
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
  def scores(self) -> Scores:
    """The predictions for as many test images as are affordable.

    Unreadable ones are left out.

    Raises:
      UserError: if none can be read.
    """
    total = self.eval_source.num_examples
    indices = choose(total, self.affordable(total))
    parts = []
    for batch in self.batches(self.eval_source, indices, 'Predictions'):
      kept = batch['mask'] > 0
      crops = self.center(batch['image'])
      probabilities = np.asarray(self._probabilities(self.params, crops))
      index = indices[batch['index'][kept]]
      parts.append(score(probabilities[kept], batch['label'][kept], index))
    found = Scores(*map(np.concatenate, zip(*parts, strict=True)))
    if not len(found.label):
      raise errors.NothingReadableError(self.eval_source)
    return found
