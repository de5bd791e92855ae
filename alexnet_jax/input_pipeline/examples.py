"""Features as TFRecord files."""

import pathlib

import numpy as np
import tensorflow as tf

from alexnet_jax import files


def save_features(
  path: pathlib.Path,
  features: np.ndarray,
  labels: np.ndarray,
  classes: np.ndarray,
  names: np.ndarray,
) -> None:
  """Writes a tf.train.Example for each image.

  It holds `features` (floats, flattened), `shape` (of the features, int64),
  `label` (int64), `class` and `file` (bytes).

  Args:
    path: of the file.
    features: float32 [N, ...].
    labels: int32 [N].
    classes: str [N], names of the classes.
    names: str [N], of the images.
  """
  with files.replacing(path) as file, tf.io.TFRecordWriter(file.name) as writer:
    for row, label, class_name, name in zip(
      features, labels, classes, names, strict=True
    ):
      fields = {
        'features': tf.train.Feature(
          float_list=tf.train.FloatList(value=row.ravel())
        ),
        'shape': _integers(row.shape),
        'label': _integers([label]),
        'class': _text(class_name),
        'file': _text(name),
      }
      example = tf.train.Example(features=tf.train.Features(feature=fields))
      writer.write(example.SerializeToString())


def _integers(values) -> tf.train.Feature:
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _text(value: str) -> tf.train.Feature:
  content = str(value).encode()
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
