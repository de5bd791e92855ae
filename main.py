"""Command-line entry point: parses flags and dispatches to one mode.

python main.py --config=configs/imagenet.py --workdir=runs/imagenet
python main.py --config=configs/imagenet.py:cuda_convnet \
      --workdir=runs/cuda_convnet --config.optimizer.momentum=0.8
python main.py --mode=predict --workdir=runs/imagenet --images='photos/*.jpg'
"""

from alexnet_jax import signals

if __name__ == '__main__':
  signals.STOP.install()  # Before the other imports, which take a while.

from collections.abc import Callable
import faulthandler
import os
import pathlib
import signal
import sys
import time
import traceback
from typing import NamedTuple

from absl import app
from absl import flags
from ml_collections import config_flags

from alexnet_jax import errors
from alexnet_jax import large_pages
from alexnet_jax import names

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  help_string='configs/NAME.py or configs/NAME.py:PRESET; any key can be'
  ' overridden: --config.optimizer.momentum=0.8. Modes that use a trained run'
  ' take the config from its checkpoint if none is given.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'The folder of the run: checkpoints, metrics and results.'
)
_OUTPUT = flags.DEFINE_string(
  'output', '', 'The folder for results; the workdir by default.'
)
_IMAGES = flags.DEFINE_multi_string(
  'images', [], "predict, extract: a file, a folder, or a pattern: '*.jpg'."
)
_QUERY = flags.DEFINE_multi_string('query', [], 'similar: as --images.')
_LAYER = flags.DEFINE_string(
  'layer', '', 'extract, similar: such as fc7; by default the last hidden one.'
)
_SPLIT = flags.DEFINE_string(
  'split', '', 'extract (validation), similar (train): the images to use.'
)
_K = flags.DEFINE_integer('k', 6, 'similar: how many images to find.')
_FORMAT = flags.DEFINE_enum(
  'format', 'npz', ['npz', 'tfrecord'], 'extract: of the files.'
)
_VIEWS = flags.DEFINE_enum(
  'views',
  'center_view',
  ['center_view', 'ten_views'],
  'predict, --ensemble: of each image.',
)
_ENSEMBLE = flags.DEFINE_list(
  'ensemble', [], 'evaluate: comma-separated workdirs of runs to average.'
)
_JOBS = flags.DEFINE_integer('jobs', 1, 'study: runs made at a time.', 1)
_QUICK = flags.DEFINE_bool(
  'quick', False, 'study: one seed, and a short training, to try it.'
)
_LIST = flags.DEFINE_bool(
  'list', False, 'study: print the command of every run, and make none.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  '',
  'train, evaluate on several processes: host:port of process 0, where the'
  ' launcher does not tell (docs/many_hosts.md).',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'With --coordinator: of the job.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'With --coordinator: of this one, from 0.'
)


class _Mode(NamedTuple):
  """What --mode can be.

  Attributes:
    run: returns the exit code.
    needs: the flags that must be given.
    reads: the flags that may be given, besides --config and --workdir.
    shared: whether several processes can share the work.
  """

  run: Callable[[], int]
  needs: tuple[str, ...] = ('workdir',)
  reads: tuple[str, ...] = ()
  shared: bool = False


# JAX and TensorFlow take seconds to import: each mode does so when it runs.
def _train() -> int:
  from alexnet_jax import files
  from alexnet_jax import setup
  from alexnet_jax import train

  workdir = files.user_folder(_WORKDIR.value, '--workdir')
  files.check_writable(workdir, '--workdir')
  return train.train(setup.build(_CONFIG.value), workdir, signals.STOP)


def _prepare() -> int:
  from alexnet_jax import setup
  from alexnet_jax import splits

  return splits.prepare(setup.build(_CONFIG.value))


def _evaluate() -> int:
  from alexnet_jax import evaluate

  return evaluate.run(_open_run(), _output())


def _ensemble() -> int:
  from alexnet_jax.analysis import ensemble

  runs = [_open_run(workdir, '--ensemble') for workdir in _ENSEMBLE.value]
  return ensemble.run(runs, _output(), _VIEWS.value)


def _report() -> int:
  from alexnet_jax.analysis.report import run as report

  return report.run(_open_run(), _output())


def _predict() -> int:
  from alexnet_jax.analysis import predict
  from alexnet_jax.input_pipeline import folder

  images = folder.open_files(_IMAGES.value)
  return predict.run(_open_run(), images, _output(), _VIEWS.value)


