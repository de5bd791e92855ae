import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax import model
from alexnet_jax.studies import measures
from alexnet_jax.studies.measures import color_scores
from alexnet_jax.studies.measures import compression
from alexnet_jax.studies.measures import ensembles
from alexnet_jax.studies.measures import views
from tests import trained_testing

_LABELS = np.repeat([0, 1, 2], 4)  # of the test images that can be read


@pytest.fixture(scope='module')
def folder(trained, tmp_path_factory):
  """Holds the runs of seeds 4 and 5."""
  folder = tmp_path_factory.mktemp('studies')
  for seed in (4, 5):
    # Two batches of 15 training images, the second one padded.
    trained_testing.write_run(
      folder / str(seed), trained / 'data', seed=seed, batch_size=8
    )
  return folder


@pytest.fixture(scope='module')
def runs(folder):
  return [inference.open_run(folder / str(seed)) for seed in (4, 5)]


@functools.cache
def _images(run, split):
  batches = list(run.splits.read(run.split(split), ''))
  mask = np.concatenate([batch['mask'] for batch in batches]) > 0
  return np.concatenate([batch['image'] for batch in batches])[mask]


def _inputs(run, images, top=2, left=2, mirror=False):
  crops = images[:, top : top + 28, left : left + 28].astype(np.float32)
  crops = crops[:, :, ::-1] if mirror else crops
  return (crops - run.transform.mean) / np.float32(64)


def _probabilities(run, inputs, params=None):
  params = jax.device_get(run.params) if params is None else params
  logits = jax.jit(functools.partial(model.forward, run.setup.network))(
    params, inputs
  )
  exps = np.exp(np.asarray(logits, np.float64))
  return exps / exps.sum(axis=1, keepdims=True)


def _errors(probabilities, labels=_LABELS):
  own = probabilities[np.arange(len(labels)), labels]
  return {
    'top1_error': pytest.approx((probabilities.argmax(1) != labels).mean()),
    'top5_error': 0,
    'nll': pytest.approx(-np.log(own).mean(), rel=1e-4),
  }


def _multiply_adds(run):
  shapes = architecture.layer_shapes(run.setup.network, 28)
  return sum(shape.multiply_adds for shape in shapes)


# The rivals take minutes at their full sizes, and have tests of their own.
@pytest.mark.parametrize('name', sorted(measures.MEASURES.keys() - {'rivals'}))
def test_what_is_measured_is_documented(runs, name):
  assert f'`{name}`' in measures.__doc__
  measure = measures.MEASURES[name]
  results = list(measure(runs))
  named = {each.variant for each in results}
  assert len({(each.variant, each.seed) for each in results}) == len(results)
  if name != 'ensembles':
    assert [each.seed for each in results] == sorted([4, 5] * len(named))
  for result in results:
    for key, value in result.values.items():
      assert type(value) is float
      assert np.isfinite(value)
      layer = key.removeprefix('gradient_').removesuffix('_relative')
      if name == 'gradients' and layer in runs[0].params:
        key = key.replace(layer, 'conv1')
      assert f'`{key}`' in (measure.__doc__ or ''), key


def test_sets_of_views():
  sets = views.view_sets(32, 28)
  names = [f'{n} views' for n in (2, 5, 10, 18, 32, 50)]
  assert list(sets) == ['1 view', *names]
  for one, other in (('1 view', 5), ('5 views', 10), ('10 views', 18)):
    assert set(sets[one]) < set(sets[f'{other} views'])
  positions = itertools.product(range(5), range(5), (False, True))
  assert {(v.top, v.left, v.mirror) for v in sets['50 views']} == {*positions}
  # Views that coincide are one.
  assert list(views.view_sets(28, 28)) == ['1 view', '2 views']
  assert [len(some) for some in views.view_sets(30, 28).values()] == [
    1, 2, 5, 10, 18,
  ]  # fmt: skip


def test_views_by_hand(runs):
  run = runs[1]
  images = _images(run, 'validation')
  every = {
    view: _probabilities(run, _inputs(run, images, *view))
    for view in itertools.product(range(5), range(5), (False, True))
  }
  corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
  chosen = {
    '1 view': [(2, 2)],
    '5 views': corners,
    '18 views': itertools.product((0, 2, 4), (0, 2, 4)),
    '32 views': itertools.product((0, 1, 3, 4), (0, 1, 3, 4)),
    '50 views': itertools.product(range(5), range(5)),
  }
  both = {'2 views': [(2, 2)], '10 views': corners, **chosen}
  results = {
    each.variant: each.values for each in measures.MEASURES['views']([run])
  }
  assert set(results) == set(both)
  for name, places in both.items():
    mirrors = (False,) if name in ('1 view', '5 views') else (False, True)
    some = [(*place, m) for place in places for m in mirrors]
    mean = np.mean([every[view] for view in some], axis=0)
    cost = len(some) * _multiply_adds(run)
    assert results[name] == {**_errors(mean), 'multiply_adds': cost}


