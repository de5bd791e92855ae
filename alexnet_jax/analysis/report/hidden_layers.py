"""Section 7: feature maps, inactive units, patches, and tower ablation."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import model
from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import subject as subjects
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv

_IMAGES = 2048  # whose activations are compared
_MAPS = 64  # shown of one tower
_PATCHES = 8  # per kernel
_KERNELS = 4  # per layer, all towers together
_TILE = 96  # pixels

# (params, pixels) -> the outputs of all layers by name.
Forward = Callable[[model.Params, np.ndarray], dict[str, jax.Array]]


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  networks: dict[str, Forward] = {
    name: subject.layers(tower)
    for name, tower in ablations(subject.network.towers).items()
  }
  total = min(subject.eval_source.num_examples, _IMAGES)
  count = subject.affordable(total, len(networks))
  indices = subject.choose_tests(count, seed=10)
  peaks, right = _measure(subject, networks, indices)
  errors = {name: 1 - number / len(indices) for name, number in right.items()}
  place = _example(subject)
  label = int(subject.scores.label[place])
  (image,) = subject.center(
    subject.read(subject.eval_source, subject.scores.index[[place]]).images
  )
  # In a batch as large as those before, which need not be compiled again.
  crops = subjects.pad(image[None], min(subjects.BATCH, len(indices)))
  outputs = {name: run(subject.params, crops) for name, run in networks.items()}
  return page.Section(
    key='layers',
    title='Hidden layers',
    paper='Paper, Sections 3.2 and 3.5, Figure 2',
    intro=(
      'The feature maps of one image in every layer and tower, the units that'
      ' are never active, and the parts of images that activate some units most'
      ' strongly. The towers are connected in a few layers only, so the'
      ' accuracy of each without the other is measured too.'
    ),
    blocks=(
      _feature_maps(subject, outputs['all towers'], subject.class_names[label]),
      *_inactive(subject, peaks, len(indices)),
      *_patches(subject, peaks, indices),
      *_tower_ablation(subject, outputs, image, label, errors, len(indices)),
    ),
  )


def ablations(towers: int) -> dict[str, int | None]:
  """Returns which tower is ablated, by what the network is called then.

  Of two towers each is left alone in turn; of more, each is left out.
  """
  found: dict[str, int | None] = {'all towers': None}
  if towers == 2:
    found |= {'tower 1 alone': 1, 'tower 2 alone': 0}
  elif towers > 2:
    found |= {f'without tower {tower + 1}': tower for tower in range(towers)}
  return found


def _example(subject: Subject) -> int:
  """Returns the place in the scores of an image that is classified right."""
  right = np.flatnonzero(~subject.scores.wrong)
  chosen = right if len(right) else np.arange(len(subject.scores.label))
  return int(chosen[subjects.choose(len(chosen), 1, seed=11)[0]])


class Peaks(NamedTuple):
  """The strongest activation of each unit of one layer, for each image.

  A unit of a convolutional layer is a feature map.

  Attributes:
    values: float32 [towers, N, C].
    places: int32 [towers, N, C], where in the map: row * width + column.
    width: of a map; 1 for a fully connected layer.
  """

  values: np.ndarray
  places: np.ndarray
  width: int

  def inactive(self) -> np.ndarray:
    """Returns the units that no image activates, bool [towers, C]."""
    return np.all(self.values <= 0, axis=1)


def find_peaks(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Reduces a layer's outputs [towers, N, ..., C] to `Peaks`' two arrays."""
  towers, count, *_, maps = outputs.shape
  flat = outputs.reshape(towers, count, -1, maps)
  return flat.max(axis=2), flat.argmax(axis=2).astype(jnp.int32)


def _measure(
  subject: Subject, networks: Mapping[str, Forward], indices: np.ndarray
) -> tuple[dict[str, Peaks], dict[str, int]]:
  """Streams test images through the network, whole and with towers ablated.

  Returns:
    The peaks by hidden layer, and the images classified right by network.
  """
  hidden = [layer.name for layer in subject.network.layers[:-1]]

  @jax.jit
  def reduce(outputs):
    return {name: find_peaks(outputs[name]) for name in hidden}

  parts: dict[str, list[tuple[np.ndarray, np.ndarray]]]
  parts, widths = {name: [] for name in hidden}, dict.fromkeys(hidden, 1)
  right = dict.fromkeys(networks, 0)
  what = 'Activations of all units'
  for batch in subject.batches(subject.eval_source, indices, what):
    kept = batch['mask'] > 0
    crops = subject.center(batch['image'])
    for name, network in networks.items():
      outputs = network(subject.params, crops)
      predicted = np.asarray(outputs['probabilities']).argmax(axis=1)
      right[name] += int((predicted == batch['label'])[kept].sum())
      if name != 'all towers':
        continue
      for layer, arrays in jax.device_get(reduce(outputs)).items():
        parts[layer].append(tuple(array[:, kept] for array in arrays))
        if outputs[layer].ndim == 5:
          widths[layer] = outputs[layer].shape[3]
  peaks = {}
  for name, arrays in parts.items():
    values, places = zip(*arrays, strict=True)
    peaks[name] = Peaks(
      np.concatenate(values, axis=1),
      np.concatenate(places, axis=1),
      widths[name],
    )
  return peaks, right


