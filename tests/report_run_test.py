"""The report of a tiny run, made once, and opened in a browser."""

import contextlib
import copy
import csv
import itertools
import pathlib
import re

import numpy as np
from PIL import Image
import pytest

from alexnet_jax import evaluate
from alexnet_jax import inference
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import splits
from alexnet_jax import views
from alexnet_jax.analysis.report import hidden_layers
from alexnet_jax.analysis.report import invariance
from alexnet_jax.analysis.report import kernels
from alexnet_jax.analysis.report import overview
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import run as report
from alexnet_jax.analysis.report import saliency
from alexnet_jax.analysis.report import subject
from configs import smoke
from tests import browser_testing
from tests import trained_testing

_EXAMPLES = 40
_KEYS = (
  'run', 'kernels', 'predictions', 'neighbors', 'saliency', 'invariance',
  'layers', 'views',
)  # fmt: skip


def _config(**overrides):
  config = smoke.get_config()
  tiny = {
    'network.layers': ('conv1', 'conv3', 'fc7', 'fc8'),
    'network.conv1.features': 8,
    'network.conv3.features': 8,
    'network.fc7.features': 16,
    'data.num_examples': _EXAMPLES,
    'evaluate.batch_size': 16,
    'batch_size': 8,
    'num_epochs': 2,
    'log.every_steps': 2,
  }
  config.update_from_flattened_dict({**tiny, **overrides})
  return config


@pytest.fixture(scope='module', autouse=True)
def _small_batches():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(subject, 'BATCH', 12)  # does not divide the examples
    yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  parts = setup.build(_config())
  _pretend_to_train(parts, folder)
  assert report.run(inference.open_run(folder), folder) == 0
  return folder


def _pretend_to_train(parts, folder):
  """Leaves behind what a run of ten updates does, untrained."""
  trained_testing.save_first_state(folder, parts, 10)
  reporting.write_run_record(folder, parts.config, parts.devices)
  with contextlib.closing(reporting.Reporter(folder, 10, 10)) as reporter:
    for step in (2, 4, 6, 8):
      rate = 0.01 if step < 6 else 0.001
      values = {'nll': 2.5 - 0.1 * step, 'top1_error': 0.9 - 0.01 * step}
      values |= {
        'learning_rate': rate,
        'images_per_second': 100.0,
        'epoch': step / 5,
      }
      reporter.write(step, 'train', values)
    for epoch in (1, 2):
      values = {'nll': 2.3, 'top1_error': 0.9, 'epoch': float(epoch)}
      reporter.write(5 * epoch, 'validation', values)


@pytest.fixture(scope='module')
def opened(workdir):
  return subject.Subject(inference.open_run(workdir))


def _untrained(**overrides):
  """A network as it was drawn, without a run."""
  parts = setup.build(_config(devices=1, **overrides))
  state = setup.first_state(parts)
  identity = splits.Splits(parts).identity()
  run = inference.TrainedNetwork(
    pathlib.Path('nowhere'), 0, parts, state.params, identity
  )
  return subject.Subject(run)


def _table(workdir, name):
  with (workdir / 'report' / 'tables' / f'{name}.csv').open() as file:
    return list(csv.reader(file))[1:]


def _texts(section):
  return [block.text for block in section.blocks if hasattr(block, 'text')]


def test_every_section_is_there_and_timed(workdir):
  text = (workdir / 'report' / 'index.html').read_text()
  assert re.findall(r'<section id="(\w+)">', text) == list(_KEYS)
  assert text.count('Paper, Section') == len(_KEYS)
  assert len(re.findall(r'Made in \d+\.\d s\.', text)) == len(_KEYS)


def test_every_figure_and_table_has_its_file(workdir):
  folder = workdir / 'report'
  text = (folder / 'index.html').read_text()
  links = set(re.findall(r'href="((?:figures|tables)/[^"]*)"', text))
  files = {
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.suffix in ('.png', '.csv')
  }
  assert links == files
  assert len(files) > 20
  for path in folder.glob('figures/*.png'):
    assert Image.open(path).width > 300


def test_errors_are_those_of_the_evaluation(workdir):
  run = inference.open_run(workdir)
  sizes = (32, 28)
  evaluator = evaluate.Evaluator(
    run.setup.placement, run.transform, run.setup.dtype
  )
  expected = evaluator(
    run.params,
    run.splits.read(run.splits.eval_source, ''),
    {'1': views.center_view(*sizes), '10': views.ten_views(*sizes)},
  )
  assert expected is not None
  rows = {row[1]: row for row in _table(workdir, 'views')}
  assert set(rows) == {'1', '2', '10', '18'}
  for count, result in expected.items():
    assert float(rows[count][2]) == pytest.approx(result['top1_error'])
    assert float(rows[count][4]) == pytest.approx(result['top5_error'])
    assert float(rows[count][6]) == pytest.approx(result['nll'], rel=1e-4)
  wrong = sum(int(row[2]) for row in _table(workdir, 'confused_pairs'))
  assert wrong / _EXAMPLES == pytest.approx(expected['1']['top1_error'])
  alone = {row[0]: float(row[1]) for row in _table(workdir, 'tower_ablation')}
  assert set(alone) == {'all towers', 'tower 1 alone', 'tower 2 alone'}
  assert alone['all towers'] == pytest.approx(expected['1']['top1_error'])


