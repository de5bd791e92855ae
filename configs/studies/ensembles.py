"""Averages of one to five networks (Section 6)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'ensembles',
    question='How far would averaging networks go?',
    section='6',
    claim='five networks have a top-5 error of 16.4 instead of 18.2 %',
    variants={'base': {}},
    measure='ensembles',
  )
