"""Features of a split, kept in the workdir for the next time.

They lie in `<workdir>/features/<layer>-<split>/` and name the parameters and
the data that they come from; those of other parameters or data are computed
anew.
"""

import dataclasses
import hashlib
import pathlib
import shutil
from typing import Any

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import reporting
from alexnet_jax.analysis import activations
from alexnet_jax.analysis import features
from alexnet_jax.inference import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
  """The features of a split.

  Attributes:
    features: float32 [N, D], a memory map of flattened outputs.
    labels: int32 [N].
    indices: int64 [N], the examples' numbers in the split.
  """

  features: np.ndarray
  labels: np.ndarray
  indices: np.ndarray


def load_or_compute(run: Trained, source: Any, layer: str) -> Features:
  """Returns a split's features; computes them if need be.

  Args:
    run: the trained run; its workdir is where they are kept.
    source: a split of its data.
    layer: the layer's name.

  Raises:
    UserError: if there is no such layer, no space for the features, or no
      image that can be read.
  """
  activations.check_layer(run.experiment.network, layer)
  folder = run.workdir / 'features' / features.stem(layer, source)
  origin = _origin(run, source)
  if not _is_of(folder, origin):
    _compute(run, source, layer, folder)
    text = files.dumps(origin, indent=2) + '\n'
    reporting.replace_text(folder / 'origin.json', text)
  return Features(
    np.load(folder / 'features.npy', mmap_mode='r'),
    np.load(folder / 'labels.npy'),
    np.load(folder / 'indices.npy'),
  )


def _origin(run: Trained, source: Any) -> dict[str, Any]:
  """Returns all that the features are a function of, besides the layer."""
  sizes = run.experiment.config.input
  return {
    'step': run.step,
    'parameters': run.digest,
    'data': source.fingerprint,
    'image_size': sizes.image_size,
    'crop_size': sizes.crop_size,
    'pixel_scale': sizes.pixel_scale,
    'mean': hashlib.blake2b(run.mean.tobytes()).hexdigest()[:32],
    'compute_dtype': run.experiment.config.compute_dtype,
  }


def _is_of(folder: pathlib.Path, origin: dict[str, Any]) -> bool:
  """Whether the features there are whole and of this origin."""
  path = folder / 'origin.json'
  if not path.exists():
    return False
  found = files.loads(path.read_text())
  changed = [key for key in origin if found.get(key) != origin[key]]
  if changed:
    logging.info(
      '%s is of other %s (%s, now %s): computing it anew',
      folder,
      changed[0],
      found.get(changed[0]),
      origin[changed[0]],
    )
  return not changed


def _compute(
  run: Trained, source: Any, layer: str, folder: pathlib.Path
) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  # Whatever happens from here on, the features are not whole.
  (folder / 'origin.json').unlink(missing_ok=True)
  labels, indices = [], []
  width = 0
  with (folder / 'features.npy').open('wb') as file:
    for rows in features.stream(run, source, layer):
      if not width:
        width = int(np.prod(rows.features.shape[1:]))
        _check_space(folder, 4 * width * source.num_examples)
        _write_header(file, 0, width)
      file.write(rows.features.tobytes())
      labels.append(rows.labels)
      indices.append(rows.indices)
    count = sum(map(len, labels))
    if not count:
      raise errors.NothingReadableError(source)
    _write_header(file, count, width)
  np.save(folder / 'labels.npy', np.concatenate(labels))
  np.save(folder / 'indices.npy', np.concatenate(indices))


def _write_header(file: Any, count: int, width: int) -> None:
  # NumPy leaves room in it for as many rows as there may be.
  file.seek(0)
  np.lib.format.write_array_header_1_0(
    file, {'descr': '<f4', 'fortran_order': False, 'shape': (count, width)}
  )


def _check_space(folder: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise errors.UserError(
      f'the features need {needed / 1e9:.1f} GB in {folder}, where'
      f' {free / 1e9:.1f} GB are free: make room, or choose a smaller layer'
    )
