"""Ablation: each layer removed by itself (Section 7)."""

from ml_collections import config_dict

from configs.studies import base

_NAMES = (*base.CONVOLUTIONS, *base.DENSE, 'fc8')


def get_config() -> config_dict.ConfigDict:
  """Returns the study.

  What a layer does besides its own weighted sums is left to a neighbor: the
  stride of conv1 to conv2, its pooling and those of conv2 and conv5, and that
  conv3 reads both towers.
  """
  removed = _NAMES[:-1]
  kept = {
    'conv1': {
      'network.conv2.stride': ('copy', 'network.conv1.stride'),
      **base.plus('network.conv2.order', 'pool'),
      **base.same_sums('conv2'),
    },
    'conv2': {
      **base.plus('network.conv1.order', 'pool'),
      **base.same_sums('conv3'),
    },
    'conv3': {'network.conv4.reads': 'all', **base.same_sums('conv4')},
    'conv4': base.same_sums('conv5'),
    'conv5': {
      **base.plus('network.conv4.order', 'pool'),
      **base.same_sums('fc6'),
    },
    'fc6': base.same_sums('fc7'),
    'fc7': base.same_sums('fc8'),
  }
  return base.study(
    'layers',
    question='What does each layer contribute?',
    section='7',
    claim='removing any of the middle layers costs about 2 % of top-1',
    variants={
      'all layers': {},
      **{
        f'without {name}': {
          'network.layers': tuple(x for x in _NAMES if x != name),
          **kept[name],
        }
        for name in removed
      },
    },
    comparisons=tuple(
      {
        'first': f'without {name}', 'second': 'all layers',
        'claim': 0.02 if name in ('conv3', 'conv4', 'conv5') else None,
      }
      for name in removed
    ),
  )  # fmt: skip
