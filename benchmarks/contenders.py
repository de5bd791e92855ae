"""Who takes part in the race of whole training steps, and how they start."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import math
import pathlib
from typing import Any

from benchmarks import harness

_OURS, _TORCH = 'benchmarks.ours:Step', 'benchmarks.torch_step:Step'
_LAST = {'norm': 'shifted_norm', 'channels_last': True}
_COMPILED = {**_LAST, 'compile_mode': 'default'}
# Name: factory and settings.
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
  'ours': (_OURS, {}),
  'ours, 2 devices': (_OURS, {'devices': 2}),
  'torch': (_TORCH, {}),
  'torch, shifted norm': (_TORCH, {'norm': 'shifted_norm'}),
  'torch, channels last': (_TORCH, _LAST),
  'torch, compiled': (_TORCH, _COMPILED),
  'torch, pure': (_TORCH, {**_COMPILED, 'precision': 'pure_bfloat16'}),
}


@dataclasses.dataclass
class Entry:
  """A contender at one precision and batch size, and what was measured.

  Attributes:
    name: of `CONTENDERS`.
    precision: 'float32', 'tf32' or 'bfloat16'.
    batch_size: images a step.
    first: seconds from the process's start to the end of the first step.
    second: the same of a second process, which finds what the first compiled.
    memory: bytes, the most in use.
    seconds: of each turn, a step.
  """

  name: str
  precision: str
  batch_size: int
  first: float = math.nan
  second: float = math.nan
  memory: float = math.nan
  seconds: Sequence[float] = ()

  @property
  def key(self) -> str:
    return f'{self.name}; {self.precision}; batch {self.batch_size}'

  @property
  def is_ours(self) -> bool:
    return CONTENDERS[self.name][0] == _OURS

  @property
  def compiles(self) -> bool:
    return self.is_ours or 'compile_mode' in CONTENDERS[self.name][1]


def entries(
  names: Sequence[str], precisions: Sequence[str], batch_size: int
) -> list[Entry]:
  """Returns the contenders that make sense."""
  return [
    Entry(name, precision, batch_size)
    for precision in precisions
    for name in names
    if name != 'torch, pure' or precision == 'bfloat16'
  ]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What all contenders of a race have in common.

  Attributes:
    preset: the network.
    crop_size: side of the images, pixels.
    platform: 'cpu' or 'gpu'.
    compile_mode: of torch.compile.
    cache_dir: of compiled programs.
    environment: of the processes.
    limit: seconds that any call may take.
  """

  preset: str
  crop_size: int
  platform: str
  compile_mode: str
  cache_dir: pathlib.Path
  environment: Mapping[str, str]
  limit: float

  def worker(self, entry: Entry) -> harness.Worker:
    """Starts a contender; see `harness.Worker.first_run`."""
    factory, own = CONTENDERS[entry.name]
    settings = {
      'preset': self.preset,
      'crop_size': self.crop_size,
      'batch_size': entry.batch_size,
      'platform': self.platform,
      'precision': entry.precision,
      **own,
    }
    environment = dict(self.environment)
    # A folder each, so that nobody finds what another one compiled.
    folder = str(self.cache_dir / entry.key.replace(' ', '_'))
    if entry.is_ours:
      settings['cache_dir'] = folder
    elif entry.compiles:
      settings['compile_mode'] = self.compile_mode
      environment['TORCHINDUCTOR_CACHE_DIR'] = folder
    return harness.Worker(entry.key, factory, settings, environment, self.limit)


@contextlib.contextmanager
def started(
  chosen: Sequence[Entry], setting: Setting, failures: dict[str, str]
) -> Iterator[list[harness.Worker]]:
  """Starts the contenders one after the other, each while the rest stands.

  Args:
    chosen: the entries; `first` and `second` are filled in.
    setting: what they have in common.
    failures: gets the reasons of those that did not start, by their key.

  Yields:
    The workers, stopped.
  """
  with contextlib.ExitStack() as stack:
    workers = []
    for entry in chosen:
      if not entry.is_ours and not importlib.util.find_spec('torch'):
        failures[entry.key] = 'torch is not installed'
        continue
      worker = stack.enter_context(setting.worker(entry))
      try:
        entry.first = worker.first_run()
        worker.pause()
        if entry.compiles:
          with setting.worker(entry) as again:
            entry.second = again.first_run()
      except harness.ContenderError as e:
        failures[entry.key] = str(e)
        worker.close()
        continue
      workers.append(worker)
    yield workers
