"""Studies: planned, made, interrupted, judged by rule, and written down."""

import csv
import dataclasses
import importlib
import json
import math
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scipy import stats

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import presets
from alexnet_jax import signals
from alexnet_jax.studies import collect
from alexnet_jax.studies import formatting
from alexnet_jax.studies import mode as study_mode
from alexnet_jax.studies import page
from alexnet_jax.studies import runs as study_runs
from alexnet_jax.studies import statistics
from alexnet_jax.studies import table
from alexnet_jax.studies import trend
from alexnet_jax.studies.results import Data
from alexnet_jax.studies.results import Origin
from alexnet_jax.studies.results import Result
from alexnet_jax.studies.statistics import Verdict
from alexnet_jax.studies.study import Comparison
from alexnet_jax.studies.study import Study
from configs.studies import base

_ROOT = pathlib.Path(__file__).parents[1]
_TINY = {
  'network.layers': ('conv1', 'fc7', 'fc8'),
  'network.conv1.features': 4,
  'network.fc7.features': 8,
  'data.num_examples': 64,
  'num_epochs': 2,
  'checkpoint.every_steps': 1,
  'log.every_steps': 1,
  'optimizer.schedule': 'constant',
  'compilation_cache': '',
}
_STUDY = f"""
from configs.studies import base

def get_config():
  return base.study(
    'tiny',
    question='Is a high rate worse?',
    section='5',
    claim='it is',
    base='smoke',
    overrides={_TINY!r},
    seeds=1,
    variants={{
      'low rate': {{'optimizer.learning_rate': 0.001}},
      'no rate': {{'optimizer.learning_rate': 0.0}},
      'broken': {{'network.towers': 3}},
    }},
    comparisons=({{'first': 'low rate', 'second': 'no rate', 'sign': 1}},),
  )
"""


_DATA = Data('made-up images', 'abc', '', 100)
_OTHERS = Data('others', 'def', '', 100)


def _study(base_overrides=(), **changes):
  config = base.study(
    **{
      'name': 'name',
      'question': 'Is a worse than b?',
      'section': '3.3',
      'claim': 'it is',
      'variants': {'a': {'batch_size': 1}, 'b': {'network.pool.size': 2}},
      'comparisons': ({'first': 'a', 'second': 'b', 'claim': 0.02},),
      **changes,
    }
  )
  config.base_overrides = base_overrides
  return Study.read(config)


def _results(**values):
  return [
    Result(variant, seed, {'top1_error': value})
    for variant, each in values.items()
    for seed, value in enumerate(each)
  ]


def test_the_plan_has_every_variant_of_a_seed_before_the_next(
  tmp_path, monkeypatch
):
  study = _study(seeds=2, overrides={'num_epochs': 3})
  planned = study_runs.plan(study, tmp_path)
  names = [(each.variant, each.seed) for each in planned]
  assert names == [('a', 0), ('b', 0), ('a', 1), ('b', 1)]
  assert planned[3].flags == (
    '--config=configs/cifar10_study.py',
    '--config.num_epochs=3',
    '--config.network.pool.size=2',
    '--config.seed=1',
  )
  assert len({each.workdir for each in planned}) == 4
  # What is as in the base is no change.
  as_in_base = _study(
    variants={'a': {'batch_size': 64, 'num_epochs': 3}, 'b': {}}
  )
  assert as_in_base.changes('a', 1) == {'num_epochs': 3, 'seed': 1}
  # Two studies share the runs that they have in common.
  other = _study(
    name='other',
    overrides={'num_epochs': 3},
    variants={'c': {'batch_size': 1}},
    comparisons=(),
  )
  shared = study_runs.plan(other, tmp_path)
  assert shared[0].workdir == planned[0].workdir
  # Of another base, all runs are others.
  with monkeypatch.context() as patch:
    patch.setitem(presets.PRESETS, 'study', presets.small)
    changed = study_runs.plan(study, tmp_path)
  assert changed[0].flags == planned[0].flags
  assert changed[0].workdir != planned[0].workdir
  # Changes of the base are part of what others are relative to.
  other_base = _study(
    base_overrides=(('num_epochs', 6),),
    variants={'a': base.times(2, 'num_epochs'), 'b': {}},
  )
  assert study_runs.plan(other_base, tmp_path)[0].flags == (
    '--config=configs/cifar10_study.py',
    '--config.seed=0',
  )  # Twice six is what the config has anyway.
  assert other_base.changes('b', 0) == {'num_epochs': 6, 'seed': 0}
  assert [other_base.equals_base(name) for name in 'ab'] == [False, True]
  # And of what the page says that variants change.
  assert other_base.differences('a') == {'num_epochs': 12}
  assert other_base.differences('b') == {}
  named = _study(variants={'a': {'batch_size': 64}, 'b': {'batch_size': 32}})
  assert [named.equals_base(name) for name in 'ab'] == [True, False]
  quick = study.quickly()
  assert [seed for _, seed in quick.runs()] == [0, 0]
  assert quick.changes('a', 0) == {
    'num_epochs': 3, 'max_steps': 1000, 'batch_size': 1, 'seed': 0
  }  # fmt: skip
  assert quick.base_in_words == 'cifar10_study, max_steps=1000'


