"""Images to feed the pipelines with: a folder of class folders."""

import os
import pathlib
import tarfile

SAMPLE = 'imagenet_sample.tar'


def unpack_sample(data: pathlib.Path, into: pathlib.Path, copies: int) -> None:
  """Unpacks the sample of ImageNet's JPEGs into class folders.

  Args:
    data: the folder that holds the archive, of files <wnid>_<name>.JPEG.
    into: the folder for the class folders.
    copies: names for each file, by hard links, so that an epoch is longer.
  """
  with tarfile.open(data / SAMPLE) as archive:
    for member in archive:
      name = pathlib.Path(member.name).name
      content = archive.extractfile(member)
      if content is None:
        continue
      folder = into / name.split('_')[0]
      folder.mkdir(parents=True, exist_ok=True)
      (folder / name).write_bytes(content.read())
      for copy in range(1, copies):
        os.link(folder / name, folder / f'{copy}_{name}')


def listed(data_dir: str) -> tuple[list[str], list[int]]:
  """Returns the images of a folder of class folders, and their labels."""
  classes = sorted(p for p in pathlib.Path(data_dir).iterdir() if p.is_dir())
  found = [
    (str(path), label)
    for label, folder in enumerate(classes)
    for path in sorted(folder.iterdir())
  ]
  return [path for path, _ in found], [label for _, label in found]
