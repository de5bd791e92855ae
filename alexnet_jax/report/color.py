"""How coloured kernels are, and whether the towers divided colour and form."""

import dataclasses

import numpy as np

_SHUFFLES = 2000
# From here on two towers' scores hardly overlap.
_CLEAR = 0.8


def scores(kernels: np.ndarray) -> np.ndarray:
  """Returns how much of each kernel's energy is chromatic.

  With w[y, x, c] a kernel's weights and g = (1, 1, 1) / sqrt(3) the grey axis,

    score = 1 - sum_yx (w[y, x] . g)^2 / sum_yx |w[y, x]|^2,

  the energy at right angles to grey over all energy: 0 for a kernel that sees
  light and dark only, 1 for one that sees colour only, 2/3 on average for
  weights drawn at random, as two of the three axes are chromatic.

  Args:
    kernels: float [..., H, W, 3, N], RGB.

  Returns:
    float64 [..., N]; 0 for a kernel of zeros.
  """
  kernels = np.asarray(kernels, np.float64)
  total = (kernels**2).sum(axis=(-4, -3, -2))
  grey = kernels.sum(axis=-2) / np.sqrt(3)
  grey_energy = (grey**2).sum(axis=(-3, -2))
  share = np.divide(
    grey_energy, total, out=np.ones_like(total), where=total > 0
  )
  return np.clip(1 - share, 0, 1)


@dataclasses.dataclass(frozen=True)
class Split:
  """How far the most and the least coloured tower lie apart.

  Attributes:
    colored: the tower whose median score is the highest.
    grey: the tower whose median score is the lowest.
    beats: probability that a kernel of `colored`, drawn at random, scores
      higher than one of `grey`; ties count half. 1/2 is no difference, 1 a
      complete split.
    by_chance: share of random divisions of these kernels into towers that are
      as far from 1/2.
  """

  colored: int
  grey: int
  beats: float
  by_chance: float

  @property
  def specialized(self) -> bool:
    return self.beats >= _CLEAR and self.by_chance < 0.01


def split(values: np.ndarray) -> Split:
  """Compares the scores [towers, N] of at least two towers."""
  medians = np.median(values, axis=1)
  colored, grey = int(medians.argmax()), int(medians.argmin())
  if colored == grey:
    colored, grey = 0, 1
  beats = _beats(values[colored], values[grey])
  random = np.random.default_rng(0)
  both = np.concatenate([values[colored], values[grey]])
  half = values.shape[1]
  extreme = 0
  for _ in range(_SHUFFLES):
    shuffled = random.permutation(both)
    chance = _beats(shuffled[:half], shuffled[half:])
    extreme += abs(chance - 0.5) >= abs(beats - 0.5)
  return Split(colored, grey, beats, extreme / _SHUFFLES)


def _beats(a: np.ndarray, b: np.ndarray) -> float:
  higher = (a[:, None] > b).mean()
  return float(higher + 0.5 * (a[:, None] == b).mean())


def sentence(values: np.ndarray, is_grey: bool) -> str:
  """Says whether the towers specialized, from scores [towers, N].

  Args:
    values: from `scores`.
    is_grey: whether the images have no colour.
  """
  if is_grey:
    return (
      'These images have no colour, so nothing could teach a kernel any: a'
      f' score is what is left of the random initial weights (mean'
      f' {values.mean():.2f}, random kernels 0.67), and whether the towers'
      ' would specialize cannot be seen from this run.'
    )
  if len(values) == 1:
    return (
      f'One tower: half of its kernels score above {np.median(values):.2f},'
      f' and {np.mean(values < 0.1):.0%} are grey (below 0.1).'
    )
  found = split(values)
  medians = np.median(values, axis=1)
  verdict = 'specialized' if found.specialized else 'did not specialize'
  return (
    f'The towers of this run {verdict}: the median score is'
    f' {medians[found.colored]:.2f} in tower {found.colored + 1} and'
    f' {medians[found.grey]:.2f} in tower {found.grey + 1}, and a kernel of the'
    f' former is the more coloured in {found.beats:.0%} of all pairs, which'
    f' {found.by_chance:.1%} of random divisions match.'
  )
