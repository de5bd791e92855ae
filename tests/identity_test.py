import json

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import identity
from configs import imagenet


def _identity():
  rng = np.random.default_rng(0)
  split = identity.Split('pets', 'train', 7, 'abc')
  return identity.Identity(
    config={'seed': 1, 'parallelism': 'both'},
    class_names=('cat', 'd\udcffg'),  # as a folder's name may be
    statistics=identity.Statistics(
      mean_image=rng.random((4, 4, 3), np.float32),
      channel_mean=rng.random(3),
      stdevs=rng.random(3),
      eigenvectors=rng.random((3, 3)),
      num_examples=7,
      unreadable=0,
      fingerprint='abc',
    ),
    train=split,
    validation=identity.Split('pets', 'test', 3, 'def'),
    epoch_shift=-5,
  )


def test_json_and_arrays_are_all_of_it():
  before = _identity()
  values = json.loads(json.dumps(before.to_json()))
  after = identity.Identity.from_json(values, before.arrays())
  for name in ('config', 'class_names', 'train', 'validation', 'epoch_shift'):
    assert getattr(after, name) == getattr(before, name)
  for name, array in before.arrays().items():
    np.testing.assert_array_equal(getattr(after.statistics, name), array)
    empty = identity.Identity.abstract_arrays(values)[name]
    assert (empty.shape, empty.dtype) == (array.shape, array.dtype)
  assert after.statistics.num_examples == 7


@pytest.mark.parametrize('schedule', ['plateau', 'cosine'])
def test_a_config_of_an_earlier_version_gets_the_new_keys(schedule):
  values = json.loads(json.dumps(_identity().to_json()))
  today = imagenet.get_config().to_dict()
  today['optimizer'].update(schedule=schedule)
  values['config'] = json.loads(json.dumps(today))
  chosen = values['config']['optimizer']
  for name in (
    'rule',
    'base_batch_size',
    'warmup_epochs',
    'polynomial',
    'lars',
  ):
    del chosen[name]
  chosen['cosine']['warmup_epochs'] = 5.0
  read = identity.Identity.from_json(values, _identity().arrays()).config
  # The warm-up was that of the cosine, and no other schedule's.
  today['optimizer']['warmup_epochs'] = 5.0 if schedule == 'cosine' else 0.0
  assert read == json.loads(json.dumps(today))


def test_a_config_without_warps_and_samples_has_none():
  today = json.loads(json.dumps(imagenet.get_config().to_dict()))
  values = json.loads(json.dumps({**_identity().to_json(), 'config': today}))
  for name in ('displacement', 'displacement_sigma'):
    del values['config']['input'][name]
  del values['config']['data']['num_train']
  read = identity.Identity.from_json(values, _identity().arrays()).config
  assert read == today
  values['config'] = json.loads(json.dumps(today))
  values['config']['input']['displacement'] = 8.0
  values['config']['data']['num_train'] = 7
  read = identity.Identity.from_json(values, _identity().arrays()).config
  assert read == values['config']


@pytest.mark.parametrize(
  ('names', 'words'),
  [
    (('cat', 'fox', 'owl'), "label 1 is 'fox' and 'dog'"),
    (('cat', 'owl', 'dog'), "label 1 is 'owl' and 'dog'"),
    (('cat', 'dog'), r'the tests \(2\) .* runs/a \(3\): label 2 is missing'),
    (('cat', 'dog', 'owl', 'yak'), "label 3 is 'yak' and missing"),
  ],
)
def test_the_first_label_that_differs_is_named(names, words):
  expected = ('cat', 'dog', 'owl')
  identity.check_class_names(list(expected), expected, 'the tests', 'runs/a')
  with pytest.raises(errors.UserError, match=words):
    identity.check_class_names(names, expected, 'the tests', 'runs/a')
