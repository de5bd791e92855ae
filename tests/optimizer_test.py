import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import optimizer
from alexnet_jax import sharding
from configs import imagenet

_LAYERS = ('conv1', 'conv2', 'fc8')
_ONES = {'bias': 1.0, **dict.fromkeys(_LAYERS, 1.0)}


def _params(seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: {
      'kernel': rng.standard_normal((2, 3, 4)).astype(np.float32),
      'bias': rng.standard_normal((2, 4)).astype(np.float32),
    }
    for name in _LAYERS
  }


def _rates(rate, bias_rate=None, **layer_rates):
  return optimizer.Rates(
    jnp.float32(rate),
    jnp.float32(rate if bias_rate is None else bias_rate),
    jnp.float32(0),
    {name: jnp.float32(value) for name, value in layer_rates.items()},
  )


def _run(rule, steps, multipliers=None):
  """Returns parameters and velocity after the steps' (rates, gradients)."""
  params = _params()
  velocity = rule.init(params)
  update = jax.jit(rule.update)
  for rates, gradients in steps:
    tree = optimizer.rate_tree(params, rates, multipliers or _ONES)
    updates, velocity = update(gradients, velocity, params, rates=tree)
    params = optax.apply_updates(params, updates)
  return params, velocity


def _steps(rates):
  return [(_rates(rate), _params(seed=9 + i)) for i, rate in enumerate(rates)]


_DROP = [0.01] * 10 + [0.001] * 10


def _paper(rates, momentum, decay, bias_decay):
  """Section 5: v <- 0.9 v - 0.0005 e w - e g; w <- w + v. In float64."""
  w = jax.tree.map(lambda x: x.astype(np.float64), _params())
  v = jax.tree.map(np.zeros_like, w)
  for (_, g), e in zip(_steps(rates), rates, strict=True):
    for layer in w:
      for name in w[layer]:
        d = bias_decay if name == 'bias' else decay
        old = v[layer][name]
        v[layer][name] = (
          momentum * old - d * e * w[layer][name] - e * g[layer][name]
        )
        w[layer][name] = w[layer][name] + v[layer][name]
  return w, v


def _all_close(actual, expected, rtol):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=rtol, atol=rtol * np.abs(b).max()
    ),
    actual,
    expected,
  )


@pytest.mark.parametrize(
  ('decay', 'bias_decay'), [(0.0005, 0.0), (0.3, 0.0), (0.3, 0.2)]
)
def test_the_papers_rule_over_a_drop_of_the_rate(decay, bias_decay):
  rule = optimizer.momentum_sgd(0.9, decay, bias_decay)
  params, velocity = _run(rule, _steps(_DROP))
  w, v = _paper(_DROP, 0.9, decay, bias_decay)
  _all_close(params, w, 1e-6)
  _all_close(velocity, v, 1e-5)


def _run_optax(transform, rates):
  """Runs a transformation whose learning rate can be set from outside."""
  params = _params()
  state = transform.init(params)
  for (_, gradients), rate in zip(_steps(rates), rates, strict=True):
    state.hyperparams['learning_rate'] = jnp.float32(rate)
    updates, state = transform.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params


def _only_weights(params):
  return {name: {'kernel': True, 'bias': False} for name in params}


@optax.inject_hyperparams
def _rate_outside(learning_rate):
  decay = optax.add_decayed_weights(0.3, _only_weights)
  return optax.chain(decay, optax.sgd(learning_rate, momentum=0.9))


@optax.inject_hyperparams
def _rate_inside(learning_rate):
  return optax.chain(
    optax.add_decayed_weights(0.3, _only_weights),
    optax.scale_by_learning_rate(learning_rate),
    optax.trace(0.9),
  )