def test_overrides_are_relative_to_the_base():
  # As many inputs more, the variance of the weights is less.
  own = {'network.conv4.reads': 'all', **base.same_sums('conv4', 'conv5')}
  study = _study(
    variants={
      'a': own,
      'b': {
        **base.plus('network.conv5.order', 'dropout'),
        'network.conv1.order': ('replace', 'response_norm', 'map_norm'),
        'network.conv2.order': ('replace', 'response_norm'),
        'network.conv3.kernel': ('copy', 'network.conv1.kernel'),
      },
    },
  )
  assert study.changes('a', 0) == {
    'network.conv4.reads': 'all',
    'network.conv4.init_std': 0.09 * 2**-0.5,
    'seed': 0,
  }
  assert study.changes('b', 0) == {
    'network.conv5.order': ('activation', 'pool', 'dropout'),
    'network.conv1.order': ('activation', 'pool', 'map_norm'),
    'network.conv2.order': ('activation', 'pool'),
    'network.conv3.kernel': 5,
    'seed': 0,
  }
  # A sample has more epochs: the rule that judges by epochs is as patient.
  sample = _study(base='imagenet', variants={'a': base.sample(1 / 5), 'b': {}})
  changes = sample.of_images(1000).changes('a', 0)
  assert changes['optimizer.plateau.patience'] == 15
  assert changes['data.num_train'] == 200


def test_samples_are_shares_of_the_images_of_any_data(capsys, tmp_path):
  config = importlib.import_module('configs.studies.training_set').get_config()
  study = Study.read(config)
  assert study.counts_images()
  assert not _study().counts_images()
  fifth = study.of_images(50_000)
  assert not fifth.counts_images()
  assert fifth.changes('a fifth', 0) == {
    'data.num_train': 10_000,
    'num_epochs': 60,
    'optimizer.warmup_epochs': 5.0,
    'seed': 0,
  }
  assert fifth.changes('all images', 0) == {'seed': 0}
  # The program counts the images that the base trains on.
  config.base, config.seeds = 'smoke', 1
  config.base_overrides = (('data.num_examples', 40),)
  stop = signals.StopSignal()
  study_mode.run(config, tmp_path, tmp_path, only_list=True, stop=stop)
  *_, tenth = capsys.readouterr().out.splitlines()
  assert '--config.data.num_train=4 ' in tenth


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'seeds': 0}, '--config.seeds=0'),
    ({'variants': {}}, '0 variants'),
    ({'name': '../up'}, r"--config.name='\.\./up'"),
    ({'comparisons': ({'first': 'a', 'second': 'c'},)}, "compares 'c'"),
    ({'sizes': {'c': 1.0}}, "a size for 'c'"),
    ({'base_overrides': (('num_epoch', 6),)}, 'the study overrides num_epoch,'),
    ({'base_overrides': ('num_epochs', 6)}, 'is not a tuple of pairs'),
    ({'base_overrides': (([1], 6),)}, 'is not a tuple of pairs'),
    ({'base_overrides': (('seed', 6),)}, 'set --config.seeds instead'),
    ({'base_overrides': (('num_epochs', ('times', 2)),)}, 'of type tuple'),
    ({'comparisons': ({'frist': 'a'},)}, "argument 'frist'"),
    ({'base_overrides': (('num_epochs', '6'),)}, 'num_epochs to .6., of type'),
    ({'base_overrides': (('num_epochs', 6.0),)}, 'of type float'),
    ({'base': 'runs_2012'}, 'does not define a config'),
    ({'base': 'nothing'}, 'there is no configs/nothing.py'),
    ({'metric': 'top1'}, "the metric 'top1'"),
    ({'metric': 'epochs_to_x'}, "the metric 'epochs_to_x'"),
    ({'variants': {'=a': {}, 'b': {}}, 'comparisons': ()}, "variant '=a'"),
  ],
)
def test_invalid_studies_are_rejected(changes, words):
  with pytest.raises(errors.UserError, match=words):
    _study(**changes)


