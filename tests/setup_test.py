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
from alexnet_jax import train_step
from alexnet_jax.epochs import Epochs
from configs import cifar10
from configs import cifar10_four_layer
from configs import cifar10_study
from configs import fashion_mnist
from configs import imagenet
from configs import imagenet2010
from configs import imagenet_large_batch
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
    ('network.activation', 'relu^0', ['relu^0', 'relu^2', 'floor-1']),
    ('network.conv1.order', ('lrn',), ['lrn', 'response_norm']),
    ('network.conv3.reads', 'both', ['both', 'own']),
    ('network.response_norm.size', 4, ['4', 'odd']),
    ('network.layers', ('conv1', 'conv9'), ['conv9']),
    ('network.layers', ('conv1', 'pool', 'fc8'), ["names 'pool'"]),
    ('network.layers', (), ['layers=() is no network']),
    ('network.layers', ('fc8',), ['is no network', 'two or more']),
    ('network.layers', ('conv1', 'conv2'), ['is no network']),
    ('network.layers', ('fc7', 'conv1', 'fc8'), ['is no network']),
    ('network.layers', ('fc7', 'fc7', 'fc8'), ['names a layer twice']),
    ('network.dropout_rate', 1.0, ['1.0', '0..1 (1 excluded)']),
    ('compute_dtype', 'float16', ["compute_dtype='float16'", 'bfloat16']),
    ('optimizer.schedule', 'step', ["schedule='step'", 'plateau']),
    ('optimizer.rule', 'adam', ["rule='adam'", 'momentum, lars']),
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
    ('data.num_train', -1, '0..100000000 (0: all)'),
    ('input.displacement', -1.0, '0..10000 (0: no warp)'),
    ('input.displacement_sigma', 0.0, '0..64 (0 excluded)'),
    ('data.max_unreadable', 1.01, '0..1'),
    ('data.max_pixels', 0, '1..2147483647'),
    ('data.threads', -1, '0..1024 (0: all cores)'),
    ('input.image_size', 0, '1..16384'),
    ('input.crop_chunk', 0, '1..1048576'),
    ('input.pixel_scale', 0.0, '0..1e+38 (0 excluded)'),
    ('optimizer.learning_rate', math.nan, '0..1e+38 (0: nothing is learned)'),
    ('optimizer.learning_rate', math.inf, '0..1e+38 (0: nothing is learned)'),
    ('optimizer.momentum', 1.0, '0..1 (1 excluded)'),
    ('optimizer.base_batch_size', -1, '0..1048576 (0: rates are as given)'),
    ('optimizer.warmup_epochs', -0.5, '0..1e+06 (0: no warm-up)'),
    ('optimizer.polynomial.power', -1.0, '0..1e+06 (0: constant)'),
    ('optimizer.lars.trust_coefficient', 0.0, '0..1e+38 (0 excluded)'),
    ('optimizer.lars.eps', -1e-9, '0..1e+38'),
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
  cifar10, cifar10_four_layer, cifar10_study, fashion_mnist, imagenet,
  imagenet2010, imagenet_large_batch, smoke,
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
  # Those of the plateau rule, LARS and the network are passed on as a whole.
  whole = {
    field.name
    for group in (settings.Plateau, settings.Lars)
    for field in dataclasses.fields(group)
  }
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
    (
      lambda c: c['optimizer']['cosine'].update(warmup_epochs=1.0),
      'cosine.warmup_epochs .* is now called optimizer.warmup_epochs',
    ),
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


@pytest.mark.parametrize(
  ('available', 'overrides', 'used'),
  [(3, {}, 2), (4, {'batch_size': 9}, 2), (4, {'parallelism': 'towers'}, 2)],
)
def test_without_a_choice_the_most_that_fit_are_used(
  available, overrides, used, monkeypatch, caplog
):
  devices = jax.devices()[:available]
  monkeypatch.setattr(jax, 'devices', lambda: devices)
  chosen = _build(devices=0, accumulation=1, **overrides).devices
  assert len(chosen) == used
  (warning,) = caplog.messages
  assert f'Using {used} of {available}' in warning


