"""Some examples of a source, in any order, as a source of their own."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from alexnet_jax.input_pipeline import sources


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
  """A source that shows another's examples; see `sources.Source`.

  Attributes:
    source: where they are.
    indices: int64 [N], which they are there; an example may come twice.
  """

  source: sources.Source
  indices: np.ndarray

  @property
  def name(self) -> str:
    return self.source.name

  @property
  def split(self) -> str:
    return self.source.split

  @property
  def directory(self) -> pathlib.Path | None:
    return self.source.directory

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.source.class_names

  @property
  def num_examples(self) -> int:
    return len(self.indices)

  @property
  def fingerprint(self) -> str:
    digest = hashlib.sha256(self.source.fingerprint.encode())
    digest.update(np.asarray(self.indices, np.int64).tobytes())
    return digest.hexdigest()

  @property
  def record_spec(self) -> tuple[tf.TensorSpec, ...]:
    return self.source.record_spec

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    return self.source.fetch(self.indices[indices])

  def read(self, record: sources.Record) -> tuple[tf.Tensor, tf.Tensor]:
    return self.source.read(record)

  def describe(self, index: int) -> str:
    return self.source.describe(int(self.indices[index]))
