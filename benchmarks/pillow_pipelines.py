"""Input pipelines of torch and Grain with Pillow, and the image files to read.

Every pipeline does the same work: shorter side to 256, central square, random
crop of 224, flip, color shift. A batch holds uint8 pixels, labels and three
floats per image.
"""

from collections.abc import Iterable
import itertools
import os
import pathlib
import tarfile
from typing import Any

from absl import flags
import numpy as np
from PIL import Image

from benchmarks import harness

SAMPLE = 'imagenet_sample.tar'
_SHORTER, _CROP = 256, 224


def unpack_sample(into: pathlib.Path, copies: int = 1) -> None:
  """Unpacks the ImageNet JPEGs of ALEXNET_DATA into class folders.

  Each file gets several names, as hard links, so that an epoch is longer.
  """
  with tarfile.open(pathlib.Path(os.environ['ALEXNET_DATA'], SAMPLE)) as tar:
    for member in tar:
      name = pathlib.Path(member.name).name
      folder = into / name.split('_')[0]  # the WordNet id
      if content := tar.extractfile(member):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.read())
        for copy in range(1, copies):
          os.link(folder / name, folder / f'{copy}_{name}')


def list_images(data_dir: str) -> tuple[list[str], list[int]]:
  """Returns the files of a folder of class folders, and their labels."""
  folders = sorted(p for p in pathlib.Path(data_dir).iterdir() if p.is_dir())
  found = [
    (str(path), label)
    for label, folder in enumerate(folders)
    for path in sorted(folder.iterdir())
  ]
  return [path for path, _ in found], [label for _, label in found]


def _augment(
  example: tuple[str, int], rng: np.random.Generator
) -> tuple[np.ndarray, int, np.ndarray]:
  """Returns a crop uint8 [224, 224, 3], its label and its shift float32 [3]."""
  path, label = example
  with Image.open(path) as file:
    image = file.convert('RGB')
  scale = _SHORTER / min(image.size)
  size = [round(side * scale) for side in image.size]
  image = image.resize(size, Image.Resampling.BILINEAR)
  left, top = (
    (side - _SHORTER) // 2 + int(rng.integers(_SHORTER - _CROP + 1))
    for side in size
  )
  image = image.crop((left, top, left + _CROP, top + _CROP))
  if rng.random() < 0.5:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return np.asarray(image), label, rng.standard_normal(3, np.float32)


class _Images:
  """A map-style data set of augmented images, for torch."""

  def __init__(self, data_dir: str):
    self._examples = list(zip(*list_images(data_dir), strict=True))
    self._rng = np.random.default_rng()

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int):
    return _augment(self._examples[index], self._rng)


def torch_loader(data_dir: str, batch_size: int) -> harness.Contender:
  """Returns torch's DataLoader with a worker per core."""
  from torch.utils import data as torch_data

  images: Any = _Images(data_dir)
  endless = torch_data.RandomSampler(
    images, replacement=True, num_samples=2**40
  )
  return _warmed_up(
    torch_data.DataLoader(
      images, batch_size, sampler=endless, num_workers=harness.cores()
    )
  )


def grain(data_dir: str, batch_size: int, processes: bool) -> harness.Contender:
  """Returns Grain, with threads or with a process per core."""
  import grain

  examples = list(zip(*list_images(data_dir), strict=True))
  images = grain.MapDataset.source(examples).seed(0).shuffle().repeat()
  images = images.random_map(_augment).to_iter_dataset()
  batches = images.batch(batch_size)
  if processes:
    flags.FLAGS.mark_as_parsed()  # Grain reads its own flags.
    options = grain.MultiprocessingOptions(num_workers=harness.cores())
    batches = batches.mp_prefetch(options)
  return _warmed_up(batches)


def _warmed_up(loader: Iterable[Any]) -> harness.Contender:
  """Returns a contender whose unit of work is to take a batch."""
  batches = iter(loader)
  for _ in itertools.islice(batches, 4):
    pass  # Until all worker processes work.
  return harness.Contender(lambda: next(batches))
