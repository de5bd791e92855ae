"""Small data sets for the tests of the input pipeline."""

from collections.abc import Iterator
import gzip
import io
import os
import pathlib
import struct
import tarfile
from typing import Any

import numpy as np
from PIL import Image
import pytest

from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources


def smooth(seed: int, height: int, width: int) -> np.ndarray:
  """Returns a picture with soft edges, uint8 [height, width, 3]."""
  coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
  image = Image.fromarray(coarse).resize(
    (width, height), Image.Resampling.BICUBIC
  )
  return np.asarray(image)


def encode(pixels: np.ndarray, kind: str, mode: str = '', **options) -> bytes:
  """Returns the file of a picture in a format that Pillow names."""
  image = Image.fromarray(pixels)
  if mode:
    image = image.convert(mode)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def write_folder(
  root: pathlib.Path, classes: int, per_class: int, sides=(40, 56)
) -> None:
  """Writes root/class<c>/<i>.jpg, a picture of its own each."""
  for label in range(classes):
    folder = root / f'class{label}'
    folder.mkdir(parents=True)
    for i in range(per_class):
      pixels = smooth(1000 * label + i, *sides)
      (folder / f'{i:03d}.jpg').write_bytes(encode(pixels, 'JPEG', quality=95))


def write_idx(
  folder: pathlib.Path, prefix: str, images: np.ndarray, labels: np.ndarray
) -> None:
  """Writes uint8 images [n, h, w] and labels [n] as MNIST's files."""
  folder.mkdir(parents=True, exist_ok=True)
  header = struct.pack('>4I', 0x0803, *images.shape)
  name = f'{prefix}-images-idx3-ubyte.gz'
  (folder / name).write_bytes(gzip.compress(header + images.tobytes()))
  header = struct.pack('>2I', 0x0801, len(labels))
  name = f'{prefix}-labels-idx1-ubyte'
  (folder / name).write_bytes(header + labels.astype(np.uint8).tobytes())


def train_batches(
  source: sources.Source, image_size: int, **changes: Any
) -> Iterator[pipeline.Batch]:
  """Returns training batches of 8, everything drawn, but for the changes."""
  augmentation = {
    'displacement': 0.0,
    'displacement_sigma': 4.0,
    'crop_size': image_size - 4,
    'random_crop': True,
    'flip': True,
    'crop_chunk': 1,
    'lighting_scale': np.array([1.0, 2.0, 3.0]),
    'eigenvectors': np.eye(3),
  }
  varied = {key: changes.pop(key, augmentation[key]) for key in augmentation}
  settings = {
    'batch_size': 8,
    'seed': 3,
    'start_step': 0,
    'decoder': decoding.Options(image_size),
    'shuffle': True,
  }
  return pipeline.train_batches(
    source, preprocessing.Augmentation(**varied), **(settings | changes)
  )


def imagenet_images(count: int) -> list[tuple[str, bytes]]:
  """Returns (WordNet id, JPEG) of real ImageNet images, or skips the test."""
  folder = os.environ.get('ALEXNET_DATA')
  if not folder:
    pytest.skip('set ALEXNET_DATA to the folder of imagenet_sample.tar')
  archive = pathlib.Path(folder) / 'imagenet_sample.tar'
  if not archive.is_file():
    pytest.skip(f'there is no {archive}')
  images = []
  with tarfile.open(archive) as tar:
    for member in tar:
      if member.name.endswith('.JPEG') and len(images) < count:
        wnid = pathlib.PurePath(member.name).name.split('_')[0]
        content = tar.extractfile(member)
        assert content is not None
        images.append((wnid, content.read()))
  return images


def write_imagenet_archives(
  folder: pathlib.Path, images: list[tuple[str, bytes]], num_val: int
) -> None:
  """Writes the two official archives: a tar a class, and numbered files."""
  folder.mkdir(parents=True, exist_ok=True)
  with tarfile.open(folder / 'ILSVRC2012_img_train.tar', 'w') as train:
    for wnid, content in images:
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode='w') as tar:
        _add(tar, f'{wnid}_1.JPEG', content)
      _add(train, f'{wnid}.tar', inner.getvalue())
  with tarfile.open(folder / 'ILSVRC2012_img_val.tar', 'w') as val:
    for number in range(1, num_val + 1):
      _, content = images[number % len(images)]
      _add(val, f'ILSVRC2012_val_{number:08d}.JPEG', content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
  info = tarfile.TarInfo(name)
  info.size = len(content)
  tar.addfile(info, io.BytesIO(content))
