import csv
import functools
import shutil

import numpy as np
from PIL import Image
import pytest

from alexnet_jax import errors
from alexnet_jax import inference
from alexnet_jax.analysis import features
from alexnet_jax.analysis import similar
from alexnet_jax.input_pipeline import folder
from tests import trained_testing


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp('similar')
  data = trained_testing.write_data(folder / 'data')
  trained_testing.write_run(folder / 'run', data)
  return folder


def test_the_images_nearest_to_two_queries(place, tmp_path, capsys):
  run = inference.open_run(place / 'run')
  test = place / 'data' / 'test'
  # One of them out of the split that is searched, under another name.
  copy = tmp_path / 'photo.jpg'
  shutil.copy(place / 'data' / 'train' / 'class1' / '003.jpg', copy)
  queries = folder.open_files([str(test / 'class0' / '002.jpg'), str(copy)])
  code = similar.run(run, queries, run.split('train'), 'fc7', 4, tmp_path)
  assert code == 0
  with (tmp_path / 'similar.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))

  def outputs(source):
    parts = features.stream(run, source, 'fc7')
    return np.concatenate([part.features for part in parts])

  pairs = outputs(queries)[:, None] - outputs(run.split('train'))[None]
  distances = np.sqrt((pairs.astype(np.float64) ** 2).sum(axis=2))
  indices = np.argsort(distances, axis=1, stable=True)[:, :4]
  distances = np.take_along_axis(distances, indices, axis=1)
  assert [row['query'] for row in rows] == [
    queries.describe(i) for i in range(2) for _ in range(4)
  ]
  train = run.data.train_source
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


def test_mistakes_are_one_line(place, tmp_path):
  run = inference.open_run(place / 'run')
  bad = str(place / 'data/test/class1/001b.jpg')
  good = str(place / 'data/test/class1/001.jpg')
  source = run.split('train')
  ask = functools.partial(similar.run, run, output=tmp_path, source=source)
  with pytest.raises(errors.UserError, match='001b.jpg is no image'):
    ask(folder.open_files([good, bad]), layer='fc7', k=2)
  with pytest.raises(errors.UserError, match="no layer 'pool5'"):
    ask(folder.open_files([good]), layer='pool5', k=2)
  with pytest.raises(errors.UserError, match='--k=0'):
    ask(folder.open_files([good]), layer='fc7', k=0)
  assert not list(tmp_path.iterdir())
