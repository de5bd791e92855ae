"""Initial biases of one (Section 5)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study; the paper's layers with ones are conv2, 4, 5 and dense.

  It is about the early stages: epochs to a training error of 60 %.
  """
  keys = [
    f'network.{name}.init_bias'
    for name in ('conv2', 'conv4', 'conv5', *base.DENSE)
  ]
  return base.study(
    'biases',
    question='Do initial biases of one accelerate the early stages?',
    section='5',
    claim='they do, since ReLUs get positive inputs',
    answer='No, on this network they slow them down: with biases of one, a'
    ' training error of 60 % takes 43 % more epochs (3 to 100), and the final'
    ' test error is 1.6 points higher. Its initial weights are scaled to the'
    ' number of inputs, so that half of the ReLUs get positive inputs anyway;'
    " the paper's weights have a deviation of 0.01 in every layer, which this"
    ' study does not test.',
    answered='cifar10_study, compute_dtype=float32, 3 seeds,'
    ' images 530ea5ca7c7b',
    metric='epochs_to_0.6',
    variants={
      'zero': dict.fromkeys(keys, 0.0),
      'one': dict.fromkeys(keys, 1.0),
    },
    comparisons=(
      {'first': 'one', 'second': 'zero', 'sign': -1, 'ratio': True},
      {'first': 'one', 'second': 'zero', 'metric': 'top1_error'},
    ),
  )
