"""A mistake in a config is refused in one line that names the remedy."""

import ast
import dataclasses
import fnmatch
import itertools
import math
import operator
import pathlib

import jax
import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import optimizer
from alexnet_jax import presets
from alexnet_jax import settings
from alexnet_jax import setup
from alexnet_jax.epochs import Epochs
from configs import cifar10
from configs import cifar10_four_layer
from configs import fashion_mnist
from configs import imagenet
from configs import imagenet2010
from configs import runs_2012
from configs import smoke


def _build(**overrides):
  config = smoke.get_config()
  config.devices = 2
  config.update_from_flattened_dict(overrides)
  return setup.build(config)


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('batch_size', 0, ['--config.batch_size=0 ', '1..1048576']),
    ('batch_size', -3, ['--config.batch_size=-3 ', '1..1048576']),
    ('accumulation', 5, ['32', '5', '30']),
    ('input.crop_size', 40, ['40', '32', 'smaller']),
    ('input.crop_size', 2, ['2', 'conv', 'larger']),
    ('devices', 9, ['9', '4', 'devices']),
    ('devices', -1, ['--config.devices=-1 ', '0..1024 (0: all available)']),
    ('network.towers', 3, ['3', 'features', '32']),
    ('network.activation', 'rectify', ['rectify', 'relu']),
    ('network.conv1.order', ('lrn',), ['lrn', 'response_norm']),
    ('network.conv3.reads', 'both', ['both', 'own']),
    ('network.response_norm.size', 4, ['4', 'odd']),
    ('network.layers', ('conv1', 'conv9'), ['conv9']),
    ('network.dropout_rate', 1.0, ['1.0', '0..1 (1 excluded)']),
    ('compute_dtype', 'float16', ["compute_dtype='float16'", 'bfloat16']),
    ('optimizer.schedule', 'step', ["schedule='step'", 'plateau']),
    ('input.color', 'lighting', ["color='lighting'", 'paper']),
    ('input.color', 'source', ["is now called 'cuda_convnet'"]),
    ('input.mean', 'image', ["mean='image'", 'pixel']),
    ('data.statistics', 'cifar', ["statistics='cifar'", 'computed']),
    ('evaluate.checkpoint', 'newest', ["checkpoint='newest'", 'last, best']),
  ],
)
def test_impossible_value_is_one_line(key, value, words):
  with pytest.raises(errors.UserError) as caught:
    _build(**{key: value})
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message


@pytest.mark.parametrize(
  'key',
  [
    'compute_dtype',
    'data.statistics',
    'input.color',
    'input.mean',
    'optimizer.schedule',
    'evaluate.checkpoint',
  ],
)
def test_a_choice_names_its_flag(key):
  with pytest.raises(errors.UserError, match=f'set --config.{key} to one of '):
    _build(**{key: 'none of these'})


