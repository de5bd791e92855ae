"""Test error by the size of the training set (Sections 1 and 7)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study; all runs have the same number of updates."""
  shares = {'two fifths': 2 / 5, 'a fifth': 1 / 5, 'a tenth': 1 / 10}
  return base.study(
    'training_set',
    question='How much would more data help?',
    section='1, 7',
    claim='results can be improved simply by waiting for bigger datasets',
    answer='Ever less, at the same number of updates. From a tenth to a fifth'
    ' of the images the error falls by 3.5 points (2.7 to 4.3), to two fifths'
    ' by another 0.9 and to all by 0.8 (0.4 to 1.3). A power law predicts'
    ' 26.1 % with twice the images and 23.3 % with ten times as many, but'
    ' these are likely too low: the measured errors flatten below its slope,'
    ' and with all images the training error is 25.5 %, so that longer'
    ' training is what the network lacks first.',
    answered='cifar10_study, compute_dtype=float32, num_epochs=6, 3 seeds,'
    ' images 530ea5ca7c7b',
    variants={
      'all images': {},
      **{name: base.sample(share) for name, share in shares.items()},
    },
    sizes={'all images': 1, **shares},
    larger=(2, 10),
    comparisons=(
      {'first': 'two fifths', 'second': 'all images', 'sign': 1},
      {'first': 'a fifth', 'second': 'two fifths', 'sign': 1},
      {'first': 'a tenth', 'second': 'a fifth', 'sign': 1},
    ),
  )
