"""Section 1: the run, its network layer by layer, and its learning curves."""

import math
import pathlib
import re
from typing import Any

import jax
import numpy as np

from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax import setup
from alexnet_jax.analysis.report import curves
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report.subject import Subject


def make(subject: Subject) -> page.Section:
  """Returns the section."""
  workdir = subject.run.workdir
  lines = curves.read(workdir / 'metrics.jsonl')
  blocks: list[page.Block] = [
    page.Facts(_facts(subject, lines)),
    *curves.blocks(lines),
    _layers(subject),
    *_record(workdir),
    _config(subject),
  ]
  return page.Section(
    key='run',
    title='The run',
    paper='Paper, Sections 3.5 and 5, Figure 2',
    intro=(
      'What was trained, on what, for how long, and what the network costs'
      ' layer by layer. The curves show how its loss and error fell: on'
      ' training images with crops, color shifts and dropout, on validation'
      ' images with none of them.'
    ),
    blocks=tuple(blocks),
  )


def _facts(subject: Subject, lines: list[dict]) -> tuple[tuple[str, str], ...]:
  source, test = subject.train_source, subject.eval_source
  parameters = sum(row.weights + row.biases for row in subject.shapes)
  cost = sum(row.multiply_adds for row in subject.shapes)
  units = sum(math.prod(row.output) for row in subject.shapes)
  seconds, rate = curves.seconds(lines, subject.train_batch)
  return (
    ('Data', f'{subject.data_name}, {len(subject.class_names)} classes'),
    ('Training images', f'{source.num_examples:,} ({_plain(source.split)})'),
    ('Test images', f'{test.num_examples:,} ({_plain(test.split)})'),
    ('Image, crop', f'{subject.image_size}, {subject.crop_size} pixels'),
    ('Batch', f'{subject.train_batch} images'),
    ('Updates', f'{subject.run.step:,}'),
    (
      'Time in updates',
      progress.duration(seconds) if seconds else 'not known',
    ),
    ('Speed', f'{rate:,.0f} images/s' if rate else 'not known'),
    ('Towers', str(subject.network.towers)),
    ('Parameters', f'{parameters:,}'),
    ('Multiply-adds an image', f'{cost:,}'),
    ('Memory of parameters', size(4 * parameters)),
    ('Memory of the training state', size(8 * parameters)),
    ('Outputs of all layers', f'{size(4 * units)} an image'),
  )


def size(count: int) -> str:
  """Returns a number of bytes as people say it: 512 B, 1.1 MB, 233 MB."""
  value, unit = float(count), 'B'
  for unit in ('B', 'kB', 'MB', 'GB'):
    if value < 1000 or unit == 'GB':
      break
    value /= 1000
  digits = 1 if unit != 'B' and value < 10 else 0
  return f'{value:.{digits}f} {unit}'


def _layers(subject: Subject) -> page.Table:
  total = sum(row.multiply_adds for row in subject.shapes)
  rows = []
  by_name = {layer.name: layer for layer in subject.network.layers}
  for row in subject.shapes:
    layer = by_name[row.name]
    rows.append((
      row.name,
      ' × '.join(map(str, row.output)),
      f'{layer.reads} maps' if row is not subject.shapes[0] else 'the image',
      row.weights + row.biases,
      row.multiply_adds,
      row.multiply_adds / total,
    ))  # fmt: skip
  return page.Table(
    name='layers',
    title='Layers',
    columns=(
      page.Column('layer'),
      page.Column('output'),
      page.Column('reads'),
      page.Column('parameters', '{:,}'),
      page.Column('multiply-adds', '{:,}'),
      page.Column('share', '{:.1%}'),
    ),
    rows=tuple(rows),
    caption=(
      'All towers together, for one image. The output is counted before'
      ' pooling, as the paper counts neurons; a layer that reads all maps is'
      ' where the towers talk.'
    ),
  )


def _record(workdir: pathlib.Path) -> list[page.Block]:
  """Returns the versions and the machine, or a note that they are missing."""
  path = workdir / 'run.json'
  try:
    record = files.loads(path.read_text())
    versions = sorted(record['versions'].items())
  except FileNotFoundError:
    return [page.Note('The run has no run.json: its versions are not known.')]
  except (ValueError, KeyError, TypeError, AttributeError):
    return [page.Note('run.json is damaged: its versions are not known.')]
  rows = [
    (_plain(key).replace('_', ' '), _plain(value))
    for key, value in record.items()
    if key != 'versions'
  ]
  rows += [(name, _plain(version)) for name, version in versions]
  return [
    page.Table(
      name='versions',
      title='Versions and machine',
      columns=(page.Column('what'), page.Column('value')),
      rows=tuple(rows),
      caption=f'This report was made with jax {jax.__version__}.',
      folded=True,
    )
  ]


def _plain(value: Any) -> str:
  if isinstance(value, list):
    return ', '.join(map(_plain, value))
  return '' if value is None else names.printable(str(value))


def _config(subject: Subject) -> page.Table:
  rows = [
    (key, re.sub(r'\s+', ' ', files.dumps(value)))
    for key, value in setup.flatten(subject.run.experiment.plain_config())
  ]
  return page.Table(
    name='config',
    title='Config',
    columns=(page.Column('key'), page.Column('value')),
    rows=tuple(rows),
    caption='What the key means is a comment in configs/imagenet.py.',
    folded=True,
  )


def summary(subject: Subject) -> page.Facts:
  """Returns the facts beneath the page's heading."""
  scores = subject.scores
  wrong = float(np.mean(scores.wrong))
  total = subject.eval_source.num_examples
  tested = f'{len(scores.label):,}'
  if len(scores.label) < total:
    tested += f' of {total:,}'
  return page.Facts((
    ('Data', f'{subject.data_name}, {len(subject.class_names)} classes'),
    ('Network', f'{subject.network.towers} towers, '
     f'{len(subject.network.layers)} layers'),
    ('Updates', f'{subject.run.step:,}'),
    ('Top-1 error, center view', f'{wrong:.2%}'),
    ('Test images', tested),
  ))  # fmt: skip
