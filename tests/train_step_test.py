import collections
import dataclasses
import functools
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import optimizer
from alexnet_jax import presets
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense
from alexnet_jax.epochs import Epochs

_CROP = 11
_MEAN = np.array([100.0, 110.0, 120.0], np.float32)
# Two towers as in Figure 2, of 64 units each in fc6 and fc7; five classes.
# Biases of 3 keep the dense units alive, so that zeros are dropout's.
_JOINED = architecture.Architecture(
  layers=(
    Conv(
      'conv1', 8, 3, init_std=0.3, padding=(0, 2),
      order=('activation', 'response_norm', 'pool'),
    ),
    Conv('conv2', 8, 3, init_std=0.3, padding=(1, 1), reads='all'),
    Dense('fc6', 128, init_std=0.03, init_bias=3.0),
    Dense('fc7', 128, init_std=0.05, init_bias=3.0),
    Dense('fc8', 5, init_std=0.1, order=()),
  )
)  # fmt: skip
_APART = dataclasses.replace(
  _JOINED,
  layers=tuple(
    layer if layer.name == 'fc8' else dataclasses.replace(layer, reads='own')
    for layer in _JOINED.layers
  ),
)
_NETWORKS = {
  'joined': _JOINED,
  'apart': _APART,
  'four towers': dataclasses.replace(_JOINED, towers=4),
  'one tower': dataclasses.replace(_JOINED, towers=1),
}


def _place(network, devices):
  """Places a network on devices, given as 4 or as 'one_weird_trick 4'."""
  *parallelism, count = str(devices).split()
  return sharding.place(network, jax.devices()[: int(count)], *parallelism)


def _recipe(network=_JOINED, **fields):
  defaults = {
    'schedule': optimizer.constant_schedule(0.01, 0.1),
    'optimizer': optimizer.momentum_sgd(0.9, 0.0005, 0.0),
    'multipliers': {'bias': 2.0, **{x.name: 1.0 for x in network.layers}},
    'mean': _MEAN,
    'pixel_scale': 1 / 64,
  }
  return train_step.Recipe(**{**defaults, **fields})


def _batch(rows=8, crop=_CROP, classes=5, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (rows, crop, crop, 3), np.uint8),
    'label': rng.integers(0, classes, rows, np.int32),
    'mask': np.ones(rows, np.float32),
    'unreadable': np.zeros(rows, np.float32),
    'lighting': 100 * rng.standard_normal((rows, 3)).astype(np.float32),
  }


def _masked(batch, real):
  """Leaves only the rows `real`; the others hold some other image."""
  mask = np.zeros_like(batch['mask'])
  mask[real] = 1
  return {**batch, 'mask': mask, 'unreadable': 1 - mask}


@functools.cache
def _state(network, devices, crop=_CROP):
  placement = _place(network, devices)
  state = train_state.create(placement, seed=0, crop_size=crop)
  # The step donates its state: keep what it does not reach.
  return jax.tree.map(np.asarray, state)


def _placed(state, placement):
  places = train_state.shardings(placement)
  return jax.device_put(state, places)


@functools.cache
def _compiled_gradient(name, devices, accumulation, bfloat16):
  network = _NETWORKS[name]
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  recipe = _recipe(network, accumulation=accumulation, dtype=dtype)
  placement = _place(network, devices)
  return jax.jit(train_step.make_gradient(placement, recipe))


def _gradient(name, devices, batch, accumulation=1, bfloat16=False):
  network = _NETWORKS[name]
  placement = _place(network, devices)
  # The same numbers on each placement: of the state made on one device.
  state = _placed(_state(network, 1), placement)
  gradient = _compiled_gradient(name, devices, accumulation, bfloat16)
  batch = train_step.put_batch(batch, accumulation, placement)
  gradients, sums = gradient(state.params, batch, state.key, 0.1)
  return jax.tree.map(np.asarray, (gradients, sums))


