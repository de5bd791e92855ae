"""Made-up images that can be learnt, for smoke tests and speed."""

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import squares

_GRID = 4  # patches along a side of a class's pattern
_NOISE_STARTS = 2**22
_PATTERN, _NOISE = 0, 1  # streams of random numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Synthetic:
  """A source of images that exist only as numbers; see `sources.Source`.

  Half of each pixel is its class's pattern, a grid of random colours, and
  half is noise; labels go round the classes. Image and label are functions of
  (seed, split, index), and all splits share the patterns.
  """

  split: str
  num_examples: int
  num_classes: int
  image_size: int
  seed: int = 0

  name = 'synthetic'
  directory: pathlib.Path | None = None

  def __post_init__(self) -> None:
    sizes = (self.num_examples, self.num_classes, self.image_size)
    if min(sizes) < 1:
      raise ValueError(f'examples, classes and size {sizes} must be positive')

  @functools.cached_property
  def _patterns(self) -> np.ndarray:
    """Colours below 128 of each class: uint8 [classes, grid, grid, 3]."""
    shape = (self.num_classes, _GRID, _GRID, 3)
    generator = np.random.Philox(key=[self.seed, _PATTERN])
    words = generator.random_raw(int(np.prod(shape)))
    return (words >> np.uint64(57)).astype(np.uint8).reshape(shape)

  @functools.cached_property
  def _noise(self) -> np.ndarray:
    """One long noise below 128, uint8; an image's is a stretch of it.

    So cheap that a speed measurement measures the pipeline, not this source.
    """
    length = self.image_size**2 * 3 + _NOISE_STARTS
    generator = np.random.Philox(key=[self.seed, _NOISE])
    return generator.random_raw(length // 8 + 1).view(np.uint8) >> 1

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(f'class{label}' for label in range(self.num_classes))

  @property
  def fingerprint(self) -> str:
    return hashlib.sha256(repr(self).encode()).hexdigest()

  @property
  def record_spec(self) -> tuple[tf.TensorSpec, ...]:
    shape = [self.image_size, self.image_size, 3]
    return tf.TensorSpec(shape, tf.uint8), tf.TensorSpec([], tf.int32)

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    labels = (indices % self.num_classes).astype(np.int32)
    shape = (self.image_size, self.image_size, 3)
    patch = np.arange(self.image_size) * _GRID // self.image_size
    images = np.empty((len(indices), *shape), np.uint8)
    for image, index, label in zip(images, indices, labels, strict=True):
      start = self._noise_start(int(index))
      noise = self._noise[start : start + image.size].reshape(shape)
      np.add(noise, self._patterns[label][:, patch][patch], out=image)
    return images, labels

  def _noise_start(self, index: int) -> int:
    digest = hashlib.sha256(f'{self.split} {index}'.encode()).digest()
    return int.from_bytes(digest[:8], 'big') % _NOISE_STARTS

  def read(self, record: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    image, label = record
    return image, label

  @property
  def square_size(self) -> int:
    return self.image_size

  def cut(
    self, indices: np.ndarray, offsets: np.ndarray, flips: np.ndarray, size: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, labels = self.fetch(indices)
    rows = offsets[:, 0].tolist()
    bands = (
      image[row : row + size] for image, row in zip(images, rows, strict=True)
    )
    windows = squares.cut(bands, offsets[:, 1], flips, size)
    return windows, labels, np.ones(len(indices), bool)

  def describe(self, index: int) -> str:
    return f'synthetic {self.split}[{index}]'