def test_intervals_are_those_of_students_distribution():
  draws = np.random.default_rng(0)
  ours, theirs = draws.normal(0.25, 0.01, 7), draws.normal(0.23, 0.01, 7)
  found = statistics.estimate(ours)
  half = stats.t.ppf(0.975, 6) * ours.std(ddof=1) / math.sqrt(7)
  assert found.mean == pytest.approx(ours.mean())
  assert found.high - found.mean == pytest.approx(half)
  assert found.mean - found.low == pytest.approx(half)
  results = _results(a=ours, b=theirs)[::-1]
  paired = statistics.compare(results, Comparison('a', 'b'), 'top1_error')
  expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
  assert paired.estimate[1:3] == pytest.approx(tuple(expected))
  logs = stats.ttest_rel(np.log(ours), np.log(theirs)).confidence_interval(0.95)
  factor = statistics.compare(
    results, Comparison('a', 'b', ratio=True), 'top1_error'
  )
  assert factor.estimate[1:3] == pytest.approx(tuple(np.exp(logs)))


def test_the_interval_contains_the_truth_in_95_of_100():
  draws = np.random.default_rng(1)
  inside = [
    found.low <= 0.3 <= found.high
    for found in map(statistics.estimate, draws.normal(0.3, 0.02, (2000, 4)))
  ]
  assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_only_runs_with_the_same_seed_are_pairs():
  results = _results(a=[0.3, 0.5], b=[0.2, math.nan, 0.1])
  found = statistics.compare(results, Comparison('a', 'b'), 'top1_error')
  assert found.estimate.count == 1
  assert found.estimate.mean == pytest.approx(0.1)
  assert found.verdict == Verdict.NO_CLAIM
  assert not statistics.compare(results, Comparison('a', 'c'), 'top1_error')


def test_what_is_not_reached_leaves_the_question_open():
  results = _results(a=[0.5, 0.51, math.inf], b=[0.2, 0.21, 0.2])
  claim = Comparison('a', 'b', claim=0.3)
  found = statistics.compare(results, claim, 'top1_error')
  assert (found.estimate.count, found.without) == (2, 1)
  assert found.verdict == Verdict.OPEN
  # A seed that only one of them has is no failure.
  results = _results(a=[0.5, 0.51], b=[0.2, 0.2, 0.2])
  found = statistics.compare(results, claim, 'top1_error')
  assert (found.without, found.verdict) == (0, Verdict.SIZE)
  # One whose run diverged is.
  results.append(Result('a', 2, {}))
  found = statistics.compare(results, claim, 'top1_error')
  assert (found.without, found.verdict) == (1, Verdict.OPEN)
  assert formatting.pairs(found) == '2 of 3'
  open_question = statistics.compare(
    results, Comparison('a', 'b'), 'top1_error'
  )
  assert formatting.judged(open_question) == 'no claim; not resolved'


def test_equal_values_have_no_interval():
  # Few test images have few errors; two equal ones do not resolve a claim.
  results = _results(a=[0.5, 0.25], b=[0.375, 0.125])
  found = statistics.compare(
    results, Comparison('a', 'b', sign=1), 'top1_error'
  )
  assert found.estimate.mean == 0.125
  assert math.isnan(found.estimate.low)
  assert found.verdict == Verdict.OPEN


def test_of_a_grid_the_best_is_compared():
  grid = {'a @ 1': [0.5, 0.5], 'a @ 2': [0.3, 0.4], 'a @ 3': [0.1, math.inf]}
  results = _results(**grid, b=[0.2, 0.2])
  found = statistics.compare(results, Comparison('a', 'b'), 'top1_error')
  assert (found.first, found.second) == ('a @ 2', 'b')
  # One that diverged with a seed has no result of it.
  results = _results(**{'a @ 1': [0.3, 0.3], 'a @ 2': [0.25]}, b=[0.2, 0.2])
  found = statistics.compare(results, Comparison('a', 'b'), 'top1_error')
  assert (found.first, found.estimate.count) == ('a @ 1', 2)
  # The study's metric chooses, whatever is compared.
  results = [
    Result(variant, 0, {'top1_error': error, 'gap': gap})
    for variant, error, gap in (
      ('a @ 1', 0.5, 0.0), ('a @ 2', 0.2, 0.1), ('a @ 3', 0.3, 0.0),
      ('b', 0.3, 0.2),
    )
  ]  # fmt: skip
  gap = Comparison('a', 'b', metric='gap')
  assert statistics.compare(results, gap, 'top1_error').first == 'a @ 2'
  edges = ['a @ 1', 'a @ 2', 'a @ 3', 'b']
  found = [statistics.is_edge(results, each) for each in edges]
  assert found == [True, False, True, False]


