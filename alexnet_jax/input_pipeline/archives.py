"""The two ImageNet archives that must be fetched by hand, checked in words."""

import pathlib
import tarfile

from absl import logging

from alexnet_jax import errors

# Bytes, as image-net.org gives them for ILSVRC 2012.
OFFICIAL_SIZES = {
  'ILSVRC2012_img_train.tar': 147_897_477_120,
  'ILSVRC2012_img_val.tar': 6_744_924_160,
}


def check_imagenet(folder: pathlib.Path) -> None:
  """Checks both archives before anything spends hours on them.

  An archive of another size than the official one is only warned about.

  Raises:
    errors.UserError: when one is missing, no tar archive, or cut off.
  """
  missing = [name for name in OFFICIAL_SIZES if not (folder / name).is_file()]
  if missing:
    raise errors.UserError(
      f'{folder} lacks {" and ".join(missing)}: log in at '
      'https://image-net.org/download-images, fetch the ILSVRC 2012 archives '
      'and set manual_dir to their folder'
    )
  for name, official in OFFICIAL_SIZES.items():
    _check_archive(folder / name, official)


def _check_archive(path: pathlib.Path, official: int) -> None:
  size = path.stat().st_size
  try:
    with tarfile.open(path, 'r:') as archive:
      first = archive.next()
  except tarfile.TarError as error:
    raise errors.UserError(
      f'{path} ({size:,} bytes) is not a tar archive ({error}): fetch it again '
      'and leave it as it comes'
    ) from error
  if first is None:
    raise errors.UserError(f'{path} is an empty tar archive: fetch it again')
  # A tar archive ends in two blocks of zeros, which a cut-off one has not.
  with open(path, 'rb') as file:
    file.seek(-min(size, 1024), 2)
    ending = file.read()
  if size % 512 or any(ending):
    raise errors.UserError(
      f'{path} is cut off at {size:,} bytes, the official archive has '
      f'{official:,}: fetch it again'
    )
  if size != official:
    logging.warning(
      '%s has %s bytes, the official archive %s: is it the right one?',
      path,
      f'{size:,}',
      f'{official:,}',
    )