def _extract() -> int:
  from alexnet_jax.analysis import extract
  from alexnet_jax.input_pipeline import folder

  run = _open_run()
  if _IMAGES.value:
    source = folder.open_files(_IMAGES.value)
  else:
    source = run.split(_SPLIT.value or 'validation')
  layer = _LAYER.value or run.last_hidden
  return extract.run(run, layer, source, _output(), _FORMAT.value)


def _similar() -> int:
  from alexnet_jax.analysis import similar
  from alexnet_jax.input_pipeline import folder

  run = _open_run()
  queries = folder.open_files(_QUERY.value, '--query')
  source = run.split(_SPLIT.value or 'train')
  layer = _LAYER.value or run.last_hidden
  return similar.run(run, queries, source, layer, _K.value, _output())


def _study() -> int:
  from alexnet_jax import files
  from alexnet_jax.studies import mode

  return mode.run(
    _CONFIG.value,
    files.user_folder(_WORKDIR.value, '--workdir'),
    _output(),
    jobs=_JOBS.value,
    quick=_QUICK.value,
    only_list=_LIST.value,
    stop=signals.STOP,
  )


_JOB = ('coordinator', 'num_processes', 'process_id')
_WITH_ENSEMBLE = 'evaluate --ensemble'
_MODES = {
  'train': _Mode(_train, needs=('config', 'workdir'), reads=_JOB, shared=True),
  'evaluate': _Mode(_evaluate, reads=('output', *_JOB), shared=True),
  _WITH_ENSEMBLE: _Mode(
    _ensemble, needs=('ensemble',), reads=('output', 'views')
  ),
  'prepare': _Mode(_prepare, needs=('config',)),
  'report': _Mode(_report, reads=('output',)),
  'study': _Mode(
    _study,
    needs=('config', 'workdir'),
    reads=('output', 'jobs', 'quick', 'list'),
  ),
  'predict': _Mode(
    _predict, needs=('workdir', 'images'), reads=('output', 'views')
  ),
  'extract': _Mode(
    _extract, reads=('images', 'split', 'layer', 'format', 'output')
  ),
  'similar': _Mode(
    _similar,
    needs=('workdir', 'query'),
    reads=('split', 'layer', 'k', 'output'),
  ),
}
_EXAMPLES = {
  'config': '--config=configs/smoke.py',
  'workdir': '--workdir=runs/smoke',
  'output': '--output=runs/average',
  'images': "--images='photos/*.jpg'",
  'query': '--query=photo.jpg',
}
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  [name for name in _MODES if name != _WITH_ENSEMBLE],
  'What to do.',
)


def _output() -> pathlib.Path:
  """Returns the folder for results, if files can be written there."""
  from alexnet_jax import files

  given, flag = _OUTPUT.value, '--output'
  if not given:
    given, flag = _WORKDIR.value, '--workdir'
  folder = files.user_folder(given, flag)
  files.check_writable(folder, '--output')
  return folder


def _open_run(workdir: str | None = None, flag: str = '--workdir'):
  from alexnet_jax import files
  from alexnet_jax import inference

  given = _WORKDIR.value if workdir is None else workdir
  return inference.open_run(files.user_folder(given, flag), _CONFIG.value)


def main(argv: list[str]) -> int:
  """Runs the mode that the flags name and returns the exit code."""
  if len(argv) > 1:
    return _fail(f"unexpected argument '{argv[1]}': flags begin with --")
  try:
    return _leave(_run(_choose_mode()))
  except errors.UserError as e:
    return _leave(_fail(str(e), e.exit_code))
  except PermissionError as e:
    if e.filename is None:
      raise
    return _leave(
      _fail(
        f'{e.filename} cannot be opened ({e.strerror}): change its permissions,'
        ' or name another place'
      )
    )
  except BrokenPipeError:
    # Whoever read the output, such as `head`, has enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  except Exception:
    from alexnet_jax import processes

    if not processes.joined():
      raise
    # At the interpreter's exit JAX would wait for the other processes.
    traceback.print_exc()
    return _leave(1)


def _run(mode: _Mode) -> int:
  from alexnet_jax import processes
  from alexnet_jax import reporting

  reporting.set_up_terminal()
  processes.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  reporting.set_up_terminal(processes.index())
  if processes.joined():
    # JAX aborts the processes that are left of a job, and says so in a line.
    faulthandler.disable()
  if processes.joined() and not mode.shared:
    raise errors.UserError(
      f'--mode={_MODE.value} runs in one process, and this is process'
      f' {processes.index()} of several: start one'
    )
  with processes.losses_in_words():
    exit_code = mode.run()
  sys.stdout.flush()
  return exit_code


