"""Compiles training steps for a GPU that need not be in the machine."""

from typing import NamedTuple

from jax.experimental import topologies

from benchmarks import jax_step

# Of the process that compiles: its device is the CPU, and JAX's GPU plugin does
# not look for a GPU.
ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1'}

# What a cubin and its launches depend on: a `GpuTargetConfigProto` as text. The
# numbers are those that cudaGetDeviceProperties reports for each card.
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_per_core}
  shared_memory_per_block_optin: {shared_per_block}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2_cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""
_HOPPER = {
  'shared_per_core': 233472, 'shared_per_block': 232448, 'cores': 132,
  'units_per_core': 128, 'l2_cache': 52428800, 'clock': 1.98, 'major': 9,
}  # fmt: skip
_H100 = {
  **_HOPPER, 'name': 'NVIDIA H100 80GB HBM3', 'bandwidth': 3352320000000,
  'memory': 84942979072,
}  # fmt: skip
_H200 = {
  **_HOPPER, 'name': 'NVIDIA H200', 'bandwidth': 4814240000000,
  'memory': 150110011392,
}  # fmt: skip
_A100 = {
  'shared_per_core': 167936, 'shared_per_block': 166912, 'cores': 108,
  'units_per_core': 64, 'l2_cache': 41943040, 'clock': 1.41, 'major': 8,
  'name': 'NVIDIA A100-SXM4-80GB', 'bandwidth': 2039000000000,
  'memory': 85098561536,
}  # fmt: skip


class Target(NamedTuple):
  """A GPU.

  Attributes:
    description: the fields of `_DESCRIPTION`.
    memory: bytes per second that a kernel can read and write.
    products: operations per second of large matrix products, by precision as
      `jax_step.configure` has it.
  """

  description: dict[str, str | float]
  memory: float
  products: dict[str, float]


# Nine tenths of the data sheet's memory rate and eight tenths of its dense
# matrix rate; no kernel is known to do better.
_HOPPER_PRODUCTS = {'bfloat16': 800e12, 'tf32': 400e12, 'float32': 54e12}
_AMPERE_PRODUCTS = {'bfloat16': 250e12, 'tf32': 125e12, 'float32': 15.6e12}
TARGETS = {
  'h100': Target(_H100, 3.0e12, _HOPPER_PRODUCTS),
  'h200': Target(_H200, 4.3e12, _HOPPER_PRODUCTS),
  'a100': Target(_A100, 1.8e12, _AMPERE_PRODUCTS),
}


class Case(NamedTuple):
  """A step to compile: the precision of `jax_step`, images, devices."""

  precision: str
  batch_size: int
  devices: int


class Compiler(NamedTuple):
  """Compiles steps for one of `TARGETS`; its process needs `ENVIRONMENT`."""

  target: str

  def compile(self, case: Case, preset: str, crop_size: int) -> str:
    """Returns the text of a compiled step."""
    jax_step.configure(case.precision, 'gpu')
    topology = topologies.get_topology_desc(
      '',
      'cuda',
      target_config=_DESCRIPTION.format(**TARGETS[self.target].description),
      topology=f'1x1x{case.devices}',  # partitions, hosts, devices of a host
    )
    lowered = jax_step.lower(
      preset, case.batch_size, crop_size, case.precision, topology.devices
    )
    # Tuning would time kernels on the GPU, which is not here.
    return lowered.compile({'xla_gpu_autotune_level': '0'}).as_text() or ''
