import csv
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import inference
from alexnet_jax.analysis import predict
from alexnet_jax.input_pipeline import folder
from tests import input_pipeline_testing as testing
from tests import trained_testing


def _read(path):
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def evaluation(trained_run, tmp_path_factory):
  output = tmp_path_factory.mktemp('evaluation')
  evaluate.run(trained_run, output)
  return json.loads((output / 'evaluation.json').read_text())


@pytest.mark.parametrize('views', ['center_view', 'ten_views'])
def test_predictions_are_those_of_the_evaluation(
  trained, trained_run, evaluation, tmp_path, views
):
  # The test split once by its classes, once as files without labels.
  expected = evaluation[views]
  source = folder.open_files([str(trained / 'data' / 'test')])
  predict.run(trained_run, source, tmp_path, views)
  rows = _read(tmp_path / 'predictions.csv')
  names = list(dict.fromkeys(row['file'] for row in rows))
  assert len(names) == expected['examples'] == 12
  assert not any('001b' in name for name in names)
  nll, wrong = 0.0, 0
  for name in names:
    own = [row for row in rows if row['file'] == name]
    shares = [float(row['probability']) for row in own]
    assert [int(row['rank']) for row in own] == [1, 2, 3]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    label = name.split('/')[-2]
    nll -= np.log(
      next(float(r['probability']) for r in own if r['class'] == label)
    )
    wrong += own[0]['name'] != label
  assert nll / 12 == pytest.approx(expected['nll'], rel=1e-5)
  assert wrong / 12 == pytest.approx(expected['top1_error'])
  # An error of nothing or of all would say little.
  assert 0 < wrong < 12


def test_odd_files_are_converted_or_left_out_by_name(
  trained_run, tmp_path, capsys, caplog
):
  picture = testing.smooth(5, 40, 52)
  jpeg = testing.encode(picture, 'JPEG', quality=95)
  (tmp_path / 'plain [1] $x$.jpg').write_bytes(jpeg)
  (tmp_path / 'palette.png').write_bytes(testing.encode(picture, 'PNG', 'P'))
  (tmp_path / 'press.jpg').write_bytes(testing.encode(picture, 'JPEG', 'CMYK'))
  (tmp_path / 'cut off.jpg').write_bytes(jpeg[: len(jpeg) // 2])
  (tmp_path / 'letter.txt').write_text('Dear network')
  source = folder.open_files([str(tmp_path / '*')])
  assert predict.run(trained_run, source, tmp_path / 'out', 'center_view') == 0
  rows = _read(tmp_path / 'out' / 'predictions.csv')
  first = {row['file']: row for row in rows if row['rank'] == '1'}
  names = {name.split('/')[-1] for name in first}
  assert names == {'plain [1] $x$.jpg', 'palette.png', 'press.jpg'}
  for name in ('cut off.jpg', 'letter.txt'):
    assert f'{name} (' in caplog.text
  assert '2 of 5 files could not be read' in caplog.text
  # The same picture in other clothes.
  shares = [float(row['probability']) for row in first.values()]
  assert max(shares) - min(shares) < 0.05
  assert len({row['class'] for row in first.values()}) == 1
  table = capsys.readouterr().out
  assert 'press.jpg' in table
  assert f'{100 * shares[0]:.1f} %  class' in table


def test_a_sheet_shows_some_and_the_table_says_so(
  trained_run, tmp_path, capsys, monkeypatch
):
  testing.write_folder(tmp_path / 'photos', 1, 5)
  monkeypatch.setattr(predict, '_SHOWN', 2)
  source = folder.open_files([str(tmp_path / 'photos')])
  predict.run(trained_run, source, tmp_path, 'center_view')
  assert '... and 3 more in' in capsys.readouterr().out
  assert len(_read(tmp_path / 'predictions.csv')) == 15
  with Image.open(tmp_path / 'predictions.png') as sheet:
    assert sheet.width > 600
    assert sheet.height > 400
  files = {path.name for path in tmp_path.iterdir()}
  assert files == {'photos', 'predictions.csv', 'predictions.png'}


def test_no_image_at_all_is_a_mistake_in_one_line(trained_run, tmp_path):
  (tmp_path / 'letter.txt').write_text('Dear network')
  source = folder.open_files([str(tmp_path / 'letter.txt')])
  with pytest.raises(errors.UserError, match='none of the 1 images'):
    predict.run(trained_run, source, tmp_path / 'out', 'center_view')
  assert not list((tmp_path / 'out').iterdir())


def test_data_that_has_moved(trained, tmp_path):
  shutil.copytree(trained / 'data', tmp_path / 'elsewhere')
  shutil.copytree(trained / 'run', tmp_path / 'run')
  config = trained_testing.config(tmp_path / 'elsewhere')
  moved = inference.open_run(tmp_path / 'run', config)
  assert str(moved.splits.eval_source.directory).startswith(str(tmp_path))