def test_against_optax():
  rule = optimizer.momentum_sgd(0.9, 0.3, 0.0)
  constant = [0.01] * 8
  expected, _ = _run(rule, _steps(constant))
  # While the rate stands still, it does not matter where it is.
  for transform in (_rate_inside(0.01), _rate_outside(0.01)):
    _all_close(_run_optax(transform, constant), expected, 1e-6)
  # Once it drops, steps already under way go on at their size only if it is
  # inside the velocity.
  drop = [0.01] * 5 + [0.001] * 3
  expected, _ = _run(rule, _steps(drop))
  _all_close(_run_optax(_rate_inside(0.01), drop), expected, 1e-6)
  other = _run_optax(_rate_outside(0.01), drop)
  apart = np.abs(other['fc8']['kernel'] - expected['fc8']['kernel']).max()
  assert apart > 0.01


def _in_one_formula(momentum, decay, bias_decay, multipliers, steps):
  """The rule as one expression per parameter, and the rule for a rate of 0."""
  params = _params()
  velocity = jax.tree.map(jnp.zeros_like, params)

  def update(path, v, g, w, rate):
    d = bias_decay if path[-1].key == 'bias' else decay
    return jnp.where(rate > 0, momentum * v - d * rate * w - rate * g, v)

  for rates, gradients in steps:
    tree = optimizer.rate_tree(params, rates, multipliers)
    velocity = jax.tree_util.tree_map_with_path(
      update, velocity, gradients, params, tree
    )
    params = jax.tree.map(
      lambda w, v, rate: jnp.where(rate > 0, w + v, w), params, velocity, tree
    )
  return params, velocity


def test_the_chain_is_the_formula_but_for_rounding():
  # Weights and gradients are weighted and added before they are scaled, the
  # formula scales them first: the two differ in the last bits.
  multipliers = {**_ONES, 'bias': 2.0, 'fc8': 10.0}
  steps = [
    (_rates(rate, conv1=0.5 * rate * (i < 15)), _params(seed=9 + i))
    for i, rate in enumerate(_DROP)
  ]
  rule = optimizer.momentum_sgd(0.9, 0.0005, 0.2)
  actual = _run(rule, steps, multipliers)
  expected = _in_one_formula(0.9, 0.0005, 0.2, multipliers, steps)
  _all_close(actual, expected, 3e-7)


def test_momentum_goes_on_at_its_old_size_after_a_drop():
  # A gradient of 1, then none: v = -0.01, then 0.9 v whatever the rate.
  ones = jax.tree.map(np.ones_like, _params())
  zeros = jax.tree.map(np.zeros_like, _params())
  rule = optimizer.momentum_sgd(0.9, 0.0, 0.0)
  steps = [(_rates(0.01), ones), (_rates(1e-5), zeros)]
  _, velocity = _run(rule, steps)
  np.testing.assert_allclose(velocity['fc8']['kernel'], -0.009, rtol=1e-6)


def test_decay_spares_biases_unless_told():
  zeros = jax.tree.map(np.zeros_like, _params())
  before = _params()['conv2']
  spared, _ = _run(
    optimizer.momentum_sgd(0.9, 0.5, 0.0), [(_rates(0.1), zeros)]
  )
  np.testing.assert_array_equal(spared['conv2']['bias'], before['bias'])
  np.testing.assert_allclose(
    spared['conv2']['kernel'], 0.95 * before['kernel'], rtol=1e-6
  )
  told, _ = _run(optimizer.momentum_sgd(0.9, 0.5, 0.2), [(_rates(0.1), zeros)])
  np.testing.assert_allclose(
    told['conv2']['bias'], 0.98 * before['bias'], rtol=1e-6
  )


def test_biases_at_twice_the_rate():
  multipliers = {**_ONES, 'bias': 2.0, 'fc8': 10.0}
  tree = optimizer.rate_tree(_params(), _rates(0.01), multipliers)
  rates = {
    layer: {name: pytest.approx(float(rate)) for name, rate in values.items()}
    for layer, values in tree.items()
  }
  assert rates == {
    'conv1': {'kernel': 0.01, 'bias': 0.02},
    'conv2': {'kernel': 0.01, 'bias': 0.02},
    'fc8': {'kernel': 0.1, 'bias': 0.2},
  }


