"""The network compressed afterwards: error against bytes."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'compression',
    question='How small can the trained network be made afterwards?',
    section='3.5',
    claim='the network has 60 million parameters',
    variants={'base': {}},
    measure='compression',
  )