def _assert_close(actual, expected, tolerance=1e-5):
  """Compares arrays by their largest entry."""

  def check(a, b):
    largest = np.abs(b).max()
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)

  jax.tree.map(check, actual, expected)


@pytest.mark.parametrize(
  ('name', 'devices'),
  [
    ('joined', 4),
    ('joined', 'towers 2'),
    ('joined', 'data 4'),
    ('joined', 'one_weird_trick 2'),
    ('joined', 'one_weird_trick 4'),
    ('apart', 2),
    ('apart', 'data 3'),
    ('four towers', 2),
    ('four towers', 'towers 2'),
    ('four towers', 'one_weird_trick 2'),
    ('one tower', 4),
    ('one tower', 'one_weird_trick 4'),
  ],
)
def test_gradients_do_not_depend_on_the_devices(name, devices):
  # Rows 2 and 7 are masked: on four devices one in each half of the batch.
  rows = 9 if devices == 'data 3' else 8
  batch = _masked(_batch(rows), [0, 1, 3, 4, 5, 6])
  expected, expected_sums = _gradient(name, 1, batch)
  actual, sums = _gradient(name, devices, batch)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(expected))
  _assert_close(actual, expected)
  np.testing.assert_allclose(sums.nll, expected_sums.nll, rtol=1e-5)
  assert sums.examples == expected_sums.examples == 6
  assert sums.unreadable == expected_sums.unreadable == rows - 6
  np.testing.assert_allclose(sums.top1, expected_sums.top1, rtol=1e-6)


@pytest.mark.parametrize('devices', [4, 'one_weird_trick 4'])
def test_bfloat16_gradients_do_not_depend_on_the_devices(devices):
  # Half a gradient, or twice one, is farther off than any rounding.
  expected, _ = _gradient('joined', 1, _batch(), bfloat16=True)
  actual, _ = _gradient('joined', devices, _batch(), bfloat16=True)
  _assert_close(actual, expected, tolerance=0.05)


@pytest.mark.parametrize('devices', [4, 'one_weird_trick 4'])
def test_initial_state_does_not_depend_on_the_devices(devices):
  one, other = _state(_JOINED, 1), _state(_JOINED, devices)
  jax.tree.map(np.testing.assert_array_equal, other, one)
  assert (one.step, one.validated, one.bad_step) == (0, -1, -1)


@pytest.mark.parametrize(
  ('devices', 'pieces'),
  [(1, 4), (4, 2), ('data 4', 2), ('one_weird_trick 4', 2)],
)
def test_accumulation_changes_nothing(devices, pieces):
  # One piece has no example at all when there are four.
  batch = _masked(_batch(), [0, 1, 3, 4, 5])
  expected, expected_sums = _gradient('joined', 1, batch)
  actual, sums = _gradient('joined', devices, batch, accumulation=pieces)
  _assert_close(actual, expected)
  assert sums.examples == 5
  np.testing.assert_allclose(sums.nll, expected_sums.nll, rtol=1e-5)


def test_masked_rows_leave_the_gradient_of_the_real_ones():
  real = [0, 2, 3, 6, 7]
  actual, sums = _gradient('joined', 1, _masked(_batch(), real))
  # The real rows alone, at the places that they have in the whole batch.
  placement = _place(_JOINED, 1)
  alone = train_step.put_batch(
    {name: value[real] for name, value in _batch().items()}, 1, placement
  )
  alone = {**alone, 'position': jnp.array([real], jnp.int32)}
  state = _placed(_state(_JOINED, 1), placement)
  gradient = _compiled_gradient('joined', 1, 1, False)
  expected, expected_sums = gradient(state.params, alone, state.key, 0.1)
  _assert_close(actual, jax.tree.map(np.asarray, expected))
  np.testing.assert_allclose(sums.nll, expected_sums.nll, rtol=1e-5)
  assert sums.examples == expected_sums.examples == 5


