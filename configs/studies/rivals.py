"""Comparison with sparse coding and Fisher vectors (Table 1)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks and trains rivals."""
  return base.study(
    'rivals',
    question='By how much does the network beat earlier methods?',
    section='6',
    claim='on ILSVRC-2010 the top-1 error is 39.0 % with the center view, that'
    ' of sparse coding 47.1 and that of SIFT with Fisher vectors 45.7 %',
    variants={'base': {}},
    measure='rivals',
    comparisons=(
      {'first': 'Fisher vectors', 'second': 'AlexNet', 'claim': 0.067},
      {'first': 'sparse codes', 'second': 'AlexNet', 'claim': 0.081},
    ),
  )
