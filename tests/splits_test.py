"""A config's splits: what they must be, and how they are prepared."""

import contextlib
import itertools
import logging
import os
import pathlib
import threading
import time

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import resume
from alexnet_jax import setup
from alexnet_jax import sharding
from alexnet_jax import signals
from alexnet_jax import splits
from alexnet_jax.input_pipeline import pipeline
from configs import smoke
from tests import input_pipeline_testing as testing


def _build(**overrides):
  config = smoke.get_config()
  config.devices = 2
  config.update_from_flattened_dict(overrides)
  return setup.build(config)


def test_steps_of_an_epoch():
  assert splits.Splits(_build()).identity().epochs.steps == 512 // 32


def test_number_of_classes_must_fit(tmp_path):
  testing.write_folder(tmp_path / 'train', 3, 1)
  parts = _build(**{'data.source': 'folder', 'data.data_dir': str(tmp_path)})
  with pytest.raises(errors.UserError, match=r'3 classes.*10.*fc8.features=3'):
    splits.Splits(parts).train_source  # noqa: B018


def test_too_many_unreadable_files_stop_the_run():
  parts = _build(**{'data.max_unreadable': 0.1})
  ours = splits.Splits(parts)
  ours.check_unreadable(51, 512)
  with pytest.raises(
    errors.UserError, match=r'52 of 512 .* 0\.1: .*max_unreadable'
  ):
    ours.check_unreadable(52, 512)


def test_a_result_of_too_few_images_stops_the_program():
  ours = splits.Splits(_build(**{'data.max_unreadable': 0.5}))
  source = ours.train_source
  ours.check_result(source, 256, 256)
  with pytest.raises(errors.UserError, match='257 of 512 files cannot be read'):
    ours.check_result(source, 255, 257)
  ours = splits.Splits(_build(**{'data.max_unreadable': 1.0}))
  with pytest.raises(errors.NothingReadableError, match='none of the 512'):
    ours.check_result(source, 0, 512)


def test_rows_of_one_process(monkeypatch, caplog):
  monkeypatch.setattr('alexnet_jax.progress._SECONDS_BETWEEN_LINES', 0)
  ours = splits.Splits(_build(**{'evaluate.batch_size': 100}))
  rows = np.array([1, 98])
  monkeypatch.setattr(sharding.Placement, 'local_rows', lambda *_: rows)
  with caplog.at_level(logging.INFO, logger='absl'):
    source = ours.train_source
    batches = list(ours.read(source, 'Reading', checked=True))
  indices = np.stack([batch['index'] for batch in batches])
  expected = np.arange(6)[:, np.newaxis] * 100 + rows
  np.testing.assert_array_equal(indices, np.where(expected < 512, expected, -1))
  # Progress is that of all processes.
  lines = [m for m in caplog.messages if m.startswith('Reading: ')]
  assert lines[0].startswith('Reading: 100 of 512 images')
  assert lines[-1].startswith('Reading: 512 of 512 images')
  whole, share = (
    next(ours.train_batches(3)),
    next(ours.train_batches(3, rows=[5, 9])),
  )
  for key in whole:
    np.testing.assert_array_equal(share[key], whole[key][[5, 9]])


def test_a_step_is_named_while_its_batch_is_stuck(tmp_path):
  testing.write_folder(tmp_path / 'train', 10, 4)
  ours = splits.Splits(
    _build(
      **{
        'data.source': 'folder',
        'data.data_dir': str(tmp_path),
        'data.statistics': 'imagenet',
        'input.mean': 'channel',
      }
    )
  )
  source = ours.train_source
  order = pipeline.epoch_tables(0, 0, 40)['order'].numpy()
  path = pathlib.Path(source.describe(order[0]))
  replacement = tmp_path / 'copy.jpg'
  path.rename(replacement)
  os.mkfifo(path)  # Reading it waits for somebody to write.
  reader = threading.Thread(
    target=lambda: next(ours.train_batches(0)), daemon=True
  )
  reader.start()
  end = time.monotonic() + 60
  handle = None
  while handle is None and time.monotonic() < end:
    with contextlib.suppress(OSError):  # While nobody reads.
      handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    time.sleep(0.01)
  assert ours.describe_step(0) == f'{path} and 31 others'
  last = source.describe(order[32])
  assert ours.describe_step(1) == f'{last} and 7 others'
  assert ours.describe_step(1, rows=np.array([0, 31])) == last
  assert reader.is_alive()
  replacement.rename(path)
  os.close(handle)
  reader.join(60)
  assert not reader.is_alive()


def test_training_from_a_store_needs_nothing_else(tmp_path):
  store_dir = str(tmp_path / 'store')
  parts = _build(**{'data.store_dir': store_dir, 'data.num_examples': 40})
  original = splits.Splits(parts, original=True)
  sources = original.train_source, original.eval_source
  with pytest.raises(errors.UserError, match='holds no store: run the same'):
    splits.Splits(parts).train_source  # noqa: B018
  assert splits.prepare(parts) == 0
  # The original data are not there.
  kept = splits.Splits(
    _build(
      **{
        'data.store_dir': store_dir,
        'data.num_examples': 40,
        'data.source': 'folder',
      }
    )
  )
  assert kept.train_source.fingerprint == sources[0].fingerprint
  assert kept.train_source.directory == tmp_path / 'store/train'
  for mine, theirs in (
    (kept.train_batches(1), original.train_batches(1)),
    tuple(each.read(each.eval_source, '') for each in (kept, original)),
  ):
    batch, expected = next(mine), next(theirs)
    assert batch.keys() == expected.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], expected[key], err_msg=key)