def test_a_batch_of_masked_rows_alone_has_no_gradient():
  gradients, sums = _gradient('joined', 4, _masked(_batch(), []))
  assert not any(g.any() for g in jax.tree.leaves(gradients))
  assert (sums.examples, sums.nll) == (0, 0)


@functools.cache
def _step(devices):
  recipe = _recipe(log_every=2, epochs=Epochs(3))
  return train_step.make_train_step(_place(_JOINED, devices), recipe)


def _dropped(devices, step, row):
  """Returns which units of fc6 and of fc7 one row of one step loses.

  With one example in the batch, the gradient of a layer's weights is an outer
  product, whose rows are zero where the layer reads a zero.
  """
  placement = _place(_JOINED, devices)
  state = _state(_JOINED, 1).replace(step=np.int32(step))
  batch = _masked(_batch(), [row])
  batch = train_step.put_batch(batch, 1, placement)
  after, _ = _step(devices)(_placed(state, placement), batch)
  masks = {}
  for name, below in (('fc7', 'fc6'), ('fc8', 'fc7')):
    # From rest, v = -0.01 (g + 0.0005 w).
    decay = 0.01 * 0.0005 * state.params[name]['kernel']
    gradient = np.abs(after.velocity[name]['kernel'] + decay).max(axis=-1)
    assert gradient.max() > 1e-6
    # Both towers read all 128 units, so both must see the same zeros.
    zeros = gradient < 1e-9
    np.testing.assert_array_equal(zeros[0], zeros[1])
    masks[below] = zeros[0]
  return masks


@pytest.mark.parametrize('devices', [2, 4, 'data 4', 'one_weird_trick 4'])
def test_masks_do_not_depend_on_the_devices(devices):
  # With four devices, row 5 is on the second copy of the network.
  expected = _dropped(1, step=3, row=5)
  actual = _dropped(devices, step=3, row=5)
  for layer in ('fc6', 'fc7'):
    np.testing.assert_array_equal(actual[layer], expected[layer])


def test_masks_differ_between_towers_layers_rows_and_steps():
  masks = [_dropped(2, step, row) for step, row in ((3, 5), (3, 4), (4, 5))]
  halves = [half for m in masks for layer in m.values() for half in (
    layer[:64], layer[64:],
  )]  # fmt: skip
  assert len(halves) == 12
  for half in halves:
    assert 16 < half.sum() < 48
  # 64 fair coins: any two lists agree in about half of the places.
  for i, one in enumerate(halves):
    for other in halves[:i]:
      assert 12 < (one != other).sum() < 52


@functools.cache
def _trained(devices):
  """Three steps, of which the last with half the rows masked."""
  placement = _place(_JOINED, devices)
  step = _step(devices)
  state = _placed(_state(_JOINED, 1), placement)
  losses = []
  for i in range(3):
    batch = _batch(seed=i)
    batch = _masked(batch, [0, 3, 4, 6]) if i == 2 else batch
    state, loss = step(state, train_step.put_batch(batch, 1, placement))
    losses.append(float(loss))
  return jax.tree.map(np.asarray, state), losses, step._cache_size()


@pytest.mark.parametrize('devices', [2, 4, 'data 4', 'one_weird_trick 4'])
def test_three_steps_do_not_depend_on_the_devices(devices):
  expected, expected_losses, _ = _trained(1)
  state, losses, _ = _trained(devices)
  assert losses == pytest.approx(expected_losses, rel=1e-5)
  assert len(set(losses)) == 3
  _assert_close(state.params, expected.params)
  _assert_close(state.velocity, expected.velocity)
  assert state.step == 3
  assert state.bad_step == -1


@pytest.mark.parametrize('devices', [1, 2, 4, 'data 4', 'one_weird_trick 4'])
def test_the_step_compiles_once(devices):
  assert _trained(devices)[2] == 1


