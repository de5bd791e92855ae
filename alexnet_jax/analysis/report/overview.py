"""Section 1: the run, its network layer by layer, and its learning curves."""

import math
import pathlib
import re
from typing import Any

import jax
from matplotlib.axes import Axes
import numpy as np

from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax import reporting
from alexnet_jax.analysis import figures
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report.subject import Subject

Line = dict[str, Any]


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  lines = read_metrics(subject.workdir / 'metrics.jsonl')
  return page.Section(
    key='run',
    title='The run',
    paper='Paper, Sections 3.5 and 5, Figure 2',
    intro=(
      'What was trained, on which data and for how long, and what each layer of'
      ' the network costs. The curves show loss and error during training: on'
      ' training images with random crops, color shifts and dropout, and on'
      ' validation images without any of these.'
    ),
    blocks=(
      page.Facts(_facts(subject, lines)),
      *learning_curves(lines),
      _layers(subject),
      _versions(subject.workdir / 'run.json'),
      _config(subject),
    ),
  )


def summary(subject: Subject) -> page.Facts:
  """Returns the facts beneath the page's heading."""
  scores, network = subject.scores, subject.network
  total = subject.eval_source.num_examples
  return page.Facts((
    ('Data', f'{subject.data_name}, {len(subject.class_names)} classes'),
    ('Network', f'{network.towers} towers, {len(network.layers)} layers'),
    ('Updates', f'{subject.step:,}'),
    ('Top-1 error, center view', f'{np.mean(scores.wrong):.2%}'),
    ('Test images', page.out_of(len(scores.label), total)),
  ))  # fmt: skip


def _facts(subject: Subject, lines: list[Line]) -> tuple[tuple[str, str], ...]:
  source, test = subject.train_source, subject.eval_source
  parameters = sum(row.weights + row.biases for row in subject.shapes)
  cost = sum(row.multiply_adds for row in subject.shapes)
  units = sum(math.prod(row.output) for row in subject.shapes)
  batch_size = subject.config['batch_size']
  seconds, rate = time_in_updates(lines, batch_size)
  return (
    ('Data', f'{subject.data_name}, {len(subject.class_names)} classes'),
    ('Training images', f'{source.num_examples:,} ({_plain(source.split)})'),
    ('Test images', f'{test.num_examples:,} ({_plain(test.split)})'),
    ('Image, crop', f'{subject.image_size}, {subject.crop_size} pixels'),
    ('Batch', f'{batch_size} images'),
    ('Updates', f'{subject.step:,}'),
    ('Time in updates', progress.duration(seconds) if seconds else 'unknown'),
    ('Speed', f'{rate:,.0f} images/s' if rate else 'unknown'),
    ('Towers', str(subject.network.towers)),
    ('Parameters', f'{parameters:,}'),
    ('Multiply-adds per image', f'{cost:,}'),
    ('Memory of parameters', progress.size(4 * parameters)),
    ('Memory of the training state', progress.size(8 * parameters)),
    ('Activations per image', progress.size(4 * units)),
  )


def read_metrics(path: pathlib.Path) -> list[Line]:
  """Returns the intact lines of metrics.jsonl; none if there is no such file.

  A number that was not finite is left out of its line.
  """
  lines = [
    {key: value for key, value in line.items() if value is not None}
    for line in reporting.read(path)
    if isinstance(line, dict)
  ]
  return [line for line in lines if {'step', 'kind', 'epoch'} <= line.keys()]


def _of_kind(lines: list[Line], kind: str, *keys: str) -> list[Line]:
  """Returns the lines of a kind that have these keys."""
  return [
    line for line in lines if line['kind'] == kind and {*keys} <= line.keys()
  ]


def rate_cuts(lines: list[Line]) -> list[tuple[float, float]]:
  """Returns (epoch, new rate) where the learning rate was halved or more.

  A rate that was falling already, as on a cosine schedule, was not cut.
  """
  training = _of_kind(lines, 'train', 'learning_rate')
  found = []
  for i in range(1, len(training)):
    earlier, before, after = (
      training[j]['learning_rate'] for j in (max(0, i - 2), i - 1, i)
    )
    if earlier == before and after <= before / 2:
      found.append((training[i]['epoch'], after))
  return found


def time_in_updates(lines: list[Line], batch_size: int) -> tuple[float, float]:
  """Returns the seconds spent in updates, and images/s; zeros if unknown.

  A training line has the speed of the updates since the line before.
  """
  seconds, images, last = 0.0, 0, 0
  for line in _of_kind(lines, 'train', 'images_per_second'):
    count = (line['step'] - last) * batch_size
    if line['images_per_second'] > 0 and count > 0:
      seconds += count / line['images_per_second']
      images += count
    last = line['step']
  return seconds, images / seconds if seconds else 0.0