def test_rates_of_a_layer_and_of_biases():
  rates = _rates(1e-3, 1e-2, conv1=1e-4)
  tree = optimizer.rate_tree(_params(), rates, _ONES)
  assert float(tree['conv1']['kernel']) == pytest.approx(1e-4)
  assert float(tree['conv1']['bias']) == pytest.approx(1e-2)
  assert float(tree['conv2']['kernel']) == pytest.approx(1e-3)
  assert float(tree['conv2']['bias']) == pytest.approx(1e-2)
  # Freezing a layer stops its biases, and no other layer's.
  rates = _rates(1e-3, 1e-2, conv2=0.0)
  tree = optimizer.rate_tree(_params(), rates, _ONES)
  assert float(tree['conv2']['kernel']) == float(tree['conv2']['bias']) == 0
  assert float(tree['conv1']['kernel']) == pytest.approx(1e-3)
  assert float(tree['conv1']['bias']) == pytest.approx(1e-2)
  # So does a multiplier of 0.
  tree = optimizer.rate_tree(_params(), _rates(1e-3), {**_ONES, 'fc8': 0.0})
  assert float(tree['fc8']['kernel']) == float(tree['fc8']['bias']) == 0
  assert float(tree['conv1']['bias']) == pytest.approx(1e-3)


@pytest.mark.parametrize(
  'rule',
  [
    optimizer.momentum_sgd(0.9, 0.3, 0.2),
    optimizer.lars(0.9, 0.3, 0.2, 0.02, 0.0),
  ],
  ids=['momentum', 'lars'],
)
def test_a_rate_of_zero_freezes_weights_and_velocity(rule):
  moving = (_rates(0.01), _params(seed=1))
  frozen = (_rates(0.01, conv1=0.0), _params(seed=2))
  params, velocity = _run(rule, [moving])
  later_params, later_velocity = _run(rule, [moving, frozen, frozen])
  for name in ('kernel', 'bias'):
    # There is momentum to coast on: conv1 must not.
    assert np.abs(velocity['conv1'][name]).min() > 0
    for before, after in (
      (params, later_params),
      (velocity, later_velocity),
    ):
      np.testing.assert_array_equal(after['conv1'][name], before['conv1'][name])
      assert (after['conv2'][name] != before['conv2'][name]).any()


def test_a_thawed_layer_goes_on_with_the_velocity_it_had():
  rule = optimizer.momentum_sgd(0.9, 0.0, 0.0)
  zeros = jax.tree.map(np.zeros_like, _params())
  moving = (_rates(0.01), _params(seed=1))
  _, velocity = _run(rule, [moving])
  frozen = (_rates(0.01, conv1=0.0), _params(seed=2))
  _, thawed = _run(rule, [moving, frozen, (_rates(0.01), zeros)])
  np.testing.assert_allclose(
    thawed['conv1']['kernel'], 0.9 * velocity['conv1']['kernel'], rtol=1e-6
  )


_LARS = {'trust_coefficient': 0.02, 'eps': 0.0}


@pytest.mark.parametrize('eps', [0.0, 0.5])
def test_lars_at_a_constant_rate_is_that_of_optax(eps):
  rule = optimizer.lars(0.9, 0.3, 0.0, 0.02, eps)
  given = optax.lars(
    2.0, 0.3, _only_weights, 0.02, eps, _only_weights, momentum=0.9
  )
  steps = _steps([2.0] * 6)
  # Compiled, XLA would round the two differently.
  with jax.disable_jit():
    actual, _ = _run(rule, steps)
    expected = _params()
    state = given.init(expected)
    for _, gradients in steps:
      updates, state = given.update(gradients, state, expected)
      expected = optax.apply_updates(expected, updates)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def _lars(rates, momentum, decay, bias_decay, trust_coefficient, eps):
  """One local rate per layer, for the weights of both towers. In float64."""
  w = jax.tree.map(lambda x: x.astype(np.float64), _params())
  v = jax.tree.map(np.zeros_like, w)
  for (_, g), rate in zip(_steps(rates), rates, strict=True):
    for layer in w:
      for name in w[layer]:
        weights = w[layer][name]
        local = 1.0
        u = (
          g[layer][name] + (decay if name == 'kernel' else bias_decay) * weights
        )
        if name == 'kernel':
          norms = [np.sqrt((x * x).sum()) for x in (weights, u)]
          local = trust_coefficient * norms[0] / (norms[1] + eps)
        v[layer][name] = momentum * v[layer][name] - rate * local * u
        w[layer][name] = weights + v[layer][name]
  return w, v


