"""The splits of a config: opened, made into batches, prepared once.

TensorFlow comes in when data are opened and not before: networks and steps do
without.
"""

from collections.abc import Iterator
import functools

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import pixels
from alexnet_jax import towers
from alexnet_jax.experiment import Experiment


class Data:
  """The training and validation splits of a config, and their statistics."""

  def __init__(self, experiment: Experiment, original: bool = False):
    """Opens both splits; prepares a tensorflow-datasets set if need be.

    Args:
      experiment: the config and the network.
      original: whether to open the data themselves where there is a store.

    Raises:
      UserError: if data are missing or do not fit the network.
    """
    from alexnet_jax.input_pipeline import decoding
    from alexnet_jax.input_pipeline import pipeline
    from alexnet_jax.input_pipeline import preprocessing
    from alexnet_jax.input_pipeline import sources
    from alexnet_jax.input_pipeline import squares
    from alexnet_jax.input_pipeline import statistics

    self._pipeline, self._preprocessing = pipeline, preprocessing
    self._sources, self._statistics = sources, statistics
    self._squares, self._decoding = squares, decoding
    self._config = experiment.config
    self._num_classes = experiment.network.num_classes
    self._copies = experiment.mesh.shape[towers.DATA]
    data = self._config.data
    from_store = bool(data.store_dir) and not original
    open_split = self._open_store if from_store else self._open
    self.train_source = open_split(data.train_split)
    self.eval_source = open_split(data.eval_split)
    sources.check_same_classes(self.train_source, self.eval_source)
    _check_num_classes(experiment.network, self.train_source)

  def _open(self, split):
    data = self._config.data
    return self._sources.open_source(
      data.source,
      name=data.name,
      data_dir=data.data_dir,
      manual_dir=data.manual_dir,
      split=split,
      class_names=tuple(data.class_names),
      num_examples=data.num_examples,
      num_classes=self._num_classes,
      image_size=self._config.input.image_size,
      seed=self._config.seed,
    )

  def _open_store(self, split):
    data = self._config.data
    return self._squares.open_squares(
      data.store_dir,
      split=split,
      name=data.name,
      image_size=self._config.input.image_size,
    )

  @property
  def steps_per_epoch(self) -> int:
    return self._pipeline.steps_per_epoch(
      self.train_source.num_examples, self._config.batch_size
    )

  @functools.cached_property
  def statistics(self):
    """Mean and principal components of the training split's colours."""
    if self._config.data.statistics == 'imagenet':
      return self._statistics.IMAGENET
    return self._statistics.load_or_compute(
      self.train_source, self.decoder(), self._config.data.threads
    )

  def decoder(self, upright: bool = False):
    """Returns how images are decoded, an `input_pipeline.decoding.Options`.

    Args:
      upright: whether to turn images as their EXIF orientation says even where
        `data.upright` does not ask for it.
    """
    return self._decoding.Options(
      image_size=self._config.input.image_size,
      max_pixels=self._config.data.max_pixels,
      upright=upright or self._config.data.upright,
    )

  def mean(self) -> np.ndarray:
    """Returns what to subtract: float32 [crop, crop, 3] or [3], grey levels."""
    kind, size = self._config.input.mean, self._config.input.crop_size
    match kind:
      case 'none':
        return np.zeros(3, np.float32)
      case 'channel':
        return np.asarray(self.statistics.channel_mean, np.float32)
    return pixels.central_mean(self.statistics.mean_image, size)

  def train_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns the endless batches of the run from this step on."""
    config = self._config
    scale = self._preprocessing.lighting_scale(
      self.statistics.stdevs, config.input.color
    )
    return self._pipeline.train_batches(
      self.train_source,
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=start_step,
      decoder=self.decoder(),
      crop_size=config.input.crop_size,
      random_crop=config.input.random_crop,
      flip=config.input.flip,
      crop_chunk=config.input.crop_chunk,
      shuffle=config.input.shuffle,
      lighting_scale=scale,
      eigenvectors=self.statistics.eigenvectors,
      threads=config.data.threads,
    )

  def eval_batches(self, source=None) -> Iterator[dict[str, np.ndarray]]:
    """Returns batches of the validation split, or of another source, once.

    Photographs that a user names, which have no labels, come upright.
    """
    source = source or self.eval_source
    # Padding makes up for a batch size that the devices do not divide. A few
    # images are no reason to compute a whole batch.
    size = min(self._config.evaluate.batch_size, source.num_examples)
    return self._pipeline.eval_batches(
      source,
      batch_size=-(-size // self._copies) * self._copies,
      decoder=self.decoder(upright=not source.class_names),
      threads=self._config.data.threads,
    )

  def check_unreadable(self, unreadable: float, num_examples: int) -> None:
    """Stops the run when too many files cannot be read.

    Raises:
      UserError: above the share `data.max_unreadable` of the split.
    """
    limit = self._config.data.max_unreadable
    if unreadable > limit * num_examples:
      raise errors.UserError(
        f'{int(unreadable)} of {num_examples} files cannot be read, more than'
        f' the share {limit}: replace or remove the files named above, or raise'
        ' --config.data.max_unreadable'
      )


def _check_num_classes(network, source):
  found = len(source.class_names)
  if found != network.num_classes:
    last = network.layers[-1].name
    raise errors.UserError(
      f'{source.name} has {found} classes, the network'
      f' {network.num_classes}: set --config.network.{last}.features={found}'
    )


def prepare(experiment: Experiment) -> int:
  """Prepares the data, their statistics and, if asked for, a store of squares.

  Returns:
    The exit code: 0, or 130 when it was interrupted by Ctrl-C.

  Raises:
    UserError: if data are missing or do not fit the network.
  """
  from alexnet_jax.input_pipeline import prepare as preparation

  data = Data(experiment, original=True)
  store_dir = experiment.config.data.store_dir
  try:
    summary = preparation.run(
      data.train_source,
      data.eval_source,
      data.decoder(),
      store_dir,
      experiment.config.data.threads,
    )
  except KeyboardInterrupt:
    logging.warning('Interrupted: the same command goes on from here')
    return 130
  statistics = summary.statistics
  logging.info(
    '%s: %d training and %d validation images of %d classes',
    data.train_source.name,
    data.train_source.num_examples,
    data.eval_source.num_examples,
    len(data.train_source.class_names),
  )
  logging.info(
    'Mean %s, standard deviations along the principal components %s, in grey'
    ' levels, of %d images (%d unreadable), in %s',
    np.round(statistics.channel_mean, 2),
    np.round(statistics.stdevs, 2),
    statistics.num_examples,
    statistics.unreadable,
    summary.statistics_file,
  )
  logging.info('To train with them: --config.data.statistics=computed')
  if store_dir:
    logging.info(
      'To train from the store: --config.data.store_dir=%s', store_dir
    )
  else:
    logging.info(
      'To decode every image once and for all: --mode=prepare'
      ' --config.data.store_dir=DIR'
    )
  return 0
