import shutil

import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint
from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import setup
from alexnet_jax import splits
from configs import smoke
from tests import trained_testing

_TINY = {
  'network.layers': ('conv1', 'conv3', 'fc6', 'fc8'),
  'network.conv1.features': 8,
  'network.conv3.features': 8,
  'network.fc6.features': 16,
  'data.num_examples': 40,
  'evaluate.batch_size': 16,
}


def _config(**overrides):
  config = smoke.get_config()
  config.update_from_flattened_dict({**_TINY, **overrides})
  return config


def _save(workdir, step=0, **overrides):
  """Saves a first state as if a run had come to `step`; returns its params."""
  parts = setup.build(_config(**overrides))
  return trained_testing.save_first_state(workdir, parts, step)


def _listing(folder):
  return sorted(str(path) for path in folder.rglob('*'))


def test_a_workdir_is_all_that_is_needed(tmp_path):
  params = _save(tmp_path, 7, devices=2, parallelism='towers', seed=5)
  before = _listing(tmp_path)
  run = inference.open_run(str(tmp_path))
  assert (run.workdir, run.step) == (tmp_path, 7)
  assert run.setup.settings.seed == 5
  # Wherever it was trained, it runs on what there is here.
  assert len(run.setup.devices) == jax.device_count()
  jax.tree.map(np.testing.assert_array_equal, run.params, params)
  assert run.class_names == tuple(f'class{i}' for i in range(10))
  assert run.splits.eval_source.num_examples == 40
  assert run.splits is run.splits
  # A run that is training at this moment is not disturbed.
  assert _listing(tmp_path) == before


def test_a_config_takes_the_place_of_the_checkpoints(tmp_path):
  _save(tmp_path)
  config = _config(**{'data.num_examples': 30, 'devices': 1})
  run = inference.open_run(tmp_path, config)
  assert run.splits.eval_source.num_examples == 30
  assert len(run.setup.devices) == 1
  with pytest.raises(errors.UserError, match='fc6.features=16.* 18'):
    inference.open_run(tmp_path, _config(**{'network.fc6.features': 18}))


def _save_with(tmp_path, change):
  """Saves a first state whose config an older version wrote."""
  parts = setup.build(_config())
  identity = splits.Splits(parts).identity()
  change(identity.config)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(setup.first_state(parts), identity)
  checkpoints.close()


def test_a_renamed_value_of_a_checkpoint_is_said(tmp_path, caplog):
  _save_with(tmp_path, lambda config: config['input'].update(color='source'))
  with caplog.at_level('INFO', logger='absl'):
    run = inference.open_run(tmp_path)
  assert run.setup.settings.input.color == 'cuda_convnet'
  assert "input.color='source' is now called 'cuda_convnet'" in caplog.text


def test_a_checkpoint_without_a_key_asks_for_a_config(tmp_path):
  _save_with(tmp_path, lambda config: config.pop('evaluate'))
  with pytest.raises(errors.UserError, match='no evaluate: .*with --config'):
    inference.open_run(tmp_path)
  assert inference.open_run(tmp_path, _config()).step == 0


def test_opening_reads_parameters_and_draws_none(tmp_path, monkeypatch):
  params = _save(tmp_path)
  monkeypatch.setattr(jax.random, 'normal', None)
  # What a velocity would be read from.
  shutil.rmtree(tmp_path / 'checkpoints' / '0' / 'state')
  run = inference.open_run(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, run.params, params)


def test_the_digest_is_of_the_parameters_alone(tmp_path):
  digests = []
  for i, overrides in enumerate(
    [{'devices': 1}, {'devices': 2}, {'devices': 1, 'seed': 1}]
  ):
    _save(tmp_path / str(i), **overrides)
    run = inference.open_run(tmp_path / str(i), _config(**overrides))
    digests.append(run.digest)
  assert digests[0] == digests[1] != digests[2]


def test_a_missing_run_is_a_mistake_in_one_line(tmp_path):
  for folder in (tmp_path / 'nothing', tmp_path):
    with pytest.raises(errors.UserError, match='train first') as caught:
      inference.open_run(folder)
    assert str(folder) in str(caught.value)
    assert '\n' not in str(caught.value)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(errors.UserError, match='no last checkpoint'):
    inference.open_run(tmp_path)


def test_a_checkpoint_says_nothing_of_this_machine(tmp_path):
  foreign = {'compilation_cache': '/theirs', 'data.threads': 3, 'devices': 2}
  _save(tmp_path, **foreign)
  chosen = inference.open_run(tmp_path).setup.settings
  found = chosen.compilation_cache, chosen.data.threads, chosen.devices
  assert found == ('~/.cache/alexnet_jax/programs', 0, 0)
  chosen = inference.open_run(tmp_path, _config(**foreign)).setup.settings
  assert chosen.data.threads == 3


@pytest.mark.parametrize('name', ['../../x', '/x', '', 'n' * 65, 'conv\n'])
def test_a_layer_of_a_checkpoint_is_no_path(tmp_path, name):
  def rename(config):
    network = config['network']
    network['layers'] = ['conv1', 'conv3', name, 'fc8']
    network[name] = network['fc6']

  _save_with(tmp_path, rename)
  with pytest.raises(errors.UserError, match='(?s)layers names .*use up to 64'):
    inference.open_run(tmp_path)


def test_the_data_of_a_run_are_not_prepared_for_it(tmp_path):
  """A checkpoint names any folder, in which nothing is to be written."""
  folder = tmp_path / 'theirs'
  _save_with(
    tmp_path / 'run',
    lambda config: config['data'].update(
      source='tfds', name='mnist', data_dir=str(folder)
    ),
  )
  run = inference.open_run(tmp_path / 'run')
  with pytest.raises(errors.UserError, match='not prepared.*--mode=prepare'):
    _ = run.splits.eval_source
  assert not folder.exists()