def test_layers_and_unchanged_images(workdir):
  rows = _table(workdir, 'layers')
  assert [row[0] for row in rows] == ['conv1', 'conv3', 'fc7', 'fc8']
  # Two towers of 4 kernels of 5 x 5 x 3, and their biases.
  assert int(rows[0][3]) == 2 * 4 * (5 * 5 * 3 + 1)
  changed = _table(workdir, 'invariance')
  same = [row for row in changed if (row[0], row[1]) in
          {('Rotated', '0.0'), ('Rotated', '360.0'), ('Scaled', '1.0'),
           ('Shifted sideways', '0.0'), ('Mirrored', '0.0'),
           ('Desaturated', '100.0')}]  # fmt: skip
  assert len(same) == 6
  for row in same:
    np.testing.assert_allclose(
      np.array(row[2:], float), np.array(same[0][2:], float), atol=2e-4
    )


def test_a_run_without_its_records_has_a_report(opened, tmp_path):
  (tmp_path / 'run.json').write_text('{"versions": ')
  bare = copy.copy(opened)
  bare.workdir = tmp_path
  texts = _texts(overview.make(bare))
  assert any('no metrics.jsonl' in text for text in texts)
  assert any('run.json is damaged' in text for text in texts)
  (tmp_path / 'run.json').unlink()
  assert any('has no run.json' in text for text in _texts(overview.make(bare)))


def test_other_activations_and_towers():
  """What is not defined for a network is noted, and nothing fails."""
  other = _untrained(**{'network.activation': 'tanh', 'network.towers': 1})
  section = saliency.make(other)
  assert any('defined for ReLUs' in text for text in _texts(section))
  figures = [b for b in section.blocks if isinstance(b, page.Figure)]
  titles = {panel.title for figure in figures for panel in figure.panels}
  assert 'Gradient' in titles
  assert 'Guided gradient' not in titles
  figures = [
    b for b in kernels.make(other).blocks if isinstance(b, page.Figure)
  ]
  assert [len(figure.panels) for figure in figures] == [1, 1]
  texts = _texts(hidden_layers.make(other))
  assert any('Inactive units are not counted' in text for text in texts)
  assert any('one tower' in text for text in texts)


def test_four_towers():
  four = _untrained(**{'network.towers': 4})
  tables = [
    b for b in hidden_layers.make(four).blocks if isinstance(b, page.Table)
  ]
  names = [row[0] for row in tables[-1].rows]
  assert names[1:] == [f'without tower {i}' for i in (1, 2, 3, 4)]
  figures = [b for b in kernels.make(four).blocks if isinstance(b, page.Figure)]
  assert [len(figure.panels) for figure in figures] == [4, 4]


def test_gray_images_lose_no_color(opened, monkeypatch):
  names = [change.name for change in invariance.all_changes(opened)]
  assert names[-1] == 'Desaturated'
  monkeypatch.setitem(opened.__dict__, 'is_gray', True)
  assert len(invariance.all_changes(opened)) == len(names) - 1


_LOOK = """
(() => {
  const page = document.documentElement;
  return {
    window: innerWidth, scroll: page.scrollWidth, client: page.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    letters: getComputedStyle(document.querySelector('svg text')).fill,
  };
})()
"""
_LOADED = """
(async () => {
  const pictures = [...document.images];
  const drawn = [...document.querySelectorAll('svg image')];
  const decoded = await Promise.allSettled(drawn.map((image) => {
    const copy = new Image();
    copy.src = image.href.baseVal;
    return copy.decode();
  }));
  return {
    images: pictures.length,
    loaded: pictures.filter((image) => image.naturalWidth > 0).length,
    drawn: drawn.length,
    decoded: decoded.filter((one) => one.status === 'fulfilled').length,
  };
})()
"""
_COLORS = {
  'light': {'paper': 'rgb(255, 255, 255)', 'letters': 'rgb(102, 112, 133)'},
  'dark': {'paper': 'rgb(18, 22, 29)', 'letters': 'rgb(152, 162, 179)'},
}
_OTHER = {'light': 'dark', 'dark': 'light'}


@pytest.mark.skipif(
  not browser_testing.CHROMIUM, reason='no Chromium to open the page with'
)
def test_page_in_a_browser(workdir, tmp_path):
  address = (workdir / 'report' / 'index.html').as_uri()
  with browser_testing.launched(tmp_path) as window:
    for width, scheme in itertools.product((390, 1280), ('light', 'dark')):
      window.open(address, width, scheme)
      seen = window.evaluate(_LOADED)
      assert seen['images'] == seen['loaded'] > 20
      assert seen['drawn'] == seen['decoded'] > 10
      window.evaluate(
        "document.querySelectorAll('details').forEach((d) => { d.open = 1; })"
      )
      before = window.evaluate(_LOOK)
      window.evaluate("document.getElementById('theme').click()")
      after = window.evaluate(_LOOK)
      for look, theme in ((before, scheme), (after, _OTHER[scheme])):
        assert look['window'] == width
        assert look['scroll'] <= look['client'] <= width
        assert {key: look[key] for key in _COLORS[theme]} == _COLORS[theme]
      window.evaluate('localStorage.clear()')  # It would be remembered.
      assert window.errors() == []
      outside = [
        asked
        for asked in window.addresses()
        if asked != address and not asked.startswith('data:')
      ]
      assert outside == []
