"""A few steps and an evaluation, by one process or as one of several."""

import json
import pathlib
import sys

import jax
import numpy as np

from alexnet_jax import architecture
from alexnet_jax import evaluate
from alexnet_jax import optimizer
from alexnet_jax import sharding
from alexnet_jax import train_state
from alexnet_jax import train_step
from alexnet_jax import views
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense

ROWS, PIECES, STEPS = 24, 2, 3
_SIZE, _CROP, _CLASSES = 13, 11, 5
_NETWORK = architecture.Architecture(
  layers=(
    Conv(
      'conv1', 8, 3, init_std=0.3, padding=(0, 2),
      order=('activation', 'response_norm', 'pool'),
    ),
    Conv('conv2', 8, 3, init_std=0.3, padding=(1, 1), reads='all'),
    Dense('fc6', 24, init_std=0.1, init_bias=1.0),
    Dense('fc7', 24, init_std=0.1, init_bias=1.0),
    Dense('fc8', _CLASSES, init_std=0.1, order=()),
  )
)  # fmt: skip
_MEAN = np.array([100.0, 110.0, 120.0], np.float32)


def _batch(seed, side):
  rng = np.random.default_rng(seed)
  mask = (np.arange(ROWS) % 5 > 0).astype(np.float32)
  return {
    'image': rng.integers(0, 256, (ROWS, side, side, 3), np.uint8),
    'label': rng.integers(0, _CLASSES, ROWS, np.int32),
    'mask': mask,
    'unreadable': 1 - mask,
    'lighting': 100 * rng.standard_normal((ROWS, 3)).astype(np.float32),
  }


def _rows(batch, rows):
  return {name: value[rows] for name, value in batch.items()}


def run(devices, parallelism):
  """Returns the losses, an evaluation, and the parameters as numpy arrays."""
  placement = sharding.place(_NETWORK, devices, parallelism)
  recipe = train_step.Recipe(
    schedule=optimizer.constant_schedule(0.01, 0.1),
    optimizer=optimizer.momentum_sgd(0.9, 0.0005, 0.0),
    multipliers={'bias': 2.0, **{x.name: 1.0 for x in _NETWORK.layers}},
    mean=_MEAN,
    pixel_scale=1 / 64,
    accumulation=PIECES,
  )
  step = train_step.make_train_step(placement, recipe)
  state = train_state.create(placement, seed=0, crop_size=_CROP)
  rows = placement.local_rows(ROWS, PIECES)
  losses = []
  for seed in range(STEPS):
    batch = train_step.put_batch(
      _rows(_batch(seed, _CROP), rows), PIECES, placement
    )
    state, loss = step(state, batch)
    losses.append(float(loss))
  transform = views.InputTransform(_SIZE, _CROP, _MEAN, 1 / 64)
  evaluator = evaluate.Evaluator(placement, transform)
  rows = placement.local_rows(ROWS)
  batches = [_rows(_batch(seed, _SIZE), rows) for seed in range(2)]
  result = evaluator(state.params, batches, transform.views)
  everywhere = jax.NamedSharding(placement.mesh, jax.P())
  params = jax.jit(lambda x: x, out_shardings=everywhere)(state.params)
  return losses, result, jax.tree.map(np.asarray, params)


def main(address, process, processes, devices_each, folder, *modes):
  """Runs as one of several processes; each writes what it has found."""
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.config.update('jax_disable_most_optimizations', True)
  sharding.simulate_devices(int(devices_each))
  # A busy machine may take minutes to start them all.
  jax.distributed.initialize(
    address,
    int(processes),
    int(process),
    initialization_timeout=600,
    heartbeat_timeout_seconds=600,
  )
  for mode in modes:
    losses, result, params = run(jax.devices(), mode)
    path = pathlib.Path(folder, f'{mode}-{process}')
    path.with_suffix('.json').write_text(json.dumps([losses, result]))
    flat = {
      f'{layer}/{name}': value
      for layer, arrays in params.items()
      for name, value in arrays.items()
    }
    np.savez(path.with_suffix('.npz'), **flat)


if __name__ == '__main__':
  main(*sys.argv[1:])
