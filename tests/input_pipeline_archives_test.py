import logging

import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import archives
from tests import input_pipeline_testing as testing

TRAIN, VAL = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'


@pytest.fixture
def folder(tmp_path):
  images = [('n01440764', b'a' * 3000), ('n01443537', b'b' * 5000)]
  testing.write_imagenet_archives(tmp_path, images, num_val=3)
  return tmp_path


def test_other_sizes_are_only_warned_about(folder, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    archives.check_imagenet(folder)
  assert '147,897,477,120' in caplog.text
  assert '6,744,924,160' in caplog.text


def test_missing_archives_are_named(folder):
  (folder / VAL).unlink()
  with pytest.raises(errors.UserError, match='image-net.org') as caught:
    archives.check_imagenet(folder)
  assert f'{folder} lacks {VAL}:' in str(caught.value)
  (folder / TRAIN).unlink()
  with pytest.raises(errors.UserError, match=f'lacks {TRAIN} and {VAL}'):
    archives.check_imagenet(folder)


def test_missing_folder(tmp_path):
  with pytest.raises(errors.UserError, match='absent lacks'):
    archives.check_imagenet(tmp_path / 'absent')


@pytest.mark.parametrize('keep', [9000, 9 * 512])
def test_cut_off_archive(folder, keep):
  path = folder / TRAIN
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(errors.UserError, match=f'cut off at {keep:,} bytes'):
    archives.check_imagenet(folder)


@pytest.mark.parametrize(
  'content', [b'', b'<html>log in first</html>' * 99, b'\x1f\x8b' + bytes(2000)]
)
def test_no_archive_at_all(folder, content):
  (folder / VAL).write_bytes(content)
  with pytest.raises(errors.UserError, match='tar archive.*fetch it again'):
    archives.check_imagenet(folder)