@pytest.mark.parametrize('devices', [1, 4])
def test_sums_since_the_last_line_and_of_the_epoch(devices):
  state, losses, _ = _trained(devices)
  # Windows hold two steps: the third began a new one.
  assert (state.window.examples, state.epoch.examples) == (4, 20)
  assert (state.window.unreadable, state.epoch.unreadable) == (4, 4)
  assert state.window.nll == pytest.approx(4 * losses[2], rel=1e-6)
  total = 8 * losses[0] + 8 * losses[1] + 4 * losses[2]
  assert state.epoch.nll == pytest.approx(total, rel=1e-6)


def test_the_update_is_that_of_the_gradient():
  # One step from rest: v = -0.01 (g + 0.0005 w), twice that for biases
  # without the decay; the loss is the mean over examples.
  placement = _place(_JOINED, 4)
  before = _state(_JOINED, 1)
  batch = train_step.put_batch(_batch(), 1, placement)
  state, loss = _step(4)(_placed(before, placement), batch)
  key = jax.random.fold_in(jax.random.wrap_key_data(before.key), 0)
  gradients, sums = _compiled_gradient('joined', 4, 1, False)(
    _placed(before, placement).params, batch, jax.random.key_data(key), 0.1
  )
  assert float(loss) == pytest.approx(float(sums.nll) / 8, rel=1e-6)
  for name, layer in before.params.items():
    g = jax.tree.map(np.asarray, gradients[name])
    weights = -0.01 * (g['kernel'] + 0.0005 * layer['kernel'])
    expected = {'kernel': weights, 'bias': -0.02 * g['bias']}
    _assert_close(state.velocity[name], expected)
    moved = {k: layer[k] + expected[k] for k in layer}
    _assert_close(state.params[name], moved, 1e-6)


def test_bfloat16_arithmetic_leaves_parameters_float32():
  exact, exact_sums = _gradient('joined', 1, _batch())
  rounded, sums = _gradient('joined', 1, _batch(), bfloat16=True)
  assert {g.dtype for g in jax.tree.leaves(rounded)} == {np.dtype('float32')}
  assert sums.nll != exact_sums.nll
  np.testing.assert_allclose(sums.nll, exact_sums.nll, rtol=0.02)
  for name in exact:
    difference = rounded[name]['kernel'] - exact[name]['kernel']
    size = np.linalg.norm(exact[name]['kernel'])
    assert np.linalg.norm(difference) < 0.25 * size
  placement = _place(_JOINED, 2)
  recipe = _recipe(dtype=jnp.bfloat16)
  step = train_step.make_train_step(placement, recipe)
  before = _state(_JOINED, 1)
  after, _ = jax.eval_shape(
    step, before, train_step.put_batch(_batch(), 1, placement)
  )
  dtypes = jax.tree.map(lambda x: x.dtype, (before, after))
  assert dtypes[0] == dtypes[1]


# Without dropout, pooling and normalization, for what does not concern them.
_PLAIN = architecture.Architecture(
  layers=(
    Conv('conv1', 8, 3, init_std=0.3, padding=(0, 2), order=('activation',)),
    Dense('fc8', 5, init_std=0.1, order=()),
  )
)


def test_division_by_the_noise():
  # (x - mean + 0.25 s) / 64 / 1.25, by way of another mean and scale. One
  # shift for all rows, which the mean can stand in for.
  placement = _place(_PLAIN, 1)
  state = _state(_PLAIN, 1)
  batch = _batch()
  batch['lighting'] = np.tile(np.float32([40, -20, 12]), (8, 1))

  batch = train_step.put_batch(batch, 1, placement)
  batch = {name: value[0] for name, value in batch.items()}

  def nll(noises, **fields):
    recipe = _recipe(_PLAIN, **fields)
    loss = jax.jit(train_step.make_loss(placement, recipe))
    return [
      float(loss(state.params, batch, state.key, jnp.float32(noise))[0])
      for noise in noises
    ]

  divided, undivided = nll([0.25, 0.0], divide_by_noise=True)
  plain, without_noise = nll([0.25, 0.0])
  (by_hand,) = nll(
    [0.0], mean=_MEAN - np.float32([10, -5, 3]), pixel_scale=1 / 80
  )
  assert divided == pytest.approx(by_hand, rel=1e-6)
  assert divided != pytest.approx(plain, rel=1e-4)
  # Without noise there is nothing to make up for.
  assert undivided == without_noise


