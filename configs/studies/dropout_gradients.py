"""The effect of dropout on the gradients of each layer (Section 4.2)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'dropout_gradients',
    question='Does dropout in the dense layers reach the first layers?',
    section='4.2',
    claim='dropout is used in the first two dense layers',
    # The runs of the study `dropout`.
    overrides=base.sample(1 / 5),
    variants={
      'trained with': {'network.dropout_rate': 0.5},
      'trained without': {'network.dropout_rate': 0.0},
    },
    measure='gradients',
    metric='gradient_conv1',
    comparisons=(
      {
        'first': 'trained with: with dropout',
        'second': 'trained with: without dropout', 'ratio': True,
      },
      {
        'first': 'trained with: with dropout',
        'second': 'trained without: without dropout', 'ratio': True,
      },
    ),
  )  # fmt: skip
