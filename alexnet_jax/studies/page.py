"""A study's table, picture and verdict, and the page of all studies."""

from collections.abc import Iterable, Mapping, Sequence
import math
import pathlib
import re
from typing import Any

from matplotlib.axes import Axes

from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax.analysis import figures
from alexnet_jax.studies import statistics
from alexnet_jax.studies import trend
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.statistics import Answer
from alexnet_jax.studies.statistics import Estimate
from alexnet_jax.studies.study import EPOCHS_TO
from alexnet_jax.studies.study import TOP1
from alexnet_jax.studies.study import Comparison
from alexnet_jax.studies.study import Study
from alexnet_jax.studies.trend import Trend

# How metrics are shown: name, factor, decimals, unit.
_SHOWN = {
  'top1_error': ('test error', 100, 2, ' %'),
  'top5_error': ('top-5 error', 100, 2, ' %'),
  'train_error': ('training error', 100, 2, ' %'),
  'gap': ('test - training error', 100, 2, ' %'),
  'nll': ('loss', 1, 3, ''),
  'seconds': ('training, s', 1, 0, ''),
  'parameters': ('parameters', 1, 0, ''),
  'multiply_adds': ('multiply-adds', 1, 0, ''),
  'bytes': ('bytes', 1, 0, ''),
  'exchanged_bytes': ('bytes between towers', 1, 0, ''),
  'memory': ('peak memory, MB', 1e-6, 0, ''),
  'test_milliseconds': ('ms per test image', 1, 3, ''),
}
_ROW_HEIGHT, _MARGIN = 26, 60  # pixels
_WITHOUT_PAIR = 'no pair of runs has a number'

_INTRODUCTION = """# Studies

Each row is a question about the paper, asked of {data}.
{bases}

A difference is the mean over pairs of runs with the same seed, in percentage
points where it is one of errors, with its interval at 95 % by Student's t
distribution. The verdict follows a rule: a sign is resolved if the interval
excludes zero (1 for a ratio), and the size agrees if the interval contains the
paper's figure or the mean is within a factor of two of it. Of 20 intervals, one
is expected to miss the truth. Training errors are of the finished network on
10,000 training images, with the center view and without dropout; epochs to a
training error are counted in the log, of augmented images. The seconds are of
runs side by side, on a machine that did other work too.

The command of a row: `python main.py --mode=study --workdir=runs/studies`, with
the flag in its last column and `--config.data_dir=DIR`, the folder of the
images. The `study.csv` of each study has every run's numbers."""


def write(
  study: Study,
  results: Sequence[Result],
  failures: Mapping[str, str],
  folder: pathlib.Path,
  data: str,
) -> list[Answer]:
  """Writes study.csv, study.png and study.json of one study, and the page.

  Args:
    study: which.
    results: of the runs that have come to their end.
    failures: why runs have none, by the name of the run.
    folder: of `studies.md`; the files are in `studies/<name>/` beside it.
    data: the images in words, for the page.

  Returns:
    The answers to the study's comparisons.
  """
  place = folder / 'studies' / study.name
  place.mkdir(parents=True, exist_ok=True)
  metrics = _metrics(results)
  files.write_csv(
    place / 'study.csv',
    ('variant', 'seed', *metrics),
    [
      (each.variant, each.seed, *(each.values.get(name) for name in metrics))
      for each in results
    ],
  )
  answers = {
    each: answer
    for each in study.comparisons
    if (answer := statistics.compare(results, each, study.metric))
  }
  law = None
  if study.sizes:
    law = trend.fit(results, study.sizes, study.metric, study.larger)
  chart = _curve(study, results, law) if law else _picture(study, results)
  with files.replacing(place / 'study.png') as file:
    file.write(chart.png)
  files.write_json(
    place / 'study.json',
    {
      'section': study.section,
      'row': _row(study, answers),
      'lines': _section(study, results, answers, law, failures).split('\n'),
      'data': data,
      'base': _base(study, results),
    },
  )
  _write_page(folder)
  return list(answers.values())


def _base(study: Study, results: Sequence[Result]) -> list[str]:
  """Returns the study's base and its error in words, if a variant is it."""
  for variant, changes in study.variants.items():
    errors = list(statistics.by_seed(results, variant, TOP1).values())
    if not changes and not study.overrides and errors:
      found = _interval(statistics.estimate(errors), TOP1)
      runs = f'{len(errors)} run' + 's' * (len(errors) > 1)
      return [study.base, f'has a test error of {found} ({runs})']
  return []


def _shown(metric: str) -> tuple[str, float, int, str]:
  if metric.startswith(EPOCHS_TO):
    error = float(metric.removeprefix(EPOCHS_TO))
    return f'epochs to {100 * error:g} % training error', 1, 1, ''
  return _SHOWN.get(metric, (metric, 1, 4, ''))


def _number(value: float, metric: str) -> str:
  _, factor, decimals, unit = _shown(metric)
  if math.isnan(value):
    return '?'
  return f'{factor * value:,.{decimals}f}{unit}'


