"""Writes the section of a study, and the page of all studies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
import math
import pathlib
import re
from typing import Any

from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax.studies import charts
from alexnet_jax.studies import formatting
from alexnet_jax.studies import statistics
from alexnet_jax.studies import table
from alexnet_jax.studies import trend
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.statistics import Answer
from alexnet_jax.studies.study import TOP1
from alexnet_jax.studies.study import Comparison
from alexnet_jax.studies.study import Study
from alexnet_jax.studies.trend import Trend

_WITHOUT_PAIR = 'no seed has both results'

_INTRODUCTION = """# Studies

Each row is a question about the paper, answered by runs that vary one base
config. Each base has a table: {bases}.

Differences are means over pairs of runs with the same seed, in percentage
points for errors, with a 95 % confidence interval by Student's t distribution.
The verdict follows a rule: the sign is resolved if the interval excludes zero
(1 for a ratio), and the size agrees if the interval contains the paper's figure
or the mean is within a factor of two of it. One interval in 20 is expected to
miss the true value. Beside the difference of the errors is the difference of
the loss (the mean negative log-likelihood), which varies less between seeds.
Training errors are measured after training on 10,000 training images, with the
center view and without dropout; epochs to a training error are measured during
training, on augmented images. Training times are of runs in parallel on a
machine shared with other work.

To reproduce a row, run `python main.py --mode=study --workdir=runs/studies`
with the flags of its last column, the flags of its base, and
`--config.data_dir=DIR` for the folder of the images. The file `study.csv` of a
study holds the results of every run. With `--output` set to the folder of this
page and a higher `--config.seeds`, a study executes only the runs that are not
in its `study.csv`."""


def write(
  study: Study,
  results: Sequence[Result],
  failures: Mapping[str, str],
  folder: pathlib.Path,
  data: str,
) -> list[Answer]:
  """Writes the files of one study, and updates the page.

  Args:
    study: the study.
    results: the results of its finished runs.
    failures: error messages by the name of the failed run.
    folder: the folder of `studies.md`; see `folder_of` for the other files.
    data: a description of the data set; '' keeps the existing one.

  Returns:
    The answers to the study's comparisons.
  """
  place = folder / folder_of(study)
  place.mkdir(parents=True, exist_ok=True)
  table.write(place / 'study.csv', results)
  answers = {
    each: answer
    for each in study.comparisons
    if (answer := statistics.compare(results, each, study.metric))
  }
  law = None
  if study.sizes:
    law = trend.fit(results, study.sizes, study.metric, study.larger)
  with files.replacing(place / 'study.png') as file:
    file.write(charts.draw(study, results, law).png)
  described = place / 'study.json'
  if not data and files.is_file(described):
    data = files.loads(described.read_text())['data']
  files.write_json(
    described,
    {
      'question': study.question,
      'section': study.section,
      'row': _row(study, results, answers),
      'lines': _section(study, results, answers, law, failures).split('\n'),
      'data': data,
      'base': study.base_in_words,
      'base_flags': _base_flags(study),
      'base_error': _base_error(study, results),
    },
  )
  _write_page(folder)
  return list(answers.values())


def folder_of(study: Study) -> pathlib.Path:
  """Returns the folder of a study's files, relative to the page."""
  base = names.for_file(study.base_in_words)
  return pathlib.Path('studies', base, study.name)


def _base_flags(study: Study) -> list[str]:
  flags = [f'--config.base={study.base}']
  if study.base_overrides:
    flags.append(f'--config.base_overrides="{study.base_overrides}"')
  return flags


def _base_error(study: Study, results: Sequence[Result]) -> list[float]:
  """Returns the test errors of the variant that equals the base, if any."""
  for variant, changes in study.variants.items():
    if not changes and not study.overrides:
      return list(statistics.by_seed(results, variant, TOP1).values())
  return []


