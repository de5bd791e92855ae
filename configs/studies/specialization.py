"""Specialization of the towers in color (Section 6.1)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'specialization',
    question='Does one tower learn color and the other not, in every run?',
    section='6.1',
    claim='kernels of one GPU are largely color-agnostic, those of the other'
    ' color-specific, in every run and independent of initial values',
    answer='Not in these networks: in none of six runs do the color scores of'
    ' the towers differ by more than chance (p from 0.12 to 0.83), with or'
    ' without communication. They have 16 kernels of 5x5 pixels per tower and'
    ' six epochs of CIFAR-10; the paper has 48 of 11x11 and 90 of ImageNet.',
    answered='cifar10_study, compute_dtype=float32, num_epochs=6, 3 seeds,'
    ' images 530ea5ca7c7b',
    variants={
      'communication': {
        f'network.{name}.reads': 'all' for name in ('conv3', 'fc6', 'fc7')
      },
      'no communication': base.no_communication(),
    },
    measure='color_scores',
    metric='difference',
    comparisons=(
      {'first': 'no communication: conv1', 'second': 'communication: conv1'},
    ),
  )
