"""The ways in which images are changed to see what the network holds."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from alexnet_jax.analysis.report import warps
from alexnet_jax.analysis.report.subject import Subject


@dataclasses.dataclass(frozen=True)
class Change:
  """One way to change images.

  Attributes:
    name: of the change.
    unit: of its amounts.
    amounts: in the order they are drawn.
    apply: from prepared images, uint8 [N, S, S, 3], and an amount to crops,
      gray levels [N, crop, crop, 3].
  """

  name: str
  unit: str
  amounts: tuple[float, ...]
  apply: Callable[[np.ndarray, float], Any]


def all_changes(subject: Subject) -> list[Change]:
  """Returns the ways in which images are changed."""
  size, fill = subject.crop_size, subject.mean
  step = max(1, round(size / 28))
  shifts = tuple(float(i * step) for i in range(-10, 11))
  angles = tuple(float(angle) for angle in range(0, 361, 10))
  factors = tuple(2 ** (i / 6) for i in range(-9, 10))

  def warped(matrix: Callable[[float], np.ndarray]):
    return lambda images, amount: warps.warp(images, matrix(amount), fill, size)

  def mirrored(images, amount):
    return subject.center(images[:, :, ::-1] if amount else images)

  def faded(images, amount):
    return warps.fade(subject.center(images), amount / 100)

  def sideways(amount):
    return warps.shift(0, amount)

  def down(amount):
    return warps.shift(amount, 0)

  kinds = [
    Change(
      'Turned', 'degrees, counterclockwise', angles, warped(warps.rotation)
    ),
    Change('Shifted sideways', 'pixels to the right', shifts, warped(sideways)),
    Change('Shifted up or down', 'pixels down', shifts, warped(down)),
    Change('Scaled', 'times as large', factors, warped(warps.scale)),
    Change('Mirrored', 'left to right', (0.0, 1.0), mirrored),
  ]
  if not subject.is_gray:
    left = (100.0, 80.0, 60.0, 40.0, 20.0, 0.0)
    kinds.append(Change('Color taken away', '% of its color left', left, faded))
  return kinds
