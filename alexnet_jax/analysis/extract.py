"""Activations of a layer for a split or for files, as .npz or TFRecord.

Rows are written in files of bounded size, `fc7-test-00000-of-00003.npz` and so
on: memory stays flat however many images there are, and every file can be used
by itself. A single file, where one is enough, is called `fc7-test.npz`.
"""

from collections.abc import Iterator
import pathlib
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import names
from alexnet_jax.analysis import activations
from alexnet_jax.analysis import features
from alexnet_jax.analysis.features import Rows
from alexnet_jax.inference import Trained

FORMATS = ('npz', 'tfrecord')
# Bytes of features in one file, and so about what is in memory at a time.
_FILE_BYTES = 2**28


def run(
  trained: Trained,
  layer: str,
  source: Any,
  output: pathlib.Path,
  file_format: str,
) -> int:
  """Writes what a layer computes for the center view of every image.

  An .npz file holds features float32 [N, ...], labels int32 [N] (-1: none),
  classes and files str [N], made printable, and layer and step. A TFRecord file
  holds the first four, an example a row. Images that cannot be read are left
  out.

  Args:
    trained: the run.
    layer: a layer's name.
    source: the images, labeled or not.
    output: the folder to write into.
    file_format: one of `FORMATS`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no such layer, or no image can be read.
  """
  network = trained.experiment.network
  activations.check_layer(network, layer)
  rows_a_file = max(1, _FILE_BYTES // (4 * _width(trained, layer)))
  num_files = -(-source.num_examples // rows_a_file)
  output.mkdir(parents=True, exist_ok=True)
  count, shape, written = 0, (), []
  stream = features.stream(trained, source, layer)
  for number, rows in enumerate(_portions(stream, rows_a_file, num_files)):
    name = features.stem(layer, source)
    if num_files > 1:
      name += f'-{number:05d}-of-{num_files:05d}'
    path = output / f'{name}.{file_format}'
    _save(path, _arrays(trained, layer, source, rows))
    count, shape = count + len(rows.labels), rows.features.shape[1:]
    written.append(path)
  if not count:
    for path in written:
      path.unlink()
    flag = '' if source.class_names else '--images'
    raise errors.NothingReadableError(source, flag)
  logging.info(
    '%s of %s images, %s floats each, in %s',
    layer,
    f'{count:,}',
    'x'.join(map(str, shape)),
    written[0] if len(written) == 1 else f'{len(written)} files in {output}',
  )
  return 0


def _width(trained: Trained, layer: str) -> int:
  """Returns an upper bound on the floats of one image (before pooling)."""
  shapes = architecture.layer_shapes(
    trained.experiment.network, trained.experiment.config.input.crop_size
  )
  return next(int(np.prod(s.output)) for s in shapes if s.name == layer)


def _portions(stream: Iterator[Rows], size: int, count: int) -> Iterator[Rows]:
  """Yields the readable ones of examples 0 to size - 1, of the next, ..."""
  waiting: list[Rows] = []
  number = 1
  for rows in stream:
    while len(rows.indices) and rows.indices[-1] >= number * size:
      end = int(np.searchsorted(rows.indices, number * size))
      yield _join([*waiting, Rows(*(field[:end] for field in rows))])
      waiting, rows = [], Rows(*(field[end:] for field in rows))
      number += 1
    waiting.append(rows)
  # More than one only where all the last images are unreadable.
  for _ in range(number, count + 1):
    joined = _join(waiting)
    yield joined
    waiting = [Rows(*(field[:0] for field in joined))]


def _join(parts: list[Rows]) -> Rows:
  return Rows(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _arrays(
  trained: Trained, layer: str, source: Any, rows: Rows
) -> dict[str, Any]:
  classes = np.array([*trained.class_ids, ''])
  files = (source.describe(int(i)) for i in rows.indices)
  return {
    'features': rows.features,
    'labels': rows.labels,
    'classes': classes[rows.labels],  # A label of -1 is the empty name.
    'files': np.array([names.printable(file) for file in files]),
    'layer': layer,
    'step': trained.step,
  }


def _save(path: pathlib.Path, arrays: dict[str, Any]) -> None:
  # TensorFlow comes with the data, which are open by now.
  from alexnet_jax import files
  from alexnet_jax.input_pipeline import examples

  if path.suffix == '.tfrecord':
    examples.save_features(path, **arrays)
  else:
    files.save_arrays(path, **arrays)
