"""Other activations: powers, floors, sigmoid, tanh, gelu."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study; each activation has settings with which it learns.

  They were chosen in trials with one seed. The base was chosen for ReLUs: its
  rate and its initial weights. At 0.3 times the rate, floors, gelu, tanh and
  x^0.5 have a higher error. x^1.5 and sigmoid stay at chance in both cases: of
  0.03, 0.1, 0.3 and 1 times the rate for x^1.5, and of 1, 2, 4 and 8 times the
  deviation of the initial weights for sigmoid, the best is here.
  """
  layers = (*base.CONVOLUTIONS, *base.DENSE)
  deviations = [f'network.{name}.init_std' for name in layers]
  others = {
    'floor-1': {},
    'gelu': {},
    'tanh': {},
    'relu^0.5': {},
    'relu^1.5': base.times(0.1, 'optimizer.learning_rate'),
    'sigmoid': base.times(4, *deviations),
  }
  return base.study(
    'activations',
    question='Is any other activation better than the ReLU?',
    section='3.1',
    claim='ReLUs train several times faster than saturating units',
    variants={
      name: {'network.activation': name, **changes}
      for name, changes in {'relu': {}, **others}.items()
    },
    comparisons=tuple({'first': name, 'second': 'relu'} for name in others),
  )
