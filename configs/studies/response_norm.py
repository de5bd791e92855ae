"""Response normalization: across maps, within maps, or none (Section 3.3)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study.

  Removing normalization also removes the constant factor k^-beta (0.59); one
  variant keeps only that factor.
  """
  return base.study(
    'response_norm',
    question='Does response normalization reduce the error, and which kind?',
    section='3.3',
    claim='it reduces the test error of a CIFAR-10 network from 13 % to 11 %',
    answer='Yes, by about the two points of the paper: without it the error is'
    ' 2.3 points higher (1.4 to 3.2). What helps is the normalization across'
    ' maps: the one within maps alone is 2.0 points worse (0.9 to 3.2), adding'
    ' it gains nothing, and whether it comes before or after the ReLU makes no'
    ' difference (less than 0.5 points). How much of the gain is due to its'
    ' constant factor of 0.59 is open: with that alone the error is 1.3 points'
    ' lower than with nothing (0.0 to 2.6) and 1.0 higher than with all of it'
    ' (-0.3 to 2.2).',
    answered='cifar10_study, compute_dtype=float32, num_epochs=6, 3 seeds,'
    ' images 530ea5ca7c7b',
    variants={
      'across maps': {},
      'none': _replaced_by(),
      'its constant alone': {'network.response_norm.alpha': 0.0},
      'within maps': _replaced_by('map_norm'),
      'both': _replaced_by('response_norm', 'map_norm'),
      'before pooling': _order('activation', 'response_norm', 'pool'),
      'before ReLU': _order('response_norm', 'activation', 'pool'),
    },
    comparisons=(
      {'first': 'none', 'second': 'across maps', 'claim': 0.02},
      {'first': 'its constant alone', 'second': 'across maps'},
      {'first': 'none', 'second': 'its constant alone'},
      {'first': 'within maps', 'second': 'across maps'},
      {'first': 'both', 'second': 'across maps'},
      {'first': 'before ReLU', 'second': 'before pooling'},
    ),
  )


def _replaced_by(*others: str) -> dict[str, tuple[str, ...]]:
  return {
    f'network.{name}.order': ('replace', 'response_norm', *others)
    for name in ('conv1', 'conv2')
  }


def _order(*order: str) -> dict[str, tuple[str, ...]]:
  return {f'network.{name}.order': order for name in ('conv1', 'conv2')}
