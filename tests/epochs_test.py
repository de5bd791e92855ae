from alexnet_jax.epochs import Epochs


def test_equal_epochs():
  count = Epochs(4)
  assert [count.at(step) for step in (0, 2, 4, 9)] == [0, 0.5, 1, 2.25]
  assert [step for step in range(10) if count.ends(step)] == [4, 8]
  assert (count.step(2.5), count.step(90)) == (10, 360)


def test_a_batch_twice_as_large_halves_the_steps_of_an_epoch():
  # Four epochs of 8 steps, then four of 4.
  count = Epochs(8).changed(32, 4)
  assert count.at(32) == 4
  assert [step for step in range(33, 49) if count.ends(step)] == [
    36, 40, 44, 48,
  ]  # fmt: skip
  assert count.step(8) == 48


def test_a_change_within_an_epoch_begins_the_next_one():
  count = Epochs(8).changed(20, 10)
  assert count.at(20) == 3
  assert not count.ends(29)
  assert count.ends(30)
  again = count.changed(30, 5)
  assert again.at(30) == 4
  assert again.step(6) == 40


def test_no_change_changes_nothing():
  assert Epochs(8).changed(16, 8) == Epochs(8)
