"""The splits of a run: opened, checked, and made into batches."""

from collections.abc import Iterator
import functools

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import identity as identities
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax import signals
from alexnet_jax.identity import Identity
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import opening
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import prepare as preparation
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import statistics as statistics_lib
from alexnet_jax.input_pipeline import store
from alexnet_jax.setup import Setup


class Splits:
  """The training and validation splits of a run, and their statistics.

  Each is opened when it is first asked for.
  """

  def __init__(
    self,
    setup: Setup,
    identity: Identity | None = None,
    original: bool = False,
    read_only: bool = False,
  ):
    """Remembers what to open.

    Args:
      setup: of the run.
      identity: of a checkpoint, whose class names and statistics are those of
        the data. None for a run that begins.
      original: whether to open the data themselves where there is a store.
      read_only: whether a data set that is not prepared is an error, and no
        index is written beside it.
    """
    self._setup = setup
    self._data, self._input = setup.settings.data, setup.settings.input
    self._identity = identity
    self._read_only = read_only
    self._from_store = bool(self._data.store_dir) and not original

  @functools.cached_property
  def train_source(self) -> sources.Source:
    """The images to train on, all of the training split or `data.num_train`.

    Raises:
      UserError: if data are missing or do not fit the network.
    """
    return sources.sample(self.whole_train_source, self._data.num_train)

  @functools.cached_property
  def whole_train_source(self) -> sources.Source:
    """The training split with all its images; see `train_source`."""
    source = self._open(self._data.train_split)
    if self._identity is not None:
      self._check_classes(source)
    self._check_num_classes(source)
    return source

  @functools.cached_property
  def eval_source(self) -> sources.Source:
    """The validation split; see `train_source`."""
    source = self._open(self._data.eval_split)
    self._check_classes(source)
    return source

  def _open(self, split: str) -> sources.Source:
    """Opens a split; prepares a tensorflow-datasets set if need be."""
    data = self._data
    if self._from_store:
      return store.open_store(
        data.store_dir,
        split=split,
        name=data.name,
        image_size=self._input.image_size,
        upright=data.upright,
      )
    options = opening.Options(
      split=split,
      name=data.name,
      data_dir=data.data_dir,
      manual_dir=data.manual_dir,
      class_names=data.class_names,
      num_examples=data.num_examples,
      num_classes=self._setup.network.num_classes,
      image_size=self._input.image_size,
      seed=self._setup.settings.seed,
      read_only=self._read_only,
    )
    return opening.open_source(data.source, options)

  def _check_classes(self, source: sources.Source) -> None:
    if self._identity is not None:
      expected, of = self._identity.class_names, 'the checkpoint'
    else:
      expected = self.train_source.class_names
      of = f"{self.train_source.name} '{self.train_source.split}'"
    identities.check_class_names(
      source.class_names, expected, f"{source.name} '{source.split}'", of
    )

  def _check_num_classes(self, source: sources.Source) -> None:
    network, found = self._setup.network, len(source.class_names)
    if found != network.num_classes:
      last = network.layers[-1].name
      raise errors.UserError(
        f'{source.name} has {found} classes, the network'
        f' {network.num_classes}: set --config.network.{last}.features={found}'
      )

  @functools.cached_property
  def statistics(self) -> identities.Statistics:
    """Mean and principal components of the training split's colors.

    Computed in one pass over the data where they are neither the checkpoint's
    nor kept beside the data.
    """
    if self._identity is not None:
      return self._identity.statistics
    if self._data.statistics == 'imagenet':
      return statistics_lib.IMAGENET
    return statistics_lib.load_or_compute(
      self.train_source, self.decoder(), self._data.threads
    )

  def identity(self) -> Identity:
    """Returns what a checkpoint of a run on these data carries."""
    return Identity(
      config=dict(self._setup.config),
      class_names=tuple(self.train_source.class_names),
      statistics=self.statistics,
      train=_record(self.train_source),
      validation=_record(self.eval_source),
    )

  def decoder(self, upright: bool = False) -> decoding.Options:
    """Returns how images are decoded.

    Args:
      upright: whether to turn images as their EXIF orientation says even where
        `data.upright` does not ask for it.
    """
    return decoding.Options(
      image_size=self._input.image_size,
      max_pixels=self._data.max_pixels,
      upright=upright or self._data.upright,
    )

  def train_batches(
    self, start: int, rows: np.ndarray | None = None
  ) -> Iterator[pipeline.Batch]:
    """Returns the endless batches of the run; see `pipeline.train_batches`.

    Args:
      start: the place to start at, from `epochs.Epochs.place`.
      rows: int [N], the places of every batch that this process makes; None for
        all.
    """
    chosen = self._input
    augmentation = preprocessing.Augmentation(
      displacement=chosen.displacement,
      displacement_sigma=chosen.displacement_sigma,
      crop_size=chosen.crop_size,
      random_crop=chosen.random_crop,
      flip=chosen.flip,
      crop_chunk=chosen.crop_chunk,
      lighting_scale=preprocessing.lighting_scale(
        self.statistics.stdevs, chosen.color
      ),
      eigenvectors=self.statistics.eigenvectors,
    )
    return pipeline.train_batches(
      self.train_source,
      augmentation,
      batch_size=self._setup.settings.batch_size,
      seed=self._setup.settings.seed,
      start_step=start,
      decoder=self.decoder(),
      shuffle=chosen.shuffle,
      threads=self._data.threads,
      rows=rows,
    )

  def describe_step(self, place: int, rows: np.ndarray | None = None) -> str:
    """Names the images of a training step: the first, and how many others.

    It opens nothing, so it can be asked while a batch is being read.

    Args:
      place: of the step, from `epochs.Epochs.place`.
      rows: see `train_batches`.
    """
    source = self.train_source
    indices = pipeline.step_indices(
      source.num_examples,
      batch_size=self._setup.settings.batch_size,
      seed=self._setup.settings.seed,
      shuffle=self._input.shuffle,
      step=place,
      rows=rows,
    ).tolist()
    if not indices:  # The end of an epoch, of which others have the images.
      return 'no images'
    first, *others = indices
    named = names.printable(source.describe(first))
    return f'{named} and {len(others)} others' if others else named

  def read(
    self,
    source: sources.Source,
    what: str,
    *,
    indices: np.ndarray | None = None,
    batch_size: int | None = None,
    checked: bool = False,
  ) -> Iterator[pipeline.Batch]:
    """Yields all images of a source once, in its order, with progress lines.

    Every loop over images that does not train is one over this. Photographs
    that a user names, which have no classes, are turned upright.

    Args:
      source: a split, or `input_pipeline.folder.open_files`.
      what: the task, for the progress lines.
      indices: int [N], which of the examples to read, in this order; None for
        all.
      batch_size: rows of a batch; None for what the config says.
      checked: whether the caller counts what cannot be read and uses
        `check_result`; several processes then get their own rows of every
        batch. Otherwise a warning says how many images are left out.

    Yields:
      Batches, see `pipeline.eval_batches`: rows with a mask of 0 are padding or
      were unreadable. 'index' is the place among `indices` where these are
      given.
    """
    if indices is not None:
      source = sources.Subset(source, np.asarray(indices, np.int64))
    placement, total = self._setup.placement, source.num_examples
    batch_size = batch_size or self._evaluation_batch_size(total)
    batches = pipeline.eval_batches(
      source,
      batch_size=batch_size,
      decoder=self.decoder(upright=not source.class_names),
      threads=self._data.threads,
      rows=placement.local_rows(batch_size) if checked else None,
    )
    shown = progress.Progress(what, total)
    unreadable = 0
    for number, batch in enumerate(batches, 1):
      yield batch
      unreadable += int(batch['unreadable'].sum())
      shown.report(min(number * batch_size, total))
    if unreadable and not checked:
      logging.warning(
        '%d of %d files could not be read and are left out', unreadable, total
      )

  def _evaluation_batch_size(self, num_examples: int) -> int:
    """Returns the batch size of `read`, a multiple of the devices' shares.

    Padding makes up for a batch size that the devices do not divide. A few
    images are no reason to compute a whole batch.
    """
    shares = self._setup.placement.shares
    rows = min(self._setup.settings.evaluate.batch_size, num_examples)
    return -(-rows // shares) * shares

  def check_result(
    self, source: sources.Source, examples: float, unreadable: float
  ) -> None:
    """Stops a program whose result is of too few images.

    Args:
      source: that was read to its end.
      examples: how many of its images the result is of.
      unreadable: how many could not be read; both in all processes together.

    Raises:
      UserError: see `check_unreadable`.
      NothingReadableError: if the result is of no image.
    """
    self.check_unreadable(unreadable, source.num_examples)
    if not examples:
      raise errors.NothingReadableError(source)

  def check_unreadable(self, unreadable: float, num_examples: int) -> None:
    """Stops the run when too many files cannot be read.

    Raises:
      UserError: above the share `data.max_unreadable` of the split.
    """
    limit = self._data.max_unreadable
    if unreadable > limit * num_examples:
      raise errors.UserError(
        f'{int(unreadable)} of {num_examples} files cannot be read, more than'
        f' the share {limit}: replace or remove the files named above, or raise'
        ' --config.data.max_unreadable'
      )


def _record(source: sources.Source) -> identities.Split:
  return identities.Split(
    source.name, source.split, source.num_examples, source.fingerprint
  )


def prepare(setup: Setup) -> int:
  """Prepares the data, their statistics and, with `data.store_dir`, a store.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if data are missing or do not fit the network.
  """
  splits = Splits(setup, original=True)
  train, evaluation = splits.whole_train_source, splits.eval_source
  store_dir = setup.settings.data.store_dir
  try:
    summary = preparation.run(
      train,
      evaluation,
      splits.decoder(),
      store_dir,
      setup.settings.data.num_train,
      setup.settings.data.threads,
    )
  except signals.Stopped:
    logging.warning('Interrupted: the same command resumes from here')
    raise
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
      'To decode every image only once: --mode=prepare'
      ' --config.data.store_dir=DIR'
    )
  return 0
