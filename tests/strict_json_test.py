import json
import math

import numpy as np
import pytest

from alexnet_jax import strict_json


def _refuse(constant):
  raise AssertionError(constant)


def test_what_is_not_finite_is_null():
  value = {
    'a': math.nan,
    'b': [math.inf, -math.inf, 0.5, 3, True, None],
    'c': {'d': (np.float64('nan'), np.float64(2.5))},
  }
  text = strict_json.dumps(value)
  assert json.loads(text, parse_constant=_refuse) == {
    'a': None,
    'b': [None, None, 0.5, 3, True, None],
    'c': {'d': [None, 2.5]},
  }


def test_names_are_printable():
  text = strict_json.dumps({'\udcff': 'a\udcfe\n猫'}, indent=2)
  assert json.loads(text) == {r'\xff': 'a\\xfe\\n猫'}


def test_files_of_older_runs_are_read():
  text = '{"a": NaN, "b": [Infinity, -Infinity, 1.5]}'
  assert strict_json.loads(text) == {'a': None, 'b': [None, None, 1.5]}
  with pytest.raises(json.JSONDecodeError):
    strict_json.loads('{"a": ')
