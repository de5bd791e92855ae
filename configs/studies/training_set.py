"""Test error by the size of the training set (Sections 1 and 7)."""

from ml_collections import config_dict

from configs.studies import base


def get_config() -> config_dict.ConfigDict:
  """Returns the study; every sample is trained for the same number of updates.

  The sizes are fractions of the 50,000 images of CIFAR-10; a sample is the same
  for all seeds.
  """
  sizes = (5000, 10000, 20000)
  return base.study(
    'training_set',
    question='How much would more data help?',
    section='1, 7',
    claim='results can be improved simply by waiting for bigger datasets',
    variants={
      'all images': {},
      **{
        f'{size} images': {
          'data.num_train': size,
          **base.times(50_000 / size, 'num_epochs', 'optimizer.warmup_epochs'),
        }
        for size in sizes
      },
    },
    sizes={
      'all images': 50_000,
      **{f'{size} images': size for size in sizes},
    },
    larger=(100_000, 500_000),
    comparisons=(
      {'first': '20000 images', 'second': 'all images', 'sign': 1},
      {'first': '10000 images', 'second': '20000 images', 'sign': 1},
      {'first': '5000 images', 'second': '10000 images', 'sign': 1},
    ),
  )
