"""The command line: mistakes are one line and exit code 2."""

import os
import pathlib
import platform
import subprocess
import sys

from absl.testing import flagsaver
import pytest

from alexnet_jax import large_pages
from alexnet_jax import reporting
import main
from tests import files_testing
from tests import trained_testing

_ROOT = pathlib.Path(__file__).parents[1]


def _main(*flags, timeout=120, env=None):
  return subprocess.run(
    [sys.executable, 'main.py', *flags],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
    env=env,
  )


def _run_here(flags, monkeypatch):
  """Does what main.py does, without the seconds that a start takes."""
  monkeypatch.setattr(reporting, 'set_up_terminal', lambda *_: None)
  # ml_collections looks there for the overrides.
  monkeypatch.setattr(sys, 'argv', ['main.py', *flags])
  with flagsaver.flagsaver():
    try:
      return main.main(main._parse(sys.argv))
    except SystemExit as e:
      return e.code


_SMOKE = '--config=configs/smoke.py'
_BUCKET = 'gs://bucket/x'
# Every flag whose text becomes a path.
_PATHS = [
  (['--config=/dev/zero'], ['/dev/zero']),
  ([_SMOKE, f'--workdir={_BUCKET}'], [f'--workdir={_BUCKET} is not']),
  ([_SMOKE, '--workdir=~nobody-here/x'], ['--workdir=~nobody-here/x']),
  ([_SMOKE, '--workdir=main.py'], ['--workdir=main.py is a file']),
  ([_SMOKE, '--workdir=main.py/x'], ['--workdir=main.py/x', 'Not a dir']),
  ([_SMOKE, f'--workdir=new/{"n" * 256}'], ['--workdir=', 'too long']),
  ([_SMOKE, '--workdir=/proc/x'], ['/proc/x cannot be written']),
  (['--mode=evaluate', f'--workdir={_BUCKET}'], [f'--workdir={_BUCKET}']),
  (['--mode=evaluate', '--ensemble=,a', '--output=x'], ['--ensemble is empty']),
  (
    ['--mode=evaluate', f'--ensemble={_BUCKET},b', '--output=x'],
    [f'--ensemble={_BUCKET}'],
  ),
  (
    ['--mode=predict', '--workdir=x', f'--images={_BUCKET}'],
    [f'--images={_BUCKET}'],
  ),
  *(
    (
      [_SMOKE, '--workdir=x', *flags, f'--config.{key}={_BUCKET}'],
      [f'--config.{key}={_BUCKET} is not a local folder'],
    )
    for key, flags in {
      'data.store_dir': ['--mode=prepare'],
      'data.data_dir': ['--config.data.source=folder'],
    }.items()
  ),
]


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], ['--config']),
    (['--config=configs/smoke.py'], ['--workdir']),
    (['--config=configs/smoke.py', '--workdri=x'], ['workdri', 'workdir']),
    (['--config=configs/nothing.py', '--workdir=x'], ['configs/nothing.py']),
    (['--config=README.md', '--workdir=x'], ['README.md is not a Python file']),
    (
      [_SMOKE, '--workdir=x', '--config.num_epochs=1000000000'],
      ['num_epochs=1000000000 is outside'],
    ),
    (
      [
        _SMOKE,
        '--workdir=x',
        '--config.num_epochs=1000000',
        '--config.data.num_examples=100000',
        '--config.batch_size=1',
      ],
      ['2,147,483,647 can be counted: set --config.num_epochs to at most'],
    ),
    (
      [_SMOKE, '--workdir=x', '--config.data.class_names=(1, 2)'],
      ['data.class_names=[1, 2] is not a tuple of texts'],
    ),
    (
      ['--config=configs/imagenet.py:papier'],
      ['papier', 'paper, cuda_convnet'],
    ),
    (
      ['--config=configs/imagenet.py:source'],
      ["'source' is now called 'cuda_convnet'"],
    ),
    (['--config=configs/smoke.py', '--config.batchsize=3'], ['batchsize']),
    (
      ['--config=configs/smoke.py', '--config.max_step=3'],
      ['main.py: \'max_step\' Did you mean "max_steps"'],
    ),
    (
      ['--config=configs/smoke.py', '--config.batch_size=many'],
      ['batch_size', 'many'],
    ),
    (['--config=configs/smoke.py', '--mode=tain'], ['tain', 'train']),
    (['--config=configs/smoke.py', 'stray', '--workdir=x'], ['stray']),
    (
      [
        '--config=configs/cifar10.py',
        '--workdir=x',
        '--config.data.data_dir=no/such/folder',
      ],
      ['no/such/folder', 'data_dir'],
    ),
    (
      ['--config=configs/smoke.py', '--workdir=x', '--mode=evaluate'],
      ['x', 'train first'],
    ),
    (['--workdir=x', '--mode=evaluate'], ['x', 'train first']),
    (
      ['--workdir=x', '--mode=predict', '--images=main.py'],
      ['x', 'train first'],
    ),
    (['--workdir=x', '--mode=predict'], ['--images', '*.jpg']),
    (['--workdir=x', '--mode=similar'], ['--query=photo.jpg']),
    (['--workdir=x', '--mode=predict', '--k=3'], ['--k', 'similar']),
    (
      ['--workdir=x', '--mode=evaluate', '--views=ten_views'],
      ['--views', 'predict'],
    ),
    (
      ['--workdir=x', '--mode=extract', '--images=a', '--split=b'],
      ['--images', '--split'],
    ),
    (['--mode=evaluate', '--ensemble=a,b'], ['--output']),
    (
      ['--mode=evaluate', '--ensemble=a,b', '--workdir=x'],
      ['a holds no checkpoints'],
    ),
    (['--workdir=x', '--mode=extract', '--format=csv'], ['csv', 'tfrecord']),
    *_PATHS,
  ],
)
def test_mistake_is_one_line_and_exit_code_2(
  flags, words, tmp_path, monkeypatch, capsys
):
  # A run that should never begin leaves nothing behind.
  flags = [
    flag.replace('--workdir=x', f'--workdir={tmp_path}/x') for flag in flags
  ]
  monkeypatch.chdir(_ROOT)
  assert _run_here(flags, monkeypatch) == 2
  (line,) = capsys.readouterr().err.splitlines()
  for word in ('main.py:', *words):
    assert word in line
  assert not (tmp_path / 'x' / 'checkpoints').exists()


