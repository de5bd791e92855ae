import gzip

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import idx
from tests import input_pipeline_testing as testing

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.fixture
def data(tmp_path):
  testing.write_idx(tmp_path, 'train', IMAGES, LABELS)
  testing.write_idx(tmp_path, 't10k', IMAGES[:2], LABELS[:2])
  return tmp_path


def test_reads_zipped_and_plain_files(data):
  source = idx.open_idx(str(data), 'train')
  np.testing.assert_array_equal(source.images, IMAGES)
  np.testing.assert_array_equal(source.labels, LABELS)
  assert source.labels.dtype == np.int32
  assert source.class_names == ('0', '1', '2')
  assert idx.open_idx(str(data), 'test').num_examples == 2


def test_grey_becomes_rgb(tmp_path):
  square = IMAGES[:, :4]
  testing.write_idx(tmp_path, 'train', square, LABELS)
  source = idx.open_idx(str(tmp_path), 'train')
  (batch,) = batches.eval_batches(source, batch_size=6, image_size=4)
  np.testing.assert_array_equal(
    batch['image'], np.repeat(square[..., np.newaxis], 3, 3)
  )
  np.testing.assert_array_equal(batch['label'], LABELS)


def test_class_names_are_given(data):
  names = ('T-shirt', 'Trouser', 'Pullover')
  assert idx.open_idx(str(data), 'train', '', names).class_names == names
  with pytest.raises(errors.UserError, match='label 2 but only 2 class names'):
    idx.open_idx(str(data), 'train', '', names[:2])


def test_fingerprint_follows_the_content(data, tmp_path):
  before = idx.open_idx(str(data), 'train').fingerprint
  assert idx.open_idx(str(data), 'test').fingerprint != before
  changed = IMAGES.copy()
  changed[0, 0, 0] ^= 1
  testing.write_idx(tmp_path, 'train', changed, LABELS)
  assert idx.open_idx(str(tmp_path), 'train').fingerprint != before


def test_unknown_split(data):
  with pytest.raises(errors.UserError, match="no split 'val': .*train or test"):
    idx.open_idx(str(data), 'val')


def test_missing_file(tmp_path):
  with pytest.raises(errors.UserError, match='neither train-images-idx3-ubyte'):
    idx.open_idx(str(tmp_path), 'train')


def images_file(folder, content, tail=b''):
  path = folder / 'train-images-idx3-ubyte.gz'
  path.write_bytes(gzip.compress(content) + tail)


def test_wrong_magic(data):
  content = (data / 'train-labels-idx1-ubyte').read_bytes()
  images_file(data, content + bytes(20))
  with pytest.raises(errors.UserError, match='0x00000801, not with 0x00000803'):
    idx.open_idx(str(data), 'train')


@pytest.mark.parametrize(('change', 'size'), [(-1, 135), (3, 139)])
def test_wrong_size(data, change, size):
  path = data / 'train-images-idx3-ubyte.gz'
  content = gzip.decompress(path.read_bytes())
  content = content[:change] if change < 0 else content + bytes(change)
  images_file(data, content)
  message = rf'{size} bytes, its header \[6, 5, 4\] needs 136'
  with pytest.raises(errors.UserError, match=message):
    idx.open_idx(str(data), 'train')


def test_header_cut_off(data):
  images_file(data, b'\0\0\x08\x03')
  with pytest.raises(errors.UserError, match='4 bytes, its header alone .* 16'):
    idx.open_idx(str(data), 'train')


def test_damaged_gzip(data):
  path = data / 'train-images-idx3-ubyte.gz'
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(errors.UserError, match='is damaged'):
    idx.open_idx(str(data), 'train')


def test_as_many_labels_as_images(data):
  testing.write_idx(data, 'train', IMAGES[:5], LABELS)
  with pytest.raises(errors.UserError, match='5 images but 6 labels'):
    idx.open_idx(str(data), 'train')
