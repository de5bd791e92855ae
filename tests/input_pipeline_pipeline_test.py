"""The tf.data graph: order, draws, steps, processes, padding, bad files."""

import functools
import gc
import itertools
import logging
import pathlib
import threading

import numpy as np
import pytest
import tensorflow as tf

from alexnet_jax import errors
from alexnet_jax.input_pipeline import arrays
from alexnet_jax.input_pipeline import decoding
from alexnet_jax.input_pipeline import folder
from alexnet_jax.input_pipeline import pipeline
from alexnet_jax.input_pipeline import preprocessing
from alexnet_jax.input_pipeline import sources
from tests import input_pipeline_testing as testing

SOURCE = arrays.Synthetic(
  split='train', num_examples=23, num_classes=5, image_size=20
)
# The same images, made one by one as those of files are.
LARGE = arrays.Synthetic(
  split='train', num_examples=23, num_classes=5, image_size=80
)
SOURCES = {20: SOURCE, 80: LARGE}


def train(source=SOURCE, image_size=20, **changes):
  return testing.train_batches(source, image_size, **changes)


def evaluation(source, batch_size, image_size, **changes):
  return pipeline.eval_batches(
    source,
    batch_size=batch_size,
    decoder=decoding.Options(image_size),
    **changes,
  )


def take(iterator, n):
  return list(itertools.islice(iterator, n))


@functools.cache
def first_steps(size, crop_chunk=1):
  """Returns the first eight batches of the source of this size."""
  return take(train(SOURCES[size], size, crop_chunk=crop_chunk), 8)


def assert_same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for key in ours:
    np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def examples(steps, key):
  """Returns what is not padding of some batches, one after the other."""
  return np.concatenate([batch[key][batch['mask'] > 0] for batch in steps])


def tables(seed, epoch, n, **kwargs):
  drawn = pipeline.epoch_tables(seed, epoch, n, **kwargs)
  return {name: value.numpy() for name, value in drawn.items()}


def order(seed, epoch, n, **kwargs):
  return tables(seed, epoch, n, **kwargs)['order']


def orders(seed, epochs, n):
  """Returns the orders of many epochs: int64 [epochs, n]."""
  numbers = tf.data.Dataset.range(epochs).map(
    lambda epoch: pipeline.epoch_tables(seed, epoch, n)['order']
  )
  return next(numbers.batch(epochs).as_numpy_iterator())


@pytest.mark.parametrize(
  ('n', 'batch', 'steps'), [(10, 5, 2), (11, 5, 3), (1, 5, 1)]
)
def test_steps_per_epoch_rounds_up(n, batch, steps):
  assert pipeline.steps_per_epoch(n, batch) == steps


@pytest.mark.parametrize('n', [1, 2, 1000, 100_003])
def test_an_order_holds_every_index_once(n):
  np.testing.assert_array_equal(np.sort(order(3, 5, n)), np.arange(n))


def test_orders_and_seeds_never_change():
  # A resumed run depends on these very numbers.
  assert order(0, 0, 8).tolist() == ORDER_0_0
  assert order(0, 1, 8).tolist() == ORDER_0_1
  assert order(1, 0, 8).tolist() == ORDER_1_0
  drawn = tables(0, 0, 2, crop_chunk=2)
  assert drawn['seeds'].tolist() == SEEDS_0_0
  assert drawn['crop_seeds'].tolist() == CROP_SEEDS_0_0


ORDER_0_0 = [7, 1, 4, 5, 0, 6, 2, 3]
ORDER_0_1 = [5, 4, 6, 7, 1, 3, 0, 2]
ORDER_1_0 = [6, 3, 0, 7, 1, 2, 4, 5]
SEEDS_0_0 = [
  [265009069, 1640926798, 1481078498, 4055758797, 4293016988],
  [2389741909, 1450960784, 144787711, 4066318187, 3324349533],
]
CROP_SEEDS_0_0 = [[3531767806, 3036945538, 3124856676, 767042418, 4042893881]]


