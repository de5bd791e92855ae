"""Splits and folders of which no image can be read: one line, exit code 2."""

import os
import shutil

from absl import flags as absl_flags
from absl.testing import flagsaver
import pytest

from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import splits
from alexnet_jax import train
from alexnet_jax.analysis.report import subject
from alexnet_jax.input_pipeline import retry
import main
from tests import trained_testing

# None can be too many: what happens is decided by there being none at all.
_SETTINGS = {
  'data.max_unreadable': 1.0,
  'data.statistics': 'imagenet',
  'input.mean': 'channel',
  'batch_size': 4,
  'num_epochs': 2,
  'log.every_steps': 1,
}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Holds data whose train/ or test/ is damaged, and a run on each."""
  folder = tmp_path_factory.mktemp('unreadable')
  good = trained_testing.write_data(folder / 'good')
  for split in ('train', 'test'):
    shutil.copytree(good, folder / f'bad_{split}')
    for path in (folder / f'bad_{split}' / split).glob('*/*.jpg'):
      path.write_bytes(b'no image')
  for name in ('good', 'bad_train', 'bad_test'):
    bad = folder / name
    trained_testing.write_run(folder / f'run_{name}', bad, **_SETTINGS)
  return folder


def _check_no_nan(folder):
  """Looks into all JSON and text below a folder."""
  found = 0
  for path in folder.rglob('*'):
    if path.is_file() and path.suffix in ('.json', '.jsonl', '.csv', '.html'):
      text = path.read_text()
      assert 'NaN' not in text, path
      assert 'Infinity' not in text, path
      assert path.suffix in ('.json', '.jsonl') or 'nan' not in text, path
      found += 1
  return found


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--workdir=run_bad_test', '--mode=evaluate'], ["13 images of pictures"]),
    (
      [
        '--mode=evaluate', '--ensemble=run_bad_test,run_bad_test',
        '--output=out',
      ],
      ["13 images of pictures 'test'", '--config.data.data_dir'],
    ),
    (
      [
        '--workdir=run_good', '--mode=predict', '--images=bad_test/test',
        '--output=out',
      ],
      ['none of the 13 images', '--images'],
    ),
    (
      [
        '--workdir=run_good', '--mode=extract', '--images=bad_test/test',
        '--output=out',
      ],
      ['none of the 13 images', '--images'],
    ),
    (
      ['--workdir=run_bad_test', '--mode=extract', '--output=out'],
      ["13 images of pictures 'test'", '--config.data.data_dir'],
    ),
    (
      [
        '--workdir=run_good', '--mode=similar', '--query=bad_test/test',
        '--output=out',
      ],
      ['cannot be read', '--query'],
    ),
    (
      [
        '--workdir=run_bad_train', '--mode=similar',
        '--query=good/test/class0', '--output=out',
      ],
      ["15 images of pictures 'train'"],
    ),
    (['--workdir=run_bad_test', '--mode=report'], ["pictures 'test'"]),
    (['--workdir=run_bad_train', '--mode=report'], ["pictures 'train'"]),
  ],
)  # fmt: skip
def test_modes_that_use_a_run(
  place, tmp_path, monkeypatch, capsys, flags, words
):
  monkeypatch.chdir(place)
  monkeypatch.setattr(subject, 'BATCH', 4)  # of the report
  monkeypatch.setattr(reporting, 'set_up_terminal', lambda *_: None)
  flags = [f.replace('=out', f'={tmp_path}/out') for f in flags]
  with flagsaver.flagsaver():
    absl_flags.FLAGS(['main.py', *flags])
    assert main.main(['main.py']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  for word in ('main.py: ', 'be read', *words):
    assert word in line
  left = [name for _, _, names in os.walk(tmp_path) for name in names]
  assert left == []
  _check_no_nan(place)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_training(place, tmp_path, split):
  config = trained_testing.config(place / f'bad_{split}', **_SETTINGS)
  with pytest.raises(errors.NothingReadableError, match=f"pictures '{split}'"):
    train.train(setup.build(config), tmp_path / 'run')
  lines = reporting.read(tmp_path / 'run' / 'metrics.jsonl')
  # Known at the end of the first epoch: four steps.
  kinds = ['train'] * 3
  if split == 'test':
    kinds += ['epoch', 'train']
  assert [line['kind'] for line in lines] == kinds
  assert all((line['nll'] is None) == (split == 'train') for line in lines)
  assert _check_no_nan(tmp_path) > 2


def test_data_that_vanish_stop_training_before_anything_is_saved(
  tmp_path, monkeypatch
):
  data = trained_testing.write_data(tmp_path / 'data')
  settings = {**_SETTINGS, 'checkpoint.every_steps': 3}
  parts = setup.build(trained_testing.config(data, **settings))
  assert train.train(parts, tmp_path / 'whole') == 0
  original = splits.Splits.train_batches

  def vanishing(self, *args, **kwargs):
    batches = original(self, *args, **kwargs)
    yield next(batches)
    data.rename(tmp_path / 'away')
    yield from batches

  with monkeypatch.context() as patch:
    patch.setattr(splits.Splits, 'train_batches', vanishing)
    patch.setattr(retry, 'WAITS', (0.01,))
    with pytest.raises(errors.UserError, match='No such file.* run the same'):
      train.train(parts, tmp_path / 'run')
  lines = reporting.read(tmp_path / 'run' / 'metrics.jsonl')
  # An epoch read ahead before its files vanish is whole, and ends as one.
  assert all(line.get('unreadable', 0) == 0 for line in lines)
  assert 'validation' not in {line['kind'] for line in lines}
  (tmp_path / 'away').rename(data)
  assert train.train(parts, tmp_path / 'run') == 0
  digests = [
    inference.open_run(tmp_path / name).digest for name in ('whole', 'run')
  ]
  assert digests[0] == digests[1]


def test_training_shorter_than_an_epoch(place, tmp_path):
  settings = {**_SETTINGS, 'max_steps': 2}
  config = trained_testing.config(place / 'bad_train', **settings)
  with pytest.raises(errors.NothingReadableError):
    train.train(setup.build(config), tmp_path / 'run')


def test_the_one_test_image_that_can_be_read(place, tmp_path, monkeypatch):
  # The report of such a run is in odd_names_test.py.
  bad = tmp_path / 'data'
  shutil.copytree(place / 'bad_test', bad)
  good = place / 'good' / 'test' / 'class1' / '002.jpg'
  shutil.copy(good, bad / 'test' / 'class1' / '002.jpg')
  for name in ('a', 'b'):
    trained_testing.write_run(tmp_path / name, bad, **_SETTINGS)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(reporting, 'set_up_terminal', lambda *_: None)
  for flags in (
    ['--workdir=a', '--mode=evaluate'],
    ['--ensemble=a,b', '--mode=evaluate', '--output=out'],
  ):
    with flagsaver.flagsaver():
      absl_flags.FLAGS(['main.py', *flags])
      assert main.main(['main.py']) == 0
  _check_no_nan(tmp_path)
