"""Writes the section of a study, and the page of all studies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
import math
import pathlib
import re
import shlex
from typing import Any

from absl import logging

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax.studies import charts
from alexnet_jax.studies import formatting
from alexnet_jax.studies import statistics
from alexnet_jax.studies import table
from alexnet_jax.studies import trend
from alexnet_jax.studies.results import Data
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.statistics import Answer
from alexnet_jax.studies.study import TOP1
from alexnet_jax.studies.study import Comparison
from alexnet_jax.studies.study import Study
from alexnet_jax.studies.trend import Trend

_WITHOUT_PAIR = 'no seed has finite results of both'
# The keys of study.json.
_DESCRIBED = {
  'question', 'section', 'row', 'lines', 'data', 'images', 'base', 'base_flags',
  'base_error',
}  # fmt: skip
# Metrics that are shown even if all runs have the same value.
_ALWAYS_SHOWN = ('top1_error', 'train_error', 'seconds', 'specialized')
# Metrics of a run whose mean over runs has no meaning.
_NOT_AVERAGED = ('p_value', 'colorful_tower')

_INTRODUCTION = """# Studies

Each row is a question about the paper, answered by runs that vary one base
config. Each base has a table: {bases}.

Differences are means over pairs of runs with the same seed, in percentage
points for errors; ratios are geometric means. Intervals are 95 % confidence
intervals by Student's t distribution. They cover the choice of the seed, not
that of the training and test images. The verdict follows a rule: the sign is
resolved if the interval excludes zero (1 for a ratio), and the size agrees if
the interval contains the paper's figure or the mean is within a factor of two
of it. One interval in 20 is expected to miss the true value. Beside the
difference of the errors is the difference of the loss (the mean negative
log-likelihood), which varies less between seeds. The paper's figures are for
ImageNet, except those of Section 3.1 and of the CIFAR-10 network of Section
3.3.

After training, the training error is measured on 10,000 training images, with
the center view and without dropout; epochs to a training error are measured
during training, on augmented images and with dropout, and those to a test error
in the validations. Of a grid of values (`name @ value`) the one with the best
mean is compared. Training times depend on the load of the machine and on the
cores of each process. In the plots, gray dots are runs, blue dots their means,
and lines the intervals.

