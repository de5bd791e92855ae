"""Kernel and pool sizes, depth and width (Section 7)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study."""

  def of_width(factor):
    hidden = (*base.CONVOLUTIONS, *base.DENSE)
    return {
      **base.times_features(factor, *hidden),
      **base.same_sums(*hidden[1:], 'fc8'),
    }

  return base.study(
    'sizes',
    question='Does the error saturate with width, depth and kernel size?',
    section='7',
    claim='results have improved as the network was made larger and trained'
    ' longer',
    variants={
      'base': {},
      'quarter width': of_width(0.25),
      'half width': of_width(0.5),
      'twice the width': of_width(2),
      '3x3 in conv1': {
        'network.conv1.kernel': 3,
        'network.conv1.padding': (0, 1),
        **base.same_sums('conv1'),
      },
      '7x7 in conv1': {
        'network.conv1.kernel': 7,
        'network.conv1.padding': (2, 3),
        **base.same_sums('conv1'),
      },
      # Past the border, so that there are as many windows.
      '4x4 windows': {
        'network.pool.size': 4,
        'network.pool.past_border': True,
      },
      'five layers': {
        'network.layers': ('conv1', 'conv2', 'conv5', 'fc6', 'fc8'),
        'network.conv5.reads': 'all',
        **base.same_sums('conv5'),
      },
      'twice the epochs': base.times(2, 'num_epochs'),
    },
    comparisons=(
      {'first': 'half width', 'second': 'base', 'sign': 1},
      {'first': 'quarter width', 'second': 'half width', 'sign': 1},
      {'first': 'base', 'second': 'twice the width', 'sign': 1},
      {'first': 'base', 'second': 'twice the epochs', 'sign': 1},
      {'first': '3x3 in conv1', 'second': 'base'},
      {'first': '7x7 in conv1', 'second': 'base'},
      {'first': '4x4 windows', 'second': 'base'},
      {'first': 'five layers', 'second': 'base', 'sign': 1},
    ),
  )