def _feature_maps(
  subject: Subject, outputs: Mapping[str, jax.Array], class_name: str
) -> page.Figure:
  """Shows the activations of the first image in every hidden layer."""
  panels = []
  for layer in subject.network.layers[:-1]:
    values = np.asarray(outputs[layer.name][:, 0])
    high = float(np.quantile(values, 0.995)) or 1.0
    for tower, own in enumerate(np.clip(values / high, 0, 1), 1):
      gray = (255 * own[..., None] + 0.5).astype(np.uint8)
      if isinstance(layer, Conv):
        maps = np.moveaxis(gray, 2, 0)[:_MAPS]
        # The same for all layers of a network, so that columns align.
        pixels = figures.tile(maps, 16 if len(maps) >= 16 else 8)
        of = f'{own.shape[-1]} maps of {own.shape[0]} × {own.shape[1]}'
      else:
        columns = min(64 if own.size < 1024 else 128, own.size)
        pixels = figures.tile(gray.reshape(-1, 1, 1, 1), columns, gap=0)
        of = f'{own.size} units'
      panels.append(
        figures.picture(
          pixels,
          title=f'{layer.name}, tower {tower}: {of}',
          alt=f'Activations of {layer.name}, tower {tower}',
        )
      )
  return page.Figure(
    name='feature_maps',
    title=f'Feature maps of one image: {names.shorten(class_name, 60)}',
    panels=tuple(panels),
    caption=(
      'Outputs of each layer after its nonlinearity, normalization and pooling.'
      ' Black is 0 and below; white is set per layer. Up to'
      f' {_MAPS} maps of each tower are shown.'
    ),
    width=330,
    most=max(2, subject.network.towers),
  )


def _inactive(
  subject: Subject, peaks: Mapping[str, Peaks], count: int
) -> list[page.Block]:
  activation, towers = subject.network.activation, subject.network.towers
  if activation != 'relu':
    return [
      page.Note(
        f'Inactive units are not counted: with {activation} the activation of a'
        ' unit is hardly ever exactly 0.'
      )
    ]
  inactive = {name: found.inactive() for name, found in peaks.items()}
  number = sum(int(layer.sum()) for layer in inactive.values())
  total = sum(layer.size for layer in inactive.values())
  return [
    page.Finding(
      f'{number:,} of {total:,} units ({number / total:.1%}) are active for'
      f' none of {count:,} test images; a feature map counts as one unit. A'
      ' unit that is never active has no gradient and no longer learns.'
    ),
    page.Table(
      name='inactive_units',
      title='Units that are never active',
      columns={
        'layer': '',
        'units per tower': ',',
        **{f'inactive in tower {i + 1}': ',' for i in range(towers)},
        'share': '.1%',
      },
      rows=tuple(
        (name, layer[0].size, *map(int, layer.sum(axis=1)), float(layer.mean()))
        for name, layer in inactive.items()
      ),
    ),
  ]


class Window(NamedTuple):
  """The receptive fields of a layer's units, along one axis.

  The unit at place p sees `size` pixels from `start + p * jump` on; those
  outside the image are the padding's zeros.
  """

  start: int
  jump: int
  size: int


def receptive_field(network: Architecture, name: str) -> Window:
  """Returns the receptive fields of a convolutional layer's units.

  Those of the layer's output, after pooling if it pools. Normalization within
  maps, which widens them a little, is not counted.
  """
  start, jump, size = 0, 1, 1
  for layer in network.layers:
    if not isinstance(layer, Conv):
      break
    size += (layer.kernel - 1) * jump
    start -= layer.padding[0] * jump
    jump *= layer.stride
    for _ in range(layer.order.count('pool')):
      size += (network.pool.size - 1) * jump
      jump *= network.pool.stride
    if layer.name == name:
      return Window(start, jump, size)
  raise ValueError(f'{name} is not a convolutional layer')


def patch_slice(window: Window, place: int, side: int) -> slice:
  """Returns the pixels that a unit sees, moved inside the image.

  Args:
    window: from `receptive_field`.
    place: of the unit, along the axis.
    side: of the image, pixels.
  """
  size = min(window.size, side)
  start = window.start + place * window.jump
  start = min(max(start, 0), side - size)
  return slice(start, start + size)