To reproduce a row, run `python main.py --mode=study --workdir=runs/studies`
with the flags of its last column, the flags of its base, and
`--config.data_dir=DIR` for the folder of the images. The file `study.csv` of a
study holds its results. With `--output` set to the folder of this page and a
higher `--config.seeds`, a study that compares runs executes only those that are
not in its `study.csv`; a study that measures trained networks needs all of
them."""


def write(
  study: Study,
  results: Sequence[Result],
  failures: Mapping[str, str],
  folder: pathlib.Path,
  data: Data,
) -> list[Answer]:
  """Writes the files of one study, and updates the page.

  Args:
    study: the study.
    results: the results of its finished runs.
    failures: error messages by the name of the failed run.
    folder: the folder of `studies.md`; see `folder_of` for the other files.
    data: the data of the base.

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
  lines = _section(study, results, answers, law, failures, data)
  files.write_json(
    place / 'study.json',
    {
      'question': study.question,
      'section': study.section,
      'row': _row(study, results, answers),
      'lines': lines.split('\n'),
      'data': data.words,
      'images': data.digest,
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


def check_images(folder: pathlib.Path, study: Study, data: Data) -> None:
  """Checks that the base's studies on the page are about the same images.

  Raises:
    UserError: if they are about others.
  """
  base = folder / folder_of(study).parent
  for path in sorted(base.glob('*/study.json')):
    theirs = _description(path)['images']
    if theirs and data.digest and theirs != data.digest:
      raise errors.UserError(
        f'{path} is about other images (digest {theirs}, those of the study'
        f' have {data.digest}): choose another --output or --config.data_dir'
      )


def _base_flags(study: Study) -> list[str]:
  flags = [f'--config.base={study.base}']
  if study.base_overrides:
    flag = f'--config.base_overrides={study.base_overrides}'
    # More readable, where nothing has a meaning inside double quotes.
    plain = not set(flag) & set('"$`\\!')
    flags.append(f'"{flag}"' if plain else shlex.quote(flag))
  return flags


def _base_error(study: Study, results: Sequence[Result]) -> list[float]:
  """Returns the test errors of the variant that equals the base, if any."""
  for variant in study.variants:
    if study.equals_base(variant):
      return list(statistics.by_seed(results, variant, TOP1).values())
  return []


def _row(
  study: Study,
  results: Sequence[Result],
  answers: Mapping[Comparison, Answer],
) -> list[str]:
  """Returns a row of the main table, without the question."""
  flags = (
    f'`--config=configs/studies/{study.name}.py'
    f' --config.seeds={_num_seeds(study, results)}`'
  )
  if not study.comparisons:
    return ['', '', '', 'see below', flags]
  first = answers.get(study.comparisons[0])
  claimed = formatting.claimed(study.comparisons[0], study.metric)
  if first is None:
    return ['', claimed, '0', _WITHOUT_PAIR, flags]
  return [
    formatting.in_words(first, study.metric),
    claimed,
    formatting.pairs(first),
    formatting.judged(first),
    flags,
  ]


def _section(
  study: Study,
  results: Sequence[Result],
  answers: Mapping[Comparison, Answer],
  law: Trend | None,
  failures: Mapping[str, str],
  data: Data,
) -> str:
  """Returns the study's section of the page, in Markdown."""
  place = folder_of(study).as_posix()
  parts = [
    f'### {study.question}',
    f'Paper, Section {study.section}: {study.claim}.',
    *_answer(study, results, failures, data),
    f'![{study.question}]({place}/study.png)',
    _table(study, results),
    *_changes(study),
  ]
  if study.comparisons:
    parts.append(_differences(study, results, answers))
  parts += _at_edges(results, answers.values())
  if study.per_byte:
    parts.append(_prices(results, answers.values(), study.metric))
  if law:
    parts.append(_law_in_words(study.metric, law))
  for name, why in failures.items():
    quoted = why.replace('`', "'")
    parts.append(f'Failed: {name} (`{quoted}`)')
  parts.append(f'All results: [study.csv]({place}/study.csv)')
  return '\n\n'.join(parts)


def _answer(
  study: Study,
  results: Sequence[Result],
  failures: Mapping[str, str],
  data: Data,
) -> list[str]:
  """Returns the study's answer if it is about these results."""
  seeds = _num_seeds(study, results)
  about = f'{study.base_in_words}, {seeds} seeds, images {data.digest}'
  if study.answer and study.answered == about and not failures:
    return [study.answer]
  if study.answer:
    logging.info(
      'Left out: the answer about %s; these results are about %s',
      study.answered,
      about,
    )
  return []


def _num_seeds(study: Study, results: Sequence[Result]) -> int:
  """Returns the number of seeds; the table may have more than the study."""
  last = max((each.seed for each in results if each.origin), default=-1)
  return max(study.seeds, last + 1)


def _changes(study: Study) -> list[str]:
  """Returns what the variants change in the base, in a collapsed list."""
  lines = []
  for variant in study.variants:
    shown = ', '.join(
      f'`{key}={_shortened(value)}`'
      for key, value in study.differences(variant).items()
    )
    lines.append(f'* {variant}: {shown or "the base"}')
  if len(lines) == 1 and lines[0].endswith(': the base'):
    return []
  summary = '<summary>What the variants change</summary>'
  return ['\n\n'.join(['<details>' + summary, '\n'.join(lines), '</details>'])]


def _shortened(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _at_edges(
  results: Sequence[Result], answers: Iterable[Answer]
) -> Iterator[str]:
  """Yields a sentence for each best value at the edge of its grid."""
  compared = (name for each in answers for name in (each.first, each.second))
  for name in dict.fromkeys(compared):
    if statistics.is_edge(results, name):
      yield (
        f'{name} is the best value at the edge of its grid; beyond it may be a'
        ' better one.'
      )


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
    if name not in _NOT_AVERAGED
    and (
      name in (study.metric, *_ALWAYS_SHOWN)
      or len({each.values.get(name) for each in results}) > 1
    )
  ]
  rows = []
  for variant in variants:
    own = [each for each in results if each.variant == variant]
    cells = [
      _cell([each.values[name] for each in own if name in each.values], name)
      for name in shown
    ]
    count = sum(bool(each.values) for each in own)
    rows.append((variant, str(count), *cells))
  header = (
    'variant',
    'results',
    *(formatting.shown(name)[0] for name in shown),
  )
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
      claimed = formatting.claimed(each, study.metric)
      rows.append((names_of, '', claimed, '0', _WITHOUT_PAIR))
      continue
    loss = None
    if (each.metric or study.metric) == TOP1 and not each.ratio:
      of_loss = Comparison(answer.first, answer.second, 'nll')
      loss = statistics.compare(results, of_loss, 'nll')
    rows.append(
      (
        formatting.in_words(answer, study.metric),
        formatting.interval(loss.estimate, 'nll') if loss else '',
        formatting.claimed(each, study.metric),
        formatting.pairs(answer),
        formatting.judged(answer),
      )
    )
  lines = [('difference', 'of the loss', 'paper', 'pairs', 'verdict'), *rows]
  if not any(row[1] for row in rows):
    lines = [(line[0], *line[2:]) for line in lines]
  return _markdown(lines[0], lines[1:])


def _cell(values: Sequence[float], metric: str) -> str:
  """Returns the mean of the finite values and the number of infinite ones.

  Of a metric that is 1 for some runs and 0 for others, returns their numbers.
  """
  if metric == 'specialized':
    return f'{sum(values):.0f} of {len(values)}'
  finite = [value for value in values if math.isfinite(value)]
  never = sum(map(math.isinf, values))
  if never == len(values) and values:
    return 'never'
  mean = formatting.interval(statistics.estimate(finite), metric)
  return f'{mean}; never in {never} of {len(values)}' if never else mean


def _prices(
  results: Sequence[Result], answers: Iterable[Answer], metric: str
) -> str:
  """Returns a table of the gain per byte exchanged.

  Only differences of the study's own metric between variants whose towers send
  each other different amounts.
  """
  lines = []
  for each in answers:
    sent = {
      name: statistics.estimate(
        list(statistics.by_seed(results, name, 'exchanged_bytes').values())
      ).mean
      for name in (each.first, each.second)
    }
    own = not each.comparison.metric and not each.comparison.ratio
    # NaN if not measured; 0 for a single tower.
    if not own or not all(size > 0 for size in sent.values()):
      continue
    less, more = sorted(sent, key=sent.__getitem__)
    kilobytes = (sent[more] - sent[less]) / 1000
    if not kilobytes:
      continue
    losses, gains = (
      statistics.by_seed(results, name, metric) for name in (less, more)
    )
    gain = statistics.estimate(
      [
        (losses[seed] - gains[seed]) / kilobytes
        for seed in sorted(losses.keys() & gains.keys())
      ]
    )
    in_points = formatting.in_points(formatting.interval(gain, metric))
    lines.append((f'{less} to {more}', f'{kilobytes:,.1f} kB', in_points))
  return _markdown(
    ('from - to', 'additional bytes per training image', 'gain per kB'), lines
  )


def _law_in_words(metric: str, law: Trend) -> str:
  exponent = law.exponent
  spread = ''
  if not math.isnan(exponent.low):
    spread = f' ({-exponent.high:.2f} to {-exponent.low:.2f})'
  predicted = ', '.join(
    f'{formatting.interval(found, metric)} at {size:g} times'
    for size, found in law.predicted.items()
    if size > law.sizes[-1]
  )
  sentence = (
    'A power law through the runs of each seed has the exponent'
    f' {-exponent.mean:.2f}{spread}'
  )
  sentence += (
    f"; it predicts {predicted} the base's size." if predicted else '.'
  )
  if law.held_out:
    sentence += (
      ' From the smaller sizes alone it would have predicted'
      f' {formatting.interval(law.held_out, metric)} at the largest.'
    )
  return (
    f'{sentence} The law assumes no irreducible error, so that extrapolations'
    ' are optimistic.'
  )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  escaped = [[cell.replace('|', '\\|') for cell in line] for line in lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in escaped)


def _write_page(folder: pathlib.Path) -> None:
  """Writes the page from the studies found in a folder."""
  found = [
    _description(path) for path in (folder / 'studies').glob('*/*/study.json')
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
  introduction = _INTRODUCTION.format(bases=', '.join(bases))
  text = '\n\n'.join([introduction, *parts])
  files.write_text(folder / 'studies.md', text + '\n')


def _description(path: pathlib.Path) -> dict[str, Any]:
  """Returns what `write` has written about a study."""
  try:
    found = files.loads(path.read_text())
  except ValueError:
    found = None
  if not isinstance(found, dict) or not found.keys() >= _DESCRIBED:
    raise errors.UserError(
      f'{path} does not describe a study: remove its folder, or restore it'
    )
  return found


def _of_base(
  base: str, studies: Sequence[Mapping[str, Any]], links: Sequence[str]
) -> Iterator[str]:
  """Yields the paragraphs of one base: description, table and studies."""
  # Some studies train on a sample, or have fewer seeds.
  largest = max(studies, key=lambda each: len(each['base_error']))
  flags = ' '.join(studies[0]['base_flags'])
  sentences = [f'Data: {largest["data"]}. Flags: `{flags}`.']
  if found := largest['base_error']:
    error = formatting.interval(statistics.estimate(found), TOP1)
    runs = f'{len(found)} run' + 's' * (len(found) > 1)
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