@pytest.mark.parametrize(
  ('source', 'words'),
  [
    ('def get_config(:', ':1: SyntaxError'),
    ('import nothing_there', ':1: ModuleNotFoundError'),
    ('def get_config():\n  return size', ':2: NameError'),
  ],
)
def test_a_config_that_fails_is_named_with_its_line(
  tmp_path, monkeypatch, capsys, source, words
):
  path = tmp_path / 'mine.py'
  path.write_text(source)
  flags = [f'--config={path}', f'--workdir={tmp_path}']
  assert _run_here(flags, monkeypatch) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f'{path}{words}' in line


def test_what_may_not_be_opened_is_one_line(tmp_path, monkeypatch, capsys):
  def refuse():
    raise PermissionError(13, 'Permission denied', '/data/train-images')

  monkeypatch.setitem(main._MODES, 'train', main._Mode(refuse))
  flags = [_SMOKE, f'--workdir={tmp_path}']
  assert _run_here(flags, monkeypatch) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert '/data/train-images cannot be opened (Permission denied)' in line


def test_a_mistake_ends_the_program():
  done = _main('--workdri=x')
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert 'workdri' in line
  assert 'workdir' in line


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Holds data/ and run/."""
  folder = tmp_path_factory.mktemp('main')
  data = trained_testing.write_data(folder / 'data')
  trained_testing.write_run(folder / 'run', data)
  return folder


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--mode=extract', '--layer=fc9'], ["'fc9'", 'conv5, fc7, fc8']),
    (['--mode=evaluate', f'--output={_BUCKET}'], [f'--output={_BUCKET}']),
    (['--mode=similar', '--query=/dev/zero'], ['--query=/dev/zero is not a']),
    (['--mode=predict', '--images=DATA/*.gif'], ['*.gif', 'no image']),
    (
      ['--mode=similar', '--query=DATA/test/class1/001b.jpg'],
      ['001b.jpg', 'cannot be read'],
    ),
  ],
)
def test_mistake_with_a_run_is_one_line_and_exit_code_2(
  place, monkeypatch, capsys, flags, words
):
  flags = [flag.replace('DATA', str(place / 'data')) for flag in flags]
  assert _run_here([f'--workdir={place}/run', *flags], monkeypatch) == 2
  (line,) = capsys.readouterr().err.splitlines()
  for word in ('main.py:', *words):
    assert word in line


def test_a_trained_run_predicts_without_a_config(place, tmp_path):
  done = _main(
    f'--workdir={place}/run', '--mode=predict', f'--output={tmp_path}',
    f'--images={place}/data/test/class0', '--views=ten_views',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout.count(' %  class') == 12
  assert (tmp_path / 'predictions.csv').exists()
  assert (tmp_path / 'predictions.png').exists()
  # Nobody asked how Orbax and TensorFlow are.
  assert len(done.stderr.splitlines()) < 5, done.stderr


@pytest.mark.parametrize(
  ('flags', 'results'),
  [
    (['--mode=evaluate'], {'evaluation.json'}),
    (['--mode=evaluate', '--ensemble=RUN,RUN'], {'ensemble.json'}),
    (['--mode=report'], {'report'}),
    (['--mode=predict', '--images=DATA/test/class0'], {'predictions.csv'}),
    (['--mode=extract'], {'fc7-test.npz'}),
    (['--mode=similar', '--query=DATA/test/class0'], {'features'}),
  ],
)
def test_a_run_that_cannot_be_written_is_used(
  place, tmp_path, monkeypatch, capsys, flags, results
):
  data, run = str(place / 'data'), str(place / 'run')
  flags = [f.replace('DATA', data).replace('RUN', run) for f in flags]
  flags = [f'--workdir={run}', *flags]
  with files_testing.read_only(place):
    assert _run_here([*flags, f'--output={tmp_path}/new'], monkeypatch) == 0
    capsys.readouterr()
    assert _run_here(flags, monkeypatch) == 2
  assert {path.name for path in (tmp_path / 'new').iterdir()} >= results
  (line,) = capsys.readouterr().err.splitlines()
  assert f'{run} cannot be written (Read-only file system)' in line
  assert '--output' in line


def test_a_config_that_would_be_waited_for_is_refused(tmp_path):
  os.mkfifo(tmp_path / 'config.py')
  done = _main('--mode', 'train', '--config', f'{tmp_path}/config.py')
  assert done.returncode == 2
  assert done.stderr == (
    f'main.py: no config file {tmp_path}/config.py: see the folder configs/\n'
  )


def test_a_checkpoint_does_not_say_where_programs_are_kept(place, tmp_path):
  """Loading a compiled program executes it: that folder is the user's."""
  theirs, home = tmp_path / 'theirs', tmp_path / 'home'
  trained_testing.write_run(
    tmp_path / 'run', place / 'data', compilation_cache=str(theirs)
  )
  environment = {**os.environ, 'HOME': str(home)}
  del environment['JAX_COMPILATION_CACHE_DIR']
  done = _main(f'--workdir={tmp_path}/run', '--mode=evaluate', env=environment)
  assert done.returncode == 0, done.stderr
  assert not theirs.exists()
  assert any((home / '.cache/alexnet_jax/programs').iterdir())


def test_help_names_the_flags():
  done = _main('--help')
  for flag in ('--config', '--workdir', '--mode', 'train|evaluate|prepare'):
    assert flag in done.stdout


def test_the_program_starts_anew_with_large_pages():
  program = (
    'import os; from alexnet_jax import large_pages;'
    ' large_pages.use(); print(os.environ.get("GLIBC_TUNABLES"))'
  )
  environment = {'PATH': '/usr/bin', 'PYTHONPATH': str(_ROOT)}
  for given, expected in (
    ({}, large_pages.SETTING),
    ({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}, 'glibc.malloc.hugetlb=0'),
  ):
    done = subprocess.run(
      [sys.executable, '-c', program],
      env=environment | given,
      capture_output=True,
      text=True,
      timeout=60,
      check=True,
    )
    if platform.libc_ver()[0] == 'glibc':
      assert done.stdout.split() == [expected]