def _row(
  study: Study,
  results: Sequence[Result],
  answers: Mapping[Comparison, Answer],
) -> list[str]:
  """Returns a row of the main table, without the question."""
  # The table may contain more seeds than the study.
  last = max((each.seed for each in results if each.origin), default=0)
  flags = (
    f'`--config=configs/studies/{study.name}.py'
    f' --config.seeds={max(study.seeds, last + 1)}`'
  )
  if not study.comparisons:
    return ['', '', str(study.seeds), 'see below', flags]
  first = answers.get(study.comparisons[0])
  if first is None:
    return ['', '', '0', _WITHOUT_PAIR, flags]
  return [
    formatting.in_words(first, study.metric),
    formatting.claimed(first, study.metric),
    str(first.estimate.count),
    first.verdict,
    flags,
  ]


def _section(
  study: Study,
  results: Sequence[Result],
  answers: Mapping[Comparison, Answer],
  law: Trend | None,
  failures: Mapping[str, str],
) -> str:
  """Returns the study's section of the page, in Markdown."""
  place = folder_of(study).as_posix()
  parts = [
    f'### {study.question}',
    f'Paper, Section {study.section}: {study.claim}.',
    *([study.answer] if study.answer else []),
    f'![{study.question}]({place}/study.png)',
    _table(study, results),
  ]
  if study.comparisons:
    parts.append(_differences(study, results, answers))
  if prices := _prices(results, answers.values(), study.metric):
    parts.append(prices)
  if law:
    parts.append(_law_in_words(study.metric, law))
  parts += [f'Failed: {name} ({why})' for name, why in failures.items()]
  parts.append(f'Every run: [study.csv]({place}/study.csv)')
  return '\n\n'.join(parts)


def _table(study: Study, results: Sequence[Result]) -> str:
  """Returns a table of the metrics that differ, one row per variant."""
  variants = list(dict.fromkeys(each.variant for each in results))
  metrics = list(
    dict.fromkeys(name for each in results for name in each.values)
  )
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
  header = ('variant', 'runs', *(formatting.shown(name)[0] for name in shown))
  return _markdown(header, rows)


def _differences(
  study: Study,
  results: Sequence[Result],
  answers: Mapping[Comparison, Answer],
) -> str:
  """Returns a table of the comparisons."""
  rows = []
  for each in study.comparisons:
    answer = answers.get(each)
    if answer is None:
      names_of = f'{each.first}, {each.second}'
      rows.append((names_of, '', '', _WITHOUT_PAIR))
      continue
    loss = None
    if (each.metric or study.metric) == TOP1 and not each.ratio:
      of_loss = Comparison(answer.first, answer.second, 'nll')
      loss = statistics.compare(results, of_loss, 'nll')
    rows.append(
      (
        formatting.in_words(answer, study.metric),
        formatting.interval(loss.estimate, 'nll') if loss else '',
        formatting.claimed(answer, study.metric),
        answer.verdict,
      )
    )
  lines = [('difference', 'of the loss', 'paper', 'verdict'), *rows]
  if not any(row[1] for row in rows):
    lines = [(line[0], *line[2:]) for line in lines]
  return _markdown(lines[0], lines[1:])


def _cell(values: Sequence[float], metric: str) -> str:
  """Returns the mean of the finite values and the number of infinite ones."""
  finite = [value for value in values if math.isfinite(value)]
  never = sum(map(math.isinf, values))
  if never == len(values) and values:
    return 'never'
  mean = formatting.interval(statistics.estimate(finite), metric)
  return f'{mean}; never in {never} of {len(values)}' if never else mean


