import functools

import jax
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import evaluate
from alexnet_jax import model
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import views
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense

_SIZE, _CROP, _ROWS = 14, 10, 23
_NETWORK = architecture.Architecture(
  layers=(
    Conv(
      'conv1', 8, 3, init_std=0.3, padding=(0, 2),
      order=('activation', 'response_norm', 'pool'),
    ),
    Conv('conv2', 8, 3, init_std=0.3, padding=(1, 1), reads='all'),
    Dense('fc6', 32, init_std=0.2, init_bias=0.5),
    Dense('fc7', 7, init_std=0.5, order=()),
  )
)  # fmt: skip
_MEAN = np.random.default_rng(5).uniform(90, 130, (_CROP, _CROP, 3))
_MEAN = _MEAN.astype(np.float32)
_VIEWS = {
  'center_view': views.center_view(_SIZE, _CROP),
  'ten_views': views.ten_views(_SIZE, _CROP),
}
_rng = np.random.default_rng(6)
_IMAGES = _rng.integers(0, 256, (_ROWS, _SIZE, _SIZE, 3), np.uint8)
_LABELS = _rng.integers(0, 7, _ROWS, np.int32)
# Two files that could not be read, and count for nothing.
_UNREADABLE = np.isin(np.arange(_ROWS), [4, 20])


@functools.cache
def _params():
  init = jax.jit(model.init, static_argnums=(0, 2))
  return init(_NETWORK, jax.random.key(0), _CROP)


def _placed(placement):
  return jax.device_put(_params(), train_state.shardings(placement).params)


@functools.cache
def _expected_log_probs():
  """Cuts with numpy, averages probabilities in float64."""
  forward = jax.jit(functools.partial(model.forward, _NETWORK))

  def probabilities(top, left, mirror):
    crops = _IMAGES[:, top : top + _CROP, left : left + _CROP]
    crops = crops[:, :, ::-1] if mirror else crops
    inputs = (crops.astype(np.float32) - _MEAN) / np.float32(64)
    exps = np.exp(np.asarray(forward(_params(), inputs), np.float64))
    return exps / exps.sum(axis=1, keepdims=True)

  places = [(0, 0), (0, 4), (2, 2), (4, 0), (4, 4)]
  ten = [(*place, mirror) for place in places for mirror in (False, True)]
  views = {
    'center_view': [(2, 2, False)],
    'ten_views': ten,
    'two_views': [(1, 3, True), (0, 2, False)],
  }
  return {
    name: np.log(np.mean([probabilities(*cut) for cut in cuts], axis=0))
    for name, cuts in views.items()
  }


_TRANSFORM = views.InputTransform(_SIZE, _CROP, _MEAN, 1 / 64)


@pytest.mark.parametrize(
  ('name', 'num_devices'),
  [('center_view', 1), ('ten_views', 1), ('two_views', 1), ('two_views', 2)],
)
def test_log_probabilities_are_those_of_the_mean_of_the_views(
  name, num_devices
):
  placement = sharding.place(_NETWORK, jax.devices()[:num_devices])
  log_probs = evaluate.make_log_probs(placement, _TRANSFORM)
  # Two whose rows and columns cannot be mistaken for each other.
  two = (views.View(1, 3, True), views.View(0, 2, False))
  chosen = {**_VIEWS, 'two_views': two}[name]
  actual = log_probs(_placed(placement), _IMAGES, chosen)
  expected = _expected_log_probs()
  np.testing.assert_allclose(actual, expected[name], atol=2e-5)
  # Ten views do differ from one.
  assert np.abs(expected['ten_views'] - expected['center_view']).max() > 0.05


def _batches(size):
  """Divides the set; the last batch is filled up with some other image."""
  for start in range(0, _ROWS, size):
    rows = np.arange(start, start + size)
    real = rows < _ROWS
    rows = np.where(real, rows, 0)
    yield {
      'image': _IMAGES[rows],
      'label': _LABELS[rows],
      'mask': (real & ~_UNREADABLE[rows]).astype(np.float32),
      'unreadable': (real & _UNREADABLE[rows]).astype(np.float32),
    }


def _expected_result(name):
  readable = ~_UNREADABLE
  log_probs = _expected_log_probs()[name][readable]
  labels = _LABELS[readable]
  # No ties here: the place of the label in the ranking decides.
  own = log_probs[np.arange(len(labels)), labels]
  rank = (log_probs > own[:, None]).sum(axis=1)
  return {
    'examples': 21,
    'views': len(_VIEWS[name]),
    'nll': pytest.approx(-own.mean(), rel=1e-6),
    'top1_error': (rank >= 1).sum() / 21,
    'top5_error': (rank >= 5).sum() / 21,
    'unreadable': 2,
  }


@pytest.mark.parametrize(
  ('num_devices', 'parallelism', 'size'),
  [
    (1, 'both', 1), (1, 'both', 7), (4, 'both', 2), (2, 'towers', 64),
    (4, 'data', 8), (4, 'one_weird_trick', 8),
  ],
)  # fmt: skip
def test_results_do_not_depend_on_batches_and_devices(
  num_devices, parallelism, size
):
  devices = jax.devices()[:num_devices]
  placement = sharding.place(_NETWORK, devices, parallelism)
  evaluator = evaluate.Evaluator(placement, _TRANSFORM)
  results = evaluator(_placed(placement), _batches(size), _VIEWS)
  assert list(results) == ['center_view', 'ten_views']
  for name, result in results.items():
    assert result == _expected_result(name)
    assert 0 < result['top5_error'] < result['top1_error'] < 1


def test_an_interrupted_evaluation_has_no_result():
  placement = sharding.place(_NETWORK, jax.devices()[:1])
  evaluator = evaluate.Evaluator(placement, _TRANSFORM)
  asked = []

  def interrupted():
    asked.append(True)
    return len(asked) == 2

  views = {'center_view': _VIEWS['center_view']}
  assert evaluator(_params(), _batches(7), views, interrupted) is None
  assert len(asked) == 2
