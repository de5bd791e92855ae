"""The processes of a job, by `jax.distributed`: who is who, and agreements.

A job of one process needs none of it: every function then returns at once.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import importlib.util
import os
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from alexnet_jax import errors

# A process that has not been heard of for so long has ended, and the others end
# too. JAX's default is 100 s.
HEARTBEAT_SECONDS = 30
# How launchers tell each process the number of processes, and its own.
_LAUNCHERS = (
  # First, since `mpirun` may itself use SLURM to start its daemons.
  ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
  ('SLURM_STEP_NUM_TASKS', 'SLURM_PROCID'),
)

_index, _count = 0, 1  # Known before JAX may touch its devices.


def join(
  coordinator: str = '',
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes of the job, if there are any.

  What is not given comes from the launcher: SLURM and Open MPI, or, by JAX's
  cluster detection, an indexed job of Kubernetes and Cloud TPU. Must come
  before JAX first touches a device.

  Args:
    coordinator: 'host:port' of process 0, on a port that is free there.
    num_processes: of the job.
    process_id: of this process, from 0.

  Raises:
    UserError: if the arguments do not make a job, or the processes do not find
      each other.
  """
  global _index, _count
  size, rank = _launched()
  all_given = None not in (coordinator or None, num_processes, process_id)
  all_given = all_given and size is None
  if num_processes is None:
    num_processes = size
  if process_id is None:
    process_id = rank
  told = coordinator or num_processes is not None or process_id is not None
  if not told and not _is_in_cluster():
    return
  if coordinator or process_id is not None:
    _check_job(coordinator, num_processes, process_id)
  if num_processes == 1:
    return
  # It would take SIGTERM away from `signals`, which stops all processes alike.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator or None,
      num_processes,
      process_id,
      # From a launcher JAX also takes which device of the host is this one's.
      cluster_detection_method='deactivate' if all_given else None,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
  except (RuntimeError, ValueError, OSError) as error:
    raise errors.UserError(
      f'process {process_id} of {num_processes} does not find the others'
      f' ({" ".join(str(error).split())[:200]}): start all of them, and name'
      ' host:port of process 0 with --coordinator'
    ) from error
  # Where a cluster tells JAX alone, JAX has to touch its devices for it.
  _index = jax.process_index() if process_id is None else process_id
  _count = jax.process_count() if num_processes is None else num_processes


def _check_job(
  coordinator: str, num_processes: int | None, process_id: int | None
) -> None:
  number = -1 if process_id is None else process_id
  # The launcher may have told JAX where process 0 is.
  is_port = coordinator.rpartition(':')[2].isdecimal() or not coordinator
  if num_processes is None or not 0 <= number < num_processes or not is_port:
    raise errors.UserError(
      f'--coordinator={coordinator} --num_processes={num_processes}'
      f' --process_id={process_id} is no job: needed are host:port of process'
      ' 0, the number of processes, and one --process_id from 0 on for each'
    )


def _launched() -> tuple[int | None, int | None]:
  """Returns the number of processes and this one's, as the launcher has it."""
  for size, rank in _LAUNCHERS:
    if int(os.environ.get(size, 1)) > 1 and rank in os.environ:
      return int(os.environ[size]), int(os.environ[rank])
  return None, None


def _is_in_cluster() -> bool:
  """Whether JAX can find other processes whose number no variable has.

  A job of Kubernetes needs the package `kubernetes` for it. Without that it may
  be one of many independent runs.
  """
  indexed = 'JOB_COMPLETION_INDEX' in os.environ
  if indexed and importlib.util.find_spec('kubernetes'):
    return True
  return ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')


def joined() -> bool:
  """Whether this is one of several processes."""
  return _count > 1


def index() -> int:
  """Returns the number of this process, from 0."""
  return _index


def count() -> int:
  """Returns the number of processes."""
  return _count


def is_first() -> bool:
  """Whether this is the process that logs and writes."""
  return _index == 0


def warn(message: str, *args: Any) -> None:
  """Logs a warning once that every process comes to."""
  if is_first():
    logging.warning(message, *args, stacklevel=2)


def highest(number: int) -> int:
  """Returns the highest number of all processes; all of them must call it."""
  if count() == 1:
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def any_of(flag: bool) -> bool:
  """Whether the flag is true in any process; all of them must call it."""
  return bool(highest(flag))


@contextlib.contextmanager
def agreement() -> Iterator[None]:
  """Ends all processes with a UserError when the block does so in one.

  Otherwise the others would wait for it.
  """
  failed = None
  try:
    yield
  except errors.UserError as error:
    failed = error
  if any_of(failed is not None):
    raise failed or errors.UserError(
      f'process {index()} ends because another process of the job has reported'
      ' an error: see its log'
    )


@contextlib.contextmanager
def losses_in_words() -> Iterator[None]:
  """Turns the error of a process that another one has left into the user's.

  Raises:
    LostProcessError: when a process of the job has ended.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    # A collective that fails as soon as it is dispatched is a ValueError.
    is_collective = not isinstance(error, ValueError) or 'Gloo' in str(error)
    of_memory = 'RESOURCE_EXHAUSTED' in str(error)
    if count() == 1 or of_memory or not is_collective:
      raise
    raise errors.LostProcessError(str(error)) from error


def check_equal(value: str, what: str) -> None:
  """Checks that all processes have the same value.

  Args:
    value: of any length.
    what: it is, for the message.

  Raises:
    UserError: if they do not.
  """
  if count() == 1:
    return
  digest = hashlib.blake2b(value.encode(), digest_size=4).digest()
  mine = np.frombuffer(digest, np.uint32)
  every = multihost_utils.process_allgather(mine).reshape(-1)
  others = np.flatnonzero(every != every[0])
  if len(others):
    raise errors.UserError(
      f'{what} of process {others[0]} is not that of process 0: start all'
      ' processes with the same flags, on the same files'
    )


def on_host(array: Any) -> np.ndarray:
  """Returns all of an array, of which other processes may hold parts."""
  if isinstance(array, jax.Array) and not (
    array.is_fully_addressable or array.is_fully_replicated
  ):
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)
