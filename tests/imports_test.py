"""Imports go one way, in the order that CONTRIBUTING.md lists the modules."""

import ast
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


def _listed():
  """Returns the row of the table for each module or package named in it."""
  text = (_ROOT / 'CONTRIBUTING.md').read_text()
  section = text.split('## Where things are')[1].split('\n## ')[0]
  rows, folder = {}, ''
  lines = [line for line in section.splitlines() if line.startswith('| `')]
  for row, line in enumerate(lines):
    for name in re.findall(r'`([\w/]+(?:\.py|/))`', line.split('|')[1]):
      # The folder is written once in a row.
      folder = name[: name.rindex('/') + 1] if '/' in name else folder
      rows[name if '/' in name or name == 'main.py' else folder + name] = row
  return rows


_ROWS = _listed()


def _row(path):
  """Returns the row of a module: its own, or that of its package."""
  name = str(path.relative_to(_ROOT))
  found = [key for key in _ROWS if name == key or name.startswith(key)]
  return _ROWS[max(found, key=len)]


def _imported(path):
  """Yields the modules of this project that a module imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        for dotted in (f'{node.module}.{alias.name}', node.module):
          target = _ROOT / (dotted.replace('.', '/') + '.py')
          if target.is_file() and target.name != '__init__.py':
            yield target
            break


def _modules():
  paths = [*(_ROOT / 'alexnet_jax').rglob('*.py'), _ROOT / 'main.py']
  return [path for path in sorted(paths) if path.name != '__init__.py']


def test_the_list_is_complete():
  files = {str(path.relative_to(_ROOT)) for path in _modules()}
  for name in _ROWS:
    assert (_ROOT / name).exists(), name
  for name in files:
    parents = {key for key in _ROWS if key.endswith('/')}
    assert name in _ROWS or any(name.startswith(key) for key in parents), name


@pytest.mark.parametrize('path', _modules(), ids=lambda path: path.stem)
def test_a_module_imports_only_what_is_listed_below_it(path):
  for target in _imported(path):
    assert _row(target) >= _row(path), target
    assert target.parts[-2] != 'configs', 'the package imports no config'


def test_modules_of_one_row_form_no_cycle():
  graph = {path: set(_imported(path)) for path in _modules()}
  done = set()
  while len(done) < len(graph):
    ready = {p for p, needs in graph.items() if needs <= done} - done
    assert ready, sorted(str(p) for p in graph.keys() - done)
    done |= ready
