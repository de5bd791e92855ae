"""The splits of a config: opened, made into batches, prepared once.

TensorFlow comes in when data are opened and not before: networks and steps do
without.
"""

from collections.abc import Iterator
import functools
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import identity as identities
from alexnet_jax import progress
from alexnet_jax import sharding
from alexnet_jax import views
from alexnet_jax.identity import Identity
from alexnet_jax.identity import Split
from alexnet_jax.setup import Experiment

Batch = dict[str, np.ndarray]


class Data:
  """The training and validation splits of a config, and their statistics.

  Each is opened when it is first asked for.
  """

  def __init__(
    self,
    experiment: Experiment,
    identity: Identity | None = None,
    original: bool = False,
  ):
    """Remembers what to open.

    Args:
      experiment: the config and the network.
      identity: of a checkpoint, whose class names and statistics are those of
        the data. None for a run that begins.
      original: whether to open the data themselves where there is a store.
    """
    self._experiment = experiment
    self._config = experiment.config
    self._identity = identity
    self._from_store = bool(self._config.data.store_dir) and not original

  @functools.cached_property
  def train_source(self) -> Any:
    """The training split, an `input_pipeline.sources.Source`.

    Raises:
      UserError: if data are missing or do not fit the network.
    """
    source = self._open(self._config.data.train_split)
    if self._identity is not None:
      self._check_classes(source)
    _check_num_classes(self._experiment.network, source)
    return source

  @functools.cached_property
  def eval_source(self) -> Any:
    """The validation split; see `train_source`."""
    source = self._open(self._config.data.eval_split)
    self._check_classes(source)
    return source

  def _check_classes(self, source) -> None:
    if self._identity is not None:
      expected, of = self._identity.class_names, 'the checkpoint'
    else:
      expected = self.train_source.class_names
      of = f"{self.train_source.name} '{self.train_source.split}'"
    identities.check_class_names(
      source.class_names, expected, f"{source.name} '{source.split}'", of
    )

  def _open(self, split: str) -> Any:
    """Opens a split; prepares a tensorflow-datasets set if need be."""
    data, sizes = self._config.data, self._config.input
    if self._from_store:
      from alexnet_jax.input_pipeline import store

      return store.open_store(
        data.store_dir,
        split=split,
        name=data.name,
        image_size=sizes.image_size,
      )
    from alexnet_jax.input_pipeline import sources

    return sources.open_source(
      data.source,
      sources.Options(
        split=split,
        name=data.name,
        data_dir=data.data_dir,
        manual_dir=data.manual_dir,
        class_names=tuple(data.class_names),
        num_examples=data.num_examples,
        num_classes=self._experiment.network.num_classes,
        image_size=sizes.image_size,
        seed=self._config.seed,
      ),
    )

  @functools.cached_property
  def statistics(self) -> identities.Statistics:
    """Mean and principal components of the training split's colors.

    Computed in one pass over the data where they are neither the checkpoint's
    nor kept beside the data.
    """
    if self._identity is not None:
      return self._identity.statistics
    from alexnet_jax.input_pipeline import statistics

    if self._config.data.statistics == 'imagenet':
      return statistics.IMAGENET
    return statistics.load_or_compute(
      self.train_source, self.decoder(), self._config.data.threads
    )

  @property
  def mean(self) -> np.ndarray:
    """What to subtract: float32 [crop, crop, 3] or [3], 0..255 units."""
    sizes = self._config.input
    return views.mean(sizes.mean, self.statistics, sizes.crop_size)

  def identity(self) -> Identity:
    """Returns what a checkpoint of a run on these data carries."""
    return Identity(
      config=self._experiment.plain_config(),
      class_names=tuple(self.train_source.class_names),
      statistics=self.statistics,
      train=_as_split(self.train_source),
      validation=_as_split(self.eval_source),
    )

  def decoder(self, upright: bool = False) -> Any:
    """Returns how images are decoded, an `input_pipeline.decoding.Options`.

    Args:
      upright: whether to turn images as their EXIF orientation says even where
        `data.upright` does not ask for it.
    """
    from alexnet_jax.input_pipeline import decoding

    return decoding.Options(
      image_size=self._config.input.image_size,
      max_pixels=self._config.data.max_pixels,
      upright=upright or self._config.data.upright,
    )

  def train_batches(self, start: int) -> Iterator[Batch]:
    """Returns the endless batches of the run; see `pipeline.train_batches`.

    Args:
      start: the place to start at, from `epochs.Epochs.place`.
    """
    from alexnet_jax.input_pipeline import pipeline
    from alexnet_jax.input_pipeline import preprocessing

    config = self._config
    return pipeline.train_batches(
      self.train_source,
      preprocessing.Augmentation(
        crop_size=config.input.crop_size,
        random_crop=config.input.random_crop,
        flip=config.input.flip,
        crop_chunk=config.input.crop_chunk,
        lighting_scale=preprocessing.lighting_scale(
          self.statistics.stdevs, config.input.color
        ),
        eigenvectors=self.statistics.eigenvectors,
      ),
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=start,
      decoder=self.decoder(),
      shuffle=config.input.shuffle,
      threads=config.data.threads,
    )

  def read(
    self,
    source: Any,
    what: str,
    *,
    indices: np.ndarray | None = None,
    batch_size: int | None = None,
    strict: bool = False,
  ) -> Iterator[Batch]:
    """Yields all images of a source once, in its order, and tells of it.

    Every loop over images that does not train is one over this: it shows the
    progress, and counts what cannot be read. Photographs that a user names,
    which have no classes, come upright.

    Args:
      source: a split, or `input_pipeline.folder.open_files`.
      what: is being done, for the lines of progress.
      indices: int [N], which of the examples to read, in this order; None for
        all.
      batch_size: rows of a batch; None for what the config says.
      strict: whether too many unreadable images are an error, and so is none
        that can be read. Otherwise they are left out, which the log says.

    Yields:
      Batches, see `pipeline.eval_batches`: rows with a mask of 0 are padding or
      were unreadable. 'index' is the place among `indices` where these are
      given.

    Raises:
      UserError: if strict; see `check_unreadable`.
    """
    from alexnet_jax.input_pipeline import pipeline
    from alexnet_jax.input_pipeline import sources

    if indices is not None:
      source = sources.Subset(source, np.asarray(indices, np.int64))
    total = source.num_examples
    batches = pipeline.eval_batches(
      source,
      batch_size=batch_size or self._evaluation_rows(total),
      decoder=self.decoder(upright=not source.class_names),
      threads=self._config.data.threads,
    )
    shown = progress.Progress(what, total)
    unreadable = 0
    for batch in batches:
      yield batch
      unreadable += int(batch['unreadable'].sum())
      shown.add(int((batch['index'] >= 0).sum()))
    if strict:
      self.check_unreadable(unreadable, total)
      if unreadable == total:
        raise errors.NothingReadableError(source)
    elif unreadable:
      logging.warning(
        '%d of %d files could not be read and are left out', unreadable, total
      )

  def _evaluation_rows(self, total: int) -> int:
    """Returns the rows of a batch: a multiple of the network's copies.

    Padding makes up for a batch size that the devices do not divide. A few
    images are no reason to compute a whole batch.
    """
    copies = self._experiment.mesh.shape[sharding.DATA]
    rows = min(self._config.evaluate.batch_size, total)
    return -(-rows // copies) * copies

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


def _as_split(source) -> Split:
  return Split(
    source.name, source.split, source.num_examples, source.fingerprint
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
  train, evaluation = data.train_source, data.eval_source
  store_dir = experiment.config.data.store_dir
  try:
    summary = preparation.run(
      train,
      evaluation,
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
    train.name,
    train.num_examples,
    evaluation.num_examples,
    len(train.class_names),
  )
  logging.info(
    'Mean %s, standard deviations along the principal components %s, in gray'
    ' levels, of %d images (%d unreadable), kept in %s',
    np.round(statistics.channel_mean, 2),
    np.round(statistics.stdevs, 2),
    statistics.num_examples,
    statistics.unreadable,
    summary.statistics_file or 'no file',
  )
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
