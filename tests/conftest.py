"""Four simulated devices, so that placements can be compared on any machine."""

import os
import pathlib
import sys

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# The tolerances are those of float32 on a CPU, whatever else the machine has.
if 'JAX_PLATFORMS' not in os.environ:
  jax.config.update('jax_platforms', 'cpu')
# Tests compile more than they compute: half the time goes without LLVM's
# expensive passes. XLA's own, which place the collectives, stay.
if 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ:
  jax.config.update('jax_disable_most_optimizations', True)

# Nothing is left behind in the home of whoever runs the tests.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')

from alexnet_jax import towers  # noqa: E402

towers.simulate_devices(4)
jax.devices()  # Fixes their number, whatever a test's config asks for.
