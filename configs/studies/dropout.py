"""Dropout: none, in dense layers, or also in convolutions (Section 4.2)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, on a fifth of the images, where the network overfits.

  The number of updates is that of the base. The training error, unlike the test
  error, is measured with dropout, so it exaggerates how long it takes.
  """
  everywhere = {
    f'network.{name}.order': ('activation', 'dropout')
    for name in ('conv3', 'conv4')
  }
  return base.study(
    'dropout',
    question='How much does dropout help, and how much longer does it take?',
    section='4.2',
    claim='without it the network overfits substantially, and it roughly'
    ' doubles the iterations to converge',
    overrides=base.sample(1 / 5),
    variants={
      'dense layers': {'network.dropout_rate': 0.5},
      'none': {'network.dropout_rate': 0.0},
      'conv3 and conv4 too': {'network.dropout_rate': 0.5, **everywhere},
    },
    comparisons=(
      {'first': 'none', 'second': 'dense layers', 'sign': 1},
      {'first': 'none', 'second': 'dense layers', 'metric': 'gap', 'sign': 1},
      {
        'first': 'dense layers', 'second': 'none',
        'metric': 'epochs_to_test_0.4', 'claim': 2.0, 'ratio': True,
      },
      {
        'first': 'dense layers', 'second': 'none', 'metric': 'epochs_to_0.25',
        'ratio': True,
      },
      {'first': 'conv3 and conv4 too', 'second': 'dense layers'},
    ),
  )  # fmt: skip
