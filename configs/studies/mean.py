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
