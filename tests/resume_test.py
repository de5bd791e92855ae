"""What a changed config does; the whole program does it in workdir_test.py."""

import fnmatch
import pathlib
import re

import pytest

from alexnet_jax import errors
from alexnet_jax import resume
from alexnet_jax import settings
from alexnet_jax.resume import OnChange
from configs import imagenet

_DOCUMENT = pathlib.Path(__file__).parents[1] / 'docs' / 'resuming.md'


def _documented_rows():
  """Returns the table's rows as (patterns, what happens on resume)."""
  rows = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in _DOCUMENT.read_text().splitlines()
    if line.startswith('| ') and '`' in line
  ]
  return [(re.findall(r'`([^`]+)`', row[0]), row[1]) for row in rows]


def test_the_document_has_the_table():
  rows = _documented_rows()
  assert len(rows) == 4
  used = set()
  for key, _ in settings.flatten(imagenet.get_config().to_dict()):
    pattern, told = next(
      (pattern, told)
      for patterns, told in rows
      for pattern in patterns
      if fnmatch.fnmatchcase(key, pattern)
    )
    used.add(pattern)
    if key == 'batch_size':  # Refused by `check_data`, unless it is accepted.
      assert told.startswith('refuses')
      assert resume.on_change(key) is OnChange.WARNS
    else:
      assert told.split(',')[0] == resume.on_change(key).value, key
  assert used == {pattern for patterns, _ in rows for pattern in patterns}


def test_other_modes_mind_the_function_alone(caplog):
  saved = {'seed': 1, 'compute_dtype': 'float32', 'network': {'towers': 2}}
  config = {'seed': 2, 'compute_dtype': 'bfloat16', 'network': {'towers': 2}}
  resume.check_config(config, saved, pathlib.Path('runs/a'), training=False)
  (record,) = caplog.records
  assert record.getMessage() == (
    'compute_dtype was float32 in runs/a, now bfloat16'
  )
  caplog.clear()
  resume.check_config(config, saved, pathlib.Path('runs/a'))
  assert len(caplog.records) == 2
  config['network']['towers'] = 1
  with pytest.raises(errors.UserError, match='towers=2, but the config has 1'):
    resume.check_config(config, saved, pathlib.Path('runs/a'), training=False)