@pytest.mark.parametrize('n', [2, 10, 100])
def test_orders_are_uniform(n):
  epochs = 4000
  drawn = orders(7, epochs, n)
  counts = np.zeros((n, n))
  for row in drawn:
    counts[np.arange(n), row] += 1
  chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
  freedom = (n - 1) ** 2
  # Within four standard deviations, sqrt(2 freedom), of its mean.
  assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5 + 4


def test_orders_of_three_are_equally_likely():
  epochs = 6000
  drawn = orders(1, epochs, 3)
  found, counts = np.unique(drawn, axis=0, return_counts=True)
  assert len(found) == 6
  # Five degrees of freedom: 20.5 is passed once in a thousand seeds.
  assert ((counts - 1000) ** 2 / 1000).sum() < 20.5


def test_one_fixed_order_without_shuffling():
  fixed = order(3, 0, 50, shuffle=False)
  assert fixed.tolist() != list(range(50))
  for epoch in (1, 7):
    np.testing.assert_array_equal(order(3, epoch, 50, shuffle=False), fixed)
    assert order(3, epoch, 50).tolist() != fixed.tolist()
  assert order(4, 0, 50, shuffle=False).tolist() != fixed.tolist()
  # Crops and lighting are drawn again in every epoch all the same.
  first, second = (
    tables(3, epoch, 50, shuffle=False)['seeds'] for epoch in (0, 1)
  )
  assert not np.isin(first, second).any()


def test_batches_mix_classes_without_shuffling(tmp_path):
  testing.write_folder(tmp_path, classes=4, per_class=16)
  source = folder.open_folder(str(tmp_path), '')
  first = next(train(source, 24, shuffle=False, batch_size=32))
  counts = np.bincount(first['label'], minlength=4)
  assert counts.min() >= 3  # 8 are expected of each, 32 and 0 in the old order.


def test_seeds_depend_on_seed_epoch_and_example_alone():
  seeds = tables(1, 2, 100)['seeds']
  assert seeds.shape == (100, preprocessing.SEED_WORDS)
  assert seeds.dtype == np.uint32
  assert len(np.unique(seeds)) > 498  # Of 500: 32 bits may repeat.
  # A larger set begins with the same ones.
  np.testing.assert_array_equal(tables(1, 2, 300)['seeds'][:100], seeds)
  for other in (
    tables(2, 2, 100)['seeds'],
    tables(1, 3, 100)['seeds'],
    tables(1, 2, 100, crop_chunk=2)['crop_seeds'],
  ):
    assert np.isin(other, seeds).sum() < 3
  chunked = tables(1, 2, 100, crop_chunk=32)
  np.testing.assert_array_equal(chunked['seeds'], seeds)
  assert chunked['crop_seeds'].shape == (4, preprocessing.SEED_WORDS)


@pytest.mark.parametrize(('source', 'size'), [(SOURCE, 20), (LARGE, 80)])
def test_shapes_and_dtypes(source, size):
  batch = first_steps(size)[0]
  assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
    'image': ((8, size - 4, size - 4, 3), np.uint8),
    'label': ((8,), np.int32),
    'mask': ((8,), np.float32),
    'unreadable': ((8,), np.float32),
    'lighting': ((8, 3), np.float32),
  }
  (batch,) = take(evaluation(source, 8, size), 1)
  assert batch['image'].shape == (8, size, size, 3)
  assert batch['index'].dtype == np.int64
  assert batch.keys() == {'image', 'label', 'mask', 'unreadable', 'index'}


@pytest.mark.parametrize(('source', 'size'), [(SOURCE, 20), (LARGE, 80)])
def test_every_example_once_an_epoch(source, size):
  steps = take(
    train(source, size, random_crop=False, flip=False, crop_size=size), 6
  )
  assert [batch['mask'].sum() for batch in steps] == [8, 8, 7, 8, 8, 7]
  everything = [source.read(tf.constant(i, tf.int64)) for i in range(23)]
  images = [image.numpy().tobytes() for image, _ in everything]
  labels = [int(label) for _, label in everything]
  orders = []
  for epoch in (steps[:3], steps[3:]):
    places = [images.index(x.tobytes()) for x in examples(epoch, 'image')]
    assert sorted(places) == list(range(23))
    assert [labels[place] for place in places] == list(examples(epoch, 'label'))
    orders.append(places)
  assert orders == [order(3, epoch, 23).tolist() for epoch in (0, 1)]


