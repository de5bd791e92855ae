"""Compiles training steps for a GPU that need not be there."""

from typing import NamedTuple

from jax.experimental import topologies

from benchmarks import gpu_targets
from benchmarks import networks
from benchmarks import ours

# Of the process that compiles: its device is the CPU, and JAX's plugin for GPUs
# does not look for one.
ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1'}


class Case(NamedTuple):
  """A step to compile.

  Attributes:
    precision: see `ours.configure`.
    batch_size: images a step.
    devices: on which it runs.
  """

  precision: str
  batch_size: int
  devices: int


class Compiler:
  """Compiles training steps for a GPU; it needs `ENVIRONMENT`."""

  def __init__(self, target: str):
    """Keeps the target, of `gpu_targets.TARGETS`."""
    self._target = gpu_targets.TARGETS[target]

  def compile(
    self, case: Case, preset: str, crop_size: int, num_classes: int = 0
  ) -> str:
    """Returns the text of the compiled program.

    Args:
      case: the step.
      preset: of the network.
      crop_size: side of the images, pixels.
      num_classes: other than the preset's; 0 for those.
    """
    ours.configure(case.precision, 'gpu')
    topology = topologies.get_topology_desc(
      '',
      'cuda',
      target_config=self._target.description,
      topology=f'1x1x{case.devices}',  # partitions, hosts, devices of a host
    )
    lowered = ours.lower(
      networks.get(preset, num_classes),
      topology.devices,
      batch_size=case.batch_size,
      crop_size=crop_size,
      precision=case.precision,
    )
    # Tuning would time kernels on the GPU that is not here.
    return lowered.compile({'xla_gpu_autotune_level': '0'}).as_text() or ''
