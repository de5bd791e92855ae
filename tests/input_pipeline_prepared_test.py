import resource

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import prepared
from tests import input_pipeline_testing as testing

tfds = pytest.importorskip('tensorflow_datasets')

PICTURES = [testing.smooth(i, 32, 32) for i in range(30)]


class ToyPictures(tfds.core.GeneratorBasedBuilder):
  """Thirty small pictures of three classes."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'picture': tfds.features.Image(shape=(32, 32, 3)),
          'kind': tfds.features.ClassLabel(names=['ant', 'bee', 'cat']),
        }
      ),
      supervised_keys=('picture', 'kind'),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i, picture in enumerate(PICTURES):
      yield i, {'picture': picture, 'kind': i % 3}


class ToyNumbers(tfds.core.GeneratorBasedBuilder):
  """A set that is no classification of images."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {'x': tfds.features.Scalar(np.int64)}
    features |= {'y': tfds.features.Scalar(np.int64)}
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('x', 'y'),
    )

  def _split_generators(self, dl_manager):
    raise AssertionError('refused before it is prepared')

  def _generate_examples(self):
    raise AssertionError('refused before it is prepared')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Returns folders of the set in both formats, as others prepared it."""
  result = {}
  for file_format in ('array_record', 'tfrecord'):
    result[file_format] = str(tmp_path_factory.mktemp(file_format))
    builder = ToyPictures(data_dir=result[file_format], file_format=file_format)
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=4)
    )
  return result


def images_and_labels(source):
  steps = batches.eval_batches(source, batch_size=8, image_size=32)
  steps = [
    (batch['image'][batch['mask'] > 0], batch['label'][batch['mask'] > 0])
    for batch in steps
  ]
  return [np.concatenate(parts) for parts in zip(*steps, strict=True)]


@pytest.mark.parametrize(
  ('split', 'count'), [('train', 30), ('train[20%:90%]', 21)]
)
def test_both_formats_give_what_the_library_gives(folders, split, count):
  builder = ToyPictures(data_dir=folders['tfrecord'])
  dataset = builder.as_dataset(split=split, shuffle_files=False)
  # Without this, the library reads its files interleaved.
  expected = {
    example['picture'].tobytes(): example['kind']
    for example in tfds.as_numpy(dataset)
  }
  results = []
  for folder in folders.values():
    source = prepared.open_prepared('toy_pictures', split, folder)
    assert source.num_examples == count
    assert source.class_names == ('ant', 'bee', 'cat')
    images, labels = images_and_labels(source)
    ours = {
      image.tobytes(): label
      for image, label in zip(images, labels, strict=True)
    }
    assert ours == expected
    results.append((images, labels))
  for ours, theirs in zip(*results, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_random_access_is_in_the_order_of_the_indices(folders):
  for folder in folders.values():
    source = prepared.open_prepared('toy_pictures', 'train', folder)
    (everything,) = source.fetch(np.arange(30))
    (some,) = source.fetch(np.array([29, 3, 3, 17]))
    assert some.tolist() == [everything[i] for i in (29, 3, 3, 17)]
    assert source.describe(17) == 'toy_pictures train[17]'


def test_a_set_is_prepared_once_and_for_random_access(tmp_path, monkeypatch):
  source = prepared.open_prepared('toy_pictures', 'train', str(tmp_path))
  assert list(source.directory.glob('*.array_record-*'))
  monkeypatch.setattr(
    ToyPictures, 'download_and_prepare', lambda *args, **kwargs: 1 / 0
  )
  again = prepared.open_prepared('toy_pictures', 'train', str(tmp_path))
  assert again.fingerprint == source.fingerprint


@pytest.mark.parametrize(
  ('soft', 'hard', 'set_to'),
  [
    (1024, 9999, 1028),
    (1024, resource.RLIM_INFINITY, 1028),
    (1028, 1028, None),
  ],
)
def test_every_file_may_be_open_at_once(
  folders, monkeypatch, soft, hard, set_to
):
  limits = []
  monkeypatch.setattr(resource, 'getrlimit', lambda what: (soft, hard))
  monkeypatch.setattr(
    resource, 'setrlimit', lambda what, limit: limits.append(limit)
  )
  prepared.open_prepared('toy_pictures', 'train', folders['array_record'])
  assert limits == ([(set_to, hard)] if set_to else [])


def test_too_few_open_files(folders, monkeypatch):
  monkeypatch.setattr(resource, 'getrlimit', lambda what: (256, 1000))
  with pytest.raises(errors.UserError, match='4 files but .* open 1000.*1028'):
    prepared.open_prepared('toy_pictures', 'train', folders['array_record'])


def test_fingerprint_is_of_the_split(folders):
  fingerprints = {
    prepared.open_prepared('toy_pictures', split, folder).fingerprint
    for split in ('train', 'train[:90%]', 'train[10%:]')
    for folder in folders.values()
  }
  assert len(fingerprints) == 6


def test_unknown_set(tmp_path):
  with pytest.raises(errors.UserError, match="knows no set 'imagnet'"):
    prepared.open_prepared('imagnet', 'train', str(tmp_path))


def test_unknown_split_names_those_there(folders):
  for split in ('validation', 'train[:9zz]'):
    with pytest.raises(errors.UserError, match=r"only \['train'\]"):
      prepared.open_prepared('toy_pictures', split, folders['tfrecord'])


def test_a_set_without_image_and_class_is_refused_before_it_is_prepared(
  tmp_path,
):
  with pytest.raises(errors.UserError, match='Scalar with Scalar, not Image'):
    prepared.open_prepared('toy_numbers', 'train', str(tmp_path))


def test_no_network(tmp_path, monkeypatch):
  def fail(self, **kwargs):
    raise tfds.download.DownloadError('Failed to get url x.\nlong story')

  monkeypatch.setattr(ToyPictures, 'download_and_prepare', fail)
  with pytest.raises(errors.UserError) as caught:
    prepared.open_prepared('toy_pictures', 'train', str(tmp_path))
  message = str(caught.value)
  assert 'could not be downloaded (Failed to get url x.): connect' in message
  assert '\n' not in message


def test_imagenet_without_archives_is_told_in_words(tmp_path):
  manual = tmp_path / 'manual'
  with pytest.raises(errors.UserError, match=f'{manual} lacks ILSVRC2012'):
    prepared.open_prepared('imagenet2012', 'train', str(tmp_path), str(manual))
  usual = tmp_path / 'downloads/manual'
  with pytest.raises(errors.UserError, match=f'{usual} lacks ILSVRC2012'):
    prepared.open_prepared('imagenet2012', 'train', str(tmp_path))


def test_imagenet_from_its_archives(tmp_path):
  images = testing.imagenet_images(30)
  manual = tmp_path / 'manual'
  testing.write_imagenet_archives(manual, images, num_val=5)
  source = prepared.open_prepared(
    'imagenet2012', 'train', str(tmp_path), str(manual)
  )
  assert (source.num_examples, len(source.class_names)) == (30, 1000)
  (records,) = source.fetch(np.arange(30))
  read = [source.read((record,)) for record in records]
  found = {image.numpy(): source.class_names[label] for image, label in read}
  assert found == {content: wnid for wnid, content in images}
  val = prepared.open_prepared('imagenet2012', 'validation', str(tmp_path))
  assert val.num_examples == 5
  (step,) = batches.eval_batches(val, batch_size=5, image_size=256)
  assert step['mask'].sum() == 5
  # The official labels of validation images 1 to 5, by sorted WordNet ids.
  wnids = sorted(val.class_names[label] for label in step['label'])
  assert wnids == sorted(
    ['n01751748', 'n09193705', 'n02105855', 'n04263257', 'n03125729']
  )
