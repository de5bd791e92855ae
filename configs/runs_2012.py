"""The runs of 2012 as logged: what was changed by hand, and when.

From the notes at the end of the archive's layers/layer-params-*.cfg. A row is
an epoch, the rate of the weights, that of the biases before their multiplier of
2, the magnitude of the color shift, and what conv1's rate is multiplied by.

Epochs count from 1, as cuda-convnet's do (gpumodel.py:72 of July 2012). A log
names the epoch in which a change was made, not where in it: here it is made at
the epoch's start, so that it comes up to one epoch early and never late.

The rate of the biases is never cut here. No log mentions it; the parameter
files, which hold the last state, have it at a tenth for nets 147, 145-2010 and
the lower layers of 145-half.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import config_dict


class Run(NamedTuple):
  """A run: the rows, and the epoch in which it was killed."""

  rows: Sequence[tuple[float, ...]]
  killed: int


_NET_145 = Run(
  (
    (1, 1e-2, 1e-2, 0.1, 1.0),
    (25, 1e-3, 1e-2, 0.1, 1.0),
    (51, 1e-4, 1e-2, 0.1, 1.0),
    (67, 1e-4, 1e-2, 0.0, 0.1),
    (72, 1e-4, 1e-2, 0.0, 0.0),
    (79, 1e-5, 1e-2, 0.0, 0.0),
  ),
  killed=91,
)
NET_145_2010 = Run(
  (
    (1, 1e-2, 1e-2, 0.1, 1.0),
    (23, 1e-3, 1e-2, 0.1, 1.0),
    (51, 1e-4, 1e-2, 0.1, 1.0),
    (68, 1e-4, 1e-2, 0.0, 0.1),
    (72, 1e-4, 1e-2, 0.0, 0.0),
    (78, 1e-5, 1e-2, 0.0, 0.0),
  ),
  killed=93,
)
_NET_145_HALF = Run(
  (
    (1, 1e-2, 1e-2, 0.1, 1.0),
    (20, 1e-3, 1e-2, 0.1, 1.0),
    (48, 1e-4, 1e-2, 0.1, 1.0),
    (66, 1e-4, 1e-2, 0.0, 0.1),
    (72, 1e-4, 1e-2, 0.0, 0.0),
    # Not in the log, though the parameter file has 1e-5: as net 145-2010.
    (78, 1e-5, 1e-2, 0.0, 0.0),
  ),
  killed=96,
)
_NET_147 = Run(
  (
    (1, 1e-2, 1e-2, 0.1, 1.0),
    (23, 1e-3, 1e-2, 0.1, 1.0),
    (51, 1e-4, 1e-2, 0.1, 1.0),
    # The color shift was never switched off.
    (79, 1e-5, 1e-2, 0.1, 0.0),
  ),
  killed=90,
)
_NET_148 = Run(
  (
    (1, 1e-2, 1e-2, 0.1, 1.0),
    (22, 1e-3, 1e-2, 0.1, 1.0),
    (44, 1e-4, 1e-2, 0.1, 1.0),
    (69, 1e-4, 1e-2, 0.0, 0.1),
    (73, 1e-4, 1e-2, 0.0, 0.0),
    (86, 1e-5, 1e-2, 0.0, 0.0),
  ),
  killed=97,
)
_NET_150 = Run(
  (
    (1, 1e-2, 1e-2, 0.1, 1.0),
    (25, 1e-3, 1e-2, 0.1, 1.0),
    (49, 1e-4, 1e-2, 0.1, 1.0),
    (66, 1e-4, 1e-2, 0.0, 0.1),
    (72, 1e-4, 1e-2, 0.0, 0.0),
    (79, 1e-5, 1e-2, 0.0, 0.0),
  ),
  killed=92,
)

# By the preset that is the run's network.
RUNS = {
  'cuda_convnet': _NET_145,
  'net_145_half': _NET_145_HALF,
  'net_147': _NET_147,
  'net_148': _NET_148,
  'no_communication': _NET_150,
}


def phases(run: Run) -> tuple[tuple[float, ...], ...]:
  """Returns the rows with epochs counted from 0, for `optimizer.phases`."""
  return tuple((epoch - 1, *values) for epoch, *values in run.rows)


def apply(run: Run, config: config_dict.ConfigDict) -> None:
  """Applies the run's recipe to a config (its log and convdata_jpeg.py)."""
  config.num_epochs = run.killed - 1
  config.optimizer.schedule = 'phases'
  config.optimizer.phases.rows = phases(run)
  config.optimizer.rate_multipliers.bias = 2.0
  config.input.color = 'cuda_convnet'
  config.input.crop_chunk = 32
  config.input.shuffle = False
