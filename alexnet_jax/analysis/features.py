"""What a trained network computes for all images of a source.

The modes that use a network stream their images through `stream`. The features
of a split, the outputs of one layer, are kept on disk for the next time.
"""

from collections.abc import Callable, Iterator
import functools
import hashlib
import pathlib
import shutil
from typing import Any, BinaryIO, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax import sharding
from alexnet_jax.analysis import activations
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import sources

# Prepared images, uint8 [N, S, S, 3], to an output [N, ...] for each of them.
# N is a multiple of the number of devices.
Compute = Callable[[np.ndarray], Any]


class Rows(NamedTuple):
  """The images of a batch that could be read, at least one.

  Attributes:
    outputs: [N, ...], what was computed.
    labels: int32 [N], -1 for images without a label.
    indices: int64 [N], the examples' indices in their source.
    images: uint8 [N, S, S, 3], as prepared.
  """

  outputs: np.ndarray
  labels: np.ndarray
  indices: np.ndarray
  images: np.ndarray


def stream(
  run: TrainedNetwork,
  source: sources.Source,
  compute: Compute,
  what: str,
  strict: bool = False,
) -> Iterator[Rows]:
  """Yields what is computed for the images of a source, in its order.

  Images that cannot be read are named in the log, counted and left out.

  Args:
    run: the trained run.
    source: the images, with or without labels.
    compute: from `predictor` or `extractor`.
    what: is being done, for the lines of progress.
    strict: whether more unreadable images than `data.max_unreadable` allows are
      an error.

  Raises:
    UserError: if strict and too many images cannot be read.
    NothingReadableError: if none can be read.
  """
  devices = len(run.setup.devices)
  found, unreadable = False, 0
  for batch in run.splits.read(source, what, checked=strict):
    unreadable += int(batch['unreadable'].sum())
    readable = np.flatnonzero(batch['mask'])
    if not len(readable):
      continue
    found = True
    images = batch['image']
    padding = [(0, -len(images) % devices), (0, 0), (0, 0), (0, 0)]
    outputs = np.asarray(compute(np.pad(images, padding)))
    yield Rows(
      outputs[readable],
      batch['label'][readable],
      batch['index'][readable].astype(np.int64),
      images[readable],
    )
  if strict:
    run.splits.check_unreadable(unreadable, source.num_examples)
  if not found:
    flag = '' if source.class_names else '--images'
    raise errors.NothingReadableError(source, flag)


def predictor(run: TrainedNetwork, view_set: str) -> Compute:
  """Returns what computes log-probabilities, float32 [N, classes].

  Args:
    run: the trained run.
    view_set: 'center_view' or 'ten_views'.
  """
  return evaluate.make_predictor(run, run.transform.views[view_set])


def extractor(run: TrainedNetwork, layer: str) -> Compute:
  """Returns what computes a layer's output for the center view.

  It returns float32 [N, ...], all towers side by side. Every device has the
  whole network and a share of the batch.

  Raises:
    UserError: if there is no such layer.
  """
  network, dtype, transform = run.setup.network, run.setup.dtype, run.transform
  activations.check_layer(network, layer)
  mesh = Mesh(np.array(run.setup.devices), ('example',))
  by_example = NamedSharding(mesh, PartitionSpec('example'))
  options = sharding.compiler_options(mesh, dtype)

  @functools.partial(jax.jit, compiler_options=options)
  def compute(params, images):
    inputs = transform(jnp.asarray(transform.center(images)))
    return activations.layer_output(network, params, inputs, layer, dtype)

  params = jax.device_put(run.params, NamedSharding(mesh, PartitionSpec()))
  return lambda images: compute(params, jax.device_put(images, by_example))


def read_images(
  run: TrainedNetwork, source: sources.Source, indices: np.ndarray
) -> np.ndarray:
  """Returns some images of a source as prepared, uint8 [N, S, S, 3].

  Args:
    run: the trained run.
    source: the images.
    indices: int [N], in any order; few enough to hold in memory.
  """
  batches = run.splits.read(source, 'Reading images', indices=indices)
  return np.concatenate(
    [batch['image'][batch['index'] >= 0] for batch in batches]
  )


def stem(layer: str, source: sources.Source) -> str:
  """Returns how files with a layer's output for a source are called."""
  return f'{layer}-{names.for_file(source.split)}'


def load_or_compute(
  run: TrainedNetwork, source: sources.Source, layer: str, folder: pathlib.Path
) -> np.ndarray:
  """Returns the features of a split, from disk where they are kept.

  They are looked for in `folder` and in the run's own `features` folder, and
  otherwise computed and written to `folder`. Those of another checkpoint or
  other data are replaced.

  Args:
    run: the trained run.
    source: one of its splits.
    layer: the layer's name.
    folder: where to keep the features.

  Returns:
    A memory map of a structured array [N]: `index` int64, the example's index
    in the split; `label` int32; `features` float32 [D], the flattened output.

  Raises:
    UserError: if there is no such layer, no space for the features, or no
      image that can be read.
  """
  compute = extractor(run, layer)
  name = f'{stem(layer, source)}/{_digest_of_origin(run, source)}.npy'
  for place in (folder, run.workdir / 'features'):
    if files.is_file(place / name):
      return np.load(place / name, mmap_mode='r')
  path = folder / name
  rows = stream(run, source, compute, f'Computing {layer}')
  for outdated in path.parent.glob('*.npy'):
    logging.info('%s is of another checkpoint or other data', outdated)
    outdated.unlink()
  return _write(path, rows, source)


def _digest_of_origin(run: TrainedNetwork, source: sources.Source) -> str:
  """Returns a digest of all that determines the features of a layer."""
  transform = run.transform
  origin = {
    'step': run.step,
    'parameters': run.digest,
    'data': source.fingerprint,
    'image_size': transform.image_size,
    'crop_size': transform.crop_size,
    'pixel_scale': transform.pixel_scale,
    'mean': hashlib.blake2b(transform.mean.tobytes()).hexdigest(),
    'compute_dtype': run.setup.settings.compute_dtype,
  }
  text = files.dumps(origin).encode()
  return hashlib.blake2b(text, digest_size=8).hexdigest()


def _write(
  path: pathlib.Path, stream: Iterator[Rows], source: sources.Source
) -> np.ndarray:
  """Writes features as they are computed and returns a memory map of them."""
  count, dtype = 0, None
  with files.replacing(path) as file:
    for rows in stream:
      features = rows.outputs.reshape(len(rows.outputs), -1)
      if dtype is None:
        row = ('features', '<f4', features.shape[1:])
        dtype = np.dtype([('index', '<i8'), ('label', '<i4'), row])
        _check_space(path.parent, dtype.itemsize * source.num_examples)
        _write_header(file, 0, dtype)
      table = np.empty(len(features), dtype)
      table['index'], table['label'] = rows.indices, rows.labels
      table['features'] = features
      file.write(table.tobytes())
      count += len(table)
    _write_header(file, count, dtype)
  return np.load(path, mmap_mode='r')


def _write_header(file: BinaryIO, count: int, dtype: Any) -> None:
  # NumPy leaves space in it for any number of rows.
  file.seek(0)
  header = {
    'descr': np.lib.format.dtype_to_descr(dtype),
    'fortran_order': False,
    'shape': (count,),
  }
  np.lib.format.write_array_header_1_0(file, header)


def _check_space(folder: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise errors.UserError(
      f'the features need {needed / 1e9:.1f} GB in {folder}, where'
      f' {free / 1e9:.1f} GB are free: make room, or choose a smaller layer'
    )
