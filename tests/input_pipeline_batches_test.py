import itertools
import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax.input_pipeline import batches
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import synthetic
from tests import input_pipeline_testing as testing

SOURCE = synthetic.Synthetic(
  split='train', num_examples=23, num_classes=5, image_size=20
)


def train(source=SOURCE, **changes):
  settings = {
    'batch_size': 8,
    'seed': 3,
    'start_step': 0,
    'image_size': 20,
    'crop_size': 16,
    'random_crop': True,
    'flip': True,
    'crop_chunk': 1,
    'shuffle': True,
    'color_scale': np.array([1.0, 2.0, 3.0]),
    'eigenvectors': np.eye(3),
  }
  return batches.train_batches(source, **(settings | changes))


def take(iterator, n):
  return list(itertools.islice(iterator, n))


def assert_same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for key in ours:
    np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def examples(steps, key):
  """Returns what is not padding of some batches, one after the other."""
  return np.concatenate([batch[key][batch['mask'] > 0] for batch in steps])


def test_shapes_and_dtypes():
  (batch,) = take(train(), 1)
  assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
    'image': ((8, 16, 16, 3), np.uint8),
    'label': ((8,), np.int32),
    'mask': ((8,), np.float32),
    'unreadable': ((8,), np.float32),
    'shift': ((8, 3), np.float32),
  }
  (batch,) = take(batches.eval_batches(SOURCE, batch_size=8, image_size=20), 1)
  assert batch['image'].shape == (8, 20, 20, 3)
  assert batch['index'].dtype == np.int32
  assert 'shift' not in batch


def test_every_example_once_an_epoch():
  kwargs = {'random_crop': False, 'flip': False, 'crop_size': 20}
  steps = take(train(**kwargs), 6)
  assert [batch['mask'].sum() for batch in steps] == [8, 8, 7, 8, 8, 7]
  everything, labels = SOURCE.fetch(np.arange(23))
  expected = sorted(image.tobytes() for image in everything)
  orders = []
  for epoch in (steps[:3], steps[3:]):
    images = examples(epoch, 'image')
    assert sorted(image.tobytes() for image in images) == expected
    places = [expected.index(image.tobytes()) for image in images]
    orders.append(places)
    by_image = {
      e.tobytes(): label for e, label in zip(everything, labels, strict=True)
    }
    assert [by_image[i.tobytes()] for i in images] == list(
      examples(epoch, 'label')
    )
  assert orders[0] != orders[1]


def test_padding_is_zero_and_not_unreadable():
  last = take(train(), 3)[2]
  assert last['mask'].tolist() == [1] * 7 + [0]
  for key in ('image', 'label', 'unreadable', 'shift'):
    assert not last[key][7].any()
  assert last['shift'][:7].all()


def test_without_shuffling_the_order_is_the_sources():
  steps = take(train(shuffle=False, random_crop=False, flip=False), 3)
  everything, labels = SOURCE.fetch(np.arange(23))
  np.testing.assert_array_equal(examples(steps, 'label'), labels)
  np.testing.assert_array_equal(
    examples(steps, 'image'), everything[:, 2:18, 2:18]
  )


@pytest.mark.parametrize('crop_chunk', [1, 32])
def test_resuming_at_any_step_gives_the_same_batches(crop_chunk):
  uninterrupted = take(train(crop_chunk=crop_chunk), 8)
  for start in (1, 2, 3, 5):
    resumed = take(train(crop_chunk=crop_chunk, start_step=start), 3)
    for ours, theirs in zip(resumed, uninterrupted[start:], strict=False):
      assert_same(ours, theirs)


def test_threads_change_nothing():
  one = take(train(threads=1), 7)
  for threads in (2, 5):
    for ours, theirs in zip(take(train(threads=threads), 7), one, strict=True):
      assert_same(ours, theirs)


@pytest.mark.parametrize('crop_chunk', [1, 4])
def test_batch_size_cuts_the_same_epoch(crop_chunk):
  small = take(train(batch_size=5, crop_chunk=crop_chunk), 5)
  large = take(train(batch_size=23, crop_chunk=crop_chunk), 1)
  for key in ('image', 'label', 'shift'):
    np.testing.assert_array_equal(examples(small, key), examples(large, key))


def test_seed_changes_order_crops_and_shifts():
  (ours,), (theirs,) = take(train(), 1), take(train(seed=4), 1)
  assert not np.array_equal(ours['label'], theirs['label'])
  assert not np.array_equal(ours['shift'], theirs['shift'])


def test_crops_and_flips_are_cut_from_the_image():
  whole = take(train(random_crop=False, flip=False, crop_size=20), 1)[0]
  cut = take(train(), 1)[0]
  for image, crop in zip(whole['image'], cut['image'], strict=True):
    places = [
      (row, column, mirrored)
      for row, column in itertools.product(range(5), range(5))
      for mirrored in (False, True)
      if np.array_equal(
        image[row : row + 16, column : column + 16][
          :, :: -1 if mirrored else 1
        ],
        crop,
      )
    ]
    assert len(places) == 1


def test_a_run_can_be_dropped_in_the_middle():
  for threads in (1, 4):
    iterator = train(threads=threads)
    next(iterator)
    iterator.close()