def test_ratios_skip_zeros():
  ratio = Comparison('a', 'b', ratio=True)
  results = _results(a=[0.0, 0.4], b=[0.1, 0.2])
  found = statistics.compare(results, ratio, 'top1_error')
  assert found.estimate.count == 1
  assert found.estimate.mean == pytest.approx(2)


@pytest.mark.parametrize(
  ('values', 'comparison', 'expected'),
  [
    # Mean, and half of the interval.
    ((0.020, 0.005), {'claim': 0.014}, Verdict.SIZE),
    ((0.020, 0.005), {'claim': 0.011}, Verdict.SIZE),
    ((0.020, 0.005), {'claim': 0.005}, Verdict.SIGN),
    ((0.020, 0.018), {'claim': 0.003}, Verdict.SIZE),
    ((0.020, 0.021), {'claim': 0.020}, Verdict.OPEN),
    ((-0.02, 0.005), {'claim': 0.014}, Verdict.AGAINST),
    ((-0.02, 0.005), {'claim': -0.014}, Verdict.SIZE),
    ((0.020, 0.005), {'sign': 1}, Verdict.SIGN),
    ((0.020, 0.005), {'sign': -1}, Verdict.AGAINST),
    ((0.020, 0.005), {}, Verdict.NO_CLAIM),
    ((0.020, math.nan), {'claim': 0.020}, Verdict.OPEN),
    ((5.0, 0.5), {'claim': 6.0, 'ratio': True}, Verdict.SIZE),
    ((2.0, 0.5), {'claim': 6.0, 'ratio': True}, Verdict.SIGN),
    ((0.5, 0.1), {'claim': 6.0, 'ratio': True}, Verdict.AGAINST),
    ((1.2, 0.3), {'claim': 6.0, 'ratio': True}, Verdict.OPEN),
  ],
)
def test_verdicts_follow_the_rule(values, comparison, expected):
  mean, half = values
  found = statistics.Estimate(mean, mean - half, mean + half, 5)
  assert (
    statistics.verdict(found, Comparison('a', 'b', **comparison)) == expected
  )


def test_epochs_to_an_error():
  curve = [(0.0, 0.9), (0.5, 0.6), (1.5, 0.3), (2.5, 0.2)]
  for error, expected in (
    (0.95, 0.0), (0.75, 0.25), (0.45, 1.0), (0.3, 1.5), (0.25, 2.0),
    (0.1, math.inf),
  ):  # fmt: skip
    assert collect.epochs_to(error, curve) == pytest.approx(expected)


def test_a_training_curve_resolves_the_first_epoch():
  # An error that falls as 0.9 - 0.25 t, in lines of a tenth of an epoch.
  lines = [
    {'epoch': end, 'top1_error': 0.9 - 0.25 * (end - 0.05)}
    for end in np.arange(1, 31) / 10
  ]
  curve = [(0.0, 0.9), *collect.training_curve(lines)]
  assert curve[1] == pytest.approx((0.05, 0.8875))
  for error in (0.87, 0.7, 0.3):
    expected = pytest.approx((0.9 - error) / 0.25)
    assert collect.epochs_to(error, curve) == expected
  # Windows grow: late, where errors fall slowly, one lucky line is no crossing.
  lines[25]['top1_error'] -= 0.2
  curve = [(0.0, 0.9), *collect.training_curve(lines)]
  assert collect.epochs_to(0.1, curve) == math.inf
  assert not collect.training_curve([])