@pytest.mark.parametrize('eps', [0.0, 0.5])
def test_lars_against_a_plain_reference(eps):
  rates = [0.2 * i for i in range(1, 11)] + [2 * (1 - i / 10) for i in range(9)]
  numbers = (0.9, 0.3, 0.2, 0.02, eps)
  params, velocity = _run(optimizer.lars(*numbers), _steps(rates))
  w, v = _lars(rates, *numbers)
  _all_close(params, w, 1e-5)
  _all_close(velocity, v, 1e-5)


def test_lars_moves_weights_by_a_fraction_of_their_norm():
  # Whatever the gradient's scale; biases move by it.
  rule = optimizer.lars(0.9, 0.0, 0.0, 0.001, 0.0)
  before = _params()
  for scale in (1e-4, 1.0, 1e4):
    gradients = jax.tree.map(lambda x, s=scale: s * x, _params(seed=3))
    after, _ = _run(rule, [(_rates(10.0), gradients)])
    moved = after['conv2']['kernel'] - before['conv2']['kernel']
    norm = np.linalg.norm(before['conv2']['kernel'])
    assert np.linalg.norm(moved) == pytest.approx(0.01 * norm, rel=1e-4)
    np.testing.assert_allclose(
      after['conv2']['bias'] - before['conv2']['bias'],
      -10 * gradients['conv2']['bias'],
      rtol=1e-3,
      atol=1e-6,
    )


def test_lars_without_weights_or_gradients_is_the_plain_rule():
  zeros = jax.tree.map(np.zeros_like, _params())
  rule = optimizer.lars(0.9, 0.0, 0.0, 0.001, 0.0)
  still, velocity = _run(rule, [(_rates(1.0), zeros)])
  jax.tree.map(np.testing.assert_array_equal, still, _params())
  jax.tree.map(np.testing.assert_array_equal, velocity, zeros)
  gradients = _params(seed=3)
  tree = optimizer.rate_tree(zeros, _rates(0.5), _ONES)
  updates, _ = rule.update(gradients, rule.init(zeros), zeros, rates=tree)
  expected = jax.tree.map(lambda g: -0.5 * g, gradients)
  jax.tree.map(np.testing.assert_array_equal, updates, expected)


@pytest.mark.parametrize('num_devices', [2, 4])
def test_lars_over_devices_is_lars_on_one(num_devices):
  # As in training: each device holds its towers, and norms are of all.
  towers = 2
  grid = np.array(jax.devices()[:num_devices]).reshape(-1, towers)
  mesh = jax.sharding.Mesh(grid, (sharding.DATA, sharding.TOWER))
  by_tower = jax.sharding.PartitionSpec(sharding.TOWER)
  place = jax.sharding.NamedSharding(mesh, by_tower)
  rule = optimizer.lars(0.9, 0.3, 0.2, **_LARS)
  params = jax.device_put(_params(), place)
  velocity = jax.device_put(rule.init(params), place)
  update = jax.jit(rule.update, out_shardings=place)
  steps = _steps([2.0, 1.0, 0.5])
  for rates, gradients in steps:
    tree = optimizer.rate_tree(params, rates, _ONES)
    gradients = jax.device_put(gradients, place)
    updates, velocity = update(gradients, velocity, params, rates=tree)
    params = optax.apply_updates(params, updates)
  _all_close(params, _run(rule, steps)[0], 1e-6)
  _all_close(velocity, _run(rule, steps)[1], 1e-6)


def _at(schedule, step, plateau=None):
  rates = jax.jit(schedule)(jnp.int32(step), plateau)
  return [float(rate) for rate in jax.tree.leaves(rates)]


