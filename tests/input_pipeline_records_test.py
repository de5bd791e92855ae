import os

import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import records

CONTENTS = [bytes([i]) * (i * 7) for i in range(20)]


@pytest.fixture
def shards(tmp_path):
  result = []
  for number, (first, last) in enumerate([(0, 7), (7, 7), (7, 20)]):
    path = tmp_path / f'x.tfrecord-{number}'
    with tf.io.TFRecordWriter(str(path)) as writer:
      for content in CONTENTS[first:last]:
        writer.write(content)
    count = last - first
    result.append(records.Shard(path, 0, count, count))
  return result


def test_reads_any_record_of_any_file(shards):
  opened = records.open_records(shards, 'index.npz')
  assert len(opened) == 20
  indices = [19, 0, 6, 7, 7]
  assert opened.__getitems__(indices) == [CONTENTS[i] for i in indices]


def test_parts_of_files(shards):
  parts = [shards[0]._replace(skip=2, take=3), shards[2]._replace(take=4)]
  opened = records.open_records(parts, 'index.npz')
  expected = CONTENTS[2:5] + CONTENTS[7:11]
  assert opened.__getitems__(range(7)) == expected


def test_index_is_made_once_and_again_when_files_change(shards, monkeypatch):
  built = []
  index_file = records.index_file

  def count(path):
    built.append(path.name)
    return index_file(path)

  monkeypatch.setattr(records, 'index_file', count)
  for _ in range(2):
    records.open_records(shards, 'index.npz')
  assert len(built) == 3
  os.utime(shards[1].path, (1, 1))
  records.open_records(shards, 'index.npz')
  assert len(built) == 6


def test_cut_off_file(shards):
  path = shards[2].path
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(errors.UserError, match='bytes, its records need'):
    records.open_records(shards, 'index.npz')


def test_file_of_another_kind(tmp_path):
  path = tmp_path / 'x.tfrecord'
  path.write_bytes(b'\x1f\x8b not a record file, whatever its name may say')
  with pytest.raises(errors.UserError, match='cut off or compressed'):
    records.open_records([records.Shard(path, 0, 3, 3)], 'index.npz')


def test_number_of_records(shards):
  wrong = [shards[0]._replace(take=8, total=8)]
  with pytest.raises(errors.UserError, match='holds 7 records, .* counts 8'):
    records.open_records(wrong, 'index.npz')


def test_file_cut_off_after_it_was_indexed(shards):
  opened = records.open_records(shards, 'index.npz')
  shards[2].path.write_bytes(shards[2].path.read_bytes()[:-30])
  with pytest.raises(errors.UserError, match='ends inside a record'):
    opened.__getitems__(np.array([19]))
