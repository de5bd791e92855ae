import jax
import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax import model
from alexnet_jax.analysis import extract
from alexnet_jax.input_pipeline import folder

_LAYERS = ('conv5', 'fc7', 'fc8')


@pytest.fixture(scope='module')
def expected(trained_run):
  """The test split's images by `model.forward` on networks cut off short."""
  (batch, rest) = list(
    trained_run.splits.read(trained_run.splits.eval_source, '')
  )
  # 13 files in batches of 8; the 7th, 001b.jpg, is no image.
  images = np.concatenate([batch['image'], rest['image'][:5]])
  images = np.delete(images, 6, axis=0)
  crops = images[:, 2:30, 2:30].astype(np.float32)
  inputs = (crops - trained_run.transform.mean) / np.float32(64)
  params = jax.tree.map(np.asarray, trained_run.params)
  network, outputs = trained_run.setup.network, {}
  for name in _LAYERS:
    end = [layer.name for layer in network.layers].index(name) + 1
    short = type(network)(**{**vars(network), 'layers': network.layers[:end]})
    outputs[name] = np.asarray(model.forward(short, params, inputs))
  return outputs


@pytest.mark.parametrize('layer', _LAYERS)
def test_npz(trained_run, expected, tmp_path, layer):
  source = trained_run.split('validation')
  assert extract.run(trained_run, layer, source, tmp_path, 'npz') == 0
  assert [path.name for path in tmp_path.iterdir()] == [f'{layer}-test.npz']
  stored = np.load(tmp_path / f'{layer}-test.npz', allow_pickle=False)
  np.testing.assert_allclose(stored['features'], expected[layer], atol=1e-5)
  assert stored['features'].dtype == np.float32
  assert np.std(stored['features'], axis=0).max() > 0.01
  assert stored['labels'].tolist() == [0] * 4 + [1] * 4 + [2] * 4
  assert stored['classes'].tolist() == [f'class{i // 4}' for i in range(12)]
  names = ['000', '001', '002', '003']
  assert [name.split('/')[-1] for name in stored['files']] == [
    f'{name}.jpg' for name in names * 3
  ]
  assert (str(stored['layer']), int(stored['step'])) == (layer, 3)


@pytest.mark.parametrize('rows', [1, 5])
def test_files_of_bounded_size_hold_the_same(
  trained_run, tmp_path, monkeypatch, rows
):
  source = trained_run.split('validation')
  extract.run(trained_run, 'fc7', source, tmp_path / 'one', 'npz')
  whole = np.load(tmp_path / 'one' / 'fc7-test.npz')
  monkeypatch.setattr(extract, '_FILE_BYTES', rows * 16 * 4)
  extract.run(trained_run, 'fc7', source, tmp_path / 'many', 'npz')
  count = -(-13 // rows)
  paths = sorted((tmp_path / 'many').iterdir())
  assert [path.name for path in paths] == [
    f'fc7-test-{i:05d}-of-{count:05d}.npz' for i in range(count)
  ]
  parts = [np.load(path) for path in paths]
  assert max(len(part['labels']) for part in parts) <= rows
  for key in ('features', 'labels', 'classes', 'files'):
    joined = np.concatenate([part[key] for part in parts])
    np.testing.assert_array_equal(joined, whole[key])


def test_the_last_files_are_there_though_nothing_in_them_is(
  trained_run, trained, tmp_path, monkeypatch
):
  good = str(trained / 'data' / 'test' / 'class0')
  bad = str(trained / 'data' / 'test' / 'class1' / '001b.jpg')
  monkeypatch.setattr(extract, '_FILE_BYTES', 2 * 16 * 4)
  source = folder.open_files([good, bad])
  extract.run(trained_run, 'fc7', source, tmp_path, 'npz')
  counts = [len(np.load(p)['labels']) for p in sorted(tmp_path.iterdir())]
  assert counts == [2, 2, 0]


def test_tfrecord(trained_run, expected, tmp_path):
  extract.run(
    trained_run, 'conv5', trained_run.split('test'), tmp_path, 'tfrecord'
  )
  (path,) = tmp_path.iterdir()
  assert path.name == 'conv5-test.tfrecord'
  examples = [
    tf.io.parse_single_example(
      record,
      {
        'features': tf.io.FixedLenFeature([2, 2, 8], tf.float32),
        'shape': tf.io.FixedLenFeature([3], tf.int64),
        'label': tf.io.FixedLenFeature([], tf.int64),
        'class': tf.io.FixedLenFeature([], tf.string),
        'file': tf.io.FixedLenFeature([], tf.string),
      },
    )
    for record in tf.data.TFRecordDataset(str(path))
  ]
  features = np.array([example['features'] for example in examples])
  np.testing.assert_allclose(features, expected['conv5'], atol=1e-5)
  assert [int(example['label']) for example in examples][3:5] == [0, 1]
  assert examples[4]['class'] == b'class1'
  assert examples[4]['file'].numpy().endswith(b'test/class1/000.jpg')
  assert examples[0]['shape'].numpy().tolist() == [2, 2, 8]


def test_files_have_no_label(trained_run, trained, tmp_path):
  source = folder.open_files([str(trained / 'data' / 'test' / 'class2')])
  extract.run(trained_run, 'fc7', source, tmp_path, 'npz')
  stored = np.load(tmp_path / 'fc7-files.npz')
  assert stored['labels'].tolist() == [-1] * 4
  assert stored['classes'].tolist() == [''] * 4
  by_class = np.load(_all(trained_run, tmp_path))['features'][8:]
  np.testing.assert_allclose(stored['features'], by_class, atol=1e-6)


def _all(trained_run, folder):
  extract.run(trained_run, 'fc7', trained_run.split('test'), folder, 'npz')
  return folder / 'fc7-test.npz'


def test_mistakes_are_one_line(trained_run, trained, tmp_path):
  with pytest.raises(errors.UserError, match="no layer 'fc9'.* fc7, fc8"):
    extract.run(trained_run, 'fc9', trained_run.split('test'), tmp_path, 'npz')
  with pytest.raises(errors.UserError, match="no split 'val'.*train.*test"):
    trained_run.split('val')
  bad = folder.open_files([str(trained / 'data/test/class1/001b.jpg')])
  with pytest.raises(errors.UserError, match='none of the 1 images'):
    extract.run(trained_run, 'fc7', bad, tmp_path, 'npz')
