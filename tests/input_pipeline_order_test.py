import numpy as np
import pytest

from alexnet_jax.input_pipeline import order

PERMUTATION_0_0 = [0, 2, 1, 5, 4, 3, 6, 7]


@pytest.mark.parametrize(
  ('n', 'batch', 'steps'), [(10, 5, 2), (11, 5, 3), (1, 5, 1)]
)
def test_steps_per_epoch_rounds_up(n, batch, steps):
  assert order.steps_per_epoch(n, batch) == steps


@pytest.mark.parametrize('n', [1, 2, 1000, 100_003])
def test_permutation_holds_every_index_once(n):
  np.testing.assert_array_equal(
    np.sort(order.permutation(3, 5, n)), np.arange(n)
  )


def test_permutation_never_changes():
  # A resumed run depends on these very numbers.
  assert order.permutation(0, 0, 8).tolist() == PERMUTATION_0_0
  assert order.permutation(0, 1, 8).tolist() != PERMUTATION_0_0
  assert order.permutation(1, 0, 8).tolist() != PERMUTATION_0_0


def test_permutation_is_uniform():
  n, epochs = 10, 20_000
  counts = np.zeros((n, n))
  for epoch in range(epochs):
    counts[np.arange(n), order.permutation(7, epoch, n)] += 1
  chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
  # (n - 1)^2 = 81 degrees of freedom; 130 is passed once in 3,000 seeds.
  assert chi_square < 130


def test_words_depend_on_seed_epoch_and_row_alone():
  words = order.image_words(1, 2, np.arange(100))
  np.testing.assert_array_equal(
    order.image_words(1, 2, np.array([70, 3])), words[[70, 3]]
  )
  assert len(np.unique(words)) == words.size
  for other in (
    order.image_words(2, 2, np.arange(100)),
    order.image_words(1, 3, np.arange(100)),
    order.chunk_words(1, 2, np.arange(100)),
  ):
    assert not np.isin(other, words).any()


def test_positions_are_uniform_and_inclusive():
  words = order.image_words(0, 0, np.arange(50_000))[:, 0]
  drawn = order.positions(words, 33)
  counts = np.bincount(drawn, minlength=33)
  assert len(counts) == 33
  assert counts.min() > 0
  expected = len(drawn) / 33
  assert ((counts - expected) ** 2 / expected).sum() < 65  # 32 degrees


def test_positions_reach_both_ends():
  words = np.array([0, 2**64 - 1], np.uint64)
  assert order.positions(words, 1089).tolist() == [0, 1088]


def test_coins_are_fair():
  coins = order.coins(order.image_words(0, 0, np.arange(40_000))[:, 1])
  assert abs(coins.mean() - 0.5) < 0.01


def test_normals_have_moments_of_the_normal_distribution():
  z = order.normals(order.image_words(5, 0, np.arange(100_000))[:, 2:])
  assert z.shape == (100_000, 4)
  np.testing.assert_allclose(z.mean(0), 0, atol=0.015)
  np.testing.assert_allclose(np.cov(z.T), np.eye(4), atol=0.025)
  np.testing.assert_allclose((z**4).mean(0), 3, atol=0.15)
  assert np.isfinite(order.normals(np.array([[0, 2**64 - 1]], np.uint64))).all()


def test_words_are_those_of_a_generator_set_to_each_row():
  rows = np.array([0, 1, 5, 4096, 70_001])
  for stream, words in ((1, order.image_words), (2, order.chunk_words)):
    expected = [
      np.random.Philox(key=[8, 3], counter=[row, 0, 0, stream]).random_raw(4)
      for row in rows.tolist()
    ]
    np.testing.assert_array_equal(words(8, 3, rows), expected)