def _interval(found: Estimate, metric: str) -> str:
  """Returns '21.30 +- 0.40 %', or the mean where there is no interval."""
  _, factor, decimals, unit = _shown(metric)
  if math.isnan(found.low) or found.low == found.high:
    return _number(found.mean, metric)
  half = factor * (found.high - found.low) / 2
  return f'{factor * found.mean:,.{decimals}f} +- {half:.{decimals}f}{unit}'


def in_words(answer: Answer, metric: str) -> str:
  """Returns an answer as a sentence: 'none - across maps: 0.5 +- 0.2 %'."""
  comparison, found = answer.comparison, answer.estimate
  what = f'{answer.first} - {answer.second}'
  if comparison.ratio:
    what = f'{answer.first} / {answer.second}'
  if comparison.metric:
    what = f'{_shown(comparison.metric)[0]}, {what}'
  metric = comparison.metric or metric
  if comparison.ratio:
    value = f'{found.mean:.2f}'
    if not math.isnan(found.low):
      value += f' ({found.low:.2f} to {found.high:.2f})'
    return f'{what}: {value}'
  return f'{what}: {_in_points(_interval(found, metric))}'


def _in_points(difference: str) -> str:
  return difference.replace(' %', ' points')


def _claimed(answer: Answer, metric: str) -> str:
  comparison = answer.comparison
  if comparison.claim is None:
    return {1: 'higher', -1: 'lower', 0: 'no figure'}[comparison.sign]
  if comparison.ratio:
    return f'{comparison.claim:g}'
  return _in_points(_number(comparison.claim, comparison.metric or metric))


def _row(study: Study, answers: Mapping[Comparison, Answer]) -> list[str]:
  """Returns the study's row of the table: ours, the paper's, the verdict."""
  question = f'[{study.question}](#{_anchor(study.question)})'
  flag = f'`--config=configs/studies/{study.name}.py`'
  if not study.comparisons:
    return [question, '', '', str(study.seeds), 'see below', flag]
  first = answers.get(study.comparisons[0])
  if first is None:
    return [question, '', '', '0', _WITHOUT_PAIR, flag]
  return [
    question,
    in_words(first, study.metric),
    _claimed(first, study.metric),
    str(first.estimate.count),
    first.verdict,
    flag,
  ]


def _anchor(heading: str) -> str:
  """Returns the name that a heading has in a page of GitHub."""
  return re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')


def _section(
  study: Study,
  results: Sequence[Result],
  answers: Mapping[Comparison, Answer],
  law: Trend | None,
  failures: Mapping[str, str],
) -> str:
  """Returns the study's section of the page, in Markdown."""
  parts = [
    f'## {study.question}',
    f'Paper, Section {study.section}: {study.claim}.',
    *([study.answer] if study.answer else []),
    f'![{study.question}](studies/{study.name}/study.png)',
    _table(study, results),
  ]
  if study.comparisons:
    lines = [
      (in_words(x, study.metric), _claimed(x, study.metric), x.verdict)
      if (x := answers.get(each))
      else (f'{each.first}, {each.second}', '', _WITHOUT_PAIR)
      for each in study.comparisons
    ]
    parts.append(_markdown(('difference', 'paper', 'verdict'), lines))
  if prices := _prices(results, answers.values(), study.metric):
    parts.append(prices)
  if law:
    parts.append(_law_in_words(study.metric, law))
  parts += [f'Failed: {name} ({why})' for name, why in failures.items()]
  parts.append(f'Every run: [study.csv](studies/{study.name}/study.csv)')
  return '\n\n'.join(parts)


def _table(study: Study, results: Sequence[Result]) -> str:
  """Returns a row for each variant, of the metrics that differ."""
  variants = list(dict.fromkeys(each.variant for each in results))
  metrics = _metrics(results)
  metrics.sort(key=lambda name: name != study.metric)
  shown = [
    name
    for name in metrics
    if name in (study.metric, 'top1_error', 'train_error', 'seconds')
    or len({each.values.get(name) for each in results}) > 1
  ]
  rows = []
  for variant in variants:
    own = [each for each in results if each.variant == variant]
    cells = [
      _cell([each.values[name] for each in own if name in each.values], name)
      for name in shown
    ]
    rows.append((variant, str(len(own)), *cells))
  header = ('variant', 'runs', *(_shown(name)[0] for name in shown))
  return _markdown(header, rows)


def _cell(values: Sequence[float], metric: str) -> str:
  """Returns the mean of the finite values, and how many are infinite."""
  finite = [value for value in values if math.isfinite(value)]
  never = sum(map(math.isinf, values))
  if never == len(values) and values:
    return 'never'
  mean = _interval(statistics.estimate(finite), metric)
  return f'{mean}; never in {never} of {len(values)}' if never else mean


def _metrics(results: Sequence[Result]) -> list[str]:
  return list(dict.fromkeys(name for each in results for name in each.values))


