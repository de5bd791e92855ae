"""The order of examples and their random draws, as arithmetic.

Which examples form a batch, and each one's crop, flip and colour shift, are
functions of (seed, epoch, example index) alone. There is no iterator state: a
run can start at any step, on any number of threads, and sees the same pixels.

Only the raw words of the Philox generator are used, because numpy promises
that raw streams never change between its versions; its distributions carry no
such promise. Philox is counter-based, so the draws of one example cost the
same whether it comes first or last.
"""

import functools

import numpy as np

# The streams drawn from one (seed, epoch); the highest word of the counter.
_SHUFFLE, _PER_IMAGE, _PER_CHUNK = 0, 1, 2


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Returns the number of batches that cover every example once."""
  return -(-num_examples // batch_size)


# Two epochs: the pipeline reads ahead across the boundary between them.
@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """Returns the order of one epoch: int64 [num_examples], every index once.

  Sorting independent 64-bit words gives a uniformly random permutation; two
  equal words, one chance in ten million for ImageNet, stay in index order.
  """
  generator = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, _SHUFFLE])
  order = np.argsort(generator.random_raw(num_examples), kind='stable')
  order.setflags(write=False)
  return order


def image_words(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
  """Returns four random words for each example index: uint64 [N, 4]."""
  return _words(seed, epoch, indices, _PER_IMAGE)


def chunk_words(seed: int, epoch: int, chunks: np.ndarray) -> np.ndarray:
  """Returns four random words for each chunk of the epoch: uint64 [N, 4]."""
  return _words(seed, epoch, chunks, _PER_CHUNK)


def _words(seed: int, epoch: int, rows: np.ndarray, stream: int) -> np.ndarray:
  # Powers of two: few tables, whatever rows are asked for.
  num_rows = 1 << int(rows.max()).bit_length()
  return _table(seed, epoch, num_rows, stream)[rows]


# Two streams of two epochs, 67 MB each for ImageNet.
@functools.lru_cache(maxsize=4)
def _table(seed: int, epoch: int, num_rows: int, stream: int) -> np.ndarray:
  """Returns the words of rows 0, 1, ...: uint64 [num_rows, 4].

  Row r is what a generator set to the counter (r, 0, 0, stream) gives first.
  The counter's next value is r + 1, so one generator gives all rows in turn;
  making one a row took 7 us, a twentieth of what a whole image may take.
  """
  generator = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream])
  words = generator.random_raw(4 * num_rows).reshape(num_rows, 4)
  words.setflags(write=False)
  return words


def positions(words: np.ndarray, bound: int) -> np.ndarray:
  """Maps words to integers uniform over [0, bound): int64, shape of `words`.

  The upper 32 bits are scaled by `bound`; the bias is below bound / 2**32.
  """
  return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(
    np.int64
  )


def coins(words: np.ndarray) -> np.ndarray:
  """Maps words to fair coins: bool, shape of `words`; the lowest bit."""
  return (words & np.uint64(1)).astype(bool)


def normals(words: np.ndarray) -> np.ndarray:
  """Maps word pairs to standard normals by Box and Muller: [N, 2] -> [N, 4].

  Each word's halves are one pair of uniforms, so values stay below 6.8.
  """
  halves = np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)])
  first, second = (halves.astype(np.float64) + 0.5) / 2**32  # in (0, 1)
  radius = np.sqrt(-2 * np.log(first))
  angle = 2 * np.pi * second
  return np.concatenate(
    [radius * np.cos(angle), radius * np.sin(angle)], axis=-1
  )