def test_batch_must_divide_among_devices():
  with pytest.raises(errors.UserError, match=r'=33 .* 2 shares .*=32'):
    _build(batch_size=33, devices=4)


@pytest.mark.parametrize('preset', list(presets.PRESETS))
def test_every_preset_builds_at_its_size(preset):
  module = {
    'small': smoke,
    'study': cifar10_study,
    'four_layer': cifar10_four_layer,
  }
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


def _rates(steps, epochs, **overrides):
  """Returns (rate, bias rate, noise, layers' rates) at each of the steps."""
  schedule = setup.make_schedule(_build(**overrides), epochs)
  state = optimizer.plateau_init()
  return [
    [float(rate) for rate in jax.tree.leaves(schedule(step, state))]
    for step in steps
  ]


# 32 of 512 images per batch: 16 steps per epoch.
_EVERY = range(0, 4 * 16 + 1, 4)
_FOUR_EPOCHS = {'num_epochs': 4, 'optimizer.cosine.end_rate': 0.001}


@pytest.mark.parametrize('schedule', list(setup.SCHEDULES))
def test_every_schedule_scales_with_the_batch_size(schedule):
  chosen = {**_FOUR_EPOCHS, 'optimizer.schedule': schedule}
  plain = _rates(_EVERY, Epochs(16), **chosen)
  given = {'optimizer.base_batch_size': 8}
  scaled = _rates(_EVERY, Epochs(16), **chosen, **given)
  # 32 of 8. The third value is the magnitude of the color shift.
  for rates in plain:
    rates[:] = [4 * r if i != 2 else r for i, r in enumerate(rates)]
  np.testing.assert_allclose(scaled, plain, rtol=1e-6)


@pytest.mark.parametrize('schedule', list(setup.SCHEDULES))
@pytest.mark.parametrize('base', [0, 8])
def test_every_schedule_warms_up(schedule, base):
  chosen = {
    **_FOUR_EPOCHS,
    'optimizer.schedule': schedule,
    'optimizer.base_batch_size': base,
  }
  cold = _rates(_EVERY, Epochs(16), **chosen)
  warm = _rates(_EVERY, Epochs(16), **chosen, **{'optimizer.warmup_epochs': 2})
  start = 8 / 32 if base else 0.0
  for step, before, after in zip(_EVERY, cold, warm, strict=True):
    factor = start + (1 - start) * min(1, step / 32)
    if schedule == 'cosine':
      # It falls from the end of the warm-up to that of the run.
      left = (1 + math.cos(math.pi * max(0, step - 32) / 32)) / 2
      rate = (0.001 + 0.009 * left) * (4 if base else 1)
      before[:2] = [rate, rate]
    expected = [r * (factor if i != 2 else 1) for i, r in enumerate(before)]
    assert after == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_warm_up_goes_on_in_epochs_after_another_batch_size():
  # Ten steps at 32 images, in the first of four epochs of warm-up; then 64.
  chosen = {
    'optimizer.base_batch_size': 32,
    'optimizer.warmup_epochs': 4.0,
    'optimizer.schedule': 'constant',
    'num_epochs': 8,
  }
  epochs = Epochs(16).changed(10, 8)
  assert epochs.at(10) == 1
  places = [epochs.place(step) for step in (10, 18, 26, 34, 42)]
  rates = [row[0] for row in _rates(places, epochs, batch_size=64, **chosen)]
  # From 0.01 to twice that in four epochs, one of which has passed.
  expected = [0.01 * (1 + min(4, epoch) / 4) for epoch in (1, 2, 3, 4, 5)]
  assert rates == pytest.approx(expected)


@pytest.mark.parametrize('schedule', list(setup.SCHEDULES))
def test_warm_up_longer_than_the_run(schedule):
  parts = _build(
    **{
      'optimizer.schedule': schedule,
      'optimizer.warmup_epochs': 5.0,
      'max_steps': 10,
    }
  )
  with pytest.raises(errors.UserError) as caught:
    setup.make_recipe(parts, Epochs(16), np.zeros(3))
  assert str(caught.value) == (
    '--config.optimizer.warmup_epochs=5.0 is 80 steps of a run of 10: set'
    ' --config.optimizer.warmup_epochs to less'
  )


