"""Input pipelines of others doing the same work, with Pillow.

Shorter side to 256, center square, random crop of 224, flip, color shift; the
batch holds uint8 pixels and three floats an image, as ours does.
"""

from typing import Any

from absl import flags
import numpy as np
from PIL import Image

from benchmarks import image_files
from benchmarks import report

_SHORTER, _CROP = 256, 224


def augmented(
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
  shift = rng.standard_normal(3, np.float32)
  return np.asarray(image), label, shift


class Files:
  """A folder of class folders, as a map-style data set of augmented images."""

  def __init__(self, data_dir: str):
    self._paths, self._labels = image_files.listed(data_dir)
    self._rng = np.random.default_rng()

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int):
    return augmented((self._paths[index], self._labels[index]), self._rng)


class TorchLoader:
  """torch's DataLoader, a worker a core."""

  def __init__(self, data_dir: str, batch_size: int):
    from torch.utils import data

    files: Any = Files(data_dir)
    endless = data.RandomSampler(files, replacement=True, num_samples=2**40)
    loader = data.DataLoader(
      files, batch_size, sampler=endless, num_workers=report.cores()
    )
    self._batches = iter(loader)
    self.run(4)  # until all its workers work

  def run(self, count: int) -> None:
    for _ in range(count):
      next(self._batches)


class Grain:
  """Grain, by threads or by a process a core."""

  def __init__(self, data_dir: str, batch_size: int, processes: bool):
    import grain

    examples = list(zip(*image_files.listed(data_dir), strict=True))
    images = grain.MapDataset.source(examples).seed(0).shuffle().repeat()
    batches = images.random_map(augmented).to_iter_dataset().batch(batch_size)
    if processes:
      flags.FLAGS.mark_as_parsed()  # Grain reads its own flags.
      batches = batches.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=report.cores())
      )
    self._batches = iter(batches)
    self.run(4)  # until all its workers work

  def run(self, count: int) -> None:
    for _ in range(count):
      next(self._batches)