@pytest.mark.parametrize(
  ('key', 'value', 'range_'),
  [
    ('seed', -1, '0..2147483647'),
    ('seed', 2**31, '0..2147483647'),
    ('accumulation', 0, '1..1048576'),
    ('num_epochs', 0, '1..1000000'),
    ('max_steps', -1, '0..2147483647 (0: num_epochs decides)'),
    ('validate_every_steps', -1, '0..2147483647 (0: once an epoch)'),
    ('network.towers', 0, '1..1024'),
    ('network.conv1.stride', 0, '1..16384'),
    ('network.conv1.kernel', -5, '1..16384'),
    ('network.fc8.features', 0, '1..1048576'),
    ('network.conv1.init_std', math.nan, '0..1e+38'),
    ('network.fc6.init_bias', -math.inf, '-1e+38..1e+38'),
    ('network.pool.size', 0, '1..16384'),
    ('network.pool.stride', 0, '1..16384'),
    ('network.response_norm.k', 0.0, '0..1e+38 (0 excluded)'),
    ('network.dropout_rate', -0.1, '0..1 (1 excluded)'),
    ('data.num_examples', 0, '1..100000000'),
    ('data.max_unreadable', 1.01, '0..1'),
    ('data.max_pixels', 0, '1..2147483647'),
    ('data.threads', -1, '0..1024 (0: all cores)'),
    ('input.image_size', 0, '1..16384'),
    ('input.crop_chunk', 0, '1..1048576'),
    ('input.pixel_scale', 0.0, '0..1e+38 (0 excluded)'),
    ('optimizer.learning_rate', math.nan, '0..1e+38 (0: nothing is learned)'),
    ('optimizer.learning_rate', math.inf, '0..1e+38 (0: nothing is learned)'),
    ('optimizer.momentum', 1.0, '0..1 (1 excluded)'),
    ('optimizer.rate_multipliers.conv1', -1.0, '0..1e+38 (0: frozen)'),
    ('optimizer.plateau.patience', 0, '1..2147483647'),
    ('optimizer.plateau.factor', 1.0, '1..1e+38 (1 excluded)'),
    ('checkpoint.every_steps', 0, '1..2147483647'),
    ('checkpoint.keep', 0, '1..2147483647'),
    ('log.every_steps', 0, '1..2147483647'),
    ('evaluate.batch_size', 0, '1..1048576'),
  ],
)
def test_impossible_number_is_one_line(key, value, range_):
  with pytest.raises(errors.UserError) as caught:
    _build(**{key: value})
  assert str(caught.value) == (
    f'--config.{key}={value} is outside {range_}: set --config.{key} to a value'
    ' in that range'
  )


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('network.conv1.padding', (0, -3), '-3 in --config.* 0..16384 .whole'),
    ('network.conv1.padding', (1.5, 2), '1.5 in --config.* 0..16384 .whole'),
    ('network.conv1.padding', (1,), 'does not have 2 numbers'),
    ('network.conv1.padding', ('a', 1), "'a' in --config"),
    ('optimizer.phases.rows', (0, 0.1, 0.1, 0.1, 1.0), 'have rows of numbers'),
    ('optimizer.phases.rows', ((0, -0.1, 0.1, 0.1, 1.0),), '-0.1 in --config'),
    ('optimizer.phases.rows', ((0, 0.1, 0.1, 0.1, math.nan),), 'nan in --co'),
  ],
)
def test_impossible_tuple_is_one_line(key, value, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    _build(**{key: value})
  message = str(caught.value)
  assert f'set --config.{key} to ' in message
  assert '\n' not in message


def _leaves(config):
  return dict(settings.flatten(config.to_dict()))


def _ranges(kind=settings.Settings, prefix=''):
  """Yields all patterns of keys that have a range, and the ranges."""
  for field in dataclasses.fields(kind):
    key = prefix + field.name
    if dataclasses.is_dataclass(field.type):
      yield from _ranges(field.type, key + '.')
    for pattern, limits in field.metadata.get('ranges', {}).items():
      yield f'{key}.{pattern}', limits
    if 'range' in field.metadata:
      yield key, field.metadata['range']


_RANGES = dict(_ranges())
_CONFIGS = [
  cifar10, cifar10_four_layer, fashion_mnist, imagenet, imagenet2010, smoke
]  # fmt: skip


def _holds_numbers(value):
  if isinstance(value, tuple):
    return any(_holds_numbers(item) for item in value)
  return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize('preset', list(presets.PRESETS))
def test_every_number_has_one_range_and_the_reverse(preset):
  used = set()
  for key, value in _leaves(imagenet.base(preset)).items():
    patterns = [p for p in _RANGES if fnmatch.fnmatchcase(key, p)]
    assert len(patterns) == _holds_numbers(value), key
    used.update(patterns)
    if patterns and not isinstance(value, tuple):
      # A float key takes floats alone if its range has floats for ends.
      limits = _RANGES[patterns[0]]
      assert type(limits.low) is type(limits.high) is type(value), key
  assert used == set(_RANGES)


def _attributes_read():
  """Returns the names of all attributes that the package and main.py read."""
  root = pathlib.Path(settings.__file__).parent
  paths = [*root.rglob('*.py'), root.parent / 'main.py']
  paths.remove(root / 'settings.py')
  nodes = itertools.chain.from_iterable(
    ast.walk(ast.parse(path.read_text())) for path in paths
  )
  return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _fields(kind=settings.Settings):
  for field in dataclasses.fields(kind):
    yield field.name
    if dataclasses.is_dataclass(field.type):
      yield from _fields(field.type)


def test_every_key_is_read():
  # Those of the plateau rule and of the network are passed on as a whole.
  whole = {field.name for field in dataclasses.fields(settings.Plateau)}
  assert set(_fields()) - whole <= _attributes_read()


@pytest.mark.parametrize('preset', list(presets.PRESETS))
@pytest.mark.parametrize('module', _CONFIGS)
def test_every_config_can_be_read(module, preset):
  config = module.get_config(preset)
  read = settings.read(config.to_dict())
  for key, value in _leaves(config).items():
    if not key.startswith(('network', 'optimizer.rate_multipliers')):
      assert operator.attrgetter(key)(read) == value


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda c: c['log'].pop('every_steps'), 'has no log.every_steps: .*--conf'),
    (lambda c: c.update(momentum=0.9), 'nothing reads the key momentum'),
    (lambda c: c['input'].update(flip='yes'), "input.flip='yes' .* to a bool"),
  ],
)
def test_other_keys_than_the_known_ones(change, words):
  config = smoke.get_config().to_dict()
  change(config)
  with pytest.raises(errors.UserError, match=words):
    settings.read(config)


