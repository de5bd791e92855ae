"""The parts of images to which chosen kernels answer most strongly."""

from collections.abc import Mapping

import numpy as np

from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import units
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.architecture import Conv

_PATCHES = 8  # a kernel
_KERNELS = 4  # a layer, all towers together
_TILE = 96  # pixels


def blocks(
  subject: Subject, peaks: Mapping[str, units.Peaks], indices: np.ndarray
) -> list[page.Block]:
  """Returns one figure a convolutional layer.

  Args:
    subject: the network.
    peaks: by layer.
    indices: the test images that the peaks' places are counted in.
  """
  network = subject.network
  chosen = {
    layer.name: _choose(peaks[layer.name], network.towers)
    for layer in network.layers
    if isinstance(layer, Conv)
  }
  best = {
    (name, kernel): _strongest(peaks[name], *kernel)
    for name, kernels in chosen.items()
    for kernel in kernels
  }
  if not best:
    return []
  needed = np.unique(
    np.concatenate([peaks[key[0]].images[rows] for key, rows in best.items()])
  )
  examples = subject.read(subject.eval_source, indices[needed])
  crops = dict(
    zip(
      needed[examples.places].tolist(),
      subject.center(examples.images),
      strict=True,
    )
  )
  return [
    _figure(
      name,
      units.receptive_field(network, name),
      peaks[name],
      {kernel: best[name, kernel] for kernel in kernels},
      crops,
    )
    for name, kernels in chosen.items()
    if kernels
  ]


def _choose(found: units.Peaks, towers: int) -> list[tuple[int, int]]:
  """Returns (tower, map) of the kernels to show."""
  each = max(1, _KERNELS // towers)
  return [
    (tower, int(kernel))
    for tower in range(towers)
    for kernel in units.selective(found, tower, each, _PATCHES)
  ]


def _strongest(found: units.Peaks, tower: int, kernel: int) -> np.ndarray:
  """Returns the rows of the peaks with the strongest answers of a kernel."""
  values = found.values[tower, :, kernel]
  order = np.argsort(-values, kind='stable')[:_PATCHES]
  return order[values[order] > 0]


def _figure(name, window, found, best, crops) -> page.Figure:
  panels = []
  for (tower, kernel), rows in best.items():
    tiles = []
    for row in rows:
      image = crops[int(found.images[row])]
      y, x = divmod(int(found.places[tower, row, kernel]), found.width)
      patch = image[
        units.patch_slice(window, y, len(image)),
        units.patch_slice(window, x, len(image)),
      ]
      tiles.append(mosaics.resize(patch, _TILE))
    panels.append(
      plots.picture(
        mosaics.tile(np.stack(tiles), _PATCHES, gap=4),
        title=f'Tower {tower + 1}, map {kernel + 1}',
        alt=f'Strongest patches of map {kernel + 1} of tower {tower + 1}',
        smooth=window.size > _TILE,
      )
    )
  side = len(next(iter(crops.values())))
  seen = f'{window.size} × {window.size} pixels'
  if window.size >= side:
    seen = 'the whole image'
  return page.Figure(
    name=f'patches_{name}',
    title=f'Strongest patches of {name}',
    panels=tuple(panels),
    caption=(
      f'Each image once, the strongest answer first; a unit sees {seen}. Chosen'
      ' are the maps that answer few images, and those strongly.'
    ),
    width=330,
    most=2,
  )