# What the logs of 2012 say, in epochs that count from 1: when the rate became
# 1e-3, 1e-4; conv1's 1e-5 and the color noise 0; conv1's 0; the rate 1e-5; and
# when the run was killed. Net 147 kept its noise.
_LOGS = {
  'cuda_convnet': (25, 51, 67, 72, 79, 91),
  'net_145_half': (20, 48, 66, 72, 78, 96),
  'net_147': (23, 51, None, 79, 79, 90),
  'net_148': (22, 44, 69, 73, 86, 97),
  'no_communication': (25, 49, 66, 72, 79, 92),
}


def _as_logged(epoch, log):
  """Returns rate, biases', noise and conv1's rate in an epoch, from 1 on."""
  to_3, to_4, fades, frozen, to_5, _ = log
  rate = 1e-2
  for start, value in ((to_3, 1e-3), (to_4, 1e-4), (to_5, 1e-5)):
    rate = value if epoch >= start else rate
  faded = fades is not None and epoch >= fades
  conv1_rate = 1e-5 if faded else rate
  conv1_rate = 0.0 if epoch >= frozen else conv1_rate
  return [rate, 2e-2, 0.0 if faded else 0.1, conv1_rate]


@pytest.mark.parametrize('preset', list(_LOGS))
def test_phases_are_those_of_the_logs_to_the_step(preset):
  # 1,281,167 images at 128 a step.
  steps_per_epoch = 10_009
  config = imagenet.get_config(preset)
  phases, bias = config.optimizer.phases, config.optimizer.rate_multipliers.bias
  schedule = jax.jit(
    optimizer.phase_schedule(phases.rows, steps_per_epoch, phases.layers)
  )
  log = _LOGS[preset]
  for epoch in range(1, log[-1] + 1):
    first = (epoch - 1) * steps_per_epoch
    for step in (first, first + steps_per_epoch - 1):
      rates = schedule(jnp.int32(step), None)
      assert list(rates.layer_rates) == ['conv1']
      actual = [
        rates.rate, rates.bias_rate * bias, rates.color_noise,
        rates.layer_rates['conv1'],
      ]  # fmt: skip
      assert actual == pytest.approx(_as_logged(epoch, log), rel=1e-6)
  # It was killed in that epoch: those before it are whole.
  assert config.num_epochs == log[-1] - 1


def test_phases_may_begin_within_an_epoch():
  rows = [(0, 1.0, 1.0, 0.0), (0.5, 2.0, 2.0, 0.0)]
  schedule = optimizer.phase_schedule(rows, 10)
  assert [_at(schedule, step)[0] for step in (0, 4, 5, 100)] == [1, 1, 2, 2]


def test_phases_of_any_layers():
  rows = [(0, 0.5, 0.25, 0.1, 1.0, 0.5), (1, 0.5, 0.25, 0.1, 0.0, 2.0)]
  schedule = optimizer.phase_schedule(rows, 10, ('conv2', 'fc8'))
  for step, expected in ((0, (0.5, 0.25)), (10, (0.0, 1.0))):
    rates = schedule(jnp.int32(step), None)
    tree = optimizer.rate_tree(_params(), rates, {**_ONES, 'fc8': 3.0})
    assert float(tree['conv1']['kernel']) == 0.5
    assert float(tree['conv2']['kernel']) == expected[0]
    assert float(tree['fc8']['kernel']) == 3 * expected[1]


def test_cosine():
  schedule = optimizer.cosine_schedule(0.0, 0.4, 10, 110, 0.1, 0.3)
  rates = {step: _at(schedule, step) for step in (0, 5, 10, 60, 110, 500)}
  # All layers and biases go along; the noise stays.
  assert all(len(row) == 3 and row[0] == row[1] for row in rates.values())
  assert all(row[2] == pytest.approx(0.3) for row in rates.values())
  # Up in a line, down by half a cosine: a quarter of the way down at 60
  # degrees, half at 90.
  expected = {0: 0.0, 5: 0.2, 10: 0.4, 60: 0.25, 110: 0.1, 500: 0.1}
  actual = {step: row[0] for step, row in rates.items()}
  assert actual == pytest.approx(expected, rel=1e-5)
  third = 10 + 100 / 3
  both = [_at(schedule, int(third) + i)[0] for i in (0, 1)]
  assert both[1] < 0.4 - 0.3 / 4 < both[0]


