"""Kernels, windows, depth and width: does the error saturate?"""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study."""
  hidden = (*base.CONVOLUTIONS, *base.DENSE)
  return base.study(
    'sizes',
    question='Does the error saturate with width, depth and kernel size?',
    section='7',
    claim='results have improved as the network was made larger and trained'
    ' longer',
    variants={
      'base': {},
      'quarter width': base.times_features(0.25, *hidden),
      'half width': base.times_features(0.5, *hidden),
      'twice the width': base.times_features(2, *hidden),
      '3x3 in conv1': {
        'network.conv1.kernel': 3,
        'network.conv1.padding': (1, 1),
        **base.times(5 / 3, 'network.conv1.init_std'),
      },
      'twice the epochs': base.times(2, 'num_epochs'),
    },
    comparisons=(
      {'first': 'half width', 'second': 'base', 'sign': 1},
      {'first': 'quarter width', 'second': 'half width', 'sign': 1},
      {'first': 'base', 'second': 'twice the width', 'sign': 1},
      {'first': 'base', 'second': 'twice the epochs', 'sign': 1},
      {'first': '3x3 in conv1', 'second': 'base'},
    ),
  )
