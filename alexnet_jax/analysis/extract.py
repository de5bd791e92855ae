"""Activations of a layer for a split or for files: --mode=extract.

They are written to .npz or TFRecord files of bounded size, such as
`fc7-test-00000-of-00003.npz`: memory use does not grow with the number of
images, and each file can be used by itself. Where one file is enough it is
called `fc7-test.npz`.
"""

from collections.abc import Iterator
import itertools
import operator
import pathlib

from absl import logging
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax.analysis import features
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import examples
from alexnet_jax.input_pipeline import sources

# Bytes of features in one file, and so about what is in memory at a time.
_FILE_BYTES = 2**28


def run(
  trained: TrainedNetwork,
  layer: str,
  source: sources.Source,
  output: pathlib.Path,
  file_format: str,
) -> int:
  """Writes what a layer computes for the center view of every image.

  An .npz file holds features float32 [N, ...], labels int32 [N] (-1 for images
  without one), classes and files str [N], made printable, layer and step. A
  TFRecord file has an example with the first four for each image. Images that
  cannot be read are left out.

  Args:
    trained: the run.
    layer: a layer's name.
    source: the images, with or without labels.
    output: the folder to write to.
    file_format: 'npz' or 'tfrecord'.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no such layer, or no image can be read.
  """
  compute = features.extractor(trained, layer)
  size = max(1, _FILE_BYTES // (4 * _width(trained, layer)))
  total = -(-source.num_examples // size)
  stream = features.stream(trained, source, compute, f'Computing {layer}')
  count, shape, path = 0, (), output
  for number, pieces in itertools.groupby(
    _by_file(stream, size, total), operator.itemgetter(0)
  ):
    outputs, labels, indices = map(
      np.concatenate, zip(*(fields for _, fields in pieces), strict=True)
    )
    part = f'-{number:05d}-of-{total:05d}' if total > 1 else ''
    path = output / f'{features.stem(layer, source)}{part}.{file_format}'
    _save(path, trained, layer, outputs, labels, _files(source, indices))
    count, shape = count + len(labels), outputs.shape[1:]
  logging.info(
    '%s of %s images, %s floats each, in %s',
    layer,
    f'{count:,}',
    'x'.join(map(str, shape)),
    path if total == 1 else f'{total} files in {output}',
  )
  return 0


def _width(trained: TrainedNetwork, layer: str) -> int:
  """Returns an upper bound on the floats per image (before pooling)."""
  shapes = architecture.layer_shapes(
    trained.setup.network, trained.transform.crop_size
  )
  return next(int(np.prod(s.output)) for s in shapes if s.name == layer)


def _by_file(
  stream: Iterator[features.Rows], size: int, total: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
  """Cuts batches where one file ends and the next begins.

  File n holds examples n * size to (n + 1) * size - 1, without the unreadable
  ones. Every file gets a piece, if only an empty one.

  Yields:
    The number of the file, ascending from 0 to total - 1, and outputs, labels
    and indices of some of its examples.
  """
  begun, rows = 0, None  # Files that have had a piece.
  for rows in stream:
    numbers = rows.indices // size
    end = int(numbers[-1]) + 1
    for number in range(max(begun - 1, 0), end):
      yield number, [field[numbers == number] for field in rows[:3]]
    begun = end
  if rows is not None:
    for number in range(begun, total):
      yield number, [field[:0] for field in rows[:3]]


def _files(source: sources.Source, indices: np.ndarray) -> np.ndarray:
  described = (source.describe(int(i)) for i in indices)
  return np.array([names.printable(name) for name in described], str)


def _save(
  path: pathlib.Path,
  trained: TrainedNetwork,
  layer: str,
  outputs: np.ndarray,
  labels: np.ndarray,
  described: np.ndarray,
) -> None:
  # The last one is that of images without a label, -1.
  classes = np.array([*trained.class_ids, ''])[labels]
  if path.suffix == '.tfrecord':
    examples.save_features(path, outputs, labels, classes, described)
    return
  files.save_arrays(
    path,
    features=outputs,
    labels=labels,
    classes=classes,
    files=described,
    layer=layer,
    step=trained.step,
  )
