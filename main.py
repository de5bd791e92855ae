"""Trains, evaluates or prepares: flags in, one mode out.

python main.py --config=configs/imagenet.py --workdir=runs/imagenet
python main.py --config=configs/imagenet.py:source --workdir=runs/source \
      --config.optimizer.momentum=0.8
"""

import pathlib
import sys

from absl import app
from absl import flags
from ml_collections import config_flags

from alexnet_jax import errors
from alexnet_jax import large_pages

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  help_string='configs/NAME.py or configs/NAME.py:PRESET; any key can be'
  ' overridden: --config.optimizer.momentum=0.8',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'The folder of the run: checkpoints, metrics and results.'
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'evaluate', 'prepare'], 'What to do.'
)


def main(argv: list[str]) -> int:
  """Runs the mode that the flags name and returns the exit code."""
  if len(argv) > 1:
    return _fail(f"unexpected argument '{argv[1]}': flags begin with --")
  # JAX takes its time to import, so mistyped flags are refused first.
  from alexnet_jax import evaluate
  from alexnet_jax import experiment
  from alexnet_jax import reporting
  from alexnet_jax import train

  reporting.set_up_terminal()
  try:
    if _CONFIG.value is None:
      return _fail('no --config: name one, such as --config=configs/smoke.py')
    if not _WORKDIR.value and _MODE.value != 'prepare':
      return _fail('no --workdir: name the folder of the run')
    workdir = pathlib.Path(_WORKDIR.value)
    parts = experiment.build(_CONFIG.value)
    if _MODE.value == 'prepare':
      return experiment.prepare(parts)
    if _MODE.value == 'evaluate':
      return evaluate.run(parts, workdir)
    return train.train(parts, workdir)
  except errors.UserError as e:
    return _fail(str(e), e.exit_code)


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
    sys.exit(_fail(' '.join(str(e).split())))


def _fail(message: str, exit_code: int = 2) -> int:
  print(f'main.py: {message}', file=sys.stderr)
  return exit_code


if __name__ == '__main__':
  large_pages.use()
  app.define_help_flags()
  app.run(main, flags_parser=_parse)
