import os
import types

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import arrays
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import prepare
from alexnet_jax.input_pipeline import statistics
from tests import input_pipeline_testing as testing


@pytest.fixture
def source(tmp_path):
  testing.write_folder(tmp_path / 'train', classes=3, per_class=7)
  (tmp_path / 'train/class1/broken.jpg').write_bytes(b'not an image')
  return folder.open_folder(str(tmp_path), 'train')


OPTIONS = decoding.Options(16)


def all_images(source, image_size):
  steps = pipeline.eval_batches(
    source, batch_size=8, decoder=decoding.Options(image_size)
  )
  return np.concatenate([step['image'][step['mask'] > 0] for step in steps])


def test_equals_float64_over_all_pixels(source):
  ours = statistics.compute(source, decoding.Options(32))
  images = all_images(source, 32).astype(np.float64)
  pixels = images.reshape(-1, 3)
  covariance = np.cov(pixels.T, bias=True)
  assert (ours.num_examples, ours.unreadable) == (21, 1)
  assert ours.fingerprint == source.fingerprint
  assert ours.mean_image.dtype == np.float32
  np.testing.assert_array_equal(
    ours.mean_image, images.mean(0).astype(np.float32)
  )
  np.testing.assert_allclose(ours.channel_mean, pixels.mean(0), rtol=1e-14)
  rebuilt = ours.eigenvectors * ours.stdevs**2 @ ours.eigenvectors.T
  np.testing.assert_allclose(rebuilt, covariance, rtol=1e-10)
  assert (np.diff(ours.stdevs) > 0).all()
  np.testing.assert_allclose(
    ours.eigenvectors.T @ ours.eigenvectors, np.eye(3), atol=1e-12
  )


def test_does_not_depend_on_batch_size_or_threads(source, monkeypatch):
  options = decoding.Options(24)
  first = statistics.compute(source, options, threads=1)
  monkeypatch.setattr(statistics, '_BATCH_SIZE', 5)
  second = statistics.compute(source, options, threads=3)
  for key in ('mean_image', 'channel_mean', 'stdevs', 'eigenvectors'):
    np.testing.assert_array_equal(getattr(first, key), getattr(second, key))


