"""What a trained network is besides its parameters, and what made it.

A checkpoint carries an `Identity`, so that a workdir alone is the function that
was trained, whatever has become of the data folder since.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Self

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax.epochs import Epochs

_ARRAYS = ('mean_image', 'channel_mean', 'stdevs', 'eigenvectors')
# Keys that a config of an earlier version may lack, and what was done then.
_ADDED = {
  'data': {'num_train': 0},
  'input': {'displacement': 0.0, 'displacement_sigma': 4.0},
}
# Values of config keys that have another name since a checkpoint was written.
_RENAMED = {('input', 'color', 'source'): 'cuda_convnet'}


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
  """Mean and principal components of the training images; 0..255 units.

  Attributes:
    mean_image: float32 [S, S, 3], or [3] where only the channels' are known.
    channel_mean: float64 [3], RGB.
    stdevs: float64 [3], standard deviations along the principal components of
      RGB over all pixels, ascending.
    eigenvectors: float64 [3, 3], those components, one per column.
    num_examples: how many images were counted.
    unreadable: how many were left out because they could not be read.
    fingerprint: of the source they were computed from.
  """

  mean_image: np.ndarray
  channel_mean: np.ndarray
  stdevs: np.ndarray
  eigenvectors: np.ndarray
  num_examples: int
  unreadable: int
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Split:
  """A split of a data set, as it was in training.

  Attributes:
    name: of the data set.
    split: of the data set, such as 'train'.
    num_examples: how many images it had.
    fingerprint: a digest that changes when the images do.
  """

  name: str
  split: str
  num_examples: int
  fingerprint: str


@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
  """Everything about a run except its state; see the module.

  Attributes:
    config: of the run, as JSON types.
    class_names: one per label, in the order of the labels, as the data set
      has them.
    statistics: of the training split: mean and principal components.
    train: the training split.
    validation: the validation split.
    epoch_shift: added to a step before it is divided by the steps per epoch;
      see `epochs.Epochs`.
  """

  config: dict[str, Any]
  class_names: tuple[str, ...]
  statistics: Statistics
  train: Split
  validation: Split
  epoch_shift: int = 0

  @property
  def epochs(self) -> Epochs:
    """How the steps of the run are counted in epochs."""
    steps = -(-self.train.num_examples // self.config['batch_size'])
    return Epochs(steps, self.epoch_shift)

  def to_json(self) -> dict[str, Any]:
    """Returns everything but the arrays, as JSON types."""
    statistics = {
      field.name: getattr(self.statistics, field.name)
      for field in dataclasses.fields(Statistics)
      if field.name not in _ARRAYS
    }
    shapes = {name: list(array.shape) for name, array in self.arrays().items()}
    return {
      'config': self.config,
      'class_names': list(self.class_names),
      'statistics': {**statistics, 'shapes': shapes},
      'train': dataclasses.asdict(self.train),
      'validation': dataclasses.asdict(self.validation),
      'epoch_shift': self.epoch_shift,
    }

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the arrays of the statistics by name."""
    return {name: getattr(self.statistics, name) for name in _ARRAYS}

  @staticmethod
  def abstract_arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns empty arrays of the right shape and dtype for a restore.

    Args:
      values: from `to_json`.
    """
    shapes = values['statistics']['shapes']
    return {
      name: np.empty(
        shapes[name], np.float32 if name == 'mean_image' else np.float64
      )
      for name in _ARRAYS
    }

  @classmethod
  def from_json(
    cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
  ) -> Self:
    """The inverse of `to_json` and `arrays`."""
    measured = values['statistics']
    return cls(
      config=_with_new_keys(_with_new_names(values['config'])),
      class_names=tuple(values['class_names']),
      statistics=Statistics(
        mean_image=arrays['mean_image'],
        channel_mean=arrays['channel_mean'],
        stdevs=arrays['stdevs'],
        eigenvectors=arrays['eigenvectors'],
        num_examples=measured['num_examples'],
        unreadable=measured['unreadable'],
        fingerprint=measured['fingerprint'],
      ),
      train=Split(**values['train']),
      validation=Split(**values['validation']),
      epoch_shift=values['epoch_shift'],
    )


def _with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a checkpoint's config in today's words, and logs what changed."""
  config = dict(config)
  for (group, key, old), new in _RENAMED.items():
    if group in config and config[group][key] == old:
      config[group] = {**config[group], key: new}
      logging.info(
        "The checkpoint's %s.%s='%s' is now called '%s'", group, key, old, new
      )
  return config


def _with_new_keys(config: dict[str, Any]) -> dict[str, Any]:
  """Returns a checkpoint's config with the keys that it was written without.

  They say what was done before they were introduced.
  """
  config = {'parallelism': 'both', **config}
  for group, added in _ADDED.items():
    if group in config:
      config[group] = {**added, **config[group]}
  if 'optimizer' not in config or 'rule' in config['optimizer']:
    return config
  chosen = config['optimizer']
  # Only the cosine schedule had a warm-up.
  cosine = dict(chosen['cosine'])
  warmup = cosine.pop('warmup_epochs')
  added = {
    'rule': 'momentum',
    'base_batch_size': 0,
    'warmup_epochs': warmup if chosen['schedule'] == 'cosine' else 0.0,
    'cosine': cosine,
    'polynomial': {'power': 2.0},
    'lars': {'trust_coefficient': 0.001, 'eps': 0.0},
  }
  return {**config, 'optimizer': {**chosen, **added}}


def check_class_names(
  names: Sequence[str], expected: Sequence[str], whose: str, expected_of: str
) -> None:
  """Checks that two lists of classes are equal.

  Args:
    names: by label.
    expected: by label.
    whose: the first, for the message.
    expected_of: the second, for the message.

  Raises:
    UserError: naming the first label that differs.
  """
  if tuple(names) == tuple(expected):
    return
  both = zip(names, expected, strict=False)
  label = next(
    (i for i, (name, other) in enumerate(both) if name != other),
    min(len(names), len(expected)),
  )
  ours, theirs = (
    f"'{each[label]}'" if label < len(each) else 'missing'
    for each in (names, expected)
  )
  raise errors.UserError(
    f'the classes of {whose} ({len(names)}) are not those of {expected_of}'
    f' ({len(expected)}): label {label} is {ours} and {theirs}; restore the'
    ' class folders, or name other data with --config.data.data_dir'
  )