@pytest.mark.parametrize('size', SOURCES)
def test_padding_is_zero_and_not_unreadable(size):
  last = first_steps(size)[2]
  assert last['mask'].tolist() == [1] * 7 + [0]
  for key in ('image', 'label', 'unreadable', 'lighting'):
    assert not last[key][7].any()
  assert last['lighting'][:7].all()


@pytest.mark.parametrize(
  ('source', 'size', 'crop_chunk'),
  [(SOURCE, 20, 1), (LARGE, 80, 4)],
)
def test_resuming_at_any_step_gives_the_same_batches(source, size, crop_chunk):
  uninterrupted = first_steps(size, crop_chunk)
  for start in (2, 5):
    resumed = take(
      train(source, size, crop_chunk=crop_chunk, start_step=start), 3
    )
    for ours, theirs in zip(resumed, uninterrupted[start:], strict=False):
      assert_same(ours, theirs)


@pytest.mark.parametrize(('source', 'size'), [(SOURCE, 20), (LARGE, 80)])
def test_threads_change_nothing(source, size):
  # The others are made with one thread per core.
  for threads in (1, 5):
    ours = take(train(source, size, threads=threads), 7)
    for batch, expected in zip(ours, first_steps(size), strict=False):
      assert_same(batch, expected)


@pytest.mark.parametrize('size', SOURCES)
def test_warps_come_before_the_crop_and_change_nothing_else(size):
  warp = {'displacement': 30.0, 'displacement_sigma': 3.0}
  plain = first_steps(size)
  warped = take(train(SOURCES[size], size, **warp), 4)
  resumed = take(train(SOURCES[size], size, threads=1, start_step=2, **warp), 2)
  for ours, theirs in zip(resumed, warped[2:], strict=True):
    assert_same(ours, theirs)
  for ours, theirs in zip(warped, plain, strict=False):
    for key in ours.keys() - {'image'}:
      np.testing.assert_array_equal(ours[key], theirs[key])
    assert (
      (ours['image'] != theirs['image'])
      .any((1, 2, 3))[theirs['mask'] > 0]
      .all()
    )
  index, drawn = order(3, 0, 23)[0], tables(3, 0, 23)['seeds']
  image, _ = SOURCES[size].read(tf.constant(index))
  seed = tf.constant(drawn[index])
  image = preprocessing.displace(image, seed, 30.0, 3.0)
  image = preprocessing.random_crop(image, seed, size - 4)
  image = preprocessing.random_flip(image, seed)
  np.testing.assert_array_equal(warped[0]['image'][0], image)


def test_no_warp_costs_nothing():
  def operations(displacement):
    augmentation = preprocessing.Augmentation(
      displacement=displacement,
      displacement_sigma=4.0,
      crop_size=12,
      random_crop=True,
      flip=True,
      crop_chunk=1,
      lighting_scale=np.zeros(3),
      eigenvectors=np.eye(3),
    )
    graph = tf.function(
      lambda image, seed: pipeline._augment(augmentation, image, {'seed': seed})
    ).get_concrete_function(
      tf.TensorSpec([16, 16, 3], tf.uint8),
      tf.TensorSpec([preprocessing.SEED_WORDS], tf.uint32),
    )
    return {node.type for node in graph.graph.get_operations()}

  drawn = {'StatelessRandomUniformV2', 'MatMul', 'BatchMatMulV2', 'GatherV2'}
  assert not operations(0.0) & drawn
  assert operations(1.0) & drawn


ROWS = ([0, 1, 4, 5], [2, 3, 6, 7], [7], [1, 3, 6], range(8))


