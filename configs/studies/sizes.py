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
    answer='Not with width or training time: half of the maps cost 7.9 points,'
    ' twice as many gain 3.8, and twice the epochs gain 4.9. With depth'
    ' it does: five layers, about half of the parameters, do better by'
    ' 0.8 points (0.2 to 1.5) after these few epochs on small images.'
    " The paper's overlapping windows of 3 are better than those of 4 by"
    ' 1.3 points; kernels of 3 or 7 in conv1 are not better than those'
    ' of 5.',
    answered='cifar10_study, compute_dtype=float32, num_epochs=6, 3 seeds,'
    ' images 530ea5ca7c7b',
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
