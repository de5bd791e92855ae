"""Checkpoints that are damaged, half written, stray, or being replaced."""

import json
import pathlib
import shutil
import threading

from absl import logging as absl_logging
import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import setup
from alexnet_jax.splits import Splits
from configs import smoke
from tests import files_testing

_STEPS = (3, 6)
_RESULT = {'top1_error': 0.5, 'nll': float('inf'), 'unreadable': 0}


@pytest.fixture(scope='module')
def parts():
  config = smoke.get_config()
  config.update_from_flattened_dict(
    {
      'devices': 1,
      'network.layers': ('conv1', 'fc8'),
      'network.conv1.features': 4,
      'data.num_examples': 8,
    }
  )
  return setup.build(config)


@pytest.fixture(scope='module')
def saved(parts, tmp_path_factory):
  """A workdir with two checkpoints, and the states that they are of."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpoints = checkpoint.Checkpoints(workdir, keep=2)
  identity = Splits(parts).identity()
  state, states = setup.first_state(parts), {}
  for step in _STEPS:
    state = state.replace(
      step=state.step + 3, params=jax.tree.map(lambda x: x + 1, state.params)
    )
    checkpoints.save(state, identity)
    states[step] = jax.tree.map(np.asarray, state)
  checkpoints.close()
  return workdir, states


@pytest.fixture
def run(saved, tmp_path, monkeypatch):
  """A copy of the workdir that a test may damage."""
  monkeypatch.setattr(absl_logging.get_absl_logger(), 'propagate', True)
  return shutil.copytree(saved[0], tmp_path / 'run')


def _restored(parts, workdir):
  """Restores as a run that resumes does; returns the step and the state."""
  checkpoints = checkpoint.Checkpoints(workdir, keep=2)

  def load(step):
    identity = checkpoints.identity(step)
    assert identity.config == parts.config
    return step, checkpoints.restore(setup.abstract_state(parts), step)

  try:
    step, state = checkpoints.first_intact(
      lambda: checkpoints.order('last'), load
    )
    checkpoints.set_aside(step)
  finally:
    checkpoints.close()
  return step, jax.tree.map(np.asarray, state)


def _assert_state(state, expected):
  jax.tree.map(np.testing.assert_array_equal, state, expected)


def _files(workdir, step):
  folder = workdir / 'checkpoints' / str(step)
  return sorted(path for path in folder.rglob('*') if path.is_file())


def test_what_was_saved_is_restored(parts, saved):
  step, state = _restored(parts, saved[0])
  assert step == 6
  _assert_state(state, saved[1][6])


def test_a_flipped_bit_never_becomes_another_number(parts, saved, run, caplog):
  draws = np.random.default_rng(0)
  files = _files(run, 6)
  assert len(files) > 10
  fallbacks = 0
  for path in [*files, *draws.choice(files, 8)]:
    content = path.read_bytes()
    if not content:
      continue
    flipped = bytearray(content)
    flipped[draws.integers(len(content))] ^= 1 << draws.integers(8)
    path.write_bytes(flipped)
    caplog.clear()
    step, state = _restored(parts, run)
    _assert_state(state, saved[1][step])
    if step == 3:
      fallbacks += 1
      (line,) = [m for m in caplog.messages if 'is damaged' in m]
      assert 'checkpoint of step 6' in line
      (aside,) = (run / 'damaged').iterdir()
      aside.rename(run / 'checkpoints/6')
    path.write_bytes(content)
  # Flips in the arrays and the identity, not in what nothing reads.
  assert fallbacks > 5


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path):
  path.write_bytes(b'')


def _replace(path):
  path.write_bytes(b'something else' * 100)


def _make_folder(path):
  path.unlink()
  path.mkdir()


_DAMAGES = (_truncate, _empty, _replace, _make_folder, pathlib.Path.unlink)


def test_a_damaged_file_is_noticed(parts, saved, run, caplog):
  intact = run.with_name('intact')
  shutil.copytree(run, intact)
  for i, path in enumerate(_files(intact, 6)):
    shutil.rmtree(run)
    shutil.copytree(intact, run)
    _DAMAGES[i % len(_DAMAGES)](run / path.relative_to(intact))
    caplog.clear()
    step, state = _restored(parts, run)
    _assert_state(state, saved[1][step])
    assert len([m for m in caplog.messages if 'is damaged' in m]) == (step == 3)


def _stray(run):
  (run / 'checkpoints/99').mkdir()


def _renamed(run):
  shutil.copytree(run / 'checkpoints/3', run / 'checkpoints/99')


def _half(run):
  shutil.copytree(run / 'checkpoints/6', run / 'checkpoints/99')
  shutil.rmtree(run / 'checkpoints/99/state')


@pytest.mark.parametrize('add', [_stray, _renamed, _half])
def test_a_folder_that_is_no_checkpoint_is_set_aside(parts, saved, run, add):
  add(run)
  step, state = _restored(parts, run)
  assert step == 6
  _assert_state(state, saved[1][6])
  assert [path.name for path in (run / 'damaged').iterdir()] == ['99_0']


def test_leftovers_of_a_killed_save_are_removed(parts, run):
  left = run / 'checkpoints/9.orbax-checkpoint-tmp-1'
  left.mkdir()
  step, _ = _restored(parts, run)
  assert step == 6
  assert not left.exists()


def test_without_an_intact_one_nothing_is_restored(parts, run):
  for step in _STEPS:
    (run / f'checkpoints/{step}/identity/metadata').write_bytes(b'{}')
  with pytest.raises(errors.UserError, match='no checkpoint in .*step 6.*3'):
    _restored(parts, run)
  assert len(list((run / 'checkpoints').iterdir())) == 2


def test_the_validation_is_added_without_writing_the_arrays(parts, run):
  checkpoints = checkpoint.Checkpoints(run, keep=2)
  abstract = setup.abstract_state(parts)
  state = checkpoints.restore(abstract, 6)
  plateau = state.plateau.replace(stalled=state.plateau.stalled + 1)
  before = {path: path.stat() for path in _files(run, 6)}
  validated = state.replace(plateau=plateau)
  checkpoints.add_validation(validated, _RESULT, 'images')
  for path, stat in before.items():
    assert path.stat() == stat
  again = checkpoints.restore(abstract, 6)
  assert int(again.validated) == 6
  assert int(again.plateau.stalled) == 1
  assert np.isinf(again.plateau.best)
  assert checkpoints.order('best') == [6]
  # JSON has no infinity, and no parser should find one.
  text = (run / 'checkpoints/6/validation.json').read_text()
  json.loads(text, parse_constant=pytest.fail)
  assert '"nll": null' in text
  # One that is damaged is forgotten: the validation can be repeated.
  path = run / 'checkpoints/6/validation.json'
  path.write_text(text.replace('0.5', '0.4'))
  assert int(checkpoints.restore(abstract, 6).validated) == -1
  assert checkpoints.order('best') == []
  checkpoints.close()


@pytest.mark.parametrize(
  ('images', 'order'), [('these', [3, 6]), ('others', [6])]
)
def test_the_best_is_the_best_on_the_same_images(parts, run, images, order):
  checkpoints = checkpoint.Checkpoints(run, keep=2)
  abstract = setup.abstract_state(parts)
  for step, error, on in ((3, 0.1, 'these'), (6, 0.2, images)):
    result = {**_RESULT, 'top1_error': error}
    checkpoints.add_validation(checkpoints.restore(abstract, step), result, on)
  assert checkpoints.order('best') == order
  checkpoints.close()


def test_a_checkpoint_without_digests_is_read(parts, saved, run, caplog):
  path = run / 'checkpoints/6/identity/metadata'
  content = json.loads(path.read_text())
  path.write_text(json.dumps({'format': 2} | content['identity']))
  step, state = _restored(parts, run)
  assert step == 6
  _assert_state(state, saved[1][6])
  assert 'stored no digests' in caplog.text
  # But not if it has lost them.
  path.write_text(json.dumps({**content, 'format': 2}))
  assert _restored(parts, run)[0] == 3


def test_a_reader_beside_a_writer(parts, run):
  """The writer removes what the reader has chosen; it chooses again."""
  identity = Splits(parts).identity()
  writer = checkpoint.Checkpoints(run, keep=1)
  state = writer.restore(setup.abstract_state(parts), 6)
  done = threading.Event()

  def write():
    nonlocal state
    try:
      for _ in range(8):
        state = state.replace(step=state.step + 1)
        writer.save(state, identity)
      writer.close()
    finally:
      done.set()

  thread = threading.Thread(target=write)
  thread.start()
  reads = 0
  while not done.is_set():
    reader = checkpoint.Checkpoints(run)
    abstract = setup.abstract_state(parts)

    def load(step, reader=reader, abstract=abstract):
      reader.identity(step)
      return reader.restore(abstract, step)

    found = reader.first_intact(lambda r=reader: r.order('last'), load)
    assert 6 <= int(found.step) <= 14
    reader.close()
    reads += 1
  thread.join()
  assert reads > 0
  assert checkpoint.Checkpoints(run).steps() == [14]


def test_a_folder_that_cannot_be_written(parts, run):
  checkpoints = checkpoint.Checkpoints(run, keep=2)
  state = checkpoints.restore(setup.abstract_state(parts), 6)
  identity = Splits(parts).identity()
  (run / 'checkpoints').rename(run / 'elsewhere')
  (run / 'checkpoints').write_text('in the way')
  with pytest.raises(errors.UserError, match='step 7 cannot be written.*run'):
    checkpoints.save(state.replace(step=state.step + 1), identity)
  checkpoints.close()  # Has no other error that would take its place.


def test_a_checkpoint_of_another_format_is_refused(parts, run, monkeypatch):
  monkeypatch.setattr(checkpoint, '_FORMAT', 4)
  with pytest.raises(errors.UserError, match='format 3, and this program rea'):
    checkpoint.Checkpoints(run).restore(setup.abstract_state(parts), 6)


def test_a_full_disk_keeps_what_was_saved(parts, saved, run, tmp_path):
  with files_testing.mounted(tmp_path / 'disk', 'size=400k') as disk:
    workdir = shutil.copytree(run, disk / 'run')
    checkpoints = checkpoint.Checkpoints(workdir, keep=9)
    state = checkpoints.restore(setup.abstract_state(parts), 6)
    identity = Splits(parts).identity()
    message = ''
    for _ in range(20):
      state = state.replace(step=state.step + 1)
      try:
        checkpoints.save(state, identity)
        checkpoints.wait()
      except errors.UserError as error:
        message = str(error)
        break
    assert 'No space left on device' in message
    kept = int(state.step) - 1
    assert f'that of step {kept} is kept: make the folder writable' in message
    checkpoints.close()
    assert _restored(parts, workdir)[0] == kept
