"""Section 7: feature maps, inactive units, patches, and tower ablation."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import subject as subjects
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv

_IMAGES = 2048  # whose activations are compared
_MAPS = 64  # shown of one tower
_PATCHES = 8  # per map
_CHOSEN = 4  # maps per layer, all towers together
_TILE = 96  # pixels

# By layer its outputs [towers, N, ..., C], and 'probabilities' [N, classes].
Outputs = Mapping[str, jax.Array]


class Peaks(NamedTuple):
  """The strongest activation of each unit of one layer, for each image.

  A unit of a convolutional layer is a feature map.
  """

  values: np.ndarray  # float32 [N, towers, C]
  places: np.ndarray  # int32 [N, towers, C, 2], row and column in the map


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  networks = ablations(subject.network.towers)

  def run(params, crops) -> dict[str, Outputs]:
    return {
      name: subject.layers(params, crops, tower)
      for name, tower in networks.items()
    }

  @jax.jit
  def measure(params, crops):
    outputs = run(params, crops)
    whole, layers = outputs['all towers'], subject.network.layers[:-1]
    found = {layer.name: peaks(whole[layer.name]) for layer in layers}
    probabilities = [each['probabilities'] for each in outputs.values()]
    return jnp.stack(probabilities, axis=1).argmax(axis=2), found

  indices = subject.choose_tests(_IMAGES, seed=10, passes=len(networks))
  index, labels, (predicted, found) = subject.over(
    measure, subject.eval_source, indices, 'Activations of all units'
  )
  found = {name: Peaks(*each) for name, each in found.items()}
  errors = 1 - (predicted == labels[:, None]).sum(axis=0) / len(labels)
  place = _example(subject)
  image = subject.test_views(subject.scores.index[[place]])
  label = int(subject.scores.label[place])
  outputs = jax.jit(run)(subject.params, image)
  return page.Section(
    key='layers',
    title='Hidden layers',
    paper='Paper, Sections 3.2 and 3.5, Figure 2',
    intro=(
      'The feature maps of one image in every layer and tower, the units that'
      ' are never active, and the parts of images that activate some units most'
      ' strongly. As the towers are connected in a few layers only, the'
      ' accuracy without one of them is measured too.'
    ),
    blocks=(
      _feature_maps(subject, outputs['all towers'], label),
      *_inactive(subject, found),
      *_patches(subject, found, index),
      *_tower_ablation(subject, outputs, image[0], label, errors, len(labels)),
    ),
  )


def ablations(towers: int) -> dict[str, int | None]:
  """Returns which tower is ablated, by what the rest is called.

  Of two towers each is left alone in turn; of more, each is left out.
  """
  found: dict[str, int | None] = {'all towers': None}
  if towers == 2:
    found |= {'tower 1 alone': 1, 'tower 2 alone': 0}
  elif towers > 2:
    found |= {f'without tower {tower + 1}': tower for tower in range(towers)}
  return found


def peaks(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Reduces a layer's outputs [towers, N, ..., C] to the fields of `Peaks`."""
  towers, count, *_, maps = outputs.shape
  width = outputs.shape[-2]  # not used where a unit has one place
  flat = jnp.moveaxis(outputs.reshape(towers, count, -1, maps), 0, 1)
  places = jnp.divmod(flat.argmax(axis=2).astype(jnp.int32), width)
  return flat.max(axis=2), jnp.stack(places, axis=-1)


def _example(subject: Subject) -> int:
  """Returns the place in the scores of an image, if possible a right one."""
  right = np.flatnonzero(~subject.scores.wrong)
  chosen = right if len(right) else np.arange(len(subject.scores.label))
  return int(chosen[subjects.choose(len(chosen), 1, seed=11)[0]])


def _feature_maps(
  subject: Subject, outputs: Outputs, label: int
) -> page.Figure:
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
      title = f'{layer.name}, tower {tower}: {of}'
      panels.append(figures.picture(pixels, title=title))
  class_name = names.shorten(subject.class_names[label], 60)
  return page.Figure(
    'feature_maps',
    f'Feature maps of one image: {class_name}',
    tuple(panels),
    'The output of each layer after nonlinearity, normalization and pooling.'
    f' Black is 0 and below; white is set per layer. Up to {_MAPS} maps of each'
    ' tower are shown.',
    width=330,
    most=max(2, subject.network.towers),
  )


def _inactive(
  subject: Subject, found: Mapping[str, Peaks]
) -> tuple[page.Block, ...]:
  activation, towers = subject.network.activation, subject.network.towers
  if not activation.startswith('relu'):  # Of relu^n and relu6, too, many are.
    text = f'Inactive units are not counted: {activation} is rarely exactly 0.'
    return (page.Note(text),)
  inactive = {name: inactive_units(each) for name, each in found.items()}
  every = np.concatenate([units.ravel() for units in inactive.values()])
  count = len(next(iter(found.values())).values)
  rows = tuple(
    (name, units.shape[1], *units.sum(axis=1).tolist(), float(units.mean()))
    for name, units in inactive.items()
  )
  by_tower = [f'inactive in tower {i + 1}:,' for i in range(towers)]
  header = ' | '.join(['layer', 'units per tower:,', *by_tower, 'share:.1%'])
  return (
    page.Finding(
      f'{every.sum():,} of {len(every):,} units ({every.mean():.1%}) are'
      f' inactive for all of {count:,} test images; a feature map counts as one'
      ' unit. A unit that is never active has no gradient and does not learn.'
    ),
    page.Table('inactive_units', 'Units that are never active', header, rows),
  )


