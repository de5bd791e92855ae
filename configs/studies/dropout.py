"""Dropout: none, in dense layers, or also in convolutions (Section 4.2)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study, on a fifth of the images, where the network overfits.

  The number of updates is that of the base. The training error, unlike the test
  error, is measured with dropout, so it exaggerates how long it takes.
  """
  everywhere = {
    f'network.{name}.order': ('activation', 'dropout')
    for name in ('conv3', 'conv4')
  }
  return base.study(
    'dropout',
    question='How much does dropout help, and how much longer does it take?',
    section='4.2',
    claim='without it the network overfits substantially, and it roughly'
    ' doubles the iterations to converge',
    answer='On 10,000 images dropout in the dense layers reduces overfitting,'
    ' but not the error. Test and training error differ by 5.6 points less with'
    ' it (4.0 to 7.2) and the loss is lower by 6 %, while the error with and'
    ' without it differs by less than 1.2 points. It takes 1.3 times as long'
    ' to a test error of 40 % (1.14 to 1.53), not twice. Dropout in conv3'
    ' and conv4 too is too much for a network this small: the error is 4.8'
    ' points higher (0.5 to 9.1), and the training error never gets to 25 %.',
    answered='cifar10_study, compute_dtype=float32, 3 seeds, images'
    ' 530ea5ca7c7b',
    overrides=base.sample(1 / 5),
    variants={
      'dense layers': {'network.dropout_rate': 0.5},
      'none': {'network.dropout_rate': 0.0},
      'conv3 and conv4 too': {'network.dropout_rate': 0.5, **everywhere},
    },
    comparisons=(
      {'first': 'none', 'second': 'dense layers', 'sign': 1},
      {'first': 'none', 'second': 'dense layers', 'metric': 'gap', 'sign': 1},
      {
        'first': 'dense layers', 'second': 'none',
        'metric': 'epochs_to_test_0.4', 'claim': 2.0, 'ratio': True,
      },
      {
        'first': 'dense layers', 'second': 'none', 'metric': 'epochs_to_0.25',
        'ratio': True,
      },
      {'first': 'conv3 and conv4 too', 'second': 'dense layers'},
    ),
  )  # fmt: skip
