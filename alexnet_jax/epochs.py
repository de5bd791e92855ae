"""How updates are counted in epochs."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Epochs:
  """Converts between the steps of a run and its epochs.

  Attributes:
    steps: in an epoch; the last batch of an epoch may be padded.
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
    """Returns the count after a change of the epochs' length.

    The epoch under way ends at `step`, and the next one begins there.

    Args:
      step: updates made so far.
      steps: in an epoch from now on.
    """
    begun = -(-self.place(step) // self.steps)
    return Epochs(steps, begun * steps - step)