def _replace_last(value, number):
  """Puts a number in the place of a value, or of a tuple's last one."""
  if not isinstance(value, tuple):
    return number
  return (*value[:-1], _replace_last(value[-1], number))


def _next(number, toward):
  """Returns the nearest int or float in a direction, as `number` is."""
  if isinstance(number, int):
    return number + (1 if toward > 0 else -1)
  return math.nextafter(number, toward)


@pytest.mark.parametrize('pattern', list(_RANGES))
def test_a_range_ends_where_it_says(pattern):
  limits = _RANGES[pattern]
  config = smoke.get_config()
  key, usual = next(
    (key, value)
    for key, value in _leaves(config).items()
    if fnmatch.fnmatchcase(key, pattern)
  )

  def check(number):
    config.update_from_flattened_dict({key: _replace_last(usual, number)})
    settings.read(config.to_dict())

  first, last = limits.low, limits.high
  if limits.excluded is not None:
    assert limits.excluded in (first, last)
  if first == limits.excluded:
    first = _next(first, math.inf)
  if last == limits.excluded:
    last = _next(last, -math.inf)
  check(first)
  check(last)
  outside = [_next(first, -math.inf), _next(last, math.inf)]
  if isinstance(limits.low, float):
    outside += [math.nan, math.inf, -math.inf]
  for number in outside:
    with pytest.raises(errors.UserError) as caught:
      check(number)
    message = str(caught.value)
    assert f'--config.{key}' in message
    assert str(number) in message
    assert f'is outside {limits}' in message


def test_three_towers_on_two_devices():
  layers = {
    f'network.{name}.features': 96
    for name in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')
  }
  with pytest.raises(errors.UserError, match=r'3 towers .* 2 devices'):
    _build(**layers, **{'network.towers': 3})


@dataclasses.dataclass(frozen=True)
class _Device:
  id: int
  process_index: int
  platform: str = 'cpu'


def test_no_process_is_left_without_a_device(monkeypatch):
  devices = [_Device(i, process_index=(i + 1) % 2) for i in range(4)]
  monkeypatch.setattr(jax, 'devices', lambda: devices)
  assert [device.id for device in _build(devices=4).devices] == [1, 3, 0, 2]
  with pytest.raises(errors.UserError, match='=2 leaves .* to 4, or to 0'):
    _build(devices=2)


@pytest.mark.parametrize(
  ('parallelism', 'devices', 'words'),
  [
    ('towers', 4, '2 towers .* 4 devices.* one of 1, 2, or'),
    ('one_weird_trick', 2, 'config.network.fc7.reads=own'),
    ('model', 2, "--config.parallelism='model' .* both, towers, data"),
  ],
)
def test_a_parallelism_that_does_not_fit(parallelism, devices, words):
  overrides = {'network.fc7.reads': 'own', 'parallelism': parallelism}
  with pytest.raises(errors.UserError, match=words):
    _build(devices=devices, **overrides)


def test_batch_must_divide_among_devices():
  with pytest.raises(errors.UserError, match=r'=33 .* 2 shares .*=32'):
    _build(batch_size=33, devices=4)


@pytest.mark.parametrize('preset', list(presets.PRESETS))
def test_every_preset_builds_at_its_size(preset):
  module = {'small': smoke, 'four_layer': cifar10_four_layer}
  config = module.get(preset, imagenet).get_config(preset)
  config.devices = 1
  parts = setup.build(config)
  assert parts.network == presets.get(preset)


@pytest.mark.parametrize('module', [cifar10, fashion_mnist, imagenet, smoke])
def test_configs_survive_json(module):
  config = module.get_config()
  config.devices = 2
  parts = setup.build(config)
  assert parts.config['network']['towers'] == 2


def test_unknown_preset_names_the_others():
  with pytest.raises(errors.UserError, match='papier.*paper, cuda_convnet'):
    imagenet.get_config('papier')