def test_cosine_without_a_warm_up_starts_at_the_top():
  schedule = optimizer.cosine_schedule(0.0, 0.4, 0, 100, 0.0, 0.0)
  assert _at(schedule, 0)[0] == pytest.approx(0.4)
  assert _at(schedule, 50)[0] == pytest.approx(0.2, rel=1e-5)
  assert _at(schedule, 100)[0] == pytest.approx(0.0, abs=1e-8)


def test_polynomial():
  schedule = optimizer.polynomial_schedule(10.0, 15_600, 2.0, 0.1)
  for step in (0, 600, 7_800, 15_599, 15_600, 10**6):
    rate = 10 * max(0.0, 1 - step / 15_600) ** 2
    expected = pytest.approx([rate, rate, 0.1], rel=1e-5, abs=1e-9)
    assert _at(schedule, step) == expected
  linear = optimizer.polynomial_schedule(0.4, 100, 1.0, 0.1)
  assert _at(linear, 25)[0] == pytest.approx(0.3)


def test_linear_scaling_and_gradual_warm_up():
  # Goyal et al. 2017: from the base rate to its k-fold by equal increments.
  schedule = optimizer.constant_schedule(0.1, 0.3)
  warm = optimizer.warm_schedule(schedule, 10, 1 / 32)
  warm = optimizer.scaled_schedule(warm, 32.0)
  for step in range(20):
    rate = 0.1 * min(1 + 31 * step / 10, 32)
    expected = pytest.approx([rate, rate, 0.3], rel=1e-6)
    assert _at(warm, step) == expected
  at_once = optimizer.scaled_schedule(schedule, 32.0)
  assert [_at(warm, step) for step in (10, 11, 99)] == [_at(at_once, 0)] * 3


def test_a_warm_up_multiplies_what_a_schedule_yields():
  # Ten steps per epoch: the warm-up is longer than the first phase.
  rows = [(0, 0.1, 0.2, 0.5, 1.0, 0.5), (1, 0.01, 0.2, 0.4, 1.0, 0.0)]
  phases = optimizer.phase_schedule(rows, 10, ('conv1', 'fc8'))
  warm = optimizer.warm_schedule(phases, 20, 0.0)
  for step in (0, 5, 9, 10, 15, 20, 25):
    factor = min(step / 20, 1)
    rate, bias_rate, noise, *by_layer = _at(phases, step)
    expected = [factor * rate, factor * bias_rate, noise]
    expected += [factor * rate for rate in by_layer]
    assert _at(warm, step) == pytest.approx(expected, rel=1e-6)
  # A drop of the plateau rule divides the rate of the warm-up.
  plateau = optimizer.plateau_schedule(0.12, 10.0, 0.1)
  warm = optimizer.warm_schedule(plateau, 10, 0.25)
  state = optimizer.plateau_init().replace(drops=jnp.int32(1))
  rates = [_at(warm, step, state)[0] for step in (0, 5, 10)]
  assert rates == pytest.approx([0.003, 0.0075, 0.012])


def test_constant():
  schedule = optimizer.constant_schedule(0.02, 0.1)
  expected = pytest.approx([0.02, 0.02, 0.1])
  assert _at(schedule, 0) == _at(schedule, 10**6) == expected


_RULE = optimizer.PlateauRule(
  patience=2, min_delta=0.01, factor=10.0, max_drops=1
)
_NAN = float('nan')


