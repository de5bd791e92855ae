"""Mean image and colour covariance of a training split (Sections 2, 4.1)."""

from concurrent import futures
import dataclasses
import pathlib
from typing import NamedTuple
import zipfile

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import progress
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import storage


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
  """What the input of a network is centred and shifted by; 0..255 units.

  Attributes:
    mean_image: float32 [S, S, 3], or [3] where only the channels' are known.
    channel_mean: float64 [3], RGB.
    stdevs: float64 [3], standard deviations along the principal components of
      RGB over all pixels, ascending.
    eigenvectors: float64 [3, 3], those components, one a column.
    num_examples: how many images were counted.
    unreadable: how many were left out because they could not be read.
    fingerprint: of the source that was measured.
  """

  mean_image: np.ndarray
  channel_mean: np.ndarray
  stdevs: np.ndarray
  eigenvectors: np.ndarray
  num_examples: int
  unreadable: int
  fingerprint: str


# ILSVRC 2012, from the data that Krizhevsky published with cuda-convnet2.
IMAGENET = Statistics(
  mean_image=np.array([127.3049, 119.7154, 104.9126], np.float32),
  channel_mean=np.array([127.3049, 119.7154, 104.9126]),
  stdevs=np.array([19.72083305, 37.09388853, 121.78006099]),
  # Published as rows; the last, the grey axis, belongs to the largest stdev.
  eigenvectors=np.array(
    [
      [0.41795513, -0.81698062, 0.39731118],
      [-0.71257945, -0.02354167, 0.70119634],
      [-0.56351045, -0.5761844, -0.59200296],
    ]
  ).T,
  num_examples=1281167,
  unreadable=0,
  fingerprint='',
)


class Sums(NamedTuple):
  """What statistics are computed from; sums of parts add up exactly.

  All are whole numbers that float64 holds exactly, the largest up to 2**53:
  two million squares of 256 white pixels. So the result depends neither on
  the order of the images, nor on how they were grouped, nor on rounding.

  Attributes:
    image: int64 [S, S, 3], all images added.
    products: float64 [3, 3], of the channels, over all pixels.
    count: int64 scalar, images.
    unreadable: int64 scalar, images that could not be read.
  """

  image: np.ndarray
  products: np.ndarray
  count: np.ndarray
  unreadable: np.ndarray


def no_sums(image_size: int) -> Sums:
  """Returns the sums of no images with squares of this side."""
  return Sums(
    np.zeros((image_size, image_size, 3), np.int64),
    np.zeros((3, 3)),
    np.zeros((), np.int64),
    np.zeros((), np.int64),
  )


def add(sums: Sums, batch: batches.Batch, pool: futures.Executor) -> Sums:
  """Returns sums with a batch of `batches.eval_batches` added."""
  # Padding and what could not be read is zero and adds nothing.
  return Sums(
    sums.image + batch['image'].sum(0, dtype=np.uint32),
    sums.products + sum(pool.map(_products, batch['image'])),
    sums.count + np.int64(batch['mask'].sum()),
    sums.unreadable + np.int64(batch['unreadable'].sum()),
  )


def compute(
  source: sources.Source,
  image_size: int,
  *,
  batch_size: int = 64,
  threads: int = 0,
) -> Statistics:
  """Measures the centre squares of all images of a source in one pass.

  Args:
    source: the training split.
    image_size: side S of the centre square, pixels.
    batch_size: images read at once.
    threads: see `batches.eval_batches`.

  Raises:
    errors.UserError: when no image can be read.
  """
  sums = no_sums(image_size)
  shown = progress.Progress('Statistics', source.num_examples)
  with futures.ThreadPoolExecutor() as pool:
    for batch in batches.eval_batches(
      source, batch_size=batch_size, image_size=image_size, threads=threads
    ):
      sums = add(sums, batch, pool)
      shown.report(int(sums.count + sums.unreadable))
  return from_sums(sums, source)


def from_sums(sums: Sums, source: sources.Source) -> Statistics:
  """Returns the statistics of a source whose images were all added.

  Raises:
    errors.UserError: when no image could be read.
  """
  if not sums.count:
    raise errors.UserError(
      f'none of the {sums.unreadable} images of {source.name} {source.split!r} '
      'can be read: see the warnings above and mend the files'
    )
  num_pixels = sums.count * sums.image.shape[0] ** 2
  channel_mean = sums.image.sum((0, 1)) / num_pixels
  covariance = sums.products / num_pixels - np.outer(channel_mean, channel_mean)
  variances, eigenvectors = np.linalg.eigh(covariance)
  return Statistics(
    mean_image=(sums.image / sums.count).astype(np.float32),
    channel_mean=channel_mean,
    # Rounding leaves a tiny negative variance where colours have none (grey).
    stdevs=np.sqrt(np.maximum(variances, 0)),
    eigenvectors=eigenvectors,
    num_examples=int(sums.count),
    unreadable=int(sums.unreadable),
    fingerprint=source.fingerprint,
  )


def _products(image: np.ndarray) -> np.ndarray:
  """Returns the channels' products, summed over the pixels: float64 [3, 3]."""
  pixels = image.reshape(-1, 3).astype(np.float64)
  return pixels.T @ pixels


def stored_path(
  source: sources.Source,
  image_size: int,
  directory: pathlib.Path | None = None,
) -> pathlib.Path:
  """Returns where a source's statistics are kept: see `storage.place`.

  A `directory` that is given takes the place of the source's own.
  """
  split = storage.split_name(source.split)
  filename = f'statistics-{split}-{image_size}.npz'
  if directory is not None:
    return directory / filename
  return storage.place(source.directory, filename)


def save(path: pathlib.Path, statistics: Statistics) -> None:
  """Writes statistics to an .npz file, all at once or not at all."""
  storage.save_arrays(path, **dataclasses.asdict(statistics))


def load_or_compute(
  source: sources.Source,
  image_size: int,
  directory: pathlib.Path | None = None,
) -> Statistics:
  """Returns the statistics kept beside the data, or computes and keeps them.

  Args:
    source: the training split.
    image_size: side of the centre square, pixels.
    directory: where they are kept instead.

  Raises:
    errors.UserError: when those kept are of other data or another size.
  """
  path = stored_path(source, image_size, directory)
  if path.exists():
    return _load(path, source, image_size)
  logging.info('Computing the statistics of the training images, into %s', path)
  statistics = compute(source, image_size)
  save(path, statistics)
  return statistics


def _load(
  path: pathlib.Path, source: sources.Source, image_size: int
) -> Statistics:
  remedy = 'delete the file or run with mode=prepare to compute them anew'
  try:
    with np.load(path) as stored:
      fields = {key: stored[key] for key in stored}
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise errors.UserError(f'{path} is damaged ({error}): {remedy}') from error
  for key in ('num_examples', 'unreadable', 'fingerprint'):
    fields[key] = fields[key].item()
  statistics = Statistics(**fields)
  size = statistics.mean_image.shape[0]
  if size != image_size:
    raise errors.UserError(
      f'{path} is of images of size {size}, not {image_size}: {remedy}'
    )
  if statistics.fingerprint != source.fingerprint:
    raise errors.UserError(
      f'{path} is of other data (fingerprint {statistics.fingerprint[:12]}, '
      f'the data now has {source.fingerprint[:12]}): {remedy}'
    )
  return statistics
