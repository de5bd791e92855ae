"""Mean subtraction and pixel scale (Section 2)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study."""
  return base.study(
    'mean',
    question='Do mean subtraction and the scale of pixels matter?',
    section='2',
    claim='the mean of each pixel over the training set is subtracted, and'
    ' nothing else is done to the images',
    answer='Subtracting a mean matters: without it the error is 5.1 points'
    ' higher (3.9 to 6.4). Whether it is the mean image or three channel means'
    ' makes no difference that three seeds resolve (-1.2 to 1.6 points), nor'
    ' does half or twice the scale of the pixels. The loss with twice the scale'
    ' is 3 % higher, which they do resolve.',
    answered='cifar10_study, compute_dtype=float32, num_epochs=6, 3 seeds,'
    ' images 530ea5ca7c7b',
    variants={
      'mean image': {'input.mean': 'pixel'},
      'channel means': {'input.mean': 'channel'},
      'nothing': {'input.mean': 'none'},
      'half the scale': base.times(0.5, 'input.pixel_scale'),
      'twice the scale': base.times(2, 'input.pixel_scale'),
    },
    comparisons=(
      {'first': 'channel means', 'second': 'mean image'},
      {'first': 'nothing', 'second': 'mean image'},
      {'first': 'half the scale', 'second': 'mean image'},
      {'first': 'twice the scale', 'second': 'mean image'},
    ),
  )
