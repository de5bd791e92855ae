"""Files, class folders and workdirs of any name, through all modes."""

import csv
import os
import re
import shutil
import warnings

from absl import flags as absl_flags
from absl.testing import flagsaver
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from alexnet_jax import names
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import train
from alexnet_jax.analysis.report import subject
import main
from tests import trained_testing

# Of classes, by label: the order of the names.
_CLASSES = ('=$x_1$', '猫' * 80, os.fsdecode(b'\xff\xfe\n'))
_FILES = (
  b'\xff\xfe.jpg', b'n' * 246 + b'.jpg', '😀.jpg'.encode(),
  ('猫' * 83 + '.jpg').encode(), b'two\nlines.jpg', b'$x_1$.jpg',
  rb'$\frac{1}$.jpg', b'-dash.jpg', b'\x1b[31mred.jpg', b' .jpg',
  'שלום.jpg'.encode(), b'W' * 246 + b'.jpg',
)  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Holds data/, photos/ and a run that was trained for an epoch."""
  folder = tmp_path_factory.mktemp('odd') / '猫😀\n$x$'
  data = trained_testing.write_data(folder / 'data')
  for split in ('train', 'test'):
    for label, name in enumerate(_CLASSES):
      (data / split / f'class{label}').rename(data / split / name)
  picture = next((data / 'train' / _CLASSES[0]).iterdir()).read_bytes()
  (folder / 'photos').mkdir()
  for name in _FILES:
    (folder / 'photos' / os.fsdecode(name)).write_bytes(picture)
  config = trained_testing.config(data, batch_size=4, num_epochs=1)
  with warnings.catch_warnings():
    _refuse_boxes()
    assert train.train(setup.build(config), folder / 'run') == 0
  return folder


def _refuse_boxes():
  """Makes errors of what matplotlib says of missing glyphs."""
  warnings.filterwarnings('error', message='.*[Gg]lyph')
  warnings.filterwarnings('error', module='alexnet_jax|matplotlib|main')


def _main(place, monkeypatch, *given):
  monkeypatch.setattr(reporting, 'set_up_terminal', lambda *_: None)
  given = [flag.replace('PLACE', str(place)) for flag in given]
  with flagsaver.flagsaver(), warnings.catch_warnings():
    _refuse_boxes()
    absl_flags.FLAGS(['main.py', f'--workdir={place}/run', *given])
    return main.main(['main.py'])


def _names(files):
  return {names.printable(os.fsdecode(name)) for name in files}


def _cells(classes):
  """Returns names as tables have them: none of them is a formula."""
  return [
    f"'{name}" if name[0] == '=' else names.printable(name) for name in classes
  ]


def _column(path, key):
  with path.open(newline='', encoding='utf-8') as file:
    return [row[key] for row in csv.DictReader(file)]


def _check_png(path):
  with Image.open(path) as image:
    assert image.width > 300


def test_predict(place, tmp_path, monkeypatch):
  flags = ('--mode=predict', '--images=PLACE/photos', f'--output={tmp_path}')
  assert _main(place, monkeypatch, *flags) == 0
  files = _column(tmp_path / 'predictions.csv', 'file')
  assert {name.split('/')[-1] for name in files} == _names(_FILES)
  classes = set(_column(tmp_path / 'predictions.csv', 'class'))
  assert classes == set(_cells(_CLASSES))
  assert set(_column(tmp_path / 'predictions.csv', 'name')) == classes
  _check_png(tmp_path / 'predictions.png')


def test_similar(place, tmp_path, monkeypatch, capsys):
  flags = ('--mode=similar', '--query=PLACE/photos', f'--output={tmp_path}')
  assert _main(place, monkeypatch, *flags) == 0
  queries = _column(tmp_path / 'similar.csv', 'query')
  assert {name.split('/')[-1] for name in queries} == _names(_FILES)
  classes = set(_column(tmp_path / 'similar.csv', 'class'))
  assert classes <= set(_cells(_CLASSES))
  _check_png(tmp_path / 'similar.png')
  # A line a query and six neighbors each: no name breaks one.
  assert len(capsys.readouterr().out.splitlines()) == 7 * len(_FILES)


def test_extract(place, tmp_path, monkeypatch):
  own = ('--mode=extract', f'--output={tmp_path}')
  assert _main(place, monkeypatch, *own, '--images=PLACE/photos') == 0
  stored = np.load(tmp_path / 'fc7-files.npz', allow_pickle=False)
  files = {name.split('/')[-1] for name in stored['files'].tolist()}
  assert files == _names(_FILES)
  assert _main(place, monkeypatch, *own, '--format=tfrecord') == 0
  classes = []
  path = tmp_path / 'fc7-test.tfrecord'
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    feature = tf.train.Example.FromString(record).features.feature
    classes.append(feature['class'].bytes_list.value[0].decode())
    feature['file'].bytes_list.value[0].decode()
  assert list(dict.fromkeys(classes)) == [
    names.printable(name) for name in _CLASSES
  ]


def test_report_with_one_readable_test_image(place, monkeypatch):
  # Statistics of a single image are where a NaN would come from.
  monkeypatch.setattr(subject, 'BATCH', 4)
  data = shutil.copytree(place / 'data', place / 'one' / 'data')
  _, *rest = sorted((data / 'test').glob('*/*.jpg'))
  for path in rest:
    path.write_bytes(b'no image')
  settings = {'data.max_unreadable': 1.0, 'batch_size': 4}
  trained_testing.write_run(place / 'one' / 'run', data, **settings)
  assert _main(place / 'one', monkeypatch, '--mode=report') == 0
  folder = place / 'one' / 'run' / 'report'
  text = (folder / 'index.html').read_text(encoding='utf-8')
  assert 'nan' not in re.sub('base64,[^"]*', '', text)
  assert r'\xff\xfe\n' in text
  assert '$x_1$' in text
  assert '猫' in text
  charts = text[text.index('class="chart"') :]
  assert r'\u732b' in charts
  assert r'\$' not in charts
  for path in folder.rglob('*.csv'):
    table = path.read_text(encoding='utf-8')
    assert '\udcff' not in table
    assert 'nan' not in table
  classes = _column(folder / 'tables' / 'class_errors.csv', 'class')
  assert classes == _cells(_CLASSES)


def test_workdirs_that_checkpoints_cannot_have(place, monkeypatch, capsys):
  odd = place / os.fsdecode(b'\xff')
  config = trained_testing.config(place / 'data')
  with pytest.raises(train.errors.UserError, match='is not UTF-8'):
    train.train(setup.build(config), odd)
  assert not odd.exists()
  flags = ('--mode=evaluate', f'--workdir={odd}')
  assert _main(place, monkeypatch, *flags) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert r'\n$x$/\xff holds no checkpoints' in line
