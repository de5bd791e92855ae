"""Ensembles: the mean prediction of one to five networks (Section 6)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'ensembles',
    question='How far would averaging more networks go?',
    section='6',
    claim='five networks have a top-5 error of 16.4 instead of 18.2 %',
    answer='An ensemble of three networks that differ only in their seed has an'
    ' error of 20.3 %, two 20.5 % and one 21.4 %, all with ten views. A fit of'
    ' a + b / k to the error of k networks approaches 19.7 %, which is'
    ' extrapolated from three sizes only. The top-5 error of the paper says'
    ' little about ten classes.',
    answered='cifar10_study, 3 seeds, images 530ea5ca7c7b',
    variants={'base': {}},
    measure='ensembles',
    against='multiply_adds',
  )
