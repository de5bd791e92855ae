"""The effect of weight decay on the training error (Section 5)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study."""
  key = 'optimizer.weight_decay'
  return base.study(
    'weight_decay',
    question='Does weight decay also reduce the training error?',
    section='5',
    claim='weight decay is not merely a regularizer: it reduces the training'
    ' error',
    metric='train_error',
    variants={
      '0.0005': {key: 0.0005},
      '0': {key: 0.0},
      '0.002': {key: 0.002},
    },
    comparisons=(
      {'first': '0', 'second': '0.0005', 'sign': 1},
      {'first': '0', 'second': '0.0005', 'metric': 'top1_error', 'sign': 1},
      {'first': '0.002', 'second': '0.0005', 'metric': 'top1_error'},
    ),
  )
