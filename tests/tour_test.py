"""The notebook runs, and what it asserts holds.

After a change: `.venv/bin/jupyter execute --inplace docs/tour.ipynb`.
"""

import pathlib

import nbclient
import nbformat
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOUR = _ROOT / 'docs' / 'tour.ipynb'


@pytest.fixture
def notebook():
  return nbformat.read(_TOUR, as_version=4)


def test_the_tour_runs(notebook, monkeypatch):
  monkeypatch.setenv('TOUR_QUICK', '1')
  # Compiling takes longer than computing: see conftest.py.
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  client = nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name='python3',
    resources={'metadata': {'path': str(_ROOT)}},
  )
  client.execute()  # Raises if a cell does.


def test_the_tour_is_committed_with_outputs(notebook):
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
  pictures = [
    output
    for cell in cells
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) == 5
  text = _TOUR.read_text()
  assert len(text) < 600_000
  assert '/home/' not in text
  assert '/tmp/' not in text
