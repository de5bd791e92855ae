"""Four simulated devices, so that placements can be compared on any machine."""

import atexit
import importlib.metadata
import os
import pathlib
import pwd
import shutil
import signal
import sys
import tempfile

# `nohup`, and shells for what runs in their background, have these ignored, and
# the programs that tests start would inherit it.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
  signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# Many tests compile the same programs. They are kept as long as the tests run,
# for all processes, and nothing is left behind in anybody's home.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _programs = tempfile.mkdtemp(prefix='alexnet_jax_programs_')
  atexit.register(shutil.rmtree, _programs, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _programs
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
# XLA's older emitter of fused loops compiles these small programs in a third of
# the time; they run slower, with the same results. jax 0.12 no longer has it,
# and refuses flags that it does not know.
_EMITTER = '--xla_cpu_use_fusion_emitters'
if importlib.metadata.version('jax').startswith(
  '0.10.'
) and _EMITTER not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} {_EMITTER}=false'
  )

import jax  # noqa: E402
import pytest  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# The tolerances are those of float32 on a CPU, whatever else the machine has.
if 'JAX_PLATFORMS' not in os.environ:
  jax.config.update('jax_platforms', 'cpu')
# Tests compile more than they compute: half the time goes without LLVM's
# expensive passes. XLA's own, which place the collectives, stay.
if 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ:
  jax.config.update('jax_disable_most_optimizations', True)

from alexnet_jax import sharding  # noqa: E402

sharding.simulate_devices(4)
jax.devices()  # Fixes their number, whatever a test's config asks for.


# These files take longest: last in line, one would keep one process busy while
# the others have nothing left to do.
_LONGEST = (
  'train_test', 'train_step_test', 'workdir_test', 'report_run_test',
  'odd_names_test', 'unreadable_test', 'tour_test', 'ensemble_test',
  'benchmarks_test', 'processes_test', 'sharding_processes_test',
  'signals_test',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  ranks = {name: rank for rank, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
  """A folder with data/ and a tiny run/ on it, not to be changed by tests."""
  from tests import trained_testing

  folder = tmp_path_factory.mktemp('trained')
  data = trained_testing.write_data(folder / 'data')
  trained_testing.write_run(folder / 'run', data)
  return folder


@pytest.fixture(scope='session')
def trained_run(trained):
  from alexnet_jax import inference

  return inference.open_run(trained / 'run')


@pytest.fixture
def homeless(monkeypatch):
  """Neither the environment nor the system knows of a home folder."""

  def unknown(uid):
    raise KeyError(uid)

  monkeypatch.delenv('HOME', raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', unknown)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
  """Makes what a test logged sendable: names of any bytes are no UTF-8."""
  report = yield
  report.sections = [
    (title, text.encode(errors='backslashreplace').decode())
    for title, text in report.sections
  ]
  return report