def inactive_units(found: Peaks) -> np.ndarray:
  """Returns the units that no image activates, bool [towers, C]."""
  return np.all(found.values <= 0, axis=0)


class Window(NamedTuple):
  """The receptive fields of a layer's units, along one axis.

  The unit at place p sees `size` pixels from `start + p * jump` on; those
  outside the image are the padding's zeros.
  """

  start: int
  jump: int
  size: int

  def pixels(self, place: int, side: int) -> slice:
    """Returns what a unit sees of `side` pixels, moved inside the image."""
    size = min(self.size, side)
    start = min(max(self.start + place * self.jump, 0), side - size)
    return slice(start, start + size)


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


def selective(values: np.ndarray, count: int, top: int) -> np.ndarray:
  """Chooses units that few images activate, and those strongly.

  Args:
    values: float32 [N, C], the peaks of one tower.
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
  subject: Subject, found: Mapping[str, Peaks], index: np.ndarray
) -> list[page.Figure]:
  """Returns a figure of each convolutional layer's strongest patches."""
  towers = subject.network.towers
  strongest = {
    layer.name: _strongest(found[layer.name], towers)
    for layer in subject.network.layers[:-1]
    if isinstance(layer, Conv)
  }
  rows = [rows for each in strongest.values() for *_, rows in each]
  if not rows:
    return []
  # Read together: every reading builds a pipeline of its own.
  needed = np.unique(np.concatenate(rows))
  images = dict(
    zip(needed.tolist(), subject.test_views(index[needed]), strict=True)
  )
  return [
    _patches_of_layer(subject, name, found[name], each, images)
    for name, each in strongest.items()
    if each
  ]


def _strongest(found: Peaks, towers: int) -> list[tuple[int, int, np.ndarray]]:
  """Returns tower, map and images of the chosen maps' strongest peaks."""
  chosen = []
  for tower in range(towers):
    values = found.values[:, tower]
    for unit in selective(values, max(1, _CHOSEN // towers), _PATCHES):
      rows = np.argsort(-values[:, unit], kind='stable')[:_PATCHES]
      chosen.append((tower, int(unit), rows[values[rows, unit] > 0]))
  return chosen


def _patches_of_layer(
  subject: Subject,
  name: str,
  found: Peaks,
  strongest: list[tuple[int, int, np.ndarray]],
  images: Mapping[int, np.ndarray],
) -> page.Figure:
  side, window = subject.crop_size, receptive_field(subject.network, name)
  panels = []
  for tower, unit, rows in strongest:
    tiles = []
    for row in rows.tolist():
      y, x = found.places[row, tower, unit]
      patch = images[row][
        window.pixels(int(y), side), window.pixels(int(x), side)
      ]
      tiles.append(figures.resize(patch, _TILE))
    panels.append(
      figures.picture(
        figures.tile(np.stack(tiles), _PATCHES, gap=4),
        title=f'Tower {tower + 1}, map {unit + 1}',
        smooth=window.size > _TILE,
      )
    )
  seen = f'{window.size} × {window.size} pixels'
  if window.size >= side:
    seen = 'the whole image'
  caption = (
    'The patches that activate a map most strongly, the strongest first, at'
    f' most one per image. The receptive field is {seen}. Shown are maps that'
    ' few images activate, and those strongly.'
  )
  title = f'Strongest patches of {name}'
  return page.Figure(
    f'patches_{name}', title, tuple(panels), caption, width=330, most=2
  )


def _tower_ablation(
  subject: Subject,
  outputs: Mapping[str, Outputs],
  image: np.ndarray,
  label: int,
  errors: np.ndarray,
  count: int,
) -> tuple[page.Block, ...]:
  """Shows what one image is predicted to be, and the errors of many."""
  if len(outputs) == 1:
    return (page.Note('The network has one tower: none can be ablated.'),)
  panels = []
  for name, result in outputs.items():
    probabilities = np.asarray(result['probabilities'][0])
    top = np.argsort(-probabilities, kind='stable')[:5]
    panels.append(
      figures.prediction_card(
        f'ablation-{len(panels)}',
        image,
        top,
        probabilities[top],
        subject.class_names,
        truth=label,
        title=name.capitalize(),
      )
    )
  rows = tuple(
    (name, e, count) for name, e in zip(outputs, errors.tolist(), strict=True)
  )
  each = ', '.join(f'{name} {error:.1%}' for name, error, _ in rows)
  guess = 1 - 1 / len(subject.class_names)
  return (
    page.Figure(
      'tower_ablation',
      'Predictions with a tower ablated',
      tuple(panels),
      "The ablated tower's activations are zeroed wherever another tower or the"
      ' classifier reads them. The bars are probabilities; the bar of the true'
      ' class is green.',
      width=150,
      most=6,
    ),
    page.Finding(f'Top-1 error: {each}; guessing {guess:.1%}.'),
    page.Table(
      'tower_ablation',
      "Top-1 error with a tower's activations zeroed",
      'network | top-1 error:.2% | images:,',
      rows,
    ),
  )
