import numpy as np
import pytest

from alexnet_jax.analysis import nearest_neighbors


def _brute_force(features, queries, k):
  """In float64, one pair after the other; of equals the first."""
  distances, indices = [], []
  for query in queries.astype(np.float64):
    own = [np.sqrt(np.sum((f - query) ** 2)) for f in features.astype('f8')]
    order = sorted(range(len(own)), key=lambda i: (own[i], i))[:k]
    distances.append([own[i] for i in order])
    indices.append(order)
  return np.array(distances), np.array(indices)


def _check(features, queries, k):
  distances, indices = nearest_neighbors.nearest(features, queries, k)
  expected_distances, expected_indices = _brute_force(features, queries, k)
  np.testing.assert_array_equal(indices, expected_indices)
  np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)
  return distances, indices


def _random(seed, *shape):
  # All positive and far from zero, like a ReLU's output with a large bias: the
  # norms are large beside the distances.
  return np.random.default_rng(seed).uniform(5, 6, shape).astype(np.float32)


@pytest.mark.parametrize('k', [1, 6, 50, 1000])
@pytest.mark.parametrize('block', [7 * 20, 64 * 20, 2**22])
def test_equal_to_brute_force(monkeypatch, k, block):
  # Blocks of 7 (28 and 4 over), of 64 (3 and 8 over), and all 200 at once.
  monkeypatch.setattr(nearest_neighbors, '_BLOCK', block)
  features = _random(0, 200, 20)
  distances, indices = _check(features, _random(1, 5, 20), k)
  assert distances.shape == indices.shape == (5, min(k, 200))


@pytest.mark.parametrize('block', [7 * 4, 2**22])
def test_of_equal_distances_the_first_is_nearer(monkeypatch, block):
  monkeypatch.setattr(nearest_neighbors, '_BLOCK', block)
  rng = np.random.default_rng(2)
  # 300 points on a grid of 16: every distance is there many times.
  features = rng.integers(0, 2, (300, 4)).astype(np.float32)
  _, indices = _check(features, features[:9], 40)
  assert (np.diff(indices[:, :5]) > 0).all()


def test_float32_would_not_tell_them_apart():
  # Distances that differ in the ninth digit of the norms' squares.
  features = np.full((400, 8), 1000.0, np.float32)
  features[:, 0] += np.random.default_rng(3).permutation(400) / 2**10
  query = np.full((1, 8), 1000.0, np.float32)
  distances, _ = _check(features, query, 10)
  np.testing.assert_array_equal(distances[0], np.arange(10) / 2**10)


def test_a_memory_map(tmp_path):
  np.save(tmp_path / 'f.npy', _random(5, 60, 9))
  features = np.load(tmp_path / 'f.npy', mmap_mode='r')
  distances, indices = _check(features, np.array(features[7:8]), 3)
  assert indices[0, 0] == 7
  assert distances[0, 0] == 0
