"""Other activations: powers, floors, sigmoid, tanh, gelu."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study: the others with their best rate of two."""
  others = ('floor-1', 'gelu', 'tanh', 'sigmoid', 'relu^0.5', 'relu^1.5')
  return base.study(
    'activations',
    question='Is any other activation better than the ReLU?',
    section='3.1',
    claim='ReLUs train several times faster than saturating units',
    variants={
      f'{name} @ {factor:g} x the rate': {
        'network.activation': name,
        **base.times(factor, 'optimizer.learning_rate'),
      }
      # The base's rate was chosen for ReLUs.
      for name, factors in (
        ('relu', (1,)),
        *((name, (0.3, 1)) for name in others),
      )
      for factor in factors
    },
    comparisons=tuple({'first': name, 'second': 'relu'} for name in others),
  )