def test_a_program_can_end_in_the_middle_of_a_run():
  program = """
import numpy as np
from alexnet_jax.input_pipeline import batches, synthetic
source = synthetic.Synthetic(
  split='train', num_examples=500, num_classes=5, image_size=64
)
run = batches.train_batches(
  source, batch_size=32, seed=0, start_step=0, image_size=64, crop_size=56,
  random_crop=True, flip=True, crop_chunk=1, shuffle=True,
  color_scale=np.ones(3), eigenvectors=np.eye(3), threads=4,
)
print(next(run)['image'].shape)
"""
  finished = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  assert finished.stdout == '(32, 56, 56, 3)\n'
  assert 'Exception' not in finished.stderr
  assert 'Traceback' not in finished.stderr


def bad_files(root):
  """Adds files that the fast path cannot decode to class0 of a folder."""
  pixels = testing.smooth(9, 40, 56)
  jpeg = testing.encode(pixels, 'JPEG', quality=95)
  wide = pixels[..., 0].astype(np.uint16) * 257
  readable = {
    'a_cmyk.jpg': testing.encode(pixels, 'JPEG', 'CMYK', quality=95),
    'b_16bit.png': testing.encode(wide, 'PNG'),
    'c_png.JPEG': testing.encode(pixels, 'PNG'),
    'd_rgba.png': testing.encode(pixels, 'PNG', 'RGBA'),
    'e_la.png': testing.encode(pixels, 'PNG', 'LA'),
    'f_garbage_after.jpg': jpeg + b'\0' * 9,
  }
  unreadable = {
    'v_truncated.jpg': jpeg[: len(jpeg) // 2],
    'w_empty.jpg': b'',
    'x_text.jpg': b'Not Found',
  }
  for name, content in (readable | unreadable).items():
    (root / 'class0' / name).write_bytes(content)
  return pixels, list(readable), list(unreadable)


def test_gaps_are_filled_or_named(tmp_path, caplog):
  testing.write_folder(tmp_path, classes=2, per_class=4)
  pixels, readable, unreadable = bad_files(tmp_path)
  source = folder.open_folder(str(tmp_path), '')
  with caplog.at_level(logging.WARNING, logger='absl'):
    steps = list(batches.eval_batches(source, batch_size=5, image_size=40))
  names = {
    source.describe(index).removeprefix(f'{tmp_path}/'): (step, place)
    for step in steps
    for place, index in enumerate(step['index'])
    if index >= 0
  }
  assert len(names) == 17
  square = pixels[:, 8:48].astype(int)
  grey = square @ [0.299, 0.587, 0.114]
  for name in readable:
    step, place = names[f'class0/{name}']
    assert step['mask'][place] == 1
    assert step['unreadable'][place] == 0
    image = step['image'][place].astype(int)
    expected = {
      'b_16bit.png': square[..., :1],
      'e_la.png': np.round(grey)[..., np.newaxis],
    }.get(name, square)
    tolerance = {'a_cmyk.jpg': 6, 'f_garbage_after.jpg': 6}.get(name, 1)
    assert np.abs(image - expected).mean() < tolerance, name
  for name in unreadable:
    step, place = names[f'class0/{name}']
    assert step['mask'][place] == 0
    assert step['unreadable'][place] == 1
    assert not step['image'][place].any()
    assert step['label'][place] == 0
    assert sum(name in message for message in caplog.messages) == 1
  assert sum(step['mask'].sum() for step in steps) == 14
  assert sum(step['unreadable'].sum() for step in steps) == 3


def test_gaps_get_the_same_draws_as_ordinary_images(tmp_path):
  # The same pixels, as plain PNG and as RGBA, which is decoded patiently.
  for folder_name, mode in (('plain', 'RGB'), ('alpha', 'RGBA')):
    for i in range(10):
      path = tmp_path / folder_name / 'class' / f'{i}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = testing.smooth(i, 40, 56)
      path.write_bytes(testing.encode(pixels, 'PNG', mode))
  plain, alpha = (
    take(train(folder.open_folder(str(tmp_path), name)), 4)
    for name in ('plain', 'alpha')
  )
  for ours, theirs in zip(alpha, plain, strict=True):
    assert_same(ours, theirs)


def test_a_batch_of_gaps_does_not_shift_the_steps(tmp_path):
  testing.write_folder(tmp_path, classes=1, per_class=4)
  for i in range(4):
    (tmp_path / 'class0' / f'{i:03d}.jpg').rename(
      tmp_path / 'class0' / f'b{i}.jpg'
    )
    (tmp_path / 'class0' / f'a{i}.jpg').write_bytes(b'')
  source = folder.open_folder(str(tmp_path), '')
  steps = list(batches.eval_batches(source, batch_size=4, image_size=40))
  assert [step['unreadable'].sum() for step in steps] == [4, 0]
  assert [step['mask'].sum() for step in steps] == [0, 4]


def test_a_file_that_vanishes_is_unreadable(tmp_path):
  testing.write_folder(tmp_path, classes=1, per_class=4)
  source = folder.open_folder(str(tmp_path), '')
  (tmp_path / 'class0' / '002.jpg').unlink()
  (step,) = batches.eval_batches(source, batch_size=4, image_size=40)
  assert step['unreadable'].tolist() == [0, 0, 1, 0]


def test_a_defect_of_a_source_is_raised():
  class Broken:
    num_examples = 4
    record_spec = SOURCE.record_spec
    read = SOURCE.read

    def fetch(self, indices):
      raise OSError('disk on fire')

  with pytest.raises(OSError, match='disk on fire'):
    next(batches.eval_batches(Broken(), batch_size=2, image_size=20))