@pytest.mark.parametrize('preset', list(runs_2012.RUNS))
def test_a_net_of_2012_brings_its_recipe(preset):
  config = imagenet.get_config(preset)
  assert config.optimizer.schedule == 'phases'
  assert config.optimizer.rate_multipliers.bias == 2.0
  assert config.input.color == 'cuda_convnet'
  assert config.input.crop_chunk == 32
  assert imagenet.get_config('paper').optimizer.schedule == 'plateau'


def test_ilsvrc_2010_has_the_schedule_of_its_own_run():
  config = imagenet2010.get_config('cuda_convnet')
  starts = [row[0] for row in config.optimizer.phases.rows]
  assert (starts, config.num_epochs) == ([0, 22, 50, 67, 71, 77], 92)
  other = imagenet.get_config('cuda_convnet')
  assert [row[1:] for row in config.optimizer.phases.rows] == [
    row[1:] for row in other.optimizer.phases.rows
  ]
  assert config.data.source == 'folder'
  assert config.data.eval_split == 'test'
  # The paper's recipe, and that of net 145-half, trained on 2010, stay.
  for preset in ('paper', 'net_145_half'):
    mine, theirs = (
      module.get_config(preset) for module in (imagenet2010, imagenet)
    )
    assert mine.optimizer == theirs.optimizer
    assert mine.network == theirs.network


def test_figure_1_has_no_regularization():
  config = cifar10_four_layer.get_config()
  parts = setup.build(config)
  assert len(parts.network.layers) == 4
  orders = {name for layer in parts.network.layers for name in layer.order}
  assert orders == {'activation', 'pool'}
  assert config.optimizer.weight_decay == config.optimizer.bias_decay == 0
  assert (config.input.random_crop, config.input.flip) == (False, False)
  assert config.input.color == 'none'


def test_warm_up_longer_than_the_run():
  parts = _build(**{'optimizer.schedule': 'cosine', 'max_steps': 10})
  with pytest.raises(errors.UserError, match='warmup_epochs'):
    setup.make_recipe(parts, Epochs(16), np.zeros(3))


def test_phases_must_rise_from_zero():
  rows = ((1, 0.1, 0.1, 0.1, 1.0),)
  parts = _build(
    **{'optimizer.schedule': 'phases', 'optimizer.phases.rows': rows}
  )
  with pytest.raises(errors.UserError, match='rising epochs'):
    setup.make_recipe(parts, Epochs(16), np.zeros(3))


@pytest.mark.parametrize(
  ('layers', 'match'),
  [
    (('conv1', 'fc8'), 'row of 5 numbers: needed are 6'),
    ((), 'row of 5 numbers: needed are 4'),
    (('conv9',), "phases.layers names 'conv9', which the network does not"),
  ],
)
def test_phases_have_a_column_for_each_of_their_layers(layers, match):
  parts = _build(
    **{'optimizer.schedule': 'phases', 'optimizer.phases.layers': layers}
  )
  with pytest.raises(errors.UserError, match=match):
    setup.make_recipe(parts, Epochs(16), np.zeros(3))


def test_phases_beyond_the_count_of_steps():
  rows = ((0, 0.1, 0.1, 0.1, 1.0), (1e6, 0.0, 0.0, 0.0, 1.0))
  parts = _build(
    **{'optimizer.schedule': 'phases', 'optimizer.phases.rows': rows}
  )
  setup.make_recipe(parts, Epochs(2147), np.zeros(3))
  with pytest.raises(errors.UserError, match=r'1000000\.0, .* 2148 steps'):
    setup.make_recipe(parts, Epochs(2148), np.zeros(3))


def test_schedules_end_where_the_config_says():
  parts = _build(
    **{
      'optimizer.schedule': 'cosine',
      'optimizer.cosine.warmup_epochs': 1.0,
      'num_epochs': 4,
    }
  )
  epoch = 512 // 32
  recipe = setup.make_recipe(parts, Epochs(epoch), np.zeros(3))
  state = optimizer.plateau_init()
  rates = [float(recipe.schedule(s, state).rate) for s in range(4 * epoch + 1)]
  assert rates[0] == 0.0
  assert rates[epoch] == pytest.approx(0.01)
  assert rates[-1] == pytest.approx(0.0, abs=1e-8)


def test_a_mean_image_is_not_published():
  with pytest.raises(errors.UserError, match=r"mean='pixel' .*mean=channel"):
    _build(**{'data.statistics': 'imagenet'})
  _build(**{'data.statistics': 'imagenet', 'input.mean': 'channel'})


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
