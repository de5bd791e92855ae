"""Compression after training: test error against bytes."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, which measures trained networks."""
  return base.study(
    'compression',
    question='How small can the trained network be made afterwards?',
    section='4',
    claim='the network has 60 million parameters',
    answer='Quantization to 8 bits takes a quarter of the bytes and changes the'
    ' error by less than 0.3 points. Dense layers of a sixteenth of the rank'
    ' halve the bytes and cost 0.5 points (0.1 to 0.9); these layers hold 60 %'
    " of the weights of this network, and 89 % of those of the paper's."
    ' Magnitude pruning without fine-tuning costs 5 points (0.5 to 10) with'
    ' half of the weights removed; with four fifths the network is useless.',
    answered='cifar10_study, compute_dtype=float32, 3 seeds,'
    ' images 530ea5ca7c7b',
    variants={'base': {}},
    measure='compression',
    against='bytes',
    comparisons=tuple(
      {'first': name, 'second': 'as trained'}
      for name in ('8 bits', 'rank 1/16', '50 % pruned')
    ),
  )
