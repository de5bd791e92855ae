"""Checkpoints: written by Orbax, checked by digests, never the only copy lost.

A checkpoint is a folder `<workdir>/checkpoints/<step>` with the parameters, the
rest of the `TrainState`, and the run's `Identity`, each readable without the
others. Orbax writes it under a temporary name and renames it when it is
complete, so that a kill at any moment leaves the earlier ones intact.

A run saves before it validates. The result of the validation is added to the
complete checkpoint as a small file, so that no array is ever written twice.

Every array and the identity have digests, which are checked at every restore: a
file system reports no error when a stored bit has changed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import sys
from typing import Any, TypeVar

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax import errors
from alexnet_jax import files
from alexnet_jax import identity as identities
from alexnet_jax import model
from alexnet_jax import optimizer
from alexnet_jax import processes
from alexnet_jax import tensorstore_leak
from alexnet_jax import train_state

# The validation figure by which a checkpoint is the best.
BEST_BY = 'top1_error'
# What a checkpoint consists of.
_FORMAT, _WITHOUT_DIGESTS = 3, 2
_VALIDATION = 'validation.json'
# As TensorStore words the error of a file system.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")

# These say nothing of what is stored.
_UNREADABLE = tuple(
  map(
    os.strerror,
    (
      errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN,
      errno.ETIMEDOUT, errno.EMFILE,
    ),
  )
)  # fmt: skip
# Of a save that fails in a job, other reasons are those of a process that ended
# before it had written its part.
_UNWRITABLE = (
  *_UNREADABLE,
  *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)),
)

_Loaded = TypeVar('_Loaded')


class DamagedError(Exception):
  """A checkpoint is not what was saved."""


class Checkpoints:
  """The checkpoints of one run, under `<workdir>/checkpoints/<step>`."""

  def __init__(self, workdir: pathlib.Path, keep: int = 1):
    """Sets the folder, which the first save creates.

    Args:
      workdir: of the run.
      keep: how many of the latest to keep, besides the best.

    Raises:
      UserError: for a name that TensorStore does not accept.
    """
    check_name(workdir)
    tensorstore_leak.avoid()
    self._folder = (workdir / 'checkpoints').absolute()
    self._keep = keep
    # If the folder were created in the background and could not be, the writes
    # would wait for it for minutes.
    options = ocp.AsyncOptions(create_directories_asynchronously=False)
    self._orbax = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(), async_options=options
    )
    self._saving: int | None = None  # the step that is being written
    self._failed: dict[int, str] = {}  # why checkpoints are not what was saved

  def steps(self) -> list[int]:
    """Returns the steps saved, ascending; complete, but not yet checked."""
    if not self._folder.is_dir():
      return []
    return sorted(
      int(path.name)
      for path in self._folder.iterdir()
      if path.name.isdecimal() and path.name.isascii()
    )

  def order(self, which: str) -> list[int]:
    """Returns the steps, the most wanted first.

    Args:
      which: 'last' for all of them, the newest first, or 'best' for those that
        were validated on the same images as the newest of them, the one with
        the lowest error first.
    """
    if which == 'last':
      return self.steps()[::-1]
    found = {step: self.validation(step) for step in self.steps()}
    scored = {
      step: validation
      for step, validation in found.items()
      if validation and validation['result'][BEST_BY] is not None
    }
    if not scored:
      return []
    # Errors on other images cannot be compared.
    images = scored[max(scored)]['images']
    return sorted(
      (step for step, each in scored.items() if each['images'] == images),
      key=lambda step: (scored[step]['result'][BEST_BY], step),
    )

  def _path(self, step: int) -> pathlib.Path:
    return self._folder / str(step)

  def save(
    self, state: train_state.TrainState, identity: identities.Identity
  ) -> None:
    """Saves in the background; the state may be donated at once.

    Waits for the save before, if that is still being written, and removes the
    checkpoints that are no longer wanted.

    Args:
      state: after any step that is not saved yet.
      identity: of the run.

    Raises:
      UserError: if this or the last checkpoint cannot be written.
    """
    step = int(state.step)
    self.wait()
    rest = train_state.without_params(state)
    content = {
      'format': _FORMAT,
      'step': step,
      'identity': identity.to_json(),
      'digests': {
        'params': _digests(state.params),
        'state': _digests(rest),
        'statistics': _digests(identity.arrays()),
      },
    }
    self._saving = step
    with self._errors_in_words():
      self._orbax.save(
        self._path(step),
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          state=ocp.args.StandardSave(rest),
          identity=ocp.args.JsonSave(_sealed(content)),
          statistics=ocp.args.StandardSave(identity.arrays()),
        ),
      )

  def add_validation(
    self,
    state: train_state.TrainState,
    result: Mapping[str, float],
    images: str,
  ) -> None:
    """Adds the result of a validation to the checkpoint of its state.

    Args:
      state: the saved one, but for `plateau` and `validated`.
      result: of the validation.
      images: the fingerprint of the validation split.

    Raises:
      UserError: if the checkpoint or the file cannot be written.
    """
    self.wait()
    step = int(state.step)
    plateau = {
      name: np.asarray(value).item()
      for name, value in vars(state.plateau).items()
    }
    content = {
      'step': step,
      'result': dict(result),
      'images': images,
      'plateau': plateau,
    }
    if processes.is_first():
      path = self._path(step) / _VALIDATION
      files.write_json(path, _sealed(files.plain(content)))

  def validation(self, step: int) -> dict[str, Any] | None:
    """Returns what `add_validation` wrote; None if it did not, or is damaged.

    A validation that is lost can be repeated, and has the same result.
    """
    path = self._path(step) / _VALIDATION
    try:
      return _opened(files.loads(path.read_text()), step)
    except FileNotFoundError:
      return None
    except (OSError, ValueError, DamagedError) as error:
      processes.warn('%s is damaged (%s) and not used', path, error)
      return None

  def check(self) -> None:
    """Raises the error of a save that has failed in the background.

    Raises:
      UserError: if the checkpoint could not be written.
    """
    with self._errors_in_words():
      self._orbax.check_for_errors()

  def wait(self) -> None:
    """Waits until the last save is complete and removes older checkpoints.

    Raises:
      UserError: if the checkpoint could not be written.
    """
    with self._errors_in_words():
      self._orbax.wait_until_finished()
      if self._saving is not None and processes.is_first():
        # A rename does not wait for the disk, and a power cut must not find the
        # old ones gone and the new one empty.
        files.flush(self._path(self._saving))
        self._remove_old()
    self._saving = None

  def _remove_old(self) -> None:
    """Keeps the last ones and the best; only complete ones are counted."""
    kept = {*self.steps()[-self._keep :], *self.order('best')[:1]}
    for step in self.steps():
      if step not in kept:
        # On a network, files that somebody reads cannot be removed for now. A
        # folder that is half removed must not be taken for a checkpoint.
        old = self._folder / f'{step}.orbax-checkpoint-tmp-old'
        self._path(step).rename(old)
        shutil.rmtree(old, ignore_errors=True)

  @contextlib.contextmanager
  def _errors_in_words(self) -> Iterator[None]:
    """Turns the errors of the disk in a save into the user's.

    Raises:
      UserError: if it is one of the disk.
      LostProcessError: if another process has not written its part.
    """
    try:
      yield
    except jax.errors.JaxRuntimeError:
      raise
    except Exception as error:
      reason = _os_error(error)
      if processes.joined() and reason not in _UNWRITABLE:
        raise errors.LostProcessError(str(error)) from error
      if reason is None:
        raise
      # To close would mean to wait for it again, with another reason.
      failed, self._saving = self._saving, None
      kept = [step for step in self.steps() if step != failed]
      rest = f'that of step {kept[-1]} is kept' if kept else 'there is no other'
      raise errors.UserError(
        f'the checkpoint of step {failed} cannot be written in'
        f' {self._folder} ({reason}); {rest}: make the folder writable, with'
        ' room for it, and run the same command again'
      ) from error

  def restore(
    self, abstract: train_state.TrainState, step: int
  ) -> train_state.TrainState:
    """Returns the state of a step, with its validation if there was one.

    Args:
      abstract: the wanted shapes and shardings, on any number of devices; from
        `train_state.abstract`.
      step: which checkpoint.

    Raises:
      DamagedError: if it is not what was saved.
    """
    logging.info('Restoring step %d', step)
    digests = self._content(step)['digests']
    rest = train_state.without_params(abstract)
    restored = self._read(
      step,
      params=ocp.args.StandardRestore(abstract.params),
      state=ocp.args.StandardRestore(rest),
    )
    for item in ('params', 'state'):
      _check_digests(restored[item], digests.get(item))
    state = train_state.TrainState(
      params=restored['params'], **restored['state']
    )
    if int(state.step) != step:
      raise DamagedError(f'it is that of step {int(state.step)}')
    validation = self.validation(step)
    if validation is None:
      return state
    saved = validation['plateau']
    # JSON has no infinity, which is the best error before the first gain.
    best = math.inf if saved['best'] is None else saved['best']
    fields = {
      'best': np.float32(best),
      'stalled': np.int32(saved['stalled']),
      'drops': np.int32(saved['drops']),
    }
    placed = jax.device_put(
      {**fields, 'validated': np.int32(step)}, abstract.step.sharding
    )
    return state.replace(
      validated=placed.pop('validated'),
      plateau=optimizer.PlateauState(**placed),
    )

  def params(self, abstract: model.Params, step: int) -> model.Params:
    """Returns the parameters alone; see `restore`."""
    digests = self._content(step)['digests']
    args = ocp.args.StandardRestore(abstract)
    params = self._read(step, params=args)['params']
    _check_digests(params, digests.get('params'))
    return params

  def identity(self, step: int) -> identities.Identity:
    """Returns the identity of the run when a checkpoint was saved.

    Raises:
      DamagedError: if it is not what was saved.
    """
    content = self._content(step)
    values = content['identity']
    args = ocp.args.StandardRestore(identities.Identity.abstract_arrays(values))
    arrays = self._read(step, statistics=args)['statistics']
    _check_digests(arrays, content['digests'].get('statistics'))
    return identities.Identity.from_json(values, arrays)

  def _content(self, step: int, reader: Any = None) -> dict[str, Any]:
    args = ocp.args.JsonRestore()
    values = self._read(step, reader, identity=args)['identity']
    has_no_seal = isinstance(values, dict) and 'seal' not in values
    if has_no_seal and values.get('format') == _WITHOUT_DIGESTS:
      processes.warn(
        '%s is of a version that stored no digests: it cannot be checked',
        self._path(step),
      )
      return {'step': step, 'identity': values, 'digests': {}}
    content = _opened(values, step)
    if content['format'] != _FORMAT:
      raise errors.UserError(
        f'{self._path(step)} has format {content["format"]}, and this program'
        f' reads {_FORMAT}: use the version that wrote it'
      )
    return content

  def _read(self, step: int, reader: Any = None, **items: Any) -> Any:
    """Reads some items of a checkpoint, with a reader of Orbax.

    Raises:
      DamagedError: if that is not possible, whatever Orbax raises.
      UserError: if the file system does not give them out.
    """
    folder = self._path(step)
    try:
      return (reader or self._orbax).restore(
        folder, args=ocp.args.Composite(**items)
      )
    except Exception as error:
      reason, text = _os_error(error), ' '.join(str(error).split())[:200]
    sys.unraisablehook = _without_orbax
    # One that the run has removed meanwhile fails in any of these ways.
    if reason in _UNREADABLE and folder.exists():
      raise errors.UserError(
        f'{folder} cannot be read ({reason}): make it readable, and run the'
        ' same command again'
      )
    raise DamagedError(text)

  def first_intact(
    self, order: Callable[[], Iterable[int]], load: Callable[[int], _Loaded]
  ) -> _Loaded:
    """Loads the first checkpoint of an order that is what was saved.

    A checkpoint may also vanish while it is read, because the run that writes
    it has newer ones: then the order is asked for again.

    Args:
      order: returns the steps as they are now, the most wanted first.
      load: of a step; raises DamagedError.

    Returns:
      What `load` returned.

    Raises:
      UserError: if none is intact.
    """
    while (step := self._next(order)) >= 0:
      loaded, failure = None, self._found_by_the_first(step)
      try:
        loaded = None if failure else load(step)
      except DamagedError as error:
        failure = str(error)
      if loaded is not None:
        return loaded
      self._failed[step] = failure
      if self._path(step).exists():
        processes.warn(
          'The checkpoint of step %d in %s is damaged (%s): trying another',
          step,
          self._folder,
          failure,
        )
    reasons = '; '.join(f'step {s}: {why}' for s, why in self._failed.items())
    raise errors.UserError(
      f'no checkpoint in {self._folder} is intact ({reasons}): restore one from'
      ' a copy, or train again with another --workdir'
    )

  def _next(self, order: Callable[[], Iterable[int]]) -> int:
    """Returns the step to try, the same in every process; -1 if none is left.

    On a network disk processes may see different folders.
    """
    step = -1
    if processes.is_first():
      step = next((x for x in order() if x not in self._failed), -1)
    return processes.highest(step)

  def _found_by_the_first(self, step: int) -> str:
    """Returns what the first process finds wrong with a checkpoint; '' if none.

    Processes that read together wait for each other, so a failure in one would
    stop all. With several, the first one reads everything alone before.
    """
    failure = ''
    if processes.joined() and processes.is_first():
      try:
        self._check_alone(step)
      except DamagedError as error:
        failure = str(error)
    if processes.any_of(bool(failure)):
      return failure or 'as the first process has found'
    return ''

  def _check_alone(self, step: int) -> None:
    """Reads and checks everything in one process of several.

    Raises:
      DamagedError: if it is not what was saved.
    """
    alone = ocp.options.MultiprocessingOptions(
      primary_host=processes.index(),
      active_processes={processes.index()},
      barrier_sync_key_prefix='first',
    )
    reader = ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
      ),
      multiprocessing_options=alone,
    )
    describer = ocp.Checkpointer(
      ocp.StandardCheckpointHandler(), multiprocessing_options=alone
    )
    with contextlib.closing(reader), contextlib.closing(describer):
      digests = self._content(step, reader)['digests']
      for item in ('params', 'state', 'statistics'):
        try:
          found: Any = describer.metadata(self._path(step) / item)
        except Exception as error:
          raise DamagedError(f'{item} cannot be read') from error
        described = found.item_metadata.tree
        empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), described)
        args = ocp.args.StandardRestore(empty)
        arrays = self._read(step, reader, **{item: args})[item]
        _check_digests(arrays, digests.get(item))

  def set_aside(self, step: int = -1) -> None:
    """Clears the way for saves after a step; to be called by the run's owner.

    What a killed save has left is removed. Later checkpoints, which are damaged
    or stray, are not: they move to the folder `damaged` beside `checkpoints`.

    Args:
      step: the step that was restored, if there was a checkpoint.
    """
    if not self._folder.is_dir() or not processes.is_first():
      return
    for path in self._folder.glob('*.orbax-checkpoint-tmp*'):
      shutil.rmtree(path, ignore_errors=True)
    for later in self.steps():
      if later > step:
        place = self._folder.parent / 'damaged'
        place.mkdir(exist_ok=True)
        free = next(
          name
          for number in itertools.count()
          if not (name := place / f'{later}_{number}').exists()
        )
        self._path(later).rename(free)

  def close(self) -> None:
    """Waits for pending writes."""
    try:
      self.wait()
    finally:
      self._orbax.close()


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns JSON values with a digest of all of them."""
  return {**content, 'seal': _seal(content)}