@pytest.mark.parametrize(
  ('errors', 'expected'),
  [
    # Steady gains.
    ([0.9, 0.8, 0.7], (0, 0, False)),
    # One validation without a gain, two, and a gain between two.
    ([0.9, 0.9], (0, 1, False)),
    ([0.9, 0.9, 0.95], (1, 0, False)),
    ([0.9, 0.9, 0.8, 0.8], (0, 1, False)),
    # The second drop is one more than there may be: the run is over.
    ([0.9, 0.9, 0.9, 0.9, 0.9], (2, 0, True)),
    # After a drop, patience begins again.
    ([0.9, 0.9, 0.9, 0.9], (1, 1, False)),
    ([0.9, 0.9, 0.9, 0.5, 0.9], (1, 1, False)),
    # Less than min_delta is no gain.
    ([0.9, 0.895, 0.893], (1, 0, False)),
    ([0.9, 0.88, 0.86], (0, 0, False)),
    # But small gains add up: 0.888 is 0.012 below the last one that counted.
    ([0.9, 0.894, 0.888], (0, 0, False)),
    # The best is what counts, not the last.
    ([0.5, 0.9, 0.8], (1, 0, False)),
    # An error that is no number is no gain, first or later, and is forgotten
    # when there is one.
    ([_NAN], (0, 1, False)),
    ([0.9, _NAN, _NAN], (1, 0, False)),
    ([0.9, _NAN, 0.8], (0, 0, False)),
    ([0.9, _NAN, 0.8, 0.7, 0.6, 0.5], (0, 0, False)),
  ],
)
def test_plateau(errors, expected):
  state = _after(errors, _RULE)
  finished = optimizer.plateau_finished(state, _RULE)
  assert (int(state.drops), int(state.stalled), finished) == expected
  # The structure is that of the state in a checkpoint.
  fresh = optimizer.plateau_init()
  assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: fresh)


_update = jax.jit(optimizer.plateau_update, static_argnums=2)


def _after(errors, rule):
  state = optimizer.plateau_init()
  for error in errors:
    state = _update(state, error, rule)
  return state


def test_an_error_that_falls_slowly_is_no_plateau():
  # Each gain is below min_delta, every second one counts.
  rule = optimizer.PlateauRule(3, 0.001, 10.0, 3)
  errors = [0.6 - 0.0008 * i for i in range(100)]
  for end in range(1, 101):
    assert int(_after(errors[:end], rule).drops) == 0
  # A third of the speed is one: four validations to a gain that counts.
  errors = [0.6 - 0.0003 * i for i in range(100)]
  assert int(_after(errors, rule).drops) > rule.max_drops


def _reference(errors, rule):
  """The rule of torch's ReduceLROnPlateau, mode min, threshold abs."""
  best, stalled, drops = float('inf'), 0, 0
  for error in errors:
    if error < best - rule.min_delta:
      best, stalled = error, 0
    else:
      stalled += 1
    # torch's patience is the number of bad epochs that it forgives.
    if stalled > rule.patience - 1:
      drops, stalled = drops + 1, 0
  return best, stalled, drops


@pytest.mark.parametrize('seed', range(6))
def test_plateau_against_a_plain_reference(seed):
  rng = np.random.default_rng(seed)
  rule = optimizer.PlateauRule(int(rng.integers(1, 5)), 1 / 64, 10.0, 3)
  # In 1024ths, so that float32 rounds nothing: ties with min_delta, and gaps.
  steps = rng.integers(-30, 30, 60)
  errors = (700 + np.minimum.accumulate(steps.cumsum()) + steps) / 1024
  errors = np.where(rng.random(60) < 0.1, np.nan, errors)
  drops = set()
  for end in range(61):
    state = _after(errors[:end], rule)
    expected = _reference(errors[:end], rule)
    assert (state.best, state.stalled, state.drops) == expected
    drops.add(expected[2])
  assert len(drops) > 1


def test_plateau_schedule_divides_the_configs_rate():
  state = optimizer.plateau_init()
  plateau = [state]
  for _ in range(9):
    state = optimizer.plateau_update(state, 0.9, _RULE)
    plateau.append(state)
  assert [int(state.drops) for state in plateau] == [
    0, 0, 0, 1, 1, 2, 2, 3, 3, 4,
  ]  # fmt: skip
  # 0.03 was the run's rate; it is resumed with another one after any drop.
  for learning_rate in (0.03, 0.004):
    schedule = optimizer.plateau_schedule(learning_rate, 10.0, 0.1)
    for state in plateau:
      rate = learning_rate / 10 ** int(state.drops)
      expected = pytest.approx([rate, rate, 0.1], rel=1e-6)
      assert _at(schedule, 0, state) == expected
