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