def _opened(values: Any, step: int) -> dict[str, Any]:
  """Returns sealed values.

  Raises:
    DamagedError: if they are not what was sealed, or of another step.
  """
  if not isinstance(values, dict):
    raise DamagedError('its description is no mapping')
  content = {key: value for key, value in values.items() if key != 'seal'}
  if values.get('seal') != _seal(content):
    raise DamagedError('its description does not match its digest')
  if content['step'] != step:
    raise DamagedError(f'it is that of step {content["step"]}')
  return content


def _seal(content: Mapping[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digests(tree: Any) -> dict[str, str]:
  """Returns a digest of each array by its path; the same on any devices."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  arrays = [processes.on_host(leaf) for _, leaf in leaves]
  with futures.ThreadPoolExecutor() as pool:  # Hashing releases the GIL.
    digests = pool.map(_digest, arrays)
  paths = [
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves
  ]
  return dict(zip(paths, digests, strict=True))


def _digest(array: np.ndarray) -> str:
  digest = hashlib.blake2b(
    f'{array.dtype}{array.shape}'.encode(), digest_size=16
  )
  digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _check_digests(tree: Any, expected: Mapping[str, str] | None) -> None:
  if expected is None:
    return
  found = _digests(tree)
  for path, digest in found.items():
    if expected.get(path) != digest:
      raise DamagedError(f'the array {path} does not match its digest')


_complain = sys.unraisablehook


def _without_orbax(unraisable: Any) -> None:
  """Drops the complaints of reads that Orbax gave up, when they are freed."""
  code = getattr(unraisable.object, 'cr_code', None)
  of_orbax = code is not None and 'orbax' in code.co_filename
  if not of_orbax and 'Event loop is closed' not in str(unraisable.exc_value):
    _complain(unraisable)


def _os_error(error: BaseException) -> str | None:
  """Returns what the file system said; None if it was not its error."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, OSError) and cause.strerror:
      return cause.strerror
    if found := _OS_ERROR.search(str(cause)):
      return os.strerror(int(found.group(1) or found.group(2)))
    cause = cause.__cause__ or cause.__context__
  return None


def check_name(workdir: pathlib.Path) -> None:
  """Raises a UserError for a path that is not UTF-8; TensorStore needs it."""
  try:
    str(workdir.absolute()).encode()
  except UnicodeEncodeError as e:
    raise errors.UserError(
      f'--workdir={workdir} is not UTF-8, and checkpoints cannot be kept under'
      ' such a name: choose another (or set PYTHONUTF8=1 where only the locale'
      ' is not UTF-8)'
    ) from e
