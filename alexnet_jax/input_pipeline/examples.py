"""Features as TFRecord files: one tf.train.Example a row."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf


def save_features(path: pathlib.Path, **arrays: Any) -> None:
  """Writes rows of features; the file is never seen half-written.

  Each row is an example with `features` (floats, flattened), `shape` (of the
  features, int64), `label` (int64), `class` and `file` (bytes).

  Args:
    path: of the file.
    **arrays: features float32 [N, ...], labels int32 [N], classes and files
      str [N]; anything else is left out.
  """
  features, labels = arrays['features'], arrays['labels']
  temporary = path.with_name(path.name + '.tmp')
  with tf.io.TFRecordWriter(str(temporary)) as writer:
    for i, row in enumerate(features):
      fields = {
        'features': _floats(row),
        'shape': _integers(row.shape),
        'label': _integers([labels[i]]),
        'class': _text(arrays['classes'][i]),
        'file': _text(arrays['files'][i]),
      }
      example = tf.train.Example(features=tf.train.Features(feature=fields))
      writer.write(example.SerializeToString())
  temporary.replace(path)


def _floats(values: np.ndarray) -> tf.train.Feature:
  return tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel()))


def _integers(values: Any) -> tf.train.Feature:
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _text(value: str) -> tf.train.Feature:
  content = str(value).encode('utf-8', 'surrogateescape')
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