def selective(values: np.ndarray, count: int, top: int) -> np.ndarray:
  """Chooses units that few images activate, and those strongly.

  Args:
    values: float32 [N, C], each unit's peaks.
    count: how many to choose.
    top: of how many images the peaks are compared with the mean.

  Returns:
    int [count] or fewer: the units with the largest ratio of the mean of their
    `top` highest peaks to the mean of all, inactive units excluded.
  """
  strongest = np.sort(values, axis=0)[-top:].mean(axis=0)
  mean = values.mean(axis=0)
  # The ratio is noise where a unit is hardly active.
  usable = (mean > 0) & (strongest > 0.1 * strongest.max(initial=0))
  ratio = strongest / np.where(usable, mean, 1)
  order = np.argsort(-np.where(usable, ratio, -np.inf), kind='stable')
  return order[usable[order]][:count]


def _patches(
  subject: Subject, peaks: Mapping[str, Peaks], indices: np.ndarray
) -> list[page.Block]:
  """Returns a figure of each convolutional layer's strongest patches."""
  network = subject.network
  each = max(1, _KERNELS // network.towers)
  # The places, among the indices, of the images to show, by kernel and layer.
  best: dict[str, dict[tuple[int, int], np.ndarray]] = {}
  for layer in network.layers:
    if isinstance(layer, Conv):
      best[layer.name] = {
        (tower, int(kernel)): _strongest(values[:, kernel])
        for tower, values in enumerate(peaks[layer.name].values)
        for kernel in selective(values, each, _PATCHES)
      }
  rows = [row for kernels in best.values() for row in kernels.values()]
  if not rows:
    return []
  needed = np.unique(np.concatenate(rows))
  images = subject.read(subject.eval_source, indices[needed]).images
  crops = dict(zip(needed.tolist(), subject.center(images), strict=True))
  return [
    _patch_figure(subject, name, peaks[name], kernels, crops)
    for name, kernels in best.items()
    if kernels
  ]


def _strongest(values: np.ndarray) -> np.ndarray:
  order = np.argsort(-values, kind='stable')[:_PATCHES]
  return order[values[order] > 0]


def _patch_figure(
  subject: Subject,
  name: str,
  peaks: Peaks,
  kernels: Mapping[tuple[int, int], np.ndarray],
  crops: Mapping[int, np.ndarray],
) -> page.Figure:
  window, side = receptive_field(subject.network, name), subject.crop_size
  panels = []
  for (tower, kernel), rows in kernels.items():
    tiles = []
    for row in rows:
      y, x = divmod(int(peaks.places[tower, row, kernel]), peaks.width)
      patch = crops[int(row)][
        patch_slice(window, y, side), patch_slice(window, x, side)
      ]
      tiles.append(figures.resize(patch, _TILE))
    panels.append(
      figures.picture(
        figures.tile(np.stack(tiles), _PATCHES, gap=4),
        title=f'Tower {tower + 1}, map {kernel + 1}',
        alt=f'Strongest patches of map {kernel + 1} of tower {tower + 1}',
        smooth=window.size > _TILE,
      )
    )
  seen = f'{window.size} × {window.size} pixels'
  if window.size >= side:
    seen = 'the whole image'
  return page.Figure(
    name=f'patches_{name}',
    title=f'Strongest patches of {name}',
    panels=tuple(panels),
    caption=(
      'The patches that activate a map most strongly, the strongest first, at'
      f' most one per image. The receptive field is {seen}. Maps were chosen'
      ' that few images activate, and those strongly.'
    ),
    width=330,
    most=2,
  )


def _tower_ablation(
  subject: Subject,
  outputs: Mapping[str, Mapping[str, jax.Array]],
  image: np.ndarray,
  label: int,
  errors: Mapping[str, float],
  count: int,
) -> list[page.Block]:
  """Shows predictions with towers ablated: of one image, and their errors."""
  if subject.network.towers == 1:
    return [page.Note('The network has one tower: there is none to ablate.')]
  panels = []
  for i, (name, result) in enumerate(outputs.items()):
    probabilities = np.asarray(result['probabilities'][0])
    top = np.argsort(-probabilities, kind='stable')[:5]
    panels.append(
      figures.prediction_card(
        f'ablation-{i}',
        image,
        top,
        probabilities[top],
        subject.class_names,
        truth=label,
        title=name.capitalize(),
      )
    )
  whole, *others = errors.items()
  with_ablation = ', '.join(f'{name} {error:.1%}' for name, error in others)
  return [
    page.Figure(
      name='tower_ablation',
      title='Predictions with a tower ablated',
      panels=tuple(panels),
      caption=(
        "The ablated tower's activations are zeroed wherever another tower or"
        ' the classifier reads them. The bars are probabilities; the bar of the'
        ' true class is green.'
      ),
      width=150,
      most=6,
    ),
    page.Finding(
      f'Top-1 error: all towers {whole[1]:.1%}, {with_ablation}; guessing'
      f' {1 - 1 / len(subject.class_names):.1%}.'
    ),
    page.Table(
      name='tower_ablation',
      title="Top-1 error with the other towers' activations zeroed"
      if subject.network.towers == 2
      else "Top-1 error with one tower's activations zeroed",
      columns={'network': '', 'top-1 error': '.2%', 'images': ','},
      rows=tuple((name, error, count) for name, error in errors.items()),
    ),
  ]
