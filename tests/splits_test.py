"""A config's splits: what they must be, and how they are prepared."""

import logging

import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import setup
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
