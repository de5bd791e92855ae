"""Two towers against one, and the effect of communication (Section 3.2)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study; the dense layers are those of the base.

  Initial weights are scaled with the number of inputs, so that activations keep
  their scale; except in 'half the kernels', which follows the paper.
  """
  hidden = (*base.CONVOLUTIONS, *base.DENSE)
  # About as many weights as with communication.
  wider = base.times_features(1.25, *hidden)
  wider |= base.no_communication()
  wider |= base.same_sums('conv2', 'conv4', 'conv5', 'fc8')
  every = {
    f'network.{name}.reads': 'all' for name in ('conv2', 'conv4', 'conv5')
  }
  every |= base.same_sums('conv2', 'conv4', 'conv5')
  return base.study(
    'towers',
    question='What do two towers and their communication contribute?',
    section='3.2',
    claim='the top-1 error is 1.7 % lower than with half the kernels in the'
    ' convolutions on one GPU',
    answer='Most of the gain is communication: two towers have an error 3.6'
    ' points lower than one with half the kernels (2.4 to 4.8; paper: 1.7), 3.0'
    ' lower than two that do not communicate, and 1.2 lower than two of those'
    ' with about as many weights. More would help: the error is another 0.9'
    ' points lower if all layers read all maps, and 1.7 in one wide tower,'
    ' which also normalizes across all maps. A kilobyte per image gains 0.13'
    ' points in the layers that the paper joins, and 0.01 in the others.',
    answered='cifar10_study, compute_dtype=float32, num_epochs=6, 3 seeds,'
    ' images 530ea5ca7c7b',
    variants={
      'two towers': {'network.towers': 2},
      # The paper's net for one GPU leaves conv5 and the dense layers whole.
      'half the kernels': {
        'network.towers': 1,
        **base.times_features(0.5, *base.CONVOLUTIONS[:4]),
      },
      'no communication': base.no_communication(),
      'no communication, wider': wider,
      'all read all': every,
      'one wide tower': {
        'network.towers': 1,
        **base.same_sums('conv2', 'conv4', 'conv5'),
      },
    },
    per_byte=True,
    comparisons=(
      {'first': 'half the kernels', 'second': 'two towers', 'claim': 0.017},
      {'first': 'no communication', 'second': 'two towers'},
      {'first': 'no communication, wider', 'second': 'two towers'},
      {'first': 'all read all', 'second': 'two towers'},
      {'first': 'one wide tower', 'second': 'two towers'},
    ),
  )