def _prices(
  results: Sequence[Result], answers: Iterable[Answer], metric: str
) -> str:
  """Returns what communication gains by byte, in Markdown; '' for nothing.

  Only differences of the study's own metric between variants whose towers send
  each other different amounts.
  """
  lines = []
  for each in answers:
    first, second = (
      statistics.estimate(
        list(statistics.by_seed(results, name, 'exchanged_bytes').values())
      ).mean
      for name in (each.first, each.second)
    )
    own = not each.comparison.metric and not each.comparison.ratio
    # NaN where there are none; a single tower sends nothing.
    if not own or not (first > 0 and second > 0 and first != second):
      continue
    kilobytes = (second - first) / 1000
    gain = _in_points(_number(each.estimate.mean / kilobytes, metric))
    lines.append(
      (f'{each.first} - {each.second}', f'{kilobytes:+,.1f} kB', gain)
    )
  if not lines:
    return ''
  return _markdown(
    ('difference', 'sent more per training image', 'gain per kB'), lines
  )


def _law_in_words(metric: str, law: Trend) -> str:
  exponent = law.exponent
  spread = ''
  if not math.isnan(exponent.low):
    spread = f' ({-exponent.high:.2f} to {-exponent.low:.2f})'
  predicted = ', '.join(
    f'{_interval(found, metric)} at {size:,.0f}'
    for size, found in law.predicted.items()
    if size > law.sizes[-1]
  )
  words = (
    'A power law through the runs of each seed has the exponent'
    f' {-exponent.mean:.2f}{spread}'
  )
  words += f'; it predicts {predicted}.' if predicted else '.'
  if law.foretold:
    words += (
      ' From the smaller sizes alone it would have predicted'
      f' {_interval(law.foretold, metric)} at {law.sizes[-1]:,.0f}.'
    )
  return words


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  escaped = [[cell.replace('|', '\\|') for cell in line] for line in lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in escaped)


def _picture(study: Study, results: Sequence[Result]) -> figures.Panel:
  """Draws mean, interval and runs of every variant."""
  name, factor, _, unit = _shown(study.metric)
  variants = list(dict.fromkeys(each.variant for each in results))

  def draw(axes: Axes) -> None:
    axes.grid(axis='x')
    axes.grid(visible=False, axis='y')
    for place, variant in enumerate(variants):
      by_seed = statistics.by_seed(results, variant, study.metric)
      found = statistics.estimate(list(by_seed.values()))
      dots = [factor * value for value in by_seed.values()]
      axes.plot(
        dots, [place] * len(dots), 'o', color=figures.COLORS['gray'], ms=4
      )
      axes.plot(
        [factor * found.low, factor * found.high], [place] * 2,
        color=figures.COLORS['blue'],
      )  # fmt: skip
      axes.plot(factor * found.mean, place, 'o', color=figures.COLORS['blue'])
    labels = [names.drawable(variant) for variant in variants]
    axes.set_yticks(range(len(variants)), labels)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel(f'{name}{"," if unit else ""}{unit}')

  return figures.chart(
    study.name,
    draw,
    title=study.question,
    width=640,
    height=_MARGIN + _ROW_HEIGHT * len(variants),
  )


def _curve(
  study: Study, results: Sequence[Result], law: Trend
) -> figures.Panel:
  """Draws the runs by size, and the law with what it predicts."""
  name, factor, _, unit = _shown(study.metric)

  def draw(axes: Axes) -> None:
    for variant, size in study.sizes.items():
      values = statistics.by_seed(results, variant, study.metric).values()
      dots = [factor * value for value in values]
      axes.plot([size] * len(dots), dots, 'o', color=figures.COLORS['gray'])
    means = [factor * found.mean for found in law.predicted.values()]
    axes.plot(list(law.predicted), means, color=figures.COLORS['blue'])
    axes.plot(
      study.larger, means[len(law.sizes) :], 'o', mfc=figures.COLORS['paper'],
      color=figures.COLORS['blue'],
    )  # fmt: skip
    axes.set_xscale('log')
    axes.set_ylim(bottom=0)
    axes.set_xlabel('size, logarithmic; circles are predictions')
    axes.set_ylabel(f'{name}{"," if unit else ""}{unit}')

  return figures.chart(
    study.name, draw, title=study.question, width=640, height=260
  )


def _write_page(folder: pathlib.Path) -> None:
  """Writes the page anew from the studies that are there."""
  found: list[dict[str, Any]] = [
    files.loads(path.read_text())
    for path in (folder / 'studies').glob('*/study.json')
  ]
  found.sort(key=lambda each: (_order(each['section']), each['row']))
  data = ' and '.join(dict.fromkeys(each['data'] for each in found))
  bases: dict[str, str] = {}
  for each in found:
    bases.update([each['base']] if each['base'] else [])
  sentences = [
    f'The base `{name}` {error}.' for name, error in sorted(bases.items())
  ]
  header = ('question', 'ours', 'paper', 'pairs', 'verdict', 'study')
  rows = [each['row'] for each in found]
  parts = [
    _INTRODUCTION.format(data=data, bases='\n'.join(sentences)),
    _markdown(header, rows),
    *('\n'.join(each['lines']) for each in found),
  ]
  files.write_text(folder / 'studies.md', '\n\n'.join(parts) + '\n')


def _order(section: str) -> list[int]:
  """Returns '3.3' or '5, 2' as numbers, by which sections are in order."""
  first = section.split(',')[0]
  return [int(part) for part in first.split('.') if part.isdecimal()]