def test_averages_of_networks_by_hand(runs):
  corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
  each = [
    np.mean(
      [
        _probabilities(run, _inputs(run, _images(run, 'validation'), *p, m))
        for p in corners
        for m in (False, True)
      ],
      axis=0,
    )
    for run in runs
  ]
  results = list(measures.MEASURES['ensembles'](runs))
  named = [(result.variant, result.seed) for result in results]
  assert named == [
    *(('1 network', run.setup.settings.seed) for run in runs),
    ('2 networks', 0), ('limit', 0),
  ]  # fmt: skip
  cost = 10 * _multiply_adds(runs[0])
  for result, probabilities, size in zip(
    results[:3], [*each, np.mean(each, axis=0)], (1, 1, 2), strict=True
  ):
    expected = {**_errors(probabilities), 'multiply_adds': size * cost}
    assert result.values == expected
  # a + b and a + b / 2 are the means of one network and of two.
  one, other, pair, limit = (result.values['nll'] for result in results)
  assert limit == pytest.approx(2 * pair - (one + other) / 2)
  (single,) = measures.MEASURES['ensembles'](runs[:1])
  assert single == results[0]


def test_the_limit_of_many_networks():
  keys = ('top1_error', 'top5_error', 'nll')
  sizes = [
    {
      key: {'mean': a + 0.03 / k}
      for key, a in zip(keys, (0.2, 0.01, 0.5), strict=True)
    }
    for k in (1, 2, 3, 4)
  ]
  assert ensembles.extrapolate(sizes) == pytest.approx(
    {'top1_error': 0.2, 'top5_error': 0.01, 'nll': 0.5}
  )


def test_runs_on_other_images_are_not_averaged(trained, tmp_path, runs):
  other = {'seed': 6, 'data.eval_split': 'train'}
  trained_testing.write_run(tmp_path, trained / 'data', **other)
  both = [runs[0], inference.open_run(tmp_path)]
  with pytest.raises(errors.UserError, match='eval_split'):
    list(measures.MEASURES['ensembles'](both))


