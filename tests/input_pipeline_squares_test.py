import numpy as np
import pytest

from alexnet_jax.input_pipeline import idx
from alexnet_jax.input_pipeline import loading
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources
from alexnet_jax.input_pipeline import squares
from alexnet_jax.input_pipeline import synthetic
from tests import input_pipeline_testing as testing


# Rows of 3, 6, 12, 24, 27 and 672 bytes: words of 1, 2, 4 and 8 bytes.
@pytest.mark.parametrize('size', [1, 2, 4, 8, 9, 224])
def test_windows_are_cut_and_mirrored(size):
  rng = np.random.default_rng(size)
  images = rng.integers(0, 256, (5, size, size + 7, 3), np.uint8)
  columns = np.array([0, 7, 3, 7, 0])
  flips = np.array([True, True, False, False, True])
  windows = squares.cut(iter(images), columns, flips, size)
  assert windows.flags.c_contiguous
  for i, (column, flip) in enumerate(zip(columns, flips, strict=True)):
    expected = images[i, :, column : column + size][:, :: -1 if flip else 1]
    np.testing.assert_array_equal(windows[i], expected)


def test_one_buffer_may_serve_all_bands():
  buffer = np.empty((4, 4, 3), np.uint8)

  def bands():
    for value in range(3):
      buffer.fill(value)
      yield buffer

  windows = squares.cut(bands(), np.zeros(3, int), np.zeros(3, bool), 4)
  assert windows[:, 0, 0, 0].tolist() == [0, 1, 2]


def grey(folder, shape=(40, 20, 20)):
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  testing.write_idx(folder, 'train', images, np.arange(shape[0]) % 7)
  return idx.open_idx(str(folder), 'train')


def made_up():
  return synthetic.Synthetic(
    split='train', num_examples=40, num_classes=5, image_size=20
  )


class Decoded:
  """A source without its squares: TensorFlow reads it."""

  def __init__(self, source):
    self._source = source
    self.record_spec = source.record_spec
    self.fetch, self.read = source.fetch, source.read


@pytest.mark.parametrize('size', [20, 16, 13])
def test_squares_equal_what_tensorflow_makes(tmp_path, size):
  def plan(step):
    indices = np.array([3, 39, 0, 17, step])
    draws = preprocessing.random_draws(
      indices,
      np.arange(5),
      seed=0,
      epoch=step,
      image_size=20,
      crop_size=size,
      random_crop=True,
      flip=True,
      crop_chunk=1,
    )
    return indices, draws

  for source in (grey(tmp_path), made_up()):
    assert isinstance(source, sources.Squares)
    assert not isinstance(Decoded(source), sources.Squares)
    arguments = (plan, range(4), 8, 20, size, 2)
    ours = list(loading.load(source, *arguments))
    theirs = list(loading.load(Decoded(source), *arguments))
    for one, other in zip(ours, theirs, strict=True):
      assert one.keys() == other.keys()
      for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)
        assert one[key].dtype == other[key].dtype


def test_squares_are_passed_over_when_another_side_is_wanted(
  tmp_path, monkeypatch
):
  oblong, larger = grey(tmp_path, (40, 20, 24)), made_up()
  assert oblong.square_size == 0
  monkeypatch.setattr(
    synthetic.Synthetic, 'cut', lambda *args: pytest.fail('cut was called')
  )

  def plan(step):
    return np.arange(4), preprocessing.centre_draws(4, 16, 16)

  for source in (oblong, larger):
    (batch,) = loading.load(source, plan, range(1), 4, 16, 16, 1)
    assert batch['mask'].sum() == 4