def _leave(exit_code: int) -> int:
  """Ends a program that should not wait for what may be stuck."""
  from alexnet_jax import processes
  from alexnet_jax import waiting

  if processes.joined():
    if not exit_code:
      return 0
    # JAX would wait for the other processes, which wait for this one. They end
    # when it does; the first one, which they all listen to, does so last.
    time.sleep(1.0 if processes.is_first() else 0.0)
  elif not (signals.STOP.received() or waiting.is_stuck()):
    return exit_code
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(exit_code)


def _choose_mode() -> _Mode:
  """Returns the mode; raises a UserError for a missing or an unused flag."""
  name = _MODE.value
  if name == 'evaluate' and _ENSEMBLE.value:
    name = _WITH_ENSEMBLE
  mode = _MODES[name]
  known = {flag for each in _MODES.values() for flag in each.needs + each.reads}
  for flag in sorted(known - {'config', 'workdir', *mode.needs, *mode.reads}):
    if flags.FLAGS[flag].present:
      users = [
        other
        for other, each in _MODES.items()
        if flag in each.needs + each.reads
      ]
      raise errors.UserError(
        f'--{flag} is not used by --mode={name}, only by {" and ".join(users)}'
      )
  for flag in mode.needs:
    if not flags.FLAGS[flag].value:
      raise errors.UserError(
        f'--mode={name} needs --{flag}, such as {_EXAMPLES[flag]}'
      )
  if name == _WITH_ENSEMBLE and not (_OUTPUT.value or _WORKDIR.value):
    raise errors.UserError(
      f'--mode={name} needs --output, such as {_EXAMPLES["output"]}'
    )
  if _IMAGES.value and _SPLIT.value:
    raise errors.UserError('--images and --split exclude each other: give one')
  return mode


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake ends the program with one line."""
  try:
    _check_config_file(argv)
    return flags.FLAGS(argv)
  except (
    flags.Error, errors.UserError, AttributeError, KeyError, OSError, TypeError,
    ValueError,
  ) as e:  # fmt: skip
    # Config files are loaded here, so any of these may be a typo of the user's.
    # One error may hold another, whose text would be quoted once more.
    message = e
    while isinstance(message, Exception) and len(message.args) == 1:
      message = message.args[0]
    sys.exit(_fail(' '.join(str(message).split())))
  except Exception as e:
    text = ' '.join(f'{type(e).__name__}: {e}'.split())
    remedy = 'correct the config file, or name another with --config'
    sys.exit(_fail(f'{_place(e)}: {text}: {remedy}'))


def _place(error: Exception) -> str:
  """Returns the file and the line that an error of a config comes from."""
  if isinstance(error, SyntaxError):
    return f'{error.filename}:{error.lineno}'
  frames = traceback.extract_tb(error.__traceback__)
  # An import that fails ends in frames of Python's own.
  *_, last = (each for each in frames if not each.filename.startswith('<'))
  return f'{last.filename}:{last.lineno}'


def _check_config_file(argv: list[str]) -> None:
  """Raises a UserError unless --config is a file; a FIFO would be waited for.

  Parsing that flag runs the file, so this comes first.
  """
  only = flags.FlagValues()
  flags.DEFINE_string('config', None, '', flag_values=only)
  only.set_gnu_getopt()
  only(argv, known_only=True)
  if only.config is None:
    return
  path = only.config.split(':')[0]  # A preset follows the colon.
  if not pathlib.Path(path).is_file():
    raise errors.UserError(f'no config file {path}: see the folder configs/')
  if pathlib.Path(path).suffix != '.py':
    raise errors.UserError(
      f'--config={path} is not a Python file: name one with --config, such as'
      ' configs/smoke.py'
    )


def _fail(message: str, exit_code: int = 2) -> int:
  # One line, whatever the names in it are.
  print(f'main.py: {names.printable(message)}', file=sys.stderr)
  return exit_code


if __name__ == '__main__':
  large_pages.use()
  app.define_help_flags()
  try:
    app.run(main, flags_parser=_parse)
  except signals.Stopped as stopped:
    os._exit(stopped.exit_code)  # The interpreter would take seconds.