def test_bytes_between_the_towers_of_the_paper():
  # conv3 reads 13x13x256, fc6 6x6x256, fc7 and fc8 4096 numbers.
  numbers = 13 * 13 * 256 + 6 * 6 * 256 + 2 * 4096
  assert collect.exchanged_bytes(presets.paper(), 224) == 2 * 4 * numbers
  halves = collect.exchanged_bytes(presets.paper(), 224, 'bfloat16')
  assert halves == 2 * 2 * numbers
  assert collect.exchanged_bytes(presets.ungrouped(), 224) == 0


def test_a_power_law_is_fitted_and_continued():
  sizes = {'all': 8000.0, '1000 images': 1000.0, 'a': 2000.0, 'b': 4000.0}
  results = [
    Result(name, seed, {'top1_error': factor * size**-0.25})
    for seed, factor in enumerate((3.0, 3.2))
    for name, size in sizes.items()
  ]
  # A seed that lacks a size is left out.
  results.append(Result('all', 2, {'top1_error': 0.9}))
  law = trend.fit(results, sizes, 'top1_error', (16_000.0,))
  assert law.sizes == [1000, 2000, 4000, 8000]
  assert law.exponent.mean == pytest.approx(0.25)
  assert law.exponent.count == 2
  expected = [factor * 16_000**-0.25 for factor in (3.0, 3.2)]
  found = law.predicted[16_000.0]
  assert found.mean == pytest.approx(np.mean(expected))
  half = stats.t.ppf(0.975, 1) * stats.sem(expected)
  assert found.high - found.mean == pytest.approx(half)
  assert law.held_out.mean == pytest.approx(3.1 * 8000**-0.25)
  # A departure from the law shows as a difference from the held-out prediction.
  bent = [
    each._replace(values={'top1_error': 0.5}) if each.variant == 'all' else each
    for each in results
  ]
  # A seed with an error of zero, too.
  results += [Result(name, 3, {'top1_error': 0.0}) for name in sizes]
  assert trend.fit(results, sizes, 'top1_error', ()).exponent.count == 2
  law = trend.fit(bent, sizes, 'top1_error', ())
  assert law.held_out.mean == pytest.approx(3.1 * 8000**-0.25)
  assert law.predicted[8000.0].mean > law.held_out.mean
  assert trend.fit(results[:3], sizes, 'top1_error', ()) is None