@pytest.mark.parametrize('schedule', list(setup.SCHEDULES))
def test_a_run_beyond_its_end_has_a_schedule(schedule):
  # Epochs became shorter at step 100, and the end was moved before it.
  epochs = Epochs(10).changed(100, 2)
  assert epochs.place(50) < 0
  chosen = {'optimizer.schedule': schedule, 'max_steps': 50}
  (rates,) = _rates([epochs.place(100)], epochs, **chosen)
  assert all(map(math.isfinite, rates))


def _counts(place, **overrides):
  return setup.plateau_rules(_build(**overrides), Epochs(16, -16), place + 16)


def test_the_plateau_rule_counts_where_it_rules():
  for schedule in setup.SCHEDULES:
    chosen = {'optimizer.schedule': schedule}
    assert _counts(1, **chosen) == (schedule == 'plateau')
  # Not before the rate is that of the config.
  warm = {'optimizer.warmup_epochs': 2.0}
  counts = [_counts(16 * epoch, **warm) for epoch in (1, 2, 3)]
  assert counts == [False, False, True]


@pytest.mark.parametrize('num_devices', [2, 4])
def test_a_step_of_lars_on_several_devices(num_devices):
  narrow = {f'network.conv{i}.features': 8 for i in (1, 2, 3, 4, 5)}
  chosen = {
    'optimizer.rule': 'lars',
    'optimizer.schedule': 'constant',
    'optimizer.learning_rate': 10.0,
    'optimizer.rate_multipliers.bias': 0.001,
    'batch_size': 8,
    **narrow,
    'network.layers': ('conv1', 'conv3', 'fc7', 'fc8'),
    'network.fc7.features': 16,
  }
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (8, 28, 28, 3), np.uint8),
    'label': np.arange(8, dtype=np.int32),
    'mask': np.ones(8, np.float32),
    'unreadable': np.zeros(8, np.float32),
    'lighting': np.zeros((8, 3), np.float32),
  }
  params = []
  for devices in (1, num_devices):
    parts = _build(devices=devices, **chosen)
    recipe = setup.make_recipe(parts, Epochs(16), np.zeros(3, np.float32))
    step = train_step.make_train_step(parts.placement, recipe)
    state = setup.first_state(parts)
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(2):
      state, _ = step(state, train_step.put_batch(batch, 1, parts.placement))
    params.append(jax.tree.map(np.asarray, state.params))
  moved = params[0]['conv3']['kernel'] - before['conv3']['kernel']
  # Both towers by 0.01 of their norm, then by that and 0.9 of the first step.
  share = np.linalg.norm(moved) / np.linalg.norm(before['conv3']['kernel'])
  assert 0.01 < share < 0.03
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    *params,
  )


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
      'optimizer.warmup_epochs': 1.0,
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


def test_the_keys_of_a_machine_have_their_defaults():
  config = dict(settings.flatten(imagenet.get_config().to_dict()))
  for key, value in settings.MACHINE_KEYS.items():
    assert config[key] == value


def test_without_a_home_no_programs_are_kept(homeless, monkeypatch, caplog):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  update = {}
  monkeypatch.setattr(jax.config, 'update', update.__setitem__)
  _build()
  (line,) = [line for line in caplog.messages if 'not kept' in line]
  assert '--config.compilation_cache=~/.cache/' in line
  # A folder that the user has named is a mistake of theirs.
  for folder in ('~/programs', 's3://bucket/programs', __file__):
    with pytest.raises(errors.UserError, match=f'compilation_cache={folder}'):
      _build(compilation_cache=folder)
  _build(compilation_cache=f'{__file__.replace("setup_test.py", "new")}')
  assert update['jax_compilation_cache_dir'].endswith('tests/new')


def test_a_group_of_keys_is_no_value():
  config = smoke.get_config().to_dict()
  config['data'] = 5
  with pytest.raises(errors.UserError, match='--config.data=5 is not a group'):
    settings.read(config)