@pytest.mark.parametrize('devices', [1, 4])
def test_the_first_loss_that_is_no_number_is_kept(devices):
  placement = _place(_JOINED, devices)
  state = _placed(_state(_JOINED, 1), placement)
  step = _step(devices)
  bad = _batch()
  bad['lighting'][6] = np.inf
  seen = []
  for batch in (_batch(), bad, _batch(), bad):
    state, loss = step(state, train_step.put_batch(batch, 1, placement))
    seen.append((bool(np.isfinite(loss)), int(state.bad_step)))
  assert seen == [(True, -1), (False, 1), (False, 1), (False, 1)]


def test_put_batch():
  placement = _place(_JOINED, 4)
  batch = _batch()
  arrays = train_step.put_batch(batch, 2, placement)
  np.testing.assert_array_equal(
    arrays['position'], [[0, 1, 2, 3], [4, 5, 6, 7]]
  )
  for name, value in batch.items():
    assert arrays[name].shape == (2, 4, *value.shape[1:])
    assert arrays[name].dtype == value.dtype
    np.testing.assert_array_equal(np.concatenate(list(arrays[name])), value)
  # Two copies of the network: half of every piece on each.
  shards = arrays['label'].addressable_shards
  assert [shard.data.shape for shard in shards] == [(2, 2)] * 4


_COLLECTIVE = re.compile(
  r' = (\(.*?\)|\S+) (all-gather|all-reduce|reduce-scatter|all-to-all'
  r'|ragged-all-to-all|collective-permute|collective-broadcast|send|recv)'
  r'(?:-start)?\(.*'
)
_BYTES = {'f32': 4}


def _groups(line):
  """Returns the groups of devices among which a collective works."""
  listed = re.search(r'replica_groups=\{(\{.*?\})\}', line)
  if listed:
    return [
      [int(n) for n in group.split(',')]
      for group in re.findall(r'\{([\d,]+)\}', listed[1])
    ]
  # As mesh['data'=2,'tower'=2] {'tower'}: the axes, and those joined.
  axes, joined = re.search(
    r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', line
  ).groups()
  sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes))
  ids = np.arange(math.prod(map(int, sizes.values())))
  ids = ids.reshape([int(size) for size in sizes.values()])
  last = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", joined)]
  first = [axis for axis in range(ids.ndim) if axis not in last]
  group = math.prod(ids.shape[axis] for axis in last)
  return ids.transpose(first + last).reshape(-1, group).tolist()


def _collectives(name, devices, rows_per_device):
  """Compiles, never runs, a preset's step, and returns what it exchanges.

  Returns:
    A list of (kind, shapes of the results, groups).
  """
  network = presets.get(name)
  placement = _place(network, devices)
  state = jax.eval_shape(
    lambda: train_state.create(placement, seed=0, crop_size=224)
  )
  state = jax.tree.map(
    lambda place, part: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), part
    ),
    train_state.shardings(placement),
    state,
  )
  place = NamedSharding(placement.mesh, placement.rows(axis=1))
  # Stands in for a large array: put_batch would make one.
  rows = rows_per_device * placement.mesh.shape['data']
  shapes = {**_batch(rows, crop=1), 'position': np.zeros(rows, np.int32)}
  batch = {
    key: jax.ShapeDtypeStruct(
      (1, rows, 224, 224, 3) if key == 'image' else (1, *value.shape),
      value.dtype,
      sharding=place,
    )
    for key, value in shapes.items()
  }
  step = train_step.make_train_step(placement, _recipe(network))
  text = step.lower(state, batch).compile().as_text()
  found = []
  for match in _COLLECTIVE.finditer(text):
    shapes = [
      (dtype, *(int(n) for n in sides.split(',') if n))
      for dtype, sides in re.findall(r'([a-z]+\d+)\[([\d,]*)\]', match[1])
    ]
    found.append((match[2], shapes, _groups(match[0])))
  return found