def learning_curves(lines: list[Line]) -> list[page.Block]:
  """Returns the curves of loss, error and learning rate, or why there are none.

  Args:
    lines: from `read_metrics`.
  """
  if not _of_kind(lines, 'train', 'nll', 'top1_error'):
    return [
      page.Note(
        'There are no learning curves: the run has no metrics.jsonl with'
        ' training lines that can be read.'
      )
    ]
  cuts = rate_cuts(lines)
  caption = 'The learning rate was never cut to half or less in one step.'
  if cuts:
    places = ', '.join(f'epoch {x:.1f} (to {rate:.1g})' for x, rate in cuts)
    caption = f'Dashed lines mark cuts of the learning rate: {places}.'
  found: list[page.Block] = [
    page.Figure(
      'learning_curves',
      'Learning curves',
      (
        _curve(lines, cuts, 'nll', 'Loss, nats', 1),
        _curve(lines, cuts, 'top1_error', 'Top-1 error, %', 100),
        _curve(lines, cuts, 'learning_rate', 'Learning rate', 1),
      ),
      caption,
    )
  ]
  if not _of_kind(lines, 'validation', 'nll', 'top1_error'):
    found.append(page.Note('The run has not been validated yet.'))
  return found


def _curve(lines, cuts, key: str, title: str, unit: float) -> figures.Panel:
  is_rate = key == 'learning_rate'

  def draw(axes: Axes) -> None:
    smallest = 0
    for kind, color in (('train', 'gray'), ('validation', 'blue')):
      some = _of_kind(lines, kind, key)
      values = [unit * line[key] for line in some]
      if is_rate and values:
        color, smallest = 'violet', min(values)
      axes.plot(
        [line['epoch'] for line in some],
        values,
        color=figures.COLORS[color],
        marker='o' if len(some) < 25 else '',
        markersize=4,
        label='training' if kind == 'train' else kind,
      )
    for epoch, _ in cuts:
      axes.axvline(epoch, **figures.DASHED)
    if cuts and smallest > 0:
      axes.set_yscale('log')
    else:
      axes.set_ylim(bottom=0)
    axes.set_xlabel('epoch')
    if not is_rate:
      axes.legend(loc='upper right')

  name = 'curve-' + key.replace('_', '-')
  return figures.chart(name, draw, title=title)


def _layers(subject: Subject) -> page.Table:
  total = sum(row.multiply_adds for row in subject.shapes)
  rows = tuple(
    (
      row.name,
      ' × '.join(map(str, row.output)),
      f'{layer.reads} maps' if number else 'the image',
      row.weights + row.biases,
      row.multiply_adds,
      row.multiply_adds / total,
    )
    for number, (row, layer) in enumerate(
      zip(subject.shapes, subject.network.layers, strict=True)
    )
  )
  return page.Table(
    'layers',
    'Layers',
    'layer | output | reads | parameters:, | multiply-adds:, | share:.1%',
    rows,
    'All towers together, for one image. The output is that before pooling, as'
    ' the paper counts neurons. A layer that reads all maps connects the'
    ' towers; one that reads its own maps stays within its tower.',
  )


def _versions(path: pathlib.Path) -> page.Block:
  if not files.is_file(path):
    return page.Note('Versions are unknown: the run has no run.json.')
  try:
    record = files.loads(path.read_text())
    versions = sorted(record.pop('versions').items())
  except (ValueError, KeyError, TypeError, AttributeError):
    return page.Note('Versions are unknown: run.json is damaged.')
  rows = [*((_plain(key).replace('_', ' '), record[key]) for key in record)]
  return page.Table(
    'versions',
    'Versions and machine',
    'what | value',
    tuple((key, _plain(value)) for key, value in rows + versions),
    f'This report was made with jax {jax.__version__}.',
    folded=True,
  )


def _plain(value: Any) -> str:
  if isinstance(value, list):
    return ', '.join(map(_plain, value))
  return '' if value is None else names.printable(str(value))


def _config(subject: Subject) -> page.Table:
  rows = tuple(
    (key, re.sub(r'\s+', ' ', files.dumps(value)))
    for key, value in subject.config_rows()
  )
  caption = 'The comments in configs/imagenet.py explain the keys.'
  return page.Table(
    'config', 'Config', 'key | value', rows, caption, folded=True
  )
