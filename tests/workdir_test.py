"""A workdir has the function that was trained, whatever the data are now."""

import contextlib
import json
import logging
import shutil

from absl import flags as absl_flags
from absl.testing import flagsaver
import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import reporting
from alexnet_jax import setup
from alexnet_jax import train
import main
from tests import input_pipeline_testing as testing
from tests import trained_testing

_SETTINGS = {
  'batch_size': 4,
  'num_epochs': 2,
  'log.every_steps': 1,
  'optimizer.plateau.patience': 9,
}


def _config(data_dir, **overrides):
  return trained_testing.config(data_dir, **{**_SETTINGS, **overrides})


def _run(config, *given):
  """Runs main.py in this process; a config is as if it came from --config."""
  if config is not None:
    # absl would parse a text; this is what the text names.
    absl_flags.FLAGS['config'].value = config
  absl_flags.FLAGS(['main.py', *map(str, given)])
  return main.main(['main.py'])


@pytest.fixture(autouse=True)
def _flags(monkeypatch):
  monkeypatch.setattr(reporting, 'set_up_terminal', lambda *_: None)
  with flagsaver.flagsaver():
    yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Holds data/ and run/: two epochs of fifteen images, four steps each."""
  folder = tmp_path_factory.mktemp('trained')
  trained_testing.write_data(folder / 'data')
  with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(reporting, 'set_up_terminal', lambda *_: None)
    assert _run(_config(folder / 'data'), f'--workdir={folder}/run') == 0
    assert _run(None, f'--workdir={folder}/run', '--mode=evaluate') == 0
  return folder


# What is not about files has made-up images, which are much faster to read.
_MADE_UP = {
  'data.source': 'synthetic',
  'data.name': 'synthetic',
  'data.num_examples': 15,
  'data.max_unreadable': 0.0,
  'network.layers': ('conv1', 'conv5', 'fc7', 'fc8'),
}


def _made_up(**overrides):
  return _config('', **{**_MADE_UP, **overrides})


@pytest.fixture(scope='module')
def trained_on_made_up(tmp_path_factory):
  """Holds run/: as that of `trained`."""
  folder = tmp_path_factory.mktemp('made_up')
  assert train.train(setup.build(_made_up()), folder / 'run') == 0
  return folder


@pytest.fixture
def made_up(trained_on_made_up, tmp_path):
  """A copy that a test may change."""
  return shutil.copytree(trained_on_made_up, tmp_path / 'made_up')


def _train(config, folder):
  return train.train(setup.build(config), folder / 'run')


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
  """A copy that a test may change; the checkpoint's data are at its data/."""
  shutil.copytree(trained, tmp_path / 'place')
  # The checkpoint names the first folder: it must not help.
  hidden = trained.with_name('hidden')
  trained.rename(hidden)
  yield tmp_path / 'place'
  hidden.rename(trained)


def _evaluation(folder):
  return json.loads((folder / 'run/evaluation.json').read_text())


def _metrics(folder, kind):
  lines = reporting.read(folder / 'run/metrics.jsonl')
  return [line for line in lines if line['kind'] == kind]


@contextlib.contextmanager
def _refused(capsys, *words):
  capsys.readouterr()
  yield
  (line,) = capsys.readouterr().err.splitlines()
  for word in ('main.py: ', *words):
    assert word in line


@pytest.mark.parametrize(
  'flags',
  [
    ['--mode=train'],
    ['--mode=evaluate'],
    ['--mode=extract', '--split=train'],
    ['--mode=similar', '--query=PLACE/data/test/zebra'],
    ['--mode=report'],
  ],
)
def test_a_renamed_class_is_refused(place, capsys, flags):
  for split in ('train', 'test'):
    (place / 'data' / split / 'class1').rename(place / 'data' / split / 'zebra')
  before = (place / 'run/metrics.jsonl').read_text()
  config = _config(place / 'data', num_epochs=3)
  flags = [flag.replace('PLACE', str(place)) for flag in flags]
  with _refused(capsys, "label 1 is 'class2' and 'class1'"):
    assert _run(config, f'--workdir={place}/run', *flags) == 2
  assert (place / 'run/metrics.jsonl').read_text() == before


def test_an_ensemble_of_other_classes_is_refused(place, tmp_path, capsys):
  other = trained_testing.write_data(tmp_path / 'other')
  for split in ('train', 'test'):  # The same images, in another order.
    (other / split / 'class0').rename(other / split / 'late')
  trained_testing.write_run(tmp_path / 'second', other)
  runs = f'--ensemble={place}/run,{tmp_path}/second'
  with _refused(capsys, "label 0 is 'class1' and 'class0'", 'second', 'run'):
    assert _run(None, '--mode=evaluate', runs, f'--output={tmp_path}') == 2


def test_predict_needs_no_data(place, tmp_path):
  shutil.move(place / 'data/test/class2/000.jpg', tmp_path / 'photo.jpg')
  shutil.rmtree(place / 'data')
  given = [f'--workdir={place}/run', f'--images={tmp_path}/photo.jpg']
  assert _run(None, '--mode=predict', *given) == 0
  text = (place / 'run/predictions.csv').read_text()
  assert {f'class{i}' for i in range(3)} == {
    row.split(',')[2] for row in text.splitlines()[1:]
  }
  assert _run(None, '--mode=extract', *given) == 0


