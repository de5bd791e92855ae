import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import optimizer
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


def _rates(rate, conv1_rate=None, bias_rate=None):
  return optimizer.Rates(
    jnp.float32(rate),
    jnp.float32(rate if conv1_rate is None else conv1_rate),
    jnp.float32(rate if bias_rate is None else bias_rate),
    jnp.float32(0),
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


def test_rates_of_conv1_and_of_biases():
  tree = optimizer.rate_tree(_params(), _rates(1e-3, 1e-4, 1e-2), _ONES)
  assert float(tree['conv1']['kernel']) == pytest.approx(1e-4)
  assert float(tree['conv1']['bias']) == pytest.approx(1e-2)
  assert float(tree['conv2']['kernel']) == pytest.approx(1e-3)
  assert float(tree['conv2']['bias']) == pytest.approx(1e-2)
  # Freezing conv1 stops its biases, and no other layer's.
  tree = optimizer.rate_tree(_params(), _rates(1e-3, 0.0, 1e-2), _ONES)
  assert float(tree['conv1']['kernel']) == float(tree['conv1']['bias']) == 0
  assert float(tree['conv2']['bias']) == pytest.approx(1e-2)
  # So does a multiplier of 0.
  tree = optimizer.rate_tree(_params(), _rates(1e-3), {**_ONES, 'fc8': 0.0})
  assert float(tree['fc8']['kernel']) == float(tree['fc8']['bias']) == 0
  assert float(tree['conv1']['bias']) == pytest.approx(1e-3)


def test_a_rate_of_zero_freezes_weights_and_velocity():
  rule = optimizer.momentum_sgd(0.9, 0.3, 0.2)
  moving = (_rates(0.01), _params(seed=1))
  frozen = (_rates(0.01, conv1_rate=0.0), _params(seed=2))
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
  frozen = (_rates(0.01, conv1_rate=0.0), _params(seed=2))
  _, thawed = _run(rule, [moving, frozen, (_rates(0.01), zeros)])
  np.testing.assert_allclose(
    thawed['conv1']['kernel'], 0.9 * velocity['conv1']['kernel'], rtol=1e-6
  )


def _at(schedule, step, plateau=None):
  rates = jax.jit(schedule)(jnp.int32(step), plateau)
  return [float(rate) for rate in jax.tree.leaves(rates)]


def test_phases_of_net_145_change_at_their_epochs_to_the_step():
  # 1,281,167 images at 128 a step. Each row: epoch, weights, conv1, biases at
  # twice the rate that the table gives, colour noise.
  steps_per_epoch = 10_009
  log = [
    (0, 1e-2, 1e-2, 2e-2, 0.1),
    (25, 1e-3, 1e-3, 2e-2, 0.1),
    (51, 1e-4, 1e-4, 2e-2, 0.1),
    (67, 1e-4, 1e-5, 2e-2, 0.0),
    (72, 1e-4, 0.0, 2e-2, 0.0),
    (79, 1e-5, 0.0, 2e-2, 0.0),
  ]
  config = imagenet.get_config('source').optimizer
  schedule = optimizer.phase_schedule(config.phases, steps_per_epoch)
  bias = config.rate_multipliers.bias
  for i, (epoch, *expected) in enumerate(log):
    first = epoch * steps_per_epoch
    last = log[i + 1][0] * steps_per_epoch - 1 if i < 5 else 91 * first
    for step in (first, last):
      rate, conv1_rate, bias_rate, noise = _at(schedule, step)
      actual = [rate, conv1_rate, bias_rate * bias, noise]
      assert actual == pytest.approx(expected, rel=1e-6)


def test_phases_may_begin_within_an_epoch():
  rows = [(0, 1.0, 1.0, 1.0, 0.0), (0.5, 2.0, 2.0, 2.0, 0.0)]
  schedule = optimizer.phase_schedule(rows, 10)
  assert [_at(schedule, step)[0] for step in (0, 4, 5, 100)] == [1, 1, 2, 2]


def test_cosine():
  schedule = optimizer.cosine_schedule(0.4, 10, 110, 0.1, 0.3)
  rates = {step: _at(schedule, step) for step in (0, 5, 10, 60, 110, 500)}
  # All layers and biases go along; the noise stays.
  assert all(len(set(row[:3])) == 1 for row in rates.values())
  assert all(row[3] == pytest.approx(0.3) for row in rates.values())
  # Up in a line, down by half a cosine: a quarter of the way down at 60
  # degrees, half at 90.
  expected = {0: 0.0, 5: 0.2, 10: 0.4, 60: 0.25, 110: 0.1, 500: 0.1}
  actual = {step: row[0] for step, row in rates.items()}
  assert actual == pytest.approx(expected, rel=1e-5)
  third = 10 + 100 / 3
  both = [_at(schedule, int(third) + i)[0] for i in (0, 1)]
  assert both[1] < 0.4 - 0.3 / 4 < both[0]


def test_cosine_without_a_warm_up_starts_at_the_top():
  schedule = optimizer.cosine_schedule(0.4, 0, 100, 0.0, 0.0)
  assert _at(schedule, 0)[0] == pytest.approx(0.4)
  assert _at(schedule, 50)[0] == pytest.approx(0.2, rel=1e-5)
  assert _at(schedule, 100)[0] == pytest.approx(0.0, abs=1e-8)


def test_constant():
  schedule = optimizer.constant_schedule(0.02, 0.1)
  expected = pytest.approx([0.02, 0.02, 0.02, 0.1])
  assert _at(schedule, 0) == _at(schedule, 10**6) == expected


_RULE = optimizer.PlateauRule(
  patience=2, min_delta=0.01, factor=10.0, max_drops=1
)
_NAN = float('nan')


@pytest.mark.parametrize(
  ('errors', 'expected'),
  [
    # Steady gains.
    ([0.9, 0.8, 0.7], (0.1, 0, 0, False)),
    # One validation without a gain, two, and a gain between two.
    ([0.9, 0.9], (0.1, 0, 1, False)),
    ([0.9, 0.9, 0.95], (0.01, 1, 0, False)),
    ([0.9, 0.9, 0.8, 0.8], (0.1, 0, 1, False)),
    # The second drop is one more than there may be: the run is over.
    ([0.9, 0.9, 0.9, 0.9, 0.9], (0.001, 2, 0, True)),
    # After a drop, patience begins anew.
    ([0.9, 0.9, 0.9, 0.9], (0.01, 1, 1, False)),
    ([0.9, 0.9, 0.9, 0.5, 0.9], (0.01, 1, 1, False)),
    # Less than min_delta is no gain.
    ([0.9, 0.895, 0.893], (0.01, 1, 0, False)),
    ([0.9, 0.88, 0.86], (0.1, 0, 0, False)),
    # The best is what counts, not the last.
    ([0.5, 0.9, 0.8], (0.01, 1, 0, False)),
    # An error that is no number is no gain, first or later, and is forgotten
    # when there is one.
    ([_NAN], (0.1, 0, 1, False)),
    ([0.9, _NAN, _NAN], (0.01, 1, 0, False)),
    ([0.9, _NAN, 0.8], (0.1, 0, 0, False)),
    ([0.9, _NAN, 0.8, 0.7, 0.6, 0.5], (0.1, 0, 0, False)),
  ],
)
def test_plateau(errors, expected):
  state = optimizer.plateau_init(0.1)
  update = jax.jit(optimizer.plateau_update, static_argnums=2)
  for error in errors:
    state = update(state, error, _RULE)
  finished = optimizer.plateau_finished(state, _RULE)
  actual = float(state.rate), int(state.drops), int(state.stalled), finished
  assert actual == (pytest.approx(expected[0], rel=1e-6), *expected[1:])
  # The structure is that of the state in a checkpoint.
  fresh = optimizer.plateau_init(0.1)
  assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: fresh)


def test_plateau_schedule_reads_the_state():
  schedule = optimizer.plateau_schedule(0.1)
  state = optimizer.plateau_init(0.01)
  assert _at(schedule, 0, state) == pytest.approx([0.01] * 3 + [0.1])
  for _ in range(3):
    state = optimizer.plateau_update(state, 0.9, _RULE)
  assert _at(schedule, 0, state) == pytest.approx([0.001] * 3 + [0.1])
