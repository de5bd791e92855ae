"""Several processes compute what one process computes."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import processes_testing

_ROOT = pathlib.Path(__file__).parents[1]


@functools.cache
def _expected():
  return processes_testing.run(jax.devices()[:1], 'both')


def _run(folder, processes, devices_each, modes):
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{listener.getsockname()[1]}'
  command = [sys.executable, '-m', 'tests.processes_testing', address]
  flags = os.environ.get('XLA_FLAGS', '').split()
  kept = [flag for flag in flags if 'device_count' not in flag]
  environment = {**os.environ, 'XLA_FLAGS': ' '.join(kept)}
  # Set for the four devices of this process.
  environment.pop('PJRT_NPROC', None)
  workers = [
    subprocess.Popen(
      [*command, *map(str, (process, processes, devices_each, folder)), *modes],
      cwd=_ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for process in range(processes)
  ]
  try:
    texts = [worker.communicate(timeout=600)[0] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  codes = [worker.returncode for worker in workers]
  assert codes == [0] * processes, '\n'.join(text[-2000:] for text in texts)


@pytest.mark.parametrize(
  ('processes', 'devices_each', 'modes'),
  [
    # A pair of towers spans both processes.
    (2, 1, ('towers', 'data', 'one_weird_trick')),
    # Three copies, the second of which is on both processes.
    (2, 3, ('both',)),
  ],
)
def test_processes_equal_one(tmp_path, processes, devices_each, modes):
  losses, result, params = _expected()
  _run(tmp_path, processes, devices_each, modes)
  for mode in modes:
    for process in range(processes):
      path = tmp_path / f'{mode}-{process}'
      found = json.loads(path.with_suffix('.json').read_text())
      assert found[0] == pytest.approx(losses, rel=1e-5), mode
      assert found[1].keys() == result.keys()
      for name, own in result.items():
        assert found[1][name] == pytest.approx(own, rel=1e-5), mode
      arrays = np.load(path.with_suffix('.npz'))
      for layer, values in params.items():
        for name, value in values.items():
          np.testing.assert_allclose(
            arrays[f'{layer}/{name}'],
            value,
            rtol=0,
            atol=1e-5 * np.abs(value).max(),
          )
