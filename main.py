"""Trains a network, or uses a trained one: flags in, one mode out.

python main.py --config=configs/imagenet.py --workdir=runs/imagenet
python main.py --config=configs/imagenet.py:cuda_convnet \
      --workdir=runs/cuda_convnet \
      --config.optimizer.momentum=0.8
python main.py --mode=predict --workdir=runs/imagenet --images='photos/*.jpg'
"""

import pathlib
import sys

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
  ' take the config from its checkpoint where none is given.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'The folder of the run: checkpoints, metrics and results.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate', 'prepare', 'report', 'predict', 'extract', 'similar'],
  'What to do.',
)
_OUTPUT = flags.DEFINE_string(
  'output', '', 'Where results go; the workdir where not given.'
)
_IMAGES = flags.DEFINE_multi_string(
  'images', [], "predict, extract: a file, a folder, or a pattern: '*.jpg'."
)
_QUERY = flags.DEFINE_multi_string('query', [], 'similar: as --images.')
_LAYER = flags.DEFINE_string(
  'layer', '', 'extract, similar: such as fc7; empty: the last hidden layer.'
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
  'ensemble', [], 'evaluate: workdirs of runs to average, between commas.'
)

# Which modes read a flag; the others refuse it. `ensemble` is evaluate with
# --ensemble.
_READ_BY = {
  'images': ('predict', 'extract'),
  'query': ('similar',),
  'layer': ('extract', 'similar'),
  'split': ('extract', 'similar'),
  'k': ('similar',),
  'format': ('extract',),
  'views': ('predict', 'ensemble'),
  'ensemble': ('ensemble',),
  'output': ('predict', 'extract', 'similar', 'ensemble'),
}


def main(argv: list[str]) -> int:
  """Runs the mode that the flags name and returns the exit code."""
  if len(argv) > 1:
    return _fail(f"unexpected argument '{argv[1]}': flags begin with --")
  # JAX takes its time to import, so mistyped flags are refused first.
  from alexnet_jax import reporting

  reporting.set_up_terminal()
  try:
    _check_flags()
    if _MODE.value in ('train', 'prepare'):
      return _make()
    return _use()
  except errors.UserError as e:
    return _fail(str(e), e.exit_code)


def _check_flags() -> None:
  """Raises a UserError for a flag that is missing or that nothing reads."""
  mode = _MODE.value
  if mode == 'evaluate' and _ENSEMBLE.value:
    mode = 'ensemble'
  for name, modes in _READ_BY.items():
    if flags.FLAGS[name].present and mode not in modes:
      raise errors.UserError(
        f'--{name} means nothing to --mode={mode}: it is for'
        f' {" and ".join(modes)}'
      )
  if mode in ('train', 'prepare') and _CONFIG.value is None:
    raise errors.UserError(
      'no --config: name one, such as --config=configs/smoke.py'
    )
  if mode == 'ensemble' and not (_OUTPUT.value or _WORKDIR.value):
    raise errors.UserError('no --output: name a folder for the results')
  if mode not in ('prepare', 'ensemble') and not _WORKDIR.value:
    raise errors.UserError('no --workdir: name the folder of the run')
  asked = {'predict': _IMAGES, 'similar': _QUERY}.get(mode)
  if asked is not None and not asked.value:
    raise errors.UserError(
      f"no --{asked.name}: name a file, a folder or a pattern such as '*.jpg'"
    )
  if _IMAGES.value and _SPLIT.value:
    raise errors.UserError('--images and --split exclude each other: give one')


def _make() -> int:
  """Trains, or prepares the data."""
  from alexnet_jax import data
  from alexnet_jax import setup
  from alexnet_jax import train

  parts = setup.build(_CONFIG.value)
  if _MODE.value == 'prepare':
    return data.prepare(parts)
  return train.train(parts, pathlib.Path(_WORKDIR.value))


def _use() -> int:
  """Uses a trained run, or several."""
  from alexnet_jax import evaluate
  from alexnet_jax import inference
  from alexnet_jax.analysis import ensemble
  from alexnet_jax.analysis.report import run as report

  config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
  output = pathlib.Path(_OUTPUT.value or workdir)
  if _ENSEMBLE.value:
    return ensemble.run(_ENSEMBLE.value, config, output, _VIEWS.value)
  if _MODE.value == 'evaluate':
    return evaluate.run(config, workdir)
  if _MODE.value == 'report':
    return report.run(workdir, config)
  return _answer(inference.open_run(workdir, config), output)


def _answer(run, output: pathlib.Path) -> int:
  """Predicts, extracts or searches with an opened run."""
  from alexnet_jax.analysis import extract
  from alexnet_jax.analysis import features
  from alexnet_jax.analysis import predict
  from alexnet_jax.analysis import similar
  from alexnet_jax.input_pipeline import folder

  layer = _LAYER.value or features.last_hidden(run)
  if _MODE.value == 'predict':
    return predict.run(
      run, folder.open_files(_IMAGES.value), output, _VIEWS.value
    )
  if _MODE.value == 'similar':
    queries = folder.open_files(_QUERY.value)
    source = run.split(_SPLIT.value or 'train')
    return similar.run(run, queries, source, layer, _K.value, output)
  if _IMAGES.value:
    source = folder.open_files(_IMAGES.value)
  else:
    source = run.split(_SPLIT.value or 'validation')
  return extract.run(run, layer, source, output, _FORMAT.value)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake ends the program with one line."""
  try:
    rest = flags.FLAGS(argv)
    if flags.FLAGS['config'].present:
      name = config_flags.get_config_filename(flags.FLAGS['config'])
      path = name.split(':')[0]  # A preset follows the colon.
      if not pathlib.Path(path).is_file():
        sys.exit(_fail(f'no config file {path}: see the folder configs/'))
    return rest
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


def _fail(message: str, exit_code: int = 2) -> int:
  # One line, whatever the names in it are.
  print(f'main.py: {names.printable(message)}', file=sys.stderr)
  return exit_code


if __name__ == '__main__':
  large_pages.use()
  app.define_help_flags()
  app.run(main, flags_parser=_parse)