@pytest.mark.parametrize('size', SOURCES)
@pytest.mark.parametrize('rows', ROWS)
def test_a_process_makes_its_rows_of_every_batch(size, rows):
  rows = np.array(rows)
  whole = first_steps(size, 4)[:4]
  ours = take(train(SOURCES[size], size, crop_chunk=4, rows=rows), 4)
  whole += list(evaluation(SOURCES[size], 8, size))
  ours += list(evaluation(SOURCES[size], 8, size, rows=rows))
  assert ours[2]['mask'].sum() == (rows < 7).sum()  # Of [7], nothing at all.
  for batch, expected in zip(ours, whole, strict=True):
    assert_same(batch, {key: value[rows] for key, value in expected.items()})


def test_a_process_reads_its_rows_alone():
  class Counting(sources.Subset):
    is_fetched = True
    array_shape = None

    def fetch(self, indices):
      read.extend(indices.tolist())
      return [b''] * len(indices)

    def read(self, key):
      del key
      return tf.zeros([20, 20, 3], tf.uint8), tf.constant(0)

  read = []
  source = Counting(SOURCE, np.arange(23))
  list(evaluation(source, 8, 20, rows=np.array([0, 2, 7])))
  assert read == [0, 2, 7, 8, 10, 15, 16, 18]


@pytest.mark.parametrize('rows', [[], [0, 8], [-1, 0], [1, 0], [2, 2], [[0]]])
def test_rows_must_be_increasing_places_of_a_batch(rows):
  with pytest.raises(ValueError, match='increasing places in a batch of 8'):
    next(train(rows=np.array(rows)))
  with pytest.raises(ValueError, match='increasing places in a batch of 8'):
    evaluation(SOURCE, 8, 20, rows=np.array(rows))


@pytest.mark.parametrize('shuffle', [True, False])
def test_which_examples_a_step_reads(shuffle):
  labels = np.arange(23) % 5
  for rows in (None, np.array([1, 3, 7])):
    steps = take(train(shuffle=shuffle, rows=rows), 7)
    for step, batch in enumerate(steps):
      found = pipeline.step_indices(
        23, batch_size=8, seed=3, shuffle=shuffle, step=step, rows=rows
      )
      np.testing.assert_array_equal(labels[found], examples([batch], 'label'))


@pytest.mark.parametrize('crop_chunk', [1, 4])
def test_batch_size_cuts_the_same_epoch(crop_chunk):
  small = take(train(batch_size=5, crop_chunk=crop_chunk), 5)
  large = take(train(batch_size=23, crop_chunk=crop_chunk), 1)
  for key in ('image', 'label', 'lighting'):
    np.testing.assert_array_equal(examples(small, key), examples(large, key))


def test_seed_changes_order_crops_and_lighting():
  ours, theirs = first_steps(20)[0], next(train(seed=4))
  assert not np.array_equal(ours['label'], theirs['label'])
  assert not np.array_equal(ours['lighting'], theirs['lighting'])


@pytest.mark.parametrize(('source', 'size'), [(SOURCE, 20), (LARGE, 80)])
def test_crops_and_flips_are_those_of_each_examples_seed(source, size):
  steps = first_steps(size)[:3]
  drawn = tables(3, 0, 23)
  images, shifts = examples(steps, 'image'), examples(steps, 'lighting')
  for image, shift, index in zip(images, shifts, drawn['order'], strict=True):
    seed = drawn['seeds'][index]
    # 5 x 5 positions; the lowest bit mirrors.
    row, column = divmod(int(seed[0]) * 25 >> 32, 5)
    square = source.read(tf.constant(index))[0].numpy()
    crop = square[row : row + size - 4, column : column + size - 4]
    if seed[1] & 1:
      crop = crop[:, ::-1]
    np.testing.assert_array_equal(image, crop)
    expected = preprocessing.pca_lighting(
      tf.constant(seed), np.array([1.0, 2.0, 3.0]), np.eye(3)
    )
    np.testing.assert_array_equal(shift, expected)