def _counted(collectives):
  """Returns how often each (kind, shape) occurs."""
  return collections.Counter(
    (kind, shape) for kind, shapes, _ in collectives for shape in shapes
  )


# The joins of Figure 2, for two images: all maps before conv3, fc6, fc7 and
# fc8, and the logits; backwards, each tower gets the gradient of its own half.
# That of the logits is a slice, since both towers hold the whole loss. Towers
# are the leading axis, of which a scattered gradient keeps one.
_JOINS = {
  ('all-gather', ('f32', 2, 2, 13, 13, 128)): 1,
  ('all-gather', ('f32', 2, 2, 6, 6, 128)): 1,
  ('all-gather', ('f32', 2, 2, 2048)): 2,
  ('all-gather', ('f32', 2, 2, 500)): 1,
  ('reduce-scatter', ('f32', 1, 2, 13, 13, 128)): 1,
  ('reduce-scatter', ('f32', 1, 2, 6, 6, 128)): 1,
  ('reduce-scatter', ('f32', 1, 2, 2048)): 2,
}


def test_two_devices_talk_where_figure_2_says_and_nowhere_else():
  collectives = _collectives('paper', 2, rows_per_device=2)
  assert _counted(collectives) == _JOINS
  assert all(groups == [[0, 1]] for _, _, groups in collectives)
  # A tower sends its half of each join and, backwards, the other tower's.
  sent = 0
  for kind, shapes, _ in collectives:
    for dtype, *sides in shapes:
      half = 2 if kind == 'all-gather' else 1
      sent += math.prod(sides) * _BYTES[dtype] // half
  forward = 13 * 13 * 128 + 6 * 6 * 128 + 2048 + 2048 + 500
  backward = 13 * 13 * 128 + 6 * 6 * 128 + 2048 + 2048
  assert (forward, backward) == (30_836, 30_336)
  # 61,172 floats an image and tower.
  assert sent == 2 * 4 * 61_172


def test_four_devices_add_gradients_over_copies_of_the_network():
  collectives = _collectives('paper', 4, rows_per_device=2)
  # Devices 0 and 1 are one copy, 2 and 3 the other.
  joins = [c for c in collectives if c[2] == [[0, 1], [2, 3]]]
  assert _counted(joins) == _JOINS
  sums = [c for c in collectives if c not in joins]
  assert {kind for kind, _, _ in sums} == {'all-reduce'}
  assert all(groups == [[0, 2], [1, 3]] for _, _, groups in sums)
  # A tower's half of all gradients, and five metrics.
  floats = sum(
    math.prod(shape[1:]) for _, shapes, _ in sums for shape in shapes
  )
  assert floats == 60_965_224 // 2 + 5


def test_towers_without_communication_meet_at_the_classifier():
  collectives = _collectives('no_communication', 2, rows_per_device=2)
  assert _counted(collectives) == {
    ('all-gather', ('f32', 2, 2, 2048)): 1,
    ('all-gather', ('f32', 2, 2, 500)): 1,
    ('reduce-scatter', ('f32', 1, 2, 2048)): 1,
  }


