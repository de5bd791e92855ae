"""How colored kernels are, and whether the towers divided color and form."""

import dataclasses

import numpy as np

_SHUFFLES = 2000
# From here on two towers' scores hardly overlap.
_CLEAR = 0.8


def scores(kernels: np.ndarray) -> np.ndarray:
  """Returns how much of each kernel's energy is chromatic.

  With w[y, x, c] a kernel's weights and g = (1, 1, 1) / sqrt(3) the gray axis,

    score = 1 - sum_yx (w[y, x] . g)^2 / sum_yx |w[y, x]|^2,

  the energy at right angles to gray over all energy: 0 for a kernel that sees
  light and dark only, 1 for one that sees color only, 2/3 on average for
  weights drawn at random, as two of the three axes are chromatic.

  Args:
    kernels: float [..., H, W, 3, N], RGB.

  Returns:
    float64 [..., N]; 0 for a kernel of zeros.
  """
  kernels = np.asarray(kernels, np.float64)
  total = (kernels**2).sum(axis=(-4, -3, -2))
  gray = kernels.sum(axis=-2) / np.sqrt(3)
  gray_energy = (gray**2).sum(axis=(-3, -2))
  share = np.divide(
    gray_energy, total, out=np.ones_like(total), where=total > 0
  )
  return np.clip(1 - share, 0, 1)


@dataclasses.dataclass(frozen=True)
class Split:
  """How far the most and the least colored tower lie apart.

  Attributes:
    colored: the tower whose median score is the highest.
    gray: the tower whose median score is the lowest.
    beats: probability that a kernel of `colored`, drawn at random, scores
      higher than one of `gray`; ties count half. 1/2 is no difference, 1 a
      complete split.
    by_chance: share of random divisions of these kernels into towers that are
      as far from 1/2.
  """

  colored: int
  gray: int
  beats: float
  by_chance: float

  @property
  def specialized(self) -> bool:
    return self.beats >= _CLEAR and self.by_chance < 0.01


def split(values: np.ndarray) -> Split:
  """Compares the scores [towers, N] of at least two towers."""
  medians = np.median(values, axis=1)
  colored, gray = int(medians.argmax()), int(medians.argmin())
  if colored == gray:
    colored, gray = 0, 1
  beats = _beats(values[colored], values[gray])
  random = np.random.default_rng(0)
  both = np.concatenate([values[colored], values[gray]])
  half = values.shape[1]
  extreme = 0
  for _ in range(_SHUFFLES):
    shuffled = random.permutation(both)
    chance = _beats(shuffled[:half], shuffled[half:])
    extreme += abs(chance - 0.5) >= abs(beats - 0.5)
  return Split(colored, gray, beats, extreme / _SHUFFLES)


def _beats(a: np.ndarray, b: np.ndarray) -> float:
  higher = (a[:, None] > b).mean()
  return float(higher + 0.5 * (a[:, None] == b).mean())


def sentence(values: np.ndarray, is_gray: bool) -> str:
  """Says whether the towers specialized, from scores [towers, N].

  Args:
    values: from `scores`.
    is_gray: whether the images have no color.
  """
  if is_gray:
    return (
      'These images have no color, so nothing could teach a kernel any: a'
      f' score is what is left of the random initial weights (mean'
      f' {values.mean():.2f}, random kernels 0.67), and whether the towers'
      ' would specialize cannot be seen from this run.'
    )
  if len(values) == 1:
    return (
      f'One tower: half of its kernels score above {np.median(values):.2f},'
      f' and {np.mean(values < 0.1):.0%} are gray (below 0.1).'
    )
  found = split(values)
  medians = np.median(values, axis=1)
  verdict = 'specialized' if found.specialized else 'did not specialize'
  return (
    f'The towers of this run {verdict}: the median score is'
    f' {medians[found.colored]:.2f} in tower {found.colored + 1} and'
    f' {medians[found.gray]:.2f} in tower {found.gray + 1}, and a kernel of the'
    f' former is the more colored in {found.beats:.0%} of all pairs, which'
    f' {found.by_chance:.1%} of random divisions match.'
  )
