"""Section 7: what happens between the image and the answer."""

import jax
import numpy as np

from alexnet_jax.analysis.report import alone
from alexnet_jax.analysis.report import mosaics
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import patches
from alexnet_jax.analysis.report import plots
from alexnet_jax.analysis.report import samples
from alexnet_jax.analysis.report import units
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.architecture import Conv

_IMAGES = 2048  # to which units may answer
_MOST_MAPS = 64  # shown of one tower


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  total = subject.eval_source.num_examples
  passes = 1 + len(alone.silences(subject.network.towers))
  count = subject.affordable(min(total, _IMAGES), passes)
  indices = subject.choose_tests(count, seed=10)
  count = len(indices)
  place = _example(subject)
  label = int(subject.scores.label[place])
  (image,) = subject.center(
    subject.read(subject.eval_source, subject.scores.index[[place]]).images
  )
  peaks, towers = _answers(subject, indices)
  blocks: list[page.Block] = [
    _maps(subject, image, subject.class_names[label], count),
    *_silent(subject, peaks, count),
    *patches.blocks(subject, peaks, indices),
    *alone.blocks(subject, image, label, towers),
  ]
  return page.Section(
    key='inside',
    title='Inside',
    paper='Paper, Sections 3.2 and 3.5, Figure 2',
    intro=(
      "One image's way through all layers, tower by tower, the units that never"
      ' answer, and the parts of images to which others answer most strongly.'
      ' Since the towers talk at a few places only, each can also be asked'
      ' alone.'
    ),
    blocks=tuple(blocks),
  )


def _example(subject: Subject) -> int:
  """Returns the place in the scores of an image that is classified right."""
  right = np.flatnonzero(~subject.scores.wrong)
  chosen = right if len(right) else np.arange(len(subject.scores.label))
  return int(chosen[samples.choose(len(chosen), 1, seed=11)[0]])


def _answers(
  subject: Subject, indices: np.ndarray
) -> tuple[dict[str, units.Peaks], alone.Parts]:
  """Streams images through the network, whole and with towers silenced.

  Returns:
    The peaks by hidden layer, with the images' places among `indices` in
    order, unreadable ones left out; and the votes of the network's parts.
  """
  hidden = [layer.name for layer in subject.network.layers[:-1]]

  @jax.jit
  def reduce(outputs):
    return {name: units.peaks(outputs[name]) for name in hidden}

  parts: dict[str, list[units.Peaks]] = {name: [] for name in hidden}
  towers = alone.Parts(subject)
  what = 'Activations of all units'
  for batch in subject.batches(subject.eval_source, indices, what):
    kept = batch['mask'] > 0
    crops = subject.center(batch['image'])
    outputs = subject.layers(subject.params, crops)
    for name, (values, places) in reduce(outputs).items():
      width = outputs[name].shape[3] if outputs[name].ndim == 5 else 1
      parts[name].append(
        units.Peaks(
          np.asarray(values)[:, kept],
          np.asarray(places)[:, kept],
          batch['index'][kept],
          width,
        )
      )
    towers.add(outputs['probabilities'], crops, batch['label'], kept)
  return {name: units.join(part) for name, part in parts.items()}, towers


def _maps(
  subject: Subject, image: np.ndarray, name: str, count: int
) -> page.Figure:
  """Shows what every hidden layer makes of one image, a row a layer."""
  outputs = subject.layers(subject.params, subject.one(image, count))
  panels = []
  for layer in subject.network.layers[:-1]:
    values = np.asarray(outputs[layer.name][:, 0])
    high = float(np.quantile(values, 0.995))
    for tower, own in enumerate(values):
      if isinstance(layer, Conv):
        shown = np.moveaxis(own, -1, 0)[:_MOST_MAPS]
        pixels = _tiled(mosaics.spread(shown, high))
        of = f'{own.shape[-1]} maps of {own.shape[0]} × {own.shape[1]}'
      else:
        pixels = _strip(mosaics.spread(own.reshape(-1), high))
        of = f'{own.size} units'
      panels.append(
        plots.picture(
          pixels,
          title=f'{layer.name}, tower {tower + 1}: {of}',
          alt=f'Outputs of {layer.name}, tower {tower + 1}',
        )
      )
  return page.Figure(
    name='maps',
    title=f'The maps of one image: {plots.shorten(name, 60)}',
    panels=tuple(panels),
    caption=(
      'Outputs after everything that follows the weighted sum, black for 0 and'
      ' below; each layer has its own white. Of a tower the first'
      f' {_MOST_MAPS} maps are shown.'
    ),
    width=330,
    most=max(2, subject.network.towers),
  )


def _tiled(maps: np.ndarray) -> np.ndarray:
  # Rows of one length for all layers of a network, so that columns align.
  return mosaics.tile(maps, 16 if len(maps) >= 16 else 8)


def _strip(levels: np.ndarray) -> np.ndarray:
  """Lays out units [N, 3] as squares in a few rows, without gaps."""
  columns = min(64 if len(levels) < 1024 else 128, len(levels))
  return mosaics.tile(levels[:, None, None, :], columns, gap=0)


def _silent(subject, peaks, count: int) -> list[page.Block]:
  """Returns the share of units that never answered, by layer and tower."""
  if subject.network.activation != 'relu':
    return [
      page.Note(
        f'With {subject.network.activation} every unit answers a little, so'
        ' none is counted as never active.'
      )
    ]
  silent = {name: found.silent() for name, found in peaks.items()}
  rows = tuple(
    (name, layer[0].size, *map(int, layer.sum(axis=1)), float(layer.mean()))
    for name, layer in silent.items()
  )
  number = sum(int(layer.sum()) for layer in silent.values())
  total = sum(layer.size for layer in silent.values())
  return [
    page.Finding(
      f'{number:,} of {total:,} units ({number / total:.1%}) answered none of'
      f' {count:,} test images. A map counts as one unit; a unit that never'
      ' answers has stopped learning, too.'
    ),
    page.Table(
      name='silent_units',
      title='Units that are never active',
      columns=(
        page.Column('layer'),
        page.Column('units a tower', '{:,}'),
        *(
          page.Column(f'never active in tower {tower + 1}', '{:,}')
          for tower in range(subject.network.towers)
        ),
        page.Column('share', '{:.1%}'),
      ),
      rows=rows,
    ),
  ]
