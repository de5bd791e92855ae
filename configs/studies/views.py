"""Test error by the number of views of an image (Section 4.1)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'views',
    question='What do ten views bring, and how many are enough?',
    section='4.1',
    claim='without averaging over ten patches the top-1 error is 39.0 instead'
    ' of 37.5 %',
    answer='Ten views reduce the error by 2.0 points (1.6 to 2.4); the paper'
    ' reports 1.5. The mirror image of the center alone brings 1.2 points, at a'
    ' fifth of the work. Fifty views reduce the error by another 0.06 points'
    ' (0.01 to 0.11) and the loss by 0.008, at five times the work.',
    answered='cifar10_study, 3 seeds, images 530ea5ca7c7b',
    variants={'base': {}},
    measure='views',
    against='multiply_adds',
    comparisons=(
      {'first': '1 view', 'second': '10 views', 'claim': 0.015},
      {'first': '1 view', 'second': '2 views'},
      {'first': '10 views', 'second': '50 views'},
    ),
  )