def _folder(folder, **overrides):
  return _build(
    **{'data.source': 'folder', 'data.data_dir': str(folder), **overrides}
  )


def test_training_on_a_sample(tmp_path):
  testing.write_folder(tmp_path / 'train', 10, 20, sides=(32, 32))
  testing.write_folder(tmp_path / 'test', 10, 1, sides=(32, 32))
  whole = splits.Splits(_folder(tmp_path))
  parts = [
    splits.Splits(_folder(tmp_path, **{'data.num_train': 70, 'seed': seed}))
    for seed in (0, 1)
  ]
  one, other = (each.identity() for each in parts)
  assert one.train == other.train  # The same images for every seed.
  assert (one.train.num_examples, one.epochs.steps) == (70, 3)
  assert one.train.split == 'train[70 at random]'
  assert one.train.fingerprint != whole.identity().train.fingerprint
  assert one.validation == whole.identity().validation
  # Its own mean, kept beside that of the whole; in float64 by hand.
  source = parts[0].train_source
  every = next(whole.read(whole.train_source, '', batch_size=200))
  chosen = every['image'][source.indices].astype(float)
  np.testing.assert_allclose(
    one.statistics.mean_image, chosen.mean(0), rtol=1e-6
  )
  assert one.statistics.fingerprint == source.fingerprint
  assert len(list(tmp_path.rglob('*statistics-*'))) == 2
  again = splits.Splits(_folder(tmp_path, **{'data.num_train': 70}))
  np.testing.assert_array_equal(
    again.statistics.mean_image, one.statistics.mean_image
  )
  # An epoch is the sample.
  batches = list(itertools.islice(parts[1].train_batches(0), 3))
  assert sum(batch['mask'].sum() for batch in batches) == 70
  labels = np.concatenate([b['label'][b['mask'] > 0] for b in batches])
  np.testing.assert_array_equal(
    np.bincount(labels, minlength=10),
    np.bincount(every['label'][source.indices], minlength=10),
  )
  assert parts[0].describe_step(0).endswith('and 31 others')
  too_many = splits.Splits(_folder(tmp_path, **{'data.num_train': 201}))
  with pytest.raises(errors.UserError, match='num_train=201 .* the 200 images'):
    too_many.train_source  # noqa: B018


def test_a_run_of_a_sample_is_not_resumed_with_another():
  small, large, whole = (
    splits.Splits(_build(**{'data.num_train': count})).identity()
    for count in (100, 200, 0)
  )
  assert resume.check_data(small, small, 7, False).train == small.train
  for now, words in ((large, 'now 200'), (whole, 'now 512')):
    with pytest.raises(
      errors.UserError, match=f'has 100 training images, {words}: .*accept_'
    ):
      resume.check_data(now, small, 7, False)
  accepted = resume.check_data(large, small, 7, True)
  assert accepted.epochs.steps == 7


def test_a_store_serves_samples_of_any_size(tmp_path):
  sizes = {'data.num_examples': 40, 'data.num_train': 12}
  stored = {**sizes, 'data.store_dir': str(tmp_path)}
  with pytest.raises(errors.UserError, match='num_train=41 .* 40 images'):
    splits.prepare(_build(**{**stored, 'data.num_train': 41}))
  assert not list(tmp_path.iterdir())
  assert splits.prepare(_build(**stored)) == 0
  assert len(list((tmp_path / 'train').glob('statistics-*'))) == 1
  for count in (12, 30, 0):
    count = {'data.num_train': count}
    ours = splits.Splits(_build(**{**stored, **count}))
    theirs = splits.Splits(_build(**{**sizes, **count}))
    assert ours.identity().train == theirs.identity().train
    batch, expected = (next(each.train_batches(0)) for each in (ours, theirs))
    for key in batch:
      np.testing.assert_array_equal(batch[key], expected[key], err_msg=key)


def test_preparing_can_be_interrupted(tmp_path, monkeypatch, caplog):
  parts = _build(**{'data.store_dir': str(tmp_path), 'data.num_examples': 40})

  caplog.set_level(logging.WARNING, logger='absl')

  def interrupted(*args, **kwargs):
    raise signals.Stopped(2)

  with monkeypatch.context() as patch:
    patch.setattr(pipeline, 'eval_batches', interrupted)
    with pytest.raises(signals.Stopped):
      splits.prepare(parts)
  assert 'the same command resumes from here' in caplog.text
  assert splits.prepare(parts) == 0


def test_photographs_come_upright_and_data_sets_as_they_are():
  ours = splits.Splits(_build())
  assert not ours.decoder().upright
  assert ours.decoder(upright=True).upright
  parts = _build(**{'data.upright': True, 'data.max_pixels': 77})
  options = splits.Splits(parts).decoder()
  assert (options.upright, options.max_pixels) == (True, 77)
