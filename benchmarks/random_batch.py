"""The batch that every contender steps on, and the numbers around it."""

import numpy as np

# Krizhevsky's channel means, as `data.statistics=imagenet` subtracts them.
MEAN = (127.3049, 119.7154, 104.9126)
# Magnitude of the color shift (paper, Section 4.1).
NOISE = 0.1
# So low a rate that random images do not drive the loss to infinity.
RATE = 1e-4


def make(rows: int, crop_size: int, num_classes: int) -> dict[str, np.ndarray]:
  """Returns random images and labels, as the input pipeline ships them."""
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (rows, crop_size, crop_size, 3), np.uint8),
    'label': rng.integers(0, num_classes, rows, np.int32),
    'mask': np.ones(rows, np.float32),
    'unreadable': np.zeros(rows, np.float32),
    'lighting': rng.standard_normal((rows, 3)).astype(np.float32),
  }
