import numpy as np
import pytest

from alexnet_jax import views
from alexnet_jax.analysis.report import neighbors
from alexnet_jax.analysis.report import views as section


def test_chance_of_the_same_class():
  train = np.array([0, 0, 0, 1])
  # 3/4 for the two queries of class 0, 1/4 and 0 for the others.
  queries = np.array([0, 0, 1, 2])
  chance = neighbors.chance_of_same(train, queries, 3)
  assert chance == pytest.approx((0.75 + 0.75 + 0.25 + 0) / 4)


def test_sets_of_views():
  sets = section.view_sets(256, 224)
  assert [len(some) for some in sets.values()] == [1, 2, 10, 18]
  assert sets['ten views'] == views.ten_views(256, 224)
  ten, grid = list(sets.values())[2:]
  assert set(ten) < set(grid)
  assert views.View(32, 0, True) in grid
  assert views.View(16, 32, False) in grid


def test_sets_of_views_of_a_crop_that_is_the_image():
  sets = section.view_sets(28, 28)
  assert [len(some) for some in sets.values()] == [1, 2]
