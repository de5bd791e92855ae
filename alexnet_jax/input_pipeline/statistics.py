"""Mean image and color covariance of a training split (Sections 2, 4.1)."""

from concurrent import futures
import dataclasses
import pathlib
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax.identity import Statistics
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import sources

_BATCH_SIZE = 64


# ILSVRC 2012, from the data that Krizhevsky published with cuda-convnet2.
IMAGENET = Statistics(
  mean_image=np.array([127.3049, 119.7154, 104.9126], np.float32),
  channel_mean=np.array([127.3049, 119.7154, 104.9126]),
  stdevs=np.array([19.72083305, 37.09388853, 121.78006099]),
  # The columns of the published matrix, written as rows; the last one, the gray
  # axis, belongs to the largest stdev.
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


def compute(
  source: sources.Source, decoder: decoding.Options, threads: int = 0
) -> Statistics:
  """Measures the central squares of all images of a source in one pass.

  All sums are whole numbers, exact in float64 up to 2**53: two million white
  squares of side 256. So the result does not depend on the order of the images.

  Args:
    source: the training split.
    decoder: side S of the square, and how images are decoded.
    threads: see `pipeline.eval_batches`.

  Raises:
    errors.UserError: when no image can be read.
  """
  total = np.zeros((decoder.image_size, decoder.image_size, 3), np.int64)
  products = np.zeros((3, 3))
  count = unreadable = 0
  shown = progress.Progress('Statistics', source.num_examples)
  batches = pipeline.eval_batches(
    source, batch_size=_BATCH_SIZE, decoder=decoder, threads=threads
  )
  with futures.ThreadPoolExecutor() as pool:
    for batch in batches:
      # Padding and unreadable images are zero and add nothing.
      total += batch['image'].sum(0, dtype=np.uint32)
      products += sum(pool.map(_products, batch['image']))
      count += int(batch['mask'].sum())
      unreadable += int(batch['unreadable'].sum())
      shown.report(count + unreadable)
  if not count:
    raise errors.NothingReadableError(source)
  num_pixels = count * decoder.image_size**2
  channel_mean = total.sum((0, 1)) / num_pixels
  covariance = products / num_pixels - np.outer(channel_mean, channel_mean)
  variances, eigenvectors = np.linalg.eigh(covariance)
  return Statistics(
    mean_image=(total / count).astype(np.float32),
    channel_mean=channel_mean,
    # Rounding may leave a tiny negative variance for gray images.
    stdevs=np.sqrt(np.maximum(variances, 0)),
    eigenvectors=eigenvectors,
    num_examples=count,
    unreadable=unreadable,
    fingerprint=source.fingerprint,
  )


def _products(image: np.ndarray) -> np.ndarray:
  """Returns the channels' products, summed over the pixels: float64 [3, 3]."""
  pixels = image.reshape(-1, 3).astype(np.float64)
  return pixels.T @ pixels


def stored_path(
  source: sources.Source, decoder: decoding.Options, to_write: bool = False
) -> pathlib.Path | None:
  """Returns the file for a source's statistics; None where none is kept.

  Args:
    source: the training split.
    decoder: how images are decoded; the name says what is not the default.
    to_write: whether the file is to be written and not to be read.
  """
  if source.directory is None:
    return None
  split = names.for_file(source.split)
  options = '-upright' if decoder.upright else ''
  if decoder.max_pixels != decoding.MAX_PIXELS:
    options += f'-max-pixels-{decoder.max_pixels}'
  filename = f'statistics-{split}-{decoder.image_size}{options}.npz'
  return files.beside(source.directory, filename, to_write)


def save(path: pathlib.Path, statistics: Statistics) -> None:
  """Writes statistics to an .npz file."""
  files.save_arrays(path, **dataclasses.asdict(statistics))


def load_or_compute(
  source: sources.Source, decoder: decoding.Options, threads: int = 0
) -> Statistics:
  """Returns the statistics saved beside the data; see `compute`.

  Computes and saves them if there are none.

  Raises:
    errors.UserError: when the file is damaged or of other data or another size.
  """
  path = stored_path(source, decoder)
  if path is None:
    return compute(source, decoder, threads)
  if path.exists():
    return _load(path, source, decoder.image_size)
  logging.info('Computing the statistics of the training images, into %s', path)
  statistics = compute(source, decoder, threads)
  save(path, statistics)
  return statistics


def _load(
  path: pathlib.Path, source: sources.Source, image_size: int
) -> Statistics:
  remedy = 'delete the file or run with --mode=prepare to compute it again'
  try:
    fields: dict[str, Any] = dict(files.load_arrays(path))
    for key in ('num_examples', 'unreadable', 'fingerprint'):
      fields[key] = fields[key].item()
    statistics = Statistics(**fields)
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(f'{path} is damaged ({error}): {remedy}') from error
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