@pytest.mark.parametrize(('source', 'size'), [(SOURCE, 20), (LARGE, 80)])
def test_a_run_can_be_dropped_in_the_middle(source, size):
  iterator = train(source, size)
  next(iterator)
  iterator.close()
  iterator = train(source, size)
  next(iterator)
  del iterator
  gc.collect()
  # It may have been used by another thread.
  iterators = [train(source, size)]
  reader = threading.Thread(target=lambda: next(iterators[0]))
  reader.start()
  reader.join()
  iterators.clear()
  gc.collect()


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
    steps = list(evaluation(source, 5, 40))
  names = {
    source.describe(index).removeprefix(f'{tmp_path}/'): (step, place)
    for step in steps
    for place, index in enumerate(step['index'])
    if index >= 0
  }
  assert len(names) == 17
  square = pixels[:, 8:48].astype(int)
  gray = square @ [0.299, 0.587, 0.114]
  for name in readable:
    step, place = names[f'class0/{name}']
    assert step['mask'][place] == 1
    assert step['unreadable'][place] == 0
    image = step['image'][place].astype(int)
    expected = {
      'b_16bit.png': square[..., :1],
      'e_la.png': np.round(gray)[..., np.newaxis],
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


def test_bad_files_never_move_their_neighbors(tmp_path):
  testing.write_folder(tmp_path, classes=2, per_class=8)
  source = folder.open_folder(str(tmp_path), '')
  before = take(train(source, 24), 4)
  for number in (1, 4, 5, 6):
    (tmp_path / f'class1/{number:03d}.jpg').write_bytes(b'no image')
  bad = [8 + number for number in (1, 4, 5, 6)]
  after = take(train(source, 24), 4)
  orders = np.concatenate([order(3, 0, 16), order(3, 1, 16)]).reshape(4, 8)
  for ours, theirs, indices in zip(after, before, orders, strict=True):
    gaps = np.isin(indices, bad)
    np.testing.assert_array_equal(ours['unreadable'], gaps)
    np.testing.assert_array_equal(ours['mask'], ~gaps)
    for key in ('image', 'label', 'lighting'):
      np.testing.assert_array_equal(ours[key][~gaps], theirs[key][~gaps])
      assert not ours[key][gaps].any()


def test_gaps_get_the_same_draws_as_ordinary_images(tmp_path):
  # The same pixels, as plain PNG and as RGBA, which the graph cannot decode.
  for folder_name, mode in (('plain', 'RGB'), ('alpha', 'RGBA')):
    for i in range(6):
      path = tmp_path / folder_name / 'class' / f'{i}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = testing.smooth(i, 40, 56)
      path.write_bytes(testing.encode(pixels, 'PNG', mode))
  plain, alpha = (
    take(train(folder.open_folder(str(tmp_path), name), crop_chunk=4), 2)
    for name in ('plain', 'alpha')
  )
  for ours, theirs in zip(alpha, plain, strict=True):
    assert_same(ours, theirs)


def test_a_batch_of_gaps_does_not_move_the_steps(tmp_path):
  testing.write_folder(tmp_path, classes=1, per_class=4)
  for i in range(4):
    (tmp_path / 'class0' / f'{i:03d}.jpg').rename(
      tmp_path / 'class0' / f'b{i}.jpg'
    )
    (tmp_path / 'class0' / f'a{i}.jpg').write_bytes(b'')
  source = folder.open_folder(str(tmp_path), '')
  steps = list(evaluation(source, 4, 40))
  assert [step['unreadable'].sum() for step in steps] == [4, 0]
  assert [step['mask'].sum() for step in steps] == [0, 4]


def test_no_python_in_the_graph():
  for path in pathlib.Path(pipeline.__file__).parent.glob('*.py'):
    text = path.read_text()
    for operation in ('numpy_function', 'py_function', 'from_generator'):
      assert operation not in text, path


def test_a_damaged_store_is_the_users_error():
  class Damaged(sources.Subset):
    def read(self, key):
      check = tf.raw_ops.Assert(condition=key != 2, data=['damaged'])
      with tf.control_dependencies([check]):
        return self.source.read(key)

    def load(self, index):
      raise errors.UserError(f'{index} is damaged')

  with pytest.raises(errors.UserError, match='2 is damaged'):
    next(evaluation(Damaged(LARGE, np.arange(23)), 8, 80))