def test_errors_and_bytes_of_compressed_networks(runs):
  run = runs[0]
  params = jax.device_get(run.params)
  inputs = _inputs(run, _images(run, 'validation'))
  results = {
    each.variant: each.values
    for each in measures.MEASURES['compression']([run])
  }
  versions = list(compression.compress(run.setup.network, params))
  assert list(results) == [name for name, _, _ in versions]
  for name, compressed, size in versions:
    expected = _errors(_probabilities(run, inputs, compressed))
    found = results[name]
    assert found['nll'] == expected['nll']
    assert found['bytes'] == size
    # A coarse network can have ties, and rounding decides them: one image's.
    wrong = expected['top1_error'].expected
    assert found['top1_error'] == pytest.approx(wrong, abs=0.05)
    assert found['top5_error'] == 0
    for layer, own in params.items():
      np.testing.assert_array_equal(compressed[layer]['bias'], own['bias'])
      assert compressed[layer]['kernel'].dtype == np.float32
  shapes = architecture.layer_shapes(run.setup.network, 28)
  weights = sum(shape.weights for shape in shapes)
  biases = 4 * sum(shape.biases for shape in shapes)
  assert results['as trained']['bytes'] == 4 * weights + biases
  scales = sum(shape.biases for shape in shapes)
  assert results['8 bits']['bytes'] == weights + 4 * scales + biases
  half = sum(round(shape.weights / 2) for shape in shapes)
  # A bit per weight is smaller than a byte for every second one.
  bitmaps = sum(-(-shape.weights // 8) for shape in shapes)
  assert results['50 % pruned']['bytes'] == 4 * half + bitmaps + biases
  both = results['50 % pruned, 8 bits']['bytes']
  # Weights that are rounded to zero are not stored.
  assert 0.9 * half < both - bitmaps - 4 * scales - biases <= half
  assert len({values['nll'] for values in results.values()}) == len(results)


def _kernel(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_pruning_removes_the_smallest():
  kernel = _kernel(2, 3, 3, 5, 7)
  pruned = compression.prune(kernel, 0.8)
  kept = pruned != 0
  assert kept.sum() == kernel.size - 504
  np.testing.assert_array_equal(pruned[kept], kernel[kept])
  assert np.abs(kernel[kept]).min() >= np.abs(kernel[~kept]).max()


def test_bytes_of_a_sparse_kernel():
  # Read as Han et al. do: an index counts up to 255 zeros before a number.
  rng = np.random.default_rng(1)
  for density in (0.001, 0.01, 0.5):
    kernel = (rng.random(20_000) < density).astype(np.float32)
    kernel[[0, 256, 513]] = 1  # 255 and 256 zeros between, if there is no other
    entries, zeros = 0, 0
    for weight in kernel:
      if weight or zeros == 255:
        entries, zeros = entries + 1, 0
      else:
        zeros += 1
    # A filler at the very end would stand for nothing.
    entries -= (len(kernel) - 1 - np.flatnonzero(kernel)[-1]) // 256
    network = architecture.Architecture(
      towers=1, layers=(architecture.Dense('fc7', 1), _CLASSIFIER)
    )
    params = {
      'fc7': {'kernel': kernel.reshape(1, -1, 1), 'bias': np.zeros((1, 1))},
      'fc8': {'kernel': np.zeros((1, 1, 3)), 'bias': np.zeros((1, 3))},
    }
    by_name = {
      name: size for name, _, size in compression.compress(network, params)
    }
    # More than half are zero already, so nothing else is removed.
    bitmap = 4 * np.count_nonzero(kernel) + 20_000 // 8
    assert by_name['50 % pruned'] == min(5 * entries, bitmap) + 16


_CLASSIFIER = architecture.Dense('fc8', 3)


def test_eight_bits():
  kernel = _kernel(2, 3, 3, 5, 7)
  kernel[1, ..., 2] = 0
  rounded, scales = compression.quantize(kernel)
  assert scales == 14
  for tower, unit in np.ndindex(2, 7):
    own, close = kernel[tower, ..., unit], rounded[tower, ..., unit]
    step = np.abs(own).max() / 127
    np.testing.assert_allclose(close, own, atol=0.501 * step)
    if step:
      levels = close / step
      np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
      assert len(np.unique(np.rint(levels)).tolist()) > 25
  assert (rounded[1, ..., 2] == 0).all()


@pytest.mark.parametrize('reads', ['all', 'own'])
def test_low_rank(reads):
  network = architecture.Architecture(
    layers=(
      architecture.Conv('conv1', 2, 4),
      architecture.Dense('fc6', 32, reads=reads),
      architecture.Dense('fc7', 32),
      _CLASSIFIER,
    )
  )
  params = {
    'conv1': {'kernel': _kernel(2, 4, 4, 3, 1), 'bias': np.zeros((2, 1))},
    'fc6': {'kernel': _kernel(2, 64, 16), 'bias': np.zeros((2, 16))},
    'fc7': {'kernel': _kernel(2, 32, 16), 'bias': np.zeros((2, 16))},
    'fc8': {'kernel': _kernel(2, 32, 2), 'bias': np.zeros((2, 2))},
  }
  ((compressed, size),) = (
    rest
    for name, *rest in compression.compress(network, params)
    if name == 'rank 1/4'
  )
  for layer in ('conv1', 'fc8'):
    kernel = params[layer]['kernel']
    np.testing.assert_array_equal(compressed[layer]['kernel'], kernel)
  of_fc6 = (
    [np.concatenate([*params['fc6']['kernel']], axis=1)]
    if reads == 'all'
    else [*params['fc6']['kernel']]
  )
  found = compressed['fc6']['kernel']
  found = [np.concatenate([*found], axis=1)] if reads == 'all' else [*found]
  # By the theorem of Eckart and Young, no matrix of this rank is closer.
  rank = 8 if reads == 'all' else 4
  for before, after in zip(of_fc6, found, strict=True):
    assert np.linalg.matrix_rank(after, tol=1e-3) == rank
    beyond = np.linalg.svd(before, compute_uv=False)[rank:]
    distance = np.linalg.norm(before - after)
    assert distance == pytest.approx(np.sqrt((beyond**2).sum()), rel=1e-4)
  fc6 = 8 * (64 + 32) if reads == 'all' else 2 * 4 * (64 + 16)
  weights = 96 + fc6 + 8 * (32 + 32) + 128
  assert size == 4 * (weights + 2 + 32 + 32 + 4)


def test_color_scores_by_hand(runs, trained, tmp_path):
  gray = np.full(3, 1 / np.sqrt(3))
  for result, run in zip(
    measures.MEASURES['color_scores'](runs), runs, strict=True
  ):
    kernel = np.asarray(run.params['conv1']['kernel'], np.float64)
    medians = []
    for own in kernel:
      energy = (own**2).sum(axis=(0, 1, 2))
      along = (np.einsum('yxcn,c->yxn', own, gray) ** 2).sum(axis=(0, 1))
      medians.append(np.median(1 - along / energy))
    assert result.variant == 'conv1'
    assert result.values == {
      'lowest': pytest.approx(min(medians)),
      'highest': pytest.approx(max(medians)),
      'difference': pytest.approx(abs(medians[0] - medians[1])),
      'colorful_tower': medians[1] > medians[0],
      'p_value': pytest.approx(_exact_p_value(_scores(kernel, gray)), abs=0.02),
      'specialized': result.values['p_value'] < 0.05,
    }
  trained_testing.write_run(tmp_path, trained / 'data', **{'network.towers': 1})
  (one,) = measures.MEASURES['color_scores']([inference.open_run(tmp_path)])
  assert set(one.values) == {'lowest', 'highest'}


def _scores(kernel, gray):
  energy = (kernel**2).sum(axis=(1, 2, 3))
  along = (np.einsum('tyxcn,c->tyxn', kernel, gray) ** 2).sum(axis=(1, 2))
  return 1 - along / energy


def _exact_p_value(scores):
  """Of all ways to divide the kernels equally between two towers."""
  pooled, half = scores.reshape(-1), scores.shape[1]

  def difference(members):
    others = np.delete(pooled, list(members))
    return abs(np.median(pooled[list(members)]) - np.median(others))

  actual = difference(range(half))
  ways = itertools.combinations(range(2 * half), half)
  return np.mean([difference(members) >= actual for members in ways])


def test_towers_that_differ():
  rng = np.random.default_rng(0)
  low, high = rng.uniform(0, 0.4, 16), rng.uniform(0.6, 1, 16)
  assert color_scores.permutation_test(np.stack([low, high])) == 1e-4
  assert color_scores.permutation_test(np.full((2, 16), 0.5)) == 1
  some = rng.uniform(0, 1, (2, 5)) + [[0], [0.3]]
  expected = _exact_p_value(some)
  assert 0.01 < expected < 0.5
  assert color_scores.permutation_test(some) == pytest.approx(
    expected, abs=0.02
  )


def test_gradients_by_hand(runs):
  run = runs[0]
  network, params = run.setup.network, jax.device_get(run.params)
  inputs = _inputs(run, _images(run, 'train'))
  labels = np.repeat([0, 1, 2], 5)

  def loss(params, key=None):
    total = 0.0
    for number, start in enumerate((0, 8)):
      own = slice(start, start + 8)
      masks = None if key is None else jax.random.fold_in(key, number)
      logits = model.forward(
        network,
        params,
        inputs[own],
        key=masks,
        positions=jnp.arange(len(inputs[own])),
      )
      log_probs = jax.nn.log_softmax(logits)
      total -= log_probs[jnp.arange(len(logits)), labels[own]].sum()
    return total / 15

  results = list(measures.MEASURES['gradients']([run]))
  keys = {'with dropout': jax.random.key(0), 'without dropout': None}
  assert [result.variant for result in results] == list(keys)
  for result in results:
    gradient = jax.jit(jax.grad(loss))(params, keys[result.variant])
    expected = {}
    for layer, own in params.items():
      norm = np.sqrt((np.asarray(gradient[layer]['kernel']) ** 2).sum())
      weights = np.sqrt((own['kernel'] ** 2).sum())
      relative = pytest.approx(norm / weights, rel=1e-4)
      expected[f'gradient_{layer}'] = pytest.approx(norm, rel=1e-4)
      expected[f'gradient_{layer}_relative'] = relative
    assert result.values == expected
  some, other = (result.values['gradient_fc8'] for result in results)
  assert abs(some - other) > 0.01 * other


def test_training_and_validation_images(runs, monkeypatch):
  run = runs[0]
  train = _errors(
    _probabilities(run, _inputs(run, _images(run, 'train'))),
    np.repeat([0, 1, 2], 5),
  )
  test = _errors(_probabilities(run, _inputs(run, _images(run, 'validation'))))
  (result,) = measures.MEASURES['train_and_test']([run])
  values = dict(result.values)
  gap = values.pop('gap')
  assert gap == values['top1_error'] - values['train_error']
  assert values == {
    'train_error': train['top1_error'],
    'train_nll': train['nll'],
    **test,
  }