def test_the_mean_is_that_of_the_training(place):
  before = _evaluation(place)
  for path in (place / 'data/train').rglob('*.jpg'):
    white = np.full((40, 40, 3), 255, np.uint8)
    path.write_bytes(testing.encode(white, 'JPEG'))
  for path in (place / 'data').rglob('statistics*'):
    path.unlink()
  config = _config(place / 'data')
  assert _run(config, f'--workdir={place}/run', '--mode=evaluate') == 0
  assert _evaluation(place) == before


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    (
      'input.pixel_scale',
      0.5,
      ['=0.015625, but the config has 0.5', '--config.'],
    ),
    ('input.mean', 'channel', ['input.mean=pixel', 'channel']),
    ('input.image_size', 30, ['input.image_size=32', '30']),
    ('network.pool.size', 2, ['network.pool.size=3', '2']),
  ],
)
@pytest.mark.parametrize('mode', ['train', 'evaluate'])
def test_another_function_is_refused(place, capsys, mode, key, value, words):
  config = _config(place / 'data', **{key: value})
  with _refused(capsys, f'{place}/run', *words):
    assert _run(config, f'--workdir={place}/run', f'--mode={mode}') == 2


def test_more_images_are_refused_or_begin_an_epoch(place, capsys, caplog):
  source = place / 'data/train/class0/000.jpg'
  for i in range(5):
    shutil.copy(source, source.with_name(f'more{i}.jpg'))
  config = _config(place / 'data', num_epochs=4)
  words = ['step 8', '15 training images, now 20', 'accept_changes=True']
  with _refused(capsys, *words):
    assert _run(config, f'--workdir={place}/run') == 2
  config.checkpoint.accept_changes = True
  with caplog.at_level(logging.WARNING, logger='absl'):
    assert _run(config, f'--workdir={place}/run') == 0
  assert 'accepted; epoch 2 begins, with 5 steps' in caplog.text
  steps = {line['step']: line for line in _metrics(place, 'validation')}
  assert {step: line['epoch'] for step, line in steps.items()} == {
    4: 1, 8: 2, 13: 3, 18: 4,
  }  # fmt: skip
  assert [line['step'] for line in _metrics(place, 'epoch')] == list(steps)


def test_another_batch_size_is_refused_or_begins_an_epoch(made_up):
  config = _made_up(num_epochs=4, batch_size=8)
  with pytest.raises(
    errors.UserError, match='batch_size=4, now 8.*accept_changes=True'
  ):
    _train(config, made_up)
  config.checkpoint.accept_changes = True
  assert _train(config, made_up) == 0
  # And again, as the run stands now.
  config.num_epochs = 5
  assert _train(config, made_up) == 0
  lines = _metrics(made_up, 'validation')
  assert [(line['step'], line['epoch']) for line in lines] == [
    (4, 1), (8, 2), (10, 3), (12, 4), (14, 5),
  ]  # fmt: skip


def test_images_of_another_content_are_refused(place, capsys):
  path = place / 'data/train/class0/000.jpg'
  path.rename(path.with_name('renamed.jpg'))
  config = _config(place / 'data', num_epochs=3)
  with _refused(capsys, 'other training images', 'accept_changes=True'):
    assert _run(config, f'--workdir={place}/run') == 2


def test_a_learning_rate_divided_by_hand_applies(made_up, caplog):
  config = _made_up(num_epochs=3)
  assert config.optimizer.schedule == 'plateau'
  config.optimizer.learning_rate = 0.001
  with caplog.at_level(logging.INFO, logger='absl'):
    assert _train(config, made_up) == 0
  assert 'optimizer.learning_rate was 0.01 in' in caplog.text
  rates = [line['learning_rate'] for line in _metrics(made_up, 'train')]
  assert rates == [pytest.approx(0.01)] * 8 + [pytest.approx(0.001)] * 4


def test_a_schedule_that_ends_earlier_says_so(made_up, caplog):
  config = _made_up(num_epochs=1)
  with caplog.at_level(logging.INFO, logger='absl'):
    assert _train(config, made_up) == 0
  assert 'num_epochs was 2 in' in caplog.text
  said = 'Nothing to train at step 8: num_epochs=1 reached (step 4)'
  assert said in caplog.text


def test_a_cosine_of_another_length_says_so(made_up, caplog):
  schedule = {'optimizer.schedule': 'cosine'}
  longer = _made_up(**schedule, max_steps=9)
  with caplog.at_level(logging.INFO, logger='absl'):
    assert _train(longer, made_up) == 0
    assert 'optimizer.schedule was plateau in' in caplog.text
    longer.max_steps = 12
    assert _train(longer, made_up) == 0
  assert 'max_steps was 9 in' in caplog.text
  # (1 + cos(pi 9 / 12)) / 2 of 0.01; at the end of nine steps it was 0.
  said = 'The learning rate at step 9 is 0.00146; by the config of the'
  assert said in caplog.text


def test_placement_and_logging_change_in_silence(made_up, caplog):
  config = _made_up(num_epochs=2)
  config.update_from_flattened_dict(
    {'accumulation': 2, 'log.every_steps': 3, 'data.threads': 1}
  )
  with caplog.at_level(logging.INFO, logger='absl'):
    assert _train(config, made_up) == 0
  assert ' was ' not in caplog.text
