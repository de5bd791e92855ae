"""Files that are computed once from a data set and kept with it."""

import hashlib
import os
import pathlib
import re
import tempfile

from absl import logging
import numpy as np
import numpy.typing as npt


def place(directory: pathlib.Path | None, filename: str) -> pathlib.Path:
  """Returns where a file computed from the data in `directory` is kept.

  Beside the data; under ~/.cache/alexnet_jax where it cannot be written, or
  where the data lies nowhere. A file that is already beside the data is used.
  """
  if directory is not None:
    beside = directory / filename
    if beside.exists() or os.access(directory, os.W_OK):
      return beside
  key = hashlib.sha256(str(directory).encode()).hexdigest()[:16]
  kept = pathlib.Path.home() / '.cache' / 'alexnet_jax' / key / filename
  logging.info('%s cannot be written: keeping %s', directory, kept)
  return kept


def split_name(split: str) -> str:
  """Returns a split such as 'train[:90%]' as a part of a file's name."""
  return re.sub(r'[^\w.-]+', '_', split or 'all')


def save_arrays(path: pathlib.Path, **arrays: npt.ArrayLike) -> None:
  """Writes an .npz file that is never seen half-written."""
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix='.')
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, allow_pickle=False, **arrays)
    # mkstemp makes the file private; a data set is often shared.
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
