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
    answer='Weights of 8 bits cost nothing that can be measured, and a quarter'
    ' of the bytes. Dense layers of a sixteenth of the rank cost 0.4 points;'
    ' they hold 61 % of the weights of this network, and 96 % of those of the'
    ' paper. Pruned by magnitude in one go, without training again, the network'
    ' loses 7 points with half of its weights, and 55 when a fifth is left.',
    variants={'base': {}},
    measure='compression',
    against='bytes',
    comparisons=tuple(
      {'first': name, 'second': 'as trained'}
      for name in ('8 bits', 'rank 1/16', '50 % pruned')
    ),
  )
