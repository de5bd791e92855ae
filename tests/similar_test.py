import csv
import functools
import shutil

import numpy as np
from PIL import Image
import pytest

from alexnet_jax import errors
from alexnet_jax.analysis import features
from alexnet_jax.analysis import similar
from alexnet_jax.input_pipeline import folder


def test_the_images_nearest_to_two_queries(
  trained, trained_run, tmp_path, capsys
):
  run = trained_run
  # One of them out of the split that is searched, under another name.
  copy = tmp_path / 'photo.jpg'
  shutil.copy(trained / 'data' / 'train' / 'class1' / '003.jpg', copy)
  other = trained / 'data' / 'test' / 'class0' / '002.jpg'
  queries = folder.open_files([str(other), str(copy)])
  code = similar.run(run, queries, run.split('train'), 'fc7', 4, tmp_path)
  assert code == 0
  with (tmp_path / 'similar.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))

  def outputs(source):
    parts = features.stream(run, source, features.extractor(run, 'fc7'), '')
    return np.concatenate([part.outputs for part in parts])

  pairs = outputs(queries)[:, None] - outputs(run.split('train'))[None]
  distances = np.sqrt((pairs.astype(np.float64) ** 2).sum(axis=2))
  indices = np.argsort(distances, axis=1, stable=True)[:, :4]
  distances = np.take_along_axis(distances, indices, axis=1)
  assert [row['query'] for row in rows] == [
    queries.describe(i) for i in range(2) for _ in range(4)
  ]
  train = run.splits.train_source
  assert [row['image'] for row in rows] == [
    train.describe(int(i)) for i in np.ravel(indices)
  ]
  np.testing.assert_allclose(
    [float(row['distance']) for row in rows], np.ravel(distances), atol=1e-4
  )
  # The copy finds itself, and a file knows its class.
  assert rows[4]['image'].endswith('train/class1/003.jpg')
  assert float(rows[4]['distance']) < 1e-3
  assert all(f'/{row["class"]}/' in row['image'] for row in rows)
  table = capsys.readouterr().out
  assert table.count('\n') == 10
  assert rows[4]['image'] in table
  with Image.open(tmp_path / 'similar.png') as sheet:
    assert sheet.width > sheet.height > 400
  assert not (run.workdir / 'features').exists()


def test_mistakes_are_one_line(trained, trained_run, tmp_path):
  bad = str(trained / 'data/test/class1/001b.jpg')
  good = str(trained / 'data/test/class1/001.jpg')
  ask = functools.partial(
    similar.run,
    trained_run,
    output=tmp_path,
    source=trained_run.split('train'),
  )
  with pytest.raises(errors.UserError, match='001b.jpg cannot be read'):
    ask(folder.open_files([good, bad]), layer='fc7', k=2)
  with pytest.raises(errors.UserError, match='001b.jpg cannot be read'):
    ask(folder.open_files([bad]), layer='fc7', k=2)
  with pytest.raises(errors.UserError, match="no layer 'pool5'"):
    ask(folder.open_files([good]), layer='pool5', k=2)
  with pytest.raises(errors.UserError, match='--k=0'):
    ask(folder.open_files([good]), layer='fc7', k=0)
  assert not list(tmp_path.iterdir())