def _prices(
  results: Sequence[Result], answers: Iterable[Answer], metric: str
) -> str:
  """Returns a table of the gain per byte exchanged; '' if none applies.

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
    # NaN if not measured; 0 for a single tower.
    if not own or not (first > 0 and second > 0 and first != second):
      continue
    kilobytes = (second - first) / 1000
    gain = formatting.in_points(
      formatting.number(each.estimate.mean / kilobytes, metric)
    )
    lines.append(
      (f'{each.first} - {each.second}', f'{kilobytes:+,.1f} kB', gain)
    )
  if not lines:
    return ''
  return _markdown(
    ('difference', 'additional bytes per training image', 'gain per kB'), lines
  )


def _law_in_words(metric: str, law: Trend) -> str:
  exponent = law.exponent
  spread = ''
  if not math.isnan(exponent.low):
    spread = f' ({-exponent.high:.2f} to {-exponent.low:.2f})'
  predicted = ', '.join(
    f'{formatting.interval(found, metric)} at {size:,.0f}'
    for size, found in law.predicted.items()
    if size > law.sizes[-1]
  )
  sentence = (
    'A power law through the runs of each seed has the exponent'
    f' {-exponent.mean:.2f}{spread}'
  )
  sentence += f'; it predicts {predicted}.' if predicted else '.'
  if law.held_out:
    sentence += (
      ' From the smaller sizes alone it would have predicted'
      f' {formatting.interval(law.held_out, metric)} at {law.sizes[-1]:,.0f}.'
    )
  return sentence


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  escaped = [[cell.replace('|', '\\|') for cell in line] for line in lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in escaped)


def _write_page(folder: pathlib.Path) -> None:
  """Writes the page from the studies found in a folder."""
  found: list[dict[str, Any]] = [
    files.loads(path.read_text())
    for path in (folder / 'studies').glob('*/*/study.json')
  ]
  found.sort(
    key=lambda each: (each['base'], _order(each['section']), each['question'])
  )
  headings: list[str] = []
  parts: list[str] = []
  bases: list[str] = []
  for base, group in itertools.groupby(found, lambda each: each['base']):
    studies = list(group)
    bases.append(f'[{base}](#{_anchor(base, headings)})')
    links = [_anchor(each['question'], headings) for each in studies]
    parts += _of_base(base, studies, links)
  introduction = _INTRODUCTION.format(bases=' and '.join(bases))
  text = '\n\n'.join([introduction, *parts])
  files.write_text(folder / 'studies.md', text + '\n')


def _of_base(
  base: str, studies: Sequence[Mapping[str, Any]], links: Sequence[str]
) -> Iterator[str]:
  """Yields the paragraphs of one base: description, table and studies."""
  data = ' and '.join(
    dict.fromkeys(each['data'] for each in studies if each['data'])
  )
  flags = ' '.join(studies[0]['base_flags'])
  sentences = [f'Of {data}; `{flags}`.' if data else f'`{flags}`.']
  # Studies may have different numbers of seeds.
  errors: list[float] = max((each['base_error'] for each in studies), key=len)
  if errors:
    error = formatting.interval(statistics.estimate(errors), TOP1)
    runs = f'{len(errors)} run' + 's' * (len(errors) > 1)
    sentences.append(f'The base has a test error of {error} ({runs}).')
  yield f'## {base}'
  yield ' '.join(sentences)
  yield _markdown(
    ('question', 'ours', 'paper', 'pairs', 'verdict', 'study'),
    [
      (f'[{each["question"]}](#{link})', *each['row'])
      for each, link in zip(studies, links, strict=True)
    ],
  )
  for each in studies:
    yield '\n'.join(each['lines'])


def _anchor(heading: str, earlier: list[str]) -> str:
  """Returns the anchor that GitHub gives a heading.

  Args:
    heading: the text of the heading.
    earlier: the unnumbered anchors of the headings above it; this one is added.
  """
  name = re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
  earlier.append(name)
  repeats = earlier.count(name) - 1
  return f'{name}-{repeats}' if repeats else name


def _order(section: str) -> list[int]:
  """Returns a sort key for sections such as '3.3' or '5, 2'."""
  first = section.split(',')[0]
  return [int(part) for part in first.split('.') if part.isdecimal()]
