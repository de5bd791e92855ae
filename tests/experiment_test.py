"""What a config can get wrong is said in one line with both values."""

import jax
import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import experiment
from alexnet_jax import optimizer
from alexnet_jax import presets
from configs import cifar10
from configs import fashion_mnist
from configs import imagenet
from configs import smoke


def _build(**overrides):
  config = smoke.get_config()
  config.devices = 2
  config.update_from_flattened_dict(overrides)
  return experiment.build(config)


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('batch_size', 0, ['batch_size', '0', '1']),
    ('batch_size', -3, ['batch_size', '-3', '1']),
    ('accumulation', 5, ['32', '5', '30']),
    ('input.crop_size', 40, ['40', '32', 'smaller']),
    ('input.crop_size', 2, ['2', 'conv', 'larger']),
    ('devices', 9, ['9', '4', 'devices']),
    ('devices', -1, ['-1', '4']),
    ('network.towers', 3, ['3', 'features', '32']),
    ('network.activation', 'rectify', ['rectify', 'relu']),
    ('network.conv1.order', ('lrn',), ['lrn', 'response_norm']),
    ('network.conv3.reads', 'both', ['both', 'own']),
    ('network.response_norm.size', 4, ['4', 'odd']),
    ('network.layers', ('conv1', 'conv9'), ['conv9']),
    ('network.dropout_rate', 1.0, ['1.0', 'rate < 1']),
    ('compute_dtype', 'float16', ['float16', 'bfloat16']),
    ('optimizer.schedule', 'step', ['step', 'plateau']),
    ('input.color', 'lighting', ['lighting', 'paper']),
    ('input.mean', 'image', ['image', 'pixel']),
    ('data.statistics', 'cifar', ['cifar', 'computed']),
  ],
)
def test_impossible_value_is_one_line(key, value, words):
  with pytest.raises(errors.UserError) as caught:
    _build(**{key: value})
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message


def test_three_towers_on_two_devices():
  layers = {
    f'network.{name}.features': 96
    for name in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')
  }
  with pytest.raises(errors.UserError, match=r'3 towers .* 2 devices'):
    _build(**layers, **{'network.towers': 3})


def test_batch_must_divide_among_copies():
  with pytest.raises(errors.UserError, match=r'33 .* 2 copies .* 32'):
    _build(batch_size=33, devices=4)


@pytest.mark.parametrize('preset', list(presets.PRESETS))
def test_every_preset_builds_at_its_size(preset):
  config = (smoke if preset == 'small' else imagenet).get_config(preset)
  config.devices = 1
  parts = experiment.build(config)
  assert parts.network == presets.get(preset)


@pytest.mark.parametrize('module', [cifar10, fashion_mnist, imagenet, smoke])
def test_configs_survive_json(module):
  config = module.get_config()
  config.devices = 2
  parts = experiment.build(config)
  assert parts.plain_config()['network']['towers'] == 2
  experiment.check_same_network(parts, parts.plain_config(), 'runs/x')


def test_unknown_preset_names_the_others():
  with pytest.raises(errors.UserError, match='papier.*paper, source'):
    imagenet.get_config('papier')


def test_source_brings_its_recipe():
  config = imagenet.get_config('source')
  assert config.optimizer.schedule == 'phases'
  assert config.optimizer.rate_multipliers.bias == 2.0
  assert config.input.color == 'source'
  assert config.input.crop_chunk == 32
  assert imagenet.get_config('paper').optimizer.schedule == 'plateau'


def test_warm_up_longer_than_the_run():
  parts = _build(**{'optimizer.schedule': 'cosine', 'max_steps': 10})
  with pytest.raises(errors.UserError, match='warmup_epochs'):
    experiment.make_recipe(parts, 16, np.zeros(3))


def test_phases_must_rise_from_zero():
  rows = ((1, 0.1, 0.1, 0.1, 0.0),)
  parts = _build(**{'optimizer.schedule': 'phases', 'optimizer.phases': rows})
  with pytest.raises(errors.UserError, match='rising epochs'):
    experiment.make_recipe(parts, 16, np.zeros(3))


def test_schedules_end_where_the_config_says():
  parts = _build(
    **{
      'optimizer.schedule': 'cosine',
      'optimizer.cosine.warmup_epochs': 1.0,
      'num_epochs': 4,
    }
  )
  epoch = 512 // 32
  recipe = experiment.make_recipe(parts, epoch, np.zeros(3))
  state = optimizer.plateau_init(0.01)
  rates = [float(recipe.schedule(s, state).rate) for s in range(4 * epoch + 1)]
  assert rates[0] == 0.0
  assert rates[epoch] == pytest.approx(0.01)
  assert rates[-1] == pytest.approx(0.0, abs=1e-8)


def test_another_network_in_the_workdir_is_refused():
  parts = _build()
  saved = parts.plain_config()
  saved['network']['conv1']['features'] = 64
  with pytest.raises(errors.UserError, match='conv1.features=64.* says 32'):
    experiment.check_same_network(parts, saved, 'runs/x')


def test_programs_are_kept_where_the_config_says(monkeypatch, tmp_path):
  kept = jax.config.jax_compilation_cache_dir
  try:
    _build(compilation_cache=str(tmp_path))
    # The environment, which the tests set, goes before the config.
    assert jax.config.jax_compilation_cache_dir == kept
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    _build(compilation_cache='')
    assert jax.config.jax_compilation_cache_dir == kept
    _build(compilation_cache=str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
  finally:
    jax.config.update('jax_compilation_cache_dir', kept)
