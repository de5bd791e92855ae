"""Ablation: each layer removed by itself (Section 7)."""

from ml_collections import config_dict

from configs.studies import base

_NAMES = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')


def get_config() -> config_dict.ConfigDict:
  """Returns the study.

  conv1 and conv2 are kept, since their pooling determines the size of all later
  maps. Without conv3, conv4 reads both towers instead; without conv5, conv4 is
  followed by the pooling.
  """
  removed = ('conv3', 'conv4', 'conv5', 'fc6', 'fc7')
  kept = {
    'conv3': {
      'network.conv4.reads': 'all',
      **base.times_inputs(2, 'conv4'),
    },
    'conv5': {'network.conv4.order': ('activation', 'pool')},
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
          **kept.get(name, {}),
        }
        for name in removed
      },
    },
    comparisons=tuple(
      {
        'first': f'without {name}', 'second': 'all layers',
        'claim': 0.02 if name.startswith('conv') else None,
      }
      for name in removed
    ),
  )  # fmt: skip
