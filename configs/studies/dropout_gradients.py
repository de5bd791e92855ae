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
    answer='Hardly, in this network. Dropout nearly doubles the norm of the'
    ' gradient in fc7 and adds 40 % in fc6; in the convolutions it adds 4 to'
    ' 7 %, which is within the interval for conv1 (16 % less to 36 % more).'
    ' Whether networks trained with dropout have larger gradients there than'
    ' those trained without is not resolved (conv1: 0.94 to 1.79 times).',
    answered='cifar10_study, compute_dtype=float32, 3 seeds, images'
    ' 530ea5ca7c7b',
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
