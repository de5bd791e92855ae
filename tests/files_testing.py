"""Folders that cannot be written, or are full, for tests of what is said."""

from collections.abc import Iterator
import contextlib
import pathlib
import subprocess

import pytest


@contextlib.contextmanager
def read_only(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder one that not even the superuser can write."""
  mount = ['mount', '--bind', folder, folder]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('only the superuser can mount a folder')
  try:
    remount = ['mount', '-o', 'remount,bind,ro', folder]
    subprocess.run(remount, capture_output=True, check=True)
    yield
  finally:
    subprocess.run(['umount', '-l', folder], capture_output=True, check=True)


@contextlib.contextmanager
def mounted(folder: pathlib.Path, options: str) -> Iterator[pathlib.Path]:
  """Mounts a file system in memory, such as one with 'size=64k'."""
  folder.mkdir(exist_ok=True)
  mount = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('only the superuser can mount a folder')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '-l', str(folder)], check=True)