def test_bfloat16_gradients_are_those_of_float32():
  # At the start of training, of convolutions. If every tied maximum got the
  # whole gradient in bfloat16, conv1's norm would be 1.09 times as large.
  network = presets.paper()
  kept = [x for x in network.layers if x.name in ('conv1', 'conv2', 'conv5')]
  kept = [dataclasses.replace(layer, features=96) for layer in kept]
  fc8 = dataclasses.replace(network.layers[-1], features=100)
  network = dataclasses.replace(network, layers=(*kept, fc8))
  placement = _place(network, 1)
  state = _placed(_state(network, 1, crop=67), placement)
  # Images as smooth as photographs, whose neighbors tie more often than noise.
  batch = _batch(crop=67, classes=100)
  coarse = np.random.default_rng(1).uniform(0, 255, (8, 8, 8, 3))
  smooth = jax.image.resize(coarse, (8, 67, 67, 3), 'cubic')
  batch['image'] = np.asarray(smooth.clip(0, 255), np.uint8)
  batch = train_step.put_batch(batch, 1, placement)
  exact, rounded = (
    jax.jit(
      train_step.make_gradient(
        placement, _recipe(network, pixel_scale=1.0, dtype=dtype)
      )
    )(state.params, batch, state.key, 0.0)[0]
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  for layer in kept:
    a, b = (
      np.asarray(gradient[layer.name]['kernel'], np.float64)
      for gradient in (exact, rounded)
    )
    norms = np.linalg.norm(a), np.linalg.norm(b)
    assert norms[1] / norms[0] == pytest.approx(1, abs=0.03), layer
    assert np.sum(a * b) / math.prod(norms) > 0.98, layer


def test_first_steps_of_the_small_network():
  network = presets.small()
  placement = _place(network, 2)
  recipe = _recipe(
    network,
    schedule=optimizer.constant_schedule(0.02, 0.1),
    mean=np.full(3, 127.5, np.float32),
    pixel_scale=1 / 64,
  )
  step = train_step.make_train_step(placement, recipe)
  state = train_state.create(placement, seed=0, crop_size=28)
  # Numbers from a formula, not from a generator that may change.
  pixels = np.arange(8 * 28 * 28 * 3) ** 2 % 251
  batch = {
    **_batch(),
    'image': pixels.reshape(8, 28, 28, 3).astype(np.uint8),
    'label': np.arange(8, dtype=np.int32),
    'lighting': np.arange(24, dtype=np.float32).reshape(8, 3) - 12,
  }
  losses = []
  for _ in range(3):
    state, loss = step(state, train_step.put_batch(batch, 1, placement))
    losses.append(float(loss))
  # A state that `create` made lies as the step leaves it: one compilation.
  assert step._cache_size() == 1
  assert losses == pytest.approx([4.226127, 4.385570, 3.316253], abs=1e-4)


def test_all_compiler_optimizations_change_nothing(monkeypatch):
  # The other tests skip most of them, for time; see conftest.py.
  expected, losses, _ = _trained(2)
  _trained.cache_clear()
  _step.cache_clear()
  if 'use_fusion_emitters' in os.environ.get('XLA_FLAGS', ''):
    original, emitters = (
      sharding.compiler_options,
      'xla_cpu_use_fusion_emitters',
    )
    monkeypatch.setattr(
      sharding,
      'compiler_options',
      lambda *given: {**original(*given), emitters: True},
    )
  option = 'jax_disable_most_optimizations'
  before = jax.config.values[option]
  jax.config.update(option, False)
  try:
    optimized, optimized_losses, _ = _trained(2)
  finally:
    jax.config.update(option, before)
    _trained.cache_clear()
    _step.cache_clear()
  assert optimized_losses == pytest.approx(losses, rel=1e-5)
  _assert_close(optimized.params, expected.params)
  _assert_close(optimized.velocity, expected.velocity)


def test_the_step_runs_without_tensorflow():
  root = pathlib.Path(__file__).resolve().parents[1]
  program = """
import sys
sys.modules['tensorflow'] = None  # makes `import tensorflow` fail
from alexnet_jax import metrics, model, optimizer, presets, train_step, views
"""
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