def test_gray_images_have_one_component(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
  source = synthetic_gray(tmp_path, images)
  ours = statistics.compute(source, decoding.Options(8))
  np.testing.assert_allclose(ours.stdevs[:2], 0, atol=1e-4)
  np.testing.assert_allclose(ours.stdevs[2], images.std() * 3**0.5)
  np.testing.assert_allclose(np.abs(ours.eigenvectors[:, 2]), 3**-0.5)


def synthetic_gray(tmp_path, images):
  testing.write_idx(tmp_path, 'train', images, np.zeros(len(images)))
  return arrays.open_idx(str(tmp_path), 'train')


def test_nothing_readable(tmp_path):
  (tmp_path / 'class').mkdir()
  (tmp_path / 'class/x.jpg').write_bytes(b'')
  source = folder.open_folder(str(tmp_path), '')
  with pytest.raises(errors.UserError, match='none of the 1 images'):
    statistics.compute(source, OPTIONS)


def test_kept_beside_the_data_and_read_again(source, monkeypatch):
  computed = statistics.load_or_compute(source, OPTIONS)
  assert (source.directory / 'statistics-train-16.npz').is_file()
  monkeypatch.setattr(statistics, 'compute', lambda *args: 1 / 0)
  loaded = statistics.load_or_compute(source, OPTIONS)
  for key, value in vars(computed).items():
    np.testing.assert_array_equal(getattr(loaded, key), value)
    assert type(getattr(loaded, key)) is type(value)


def test_other_data_are_refused(source):
  statistics.load_or_compute(source, OPTIONS)
  os.utime(source.describe(0), (1, 1))
  changed = folder.open_folder(str(source.directory), 'train')
  with pytest.raises(
    errors.UserError, match='delete the file or run'
  ) as caught:
    statistics.load_or_compute(changed, OPTIONS)
  message = str(caught.value)
  assert source.fingerprint[:12] in message
  assert changed.fingerprint[:12] in message


def test_damage_anywhere_is_noticed_or_harmless(source):
  expected = statistics.load_or_compute(source, OPTIONS)
  path = source.directory / 'statistics-train-16.npz'
  whole = path.read_bytes()
  # The lists of what is in the file, and some of its content.
  start = whole.index(b'PK\x01\x02')
  damaged = [whole[:0], whole[:2000], whole[:-1]]
  for place in (*range(0, start, 997), *range(start, len(whole), 3)):
    content = bytearray(whole)
    content[place] ^= 1 << place % 8
    damaged.append(bytes(content))
  noticed = 0
  for content in damaged:
    path.write_bytes(content)
    try:
      loaded = statistics.load_or_compute(source, OPTIONS)
    except errors.UserError:
      noticed += 1
    else:
      np.testing.assert_array_equal(loaded.mean_image, expected.mean_image)
  assert noticed > 50


def test_another_size_is_refused(source):
  statistics.load_or_compute(source, OPTIONS)
  file = source.directory / 'statistics-train-16.npz'
  file.rename(source.directory / 'statistics-train-24.npz')
  with pytest.raises(errors.UserError, match='of size 16, not 24'):
    statistics.load_or_compute(source, decoding.Options(24))


def test_a_part_of_a_split_has_a_file_name(tmp_path):
  source = arrays.Synthetic(
    split='train[:90%]', num_examples=1, num_classes=1, image_size=8
  )
  # Nothing is kept of images that are on no disk.
  assert statistics.stored_path(source, decoding.Options(8)) is None
  on_disk = types.SimpleNamespace(split=source.split, directory=tmp_path)
  path = statistics.stored_path(on_disk, decoding.Options(8))
  assert path == tmp_path / 'statistics-train__90__-8.npz'


def test_imagenet_constants():
  constants = statistics.IMAGENET
  np.testing.assert_allclose(
    constants.eigenvectors.T @ constants.eigenvectors, np.eye(3), atol=1e-6
  )
  # Plausible for RGB pixels: 74, 72 and 77 gray levels a channel.
  covariance = (
    constants.eigenvectors * constants.stdevs**2 @ constants.eigenvectors.T
  )
  np.testing.assert_allclose(
    np.sqrt(np.diag(covariance)), [74.0, 72.0, 77.0], atol=0.1
  )


def test_prepare_computes_again(source):
  statistics.load_or_compute(source, OPTIONS)
  os.utime(source.describe(0), (1, 1))
  changed = folder.open_folder(str(source.directory), 'train')
  summary = prepare.run(changed, changed, OPTIONS)
  assert summary.statistics.num_examples == 21
  assert summary.statistics_file.is_file()
  loaded = statistics.load_or_compute(changed, OPTIONS)
  np.testing.assert_array_equal(loaded.stdevs, summary.statistics.stdevs)


def test_images_decoded_otherwise_have_statistics_of_their_own(source):
  others = (
    OPTIONS,
    OPTIONS._replace(upright=True),
    OPTIONS._replace(max_pixels=40),
    OPTIONS._replace(max_pixels=50),
  )
  assert len({statistics.stored_path(source, each) for each in others}) == 4


def test_stale_statistics_on_a_disk_that_cannot_be_written(
  source, tmp_path, monkeypatch
):
  statistics.load_or_compute(source, OPTIONS)
  os.utime(source.describe(0), (1, 1))
  changed = folder.open_folder(str(source.directory), 'train')
  monkeypatch.setattr(os, 'access', lambda path, mode: path == tmp_path / 'me')
  monkeypatch.setenv('HOME', str(tmp_path / 'me'))
  (tmp_path / 'me').mkdir()
  with pytest.raises(errors.UserError, match='run with --mode=prepare'):
    statistics.load_or_compute(changed, OPTIONS)
  kept = prepare.run(changed, changed, OPTIONS).statistics_file
  assert kept.is_relative_to(tmp_path / 'me')
  loaded = statistics.load_or_compute(changed, OPTIONS)
  assert loaded.fingerprint == changed.fingerprint
