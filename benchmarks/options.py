"""The flags that several scripts have."""

from absl import flags

from alexnet_jax import large_pages
from benchmarks import report

PRESET = flags.DEFINE_string('preset', 'paper', 'The network.')
CROP_SIZE = flags.DEFINE_integer(
  'crop_size', 224, 'Side of the images, in pixels.', lower_bound=1
)
BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 32, 'Images a batch.', lower_bound=1
)
BATCH_SIZES = flags.DEFINE_list(
  'batch_sizes', ['128'], 'Images a step, of scripts that compare several.'
)
PRECISIONS = flags.DEFINE_list(
  'precisions',
  [],
  'Of float32, tf32, bfloat16; unless named, float32 on a CPU and all on a GPU.'
  ' bfloat16 keeps parameters in float32, torch by autocast; "torch, pure" has'
  ' them in bfloat16 too.',
)
DEVICES = flags.DEFINE_list(
  'devices', [], "Numbers of devices; unless named, the script's own."
)
ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Turns of every contender.', lower_bound=1
)
TURN_SECONDS = flags.DEFINE_float(
  'turn_seconds',
  0.5,
  'About how long a turn lasts: one unit of work that does not count, and at'
  ' least one that does.',
)
MATRIX_SIDE = flags.DEFINE_integer(
  'matrix_side',
  0,
  'Side of the matrices whose product is the ceiling; 0: 4096 on a CPU, 8192 on'
  ' a GPU.',
)
_PLATFORM = flags.DEFINE_enum(
  'platform', 'auto', ['auto', 'cpu', 'gpu'], 'auto: the GPU, if there is one.'
)


def platform() -> str:
  """Returns 'cpu' or 'gpu'."""
  if _PLATFORM.value != 'auto':
    return _PLATFORM.value
  return 'gpu' if report.gpus() else 'cpu'


def precisions(platform: str) -> list[str]:
  """Returns the arithmetics to compare on 'cpu' or 'gpu'."""
  everything = ['float32', 'tf32', 'bfloat16']
  return PRECISIONS.value or everything[: 1 if platform == 'cpu' else None]


def environment() -> dict[str, str]:
  """Returns the settings of all contenders' processes.

  On a CPU the large pages that `main.py` asks for: torch gains by them too. A
  GPU is shared, so none may reserve its memory.
  """
  if platform() == 'cpu':
    return {large_pages.VARIABLE: large_pages.SETTING}
  return {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