def test_the_page_shows_a_law_and_what_a_byte_gains(tmp_path):
  study = _study(
    seeds=2, sizes={'a': 0.5, 'b': 1.0}, larger=(2.0, 4.0), per_byte=True
  )
  results = [
    Result(variant, seed, {'top1_error': error, 'exchanged_bytes': size})
    for variant, error, size in (('a', 0.4, 1000.0), ('b', 0.2, 5000.0))
    for seed in range(2)
  ]
  page.write(study, results, {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert '| a to b | 4.0 kB | 5.00 points |' in text
  assert 'has the exponent -1.00' in text
  predicted = "10.00 % at 2 times, 5.00 % at 4 times the base's size."
  assert f'it predicts {predicted}' in text
  assert (tmp_path / 'studies/cifar10_study/name/study.png').read_bytes()


def test_the_page_names_the_edges_of_grids_and_what_diverged(tmp_path):
  values = {'a @ 1': 0.3, 'a @ 2': 0.2, 'a @ 3': 0.3, 'b @ 1': 0.1, 'c': 0.4}
  study = _study(variants=dict.fromkeys(('b @ 2', *values), {}))
  values['b @ 2'] = 0.2
  results = [
    Result(name, 0, {'top1_error': value}) for name, value in values.items()
  ]
  results.append(Result('c', 1, {}))
  page.write(study, results, {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert 'b @ 1 is the best value at the edge of its grid' in text
  assert 'a @ 2 is the best' not in text
  assert '| c | 1 | 40.00 % |' in text


def test_what_was_never_reached_is_shown(tmp_path):
  study = _study(metric='epochs_to_0.25')
  values = {'a': [math.inf, math.inf], 'b': [2.0, math.inf, 4.0]}
  results = [
    Result(variant, seed, {'epochs_to_0.25': value})
    for variant, each in values.items()
    for seed, value in enumerate(each)
  ]
  page.write(study, results, {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert '| a | 2 | never |' in text
  assert '; never in 1 of 3 |' in text
  assert '| b | 3 | 3.00 +- ' in text


def test_the_page_says_what_was_found(tmp_path):
  results = _results(a=[0.30, 0.31, 0.33], b=[0.28, 0.30, 0.31])
  study = _study(seeds=3)
  (answer,) = page.write(
    study, results, {'a, seed 3': 'no room'}, tmp_path, _DATA
  )
  assert answer.verdict == Verdict.SIZE
  text = (tmp_path / 'studies.md').read_text()
  half = stats.t.ppf(0.975, 2) * np.std([2, 1, 2], ddof=1) / math.sqrt(3)
  assert f'a - b: 1.67 +- {half:.2f} points' in text
  assert '| 2.00 points | 3 | agrees in sign and size | `--config=' in text
  assert 'studies/name.py --config.seeds=3` |' in text
  assert '`--config.base=cifar10_study`' in text
  assert '| [Is a worse than b?](#is-a-worse-than-b) | a - b' in text
  assert 'Failed: a, seed 3 (`no room`)' in text
  assert '* a: `batch_size=1`\n* b: `network.pool.size=2`' in text
  with open(tmp_path / 'studies/cifar10_study/name/study.csv') as file:
    rows = list(csv.DictReader(file))
  assert [float(row['top1_error']) for row in rows] == [
    each.values['top1_error'] for each in results
  ]
  png = (tmp_path / 'studies/cifar10_study/name/study.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  # A comparison without a pair is not left out.
  page.write(study, results[:3], {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert '| 0 | no seed has finite results of both | `--config=' in text
  assert (
    '| a, b | 2.00 points | 0 | no seed has finite results of both |' in text
  )
  # Another study joins the page, in the order of the paper's sections.
  other = _study(name='other', section='2', question='Is it first?')
  page.write(other, results, {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert text.index('### Is it first?') < text.index('### Is a worse than b?')
  # Of another base, the study has a table and files of its own.
  changed = _study(base_overrides=(('num_epochs', 6),))
  page.write(changed, results[:3], {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert '[cifar10_study](#cifar10_study), [cifar10_study, num_epochs=6](#' in (
    text
  )
  assert '"--config.base_overrides=((\'num_epochs\', 6),)"`' in text
  assert '(#is-a-worse-than-b)' in text
  assert '(#is-a-worse-than-b-1)' in text
  assert text.count('(studies/cifar10_study/name/study.csv)') == 1
  assert text.count('(studies/cifar10_study__num_epochs_6/name/study.csv)') == 1


def test_the_page_has_the_loss_beside_the_error(tmp_path):
  study = _study(
    seeds=2,
    comparisons=(
      {'first': 'a', 'second': 'b'},
      {'first': 'a', 'second': 'b', 'metric': 'gap'},
    ),
  )
  results = [
    Result(variant, seed, {'top1_error': error, 'nll': loss, 'gap': 0.1})
    for variant, error, loss in (('a', 0.3, 0.9), ('b', 0.2, 0.75))
    for seed in range(2)
  ]
  page.write(study, results, {}, tmp_path, _DATA)
  text = (tmp_path / 'studies.md').read_text()
  assert '| difference | of the loss | paper | pairs | verdict |' in text
  assert '| a - b: 10.00 points | 0.150 | no figure | 2 | no claim;' in text
  assert '| test - training error, a - b: 0.00 points |  | no figure |' in text


def test_an_answer_stands_beside_the_results_that_it_is_about(tmp_path):
  results = _results(a=[0.3, 0.31], b=[0.2, 0.22])
  answers = {
    'answer': 'It is.',
    'answered': 'cifar10_study, 2 seeds, images abc',
  }
  for changes, failures, data, shown in (
    ({'seeds': 2}, {}, _DATA, True),
    ({'seeds': 3}, {}, _DATA, False),
    ({'seeds': 2, 'base_overrides': (('num_epochs', 6),)}, {}, _DATA, False),
    ({'seeds': 2}, {'a, seed 1': 'no room'}, _DATA, False),
    ({'seeds': 2}, {}, _OTHERS, False),
  ):
    study = _study(**answers, **changes)
    page.write(study, results, failures, tmp_path / 'x', data)
    text = (tmp_path / 'x/studies.md').read_text()
    assert ('It is.' in text) == shown
    shutil.rmtree(tmp_path / 'x')


def test_other_images_do_not_join_a_page(tmp_path):
  page.write(_study(), _results(a=[0.3], b=[0.2]), {}, tmp_path, _DATA)
  other = _study(name='other')
  page.check_images(tmp_path, other, _DATA)
  page.check_images(tmp_path, other, _DATA._replace(digest=''))
  with pytest.raises(errors.UserError, match='digest abc, those .* have def'):
    page.check_images(tmp_path, other, _OTHERS)
  on_other_base = _study(base_overrides=(('num_epochs', 6),))
  page.check_images(tmp_path, on_other_base, _OTHERS)


@pytest.mark.parametrize('content', ['', 'null', '{}'])
def test_a_damaged_description_is_named(tmp_path, content):
  page.write(_study(), _results(a=[0.3], b=[0.2]), {}, tmp_path, _DATA)
  damaged = tmp_path / 'studies/cifar10_study/name/study.json'
  damaged.write_text(content)
  other = _study(name='other')
  with pytest.raises(errors.UserError, match='does not describe a study'):
    page.write(other, _results(a=[0.3], b=[0.2]), {}, tmp_path, _DATA)


def test_folders_of_a_study_are_absolute(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  study = dataclasses.replace(_study(), data_dir='~/images', store_dir='store')
  found = study.at_absolute_paths()
  assert found.data_dir == str(tmp_path / 'images')
  assert found.store_dir == str(tmp_path / 'store')


def test_a_measure_is_drawn_along_what_it_costs(tmp_path):
  study = _study(measure='views', against='multiply_adds', comparisons=())
  results = [
    Result('1 view', 0, {'top1_error': 0.3, 'multiply_adds': 1e6}),
    Result('2 views', 0, {'top1_error': 0.2, 'multiply_adds': 2e6}),
    Result('limit', 0, {'top1_error': 0.1}),
  ]
  page.write(study, results, {}, tmp_path, _DATA)
  png = tmp_path / 'studies/cifar10_study/name/study.png'
  assert png.read_bytes().startswith(b'\x89PNG')


def _with_origin(result, study, test_data='0123'):
  config = study_runs.config_digest(study, result.variant, result.seed)
  return result._replace(origin=Origin(config, test_data, 'abc'))


def test_a_table_carries_results_to_another_machine(tmp_path):
  study = _study(seeds=2)
  results = _results(a=[0.3, 0.31, math.inf], b=[0.2, 0.21])
  made = [_with_origin(each, study) for each in results]
  path = tmp_path / 'study.csv'
  table.write(path, made)
  # Where the images are is the machine's affair, and so is the number of seeds.
  elsewhere = dataclasses.replace(study, data_dir='/elsewhere', seeds=1)
  assert table.read(path, elsewhere) == made
  # Results of another network, or without the metric asked for, are no use.
  other = _study(
    variants={'a': {'batch_size': 2}, 'b': {'network.pool.size': 2}}
  )
  assert [each.variant for each in table.read(path, other)] == ['b', 'b']
  assert not table.read(path, _study(metric='epochs_to_0.25'))
  assert not table.read(path, _study(measure='views', comparisons=()))
  assert not table.read(tmp_path / 'nothing.csv', study)
  # A run that was made here counts, and the order is that of the plan.
  rerun = _with_origin(Result('b', 1, {'top1_error': 0.5}), study)
  merged = table.merge([rerun], made[::-1], study)
  assert [(each.variant, each.seed) for each in merged] == [
    ('a', 0), ('b', 0), ('a', 1), ('b', 1), ('a', 2),
  ]  # fmt: skip
  assert merged[3] == rerun
  path.write_text('variant,seed\na,0\n')
  with pytest.raises(errors.UserError, match='not a table of results'):
    table.read(path, study)


def test_results_of_other_images_are_refused(tmp_path):
  study, path = _study(), tmp_path / 'study.csv'
  (result,) = _results(a=[0.3])
  recorded = [_with_origin(result, study, '0123')]
  table.check_test_data(recorded, '0123', path)
  table.check_test_data(recorded, '', path)  # synthetic images
  with pytest.raises(errors.UserError, match='0123, those of the study'):
    table.check_test_data(recorded, '4567', path)


def test_a_measure_is_repeated_after_a_change_of_its_source(
  monkeypatch, trained, tmp_path
):
  executed = []

  def measure(networks):
    executed.append(len(networks))
    return [Result('a', 0, {'top1_error': 0.1 * len(executed)})]

  source = tmp_path / 'source' / 'measure.py'
  files.write_text(source, 'before')
  monkeypatch.setattr(collect, '_PACKAGE', source.parent)
  monkeypatch.setitem(collect.MEASURES, 'views', measure)
  study = _study(measure='views', variants={'a': {}}, comparisons=())
  run = study_runs.StudyRun('a', 0, trained / 'run', (), '')
  for content, error in (('before', 0.1), ('before', 0.1), ('after', 0.2)):
    files.write_text(source, content)
    (found,), _ = collect.results(study, [run], tmp_path)
    assert found.values == {'top1_error': error}
  assert executed == [1, 1]


def test_a_measure_that_fails_for_a_variant_does_not_lose_the_others(
  monkeypatch, tmp_path
):
  def measured(name, runs, folder):
    if runs[0].variant == 'a':
      raise errors.UserError('no kernels')
    return [Result('conv1', 0, {'difference': 0.5})]

  monkeypatch.setattr(collect, '_measured', measured)
  study = _study(measure='color_scores', comparisons=())
  planned = study_runs.plan(study, tmp_path)
  found, failures = collect.results(study, planned, tmp_path)
  assert [each.variant for each in found] == ['b: conv1']
  assert failures == {'a': 'no kernels'}


def test_studies_side_by_side_make_a_run_once(monkeypatch, tmp_path):
  """The second one waits for the first, also while no process runs yet."""
  (run, *_) = study_runs.plan(_study(), tmp_path)
  began, may_end = threading.Event(), threading.Event()
  calls = []

  def execute_locked(run, cores, stop):
    calls.append(run.name)
    began.set()
    assert may_end.wait(60)
    (run.workdir / 'study_run.json').write_text('{"exit_code": 0}')

  monkeypatch.setattr(study_runs, '_execute_locked', execute_locked)
  stop = signals.StopSignal()
  makers = [
    threading.Thread(target=study_runs.execute, args=([run], 1, stop))
    for _ in range(2)
  ]
  makers[0].start()
  assert began.wait(60)
  makers[1].start()
  time.sleep(0.3)
  may_end.set()
  for maker in makers:
    maker.join()
  assert calls == [run.name]


def test_an_unwritable_lock_raises(tmp_path):
  (run, *_) = study_runs.plan(_study(), tmp_path)
  (run.workdir / 'study.lock').mkdir(parents=True)
  with pytest.raises(errors.UserError, match='cannot be written'):
    study_runs.execute([run], 1, signals.StopSignal())


def _command(tmp_path, *flags):
  config = tmp_path / 'tiny.py'
  config.write_text(_STUDY)
  return [
    sys.executable,
    'main.py',
    '--mode=study',
    f'--config={config}',
    f'--workdir={tmp_path}/study',
    *flags,
  ]


def test_a_study_interrupted_and_resumed_has_the_same_table(tmp_path):
  (tmp_path / 'whole').mkdir()
  whole = subprocess.run(
    _command(tmp_path / 'whole', '--jobs=2'),
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  # A broken variant is reported, and does not lose the others.
  assert whole.returncode == 1
  assert 'broken, seed 0 failed with exit code 2: ' in whole.stderr
  page_text = (tmp_path / 'whole/study/studies.md').read_text()
  assert 'Failed: broken, seed 0 (`exit code 2: main.py: ' in page_text

  process = subprocess.Popen(
    _command(tmp_path), cwd=_ROOT, stderr=subprocess.PIPE, text=True
  )
  while process.poll() is None and not list(
    tmp_path.glob('study/runs/*/metrics.jsonl')
  ):
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  log = process.communicate()[1]
  assert process.returncode == 128 + signal.SIGTERM, log
  assert not (tmp_path / 'study/studies.md').exists()
  # As a job array of a cluster does it.
  listed = subprocess.run(
    _command(tmp_path, '--list'),
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  assert len(listed) == 3
  flags = shlex.split(listed[1])[2:]
  subprocess.run([sys.executable, 'main.py', *flags], cwd=_ROOT, check=True)
  again = subprocess.run(_command(tmp_path), cwd=_ROOT, check=False)
  assert again.returncode == 1

  tables = []
  for folder in (tmp_path, tmp_path / 'whole'):
    with open(folder / 'study/studies/smoke/tiny/study.csv') as file:
      rows = list(csv.DictReader(file))
    for row in rows:
      assert float(row.pop('seconds')) > 0
      assert row.pop('revision')
    tables.append(rows)
  assert len(tables[0]) == 2
  assert tables[0] == tables[1]
  records = [
    json.loads(path.read_text())
    for path in tmp_path.glob('study/runs/*/study_run.json')
  ]
  assert sorted(x['exit_code'] for x in records) == [0, 0, 2]
