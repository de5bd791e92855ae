"""GPUs to compile for without having one."""

from typing import NamedTuple

# What a cubin and its launches depend on. The numbers are those that the CUDA
# runtime's cudaGetDeviceProperties reports for each card.
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


class Target(NamedTuple):
  """A GPU.

  Attributes:
    description: for XLA, a `GpuTargetConfigProto` as text.
    memory: bytes a second that a kernel can read and write.
    products: operations a second that large matrix products reach, by
      precision as `ours.configure` has it.
  """

  description: str
  memory: float
  products: dict[str, float]


_HOPPER = {
  'shared_per_core': 233472, 'shared_per_block': 232448, 'cores': 132,
  'units_per_core': 128, 'l2_cache': 52428800, 'clock': 1.98, 'major': 9,
}  # fmt: skip
_AMPERE = {
  'shared_per_core': 167936, 'shared_per_block': 166912, 'cores': 108,
  'units_per_core': 64, 'l2_cache': 41943040, 'clock': 1.41, 'major': 8,
}  # fmt: skip
_HOPPER_PRODUCTS = {'bfloat16': 800e12, 'tf32': 400e12, 'float32': 54e12}
# Rates: nine tenths of the data sheet's memory rate, eight tenths of its dense
# matrix rate; no kernel is known to do better.
TARGETS = {
  'h100': Target(
    _DESCRIPTION.format(
      **_HOPPER,
      bandwidth=3352320000000,
      memory=84942979072,
      name='NVIDIA H100 80GB HBM3',
    ),
    3.0e12,
    _HOPPER_PRODUCTS,
  ),
  'h200': Target(
    _DESCRIPTION.format(
      **_HOPPER,
      bandwidth=4814240000000,
      memory=150110011392,
      name='NVIDIA H200',
    ),
    4.3e12,
    _HOPPER_PRODUCTS,
  ),
  'a100': Target(
    _DESCRIPTION.format(
      **_AMPERE,
      bandwidth=2039000000000,
      memory=85098561536,
      name='NVIDIA A100-SXM4-80GB',
    ),
    1.8e12,
    {'bfloat16': 250e12, 'tf32': 125e12, 'float32': 15.6e12},
  ),
}
