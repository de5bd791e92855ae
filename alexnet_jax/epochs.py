"""Conversion between updates and epochs."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Epochs:
  """Converts between the steps of a run and its epochs.

  Attributes:
    steps: per epoch; the last batch of an epoch may be padded.
    shift: added to a step before it is divided by `steps`. It is 0 unless a
      run was resumed with another batch size or other training images: its
      earlier epochs then had another number of steps.
  """

  steps: int
  shift: int = 0

  def place(self, step: Any) -> Any:
    """Returns the step at which a run of equal epochs would be.

    Args:
      step: updates made, an int or an array.
    """
    return step + self.shift

  def at(self, step: int) -> float:
    """Returns how many epochs have passed before this step."""
    return self.place(step) / self.steps

  def ends(self, step: int) -> bool:
    """Whether an epoch ends with the update that leads to `step`."""
    return step > 0 and self.place(step) % self.steps == 0

  def step(self, epoch: float) -> int:
    """Returns the step at which so many epochs have passed."""
    return round(epoch * self.steps) - self.shift

  def changed(self, step: int, steps: int) -> 'Epochs':
    """Returns the conversion after a change of the epochs' length.

    The current epoch ends at `step`, and the next one begins there.

    Args:
      step: updates made so far.
      steps: per epoch from `step` on.
    """
    begun = -(-self.place(step) // self.steps)
    return Epochs(steps, begun * steps - step)
