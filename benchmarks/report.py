"""What the scripts print: the machine, its versions, and tables."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
import os
import platform
import shutil
import subprocess

_PACKAGES = ('jax', 'jaxlib', 'torch', 'tensorflow-cpu', 'grain', 'numpy')


def gpus() -> list[str]:
  """Returns the names of the machine's NVIDIA GPUs, without waking them."""
  if not shutil.which('nvidia-smi'):
    return []
  done = subprocess.run(
    ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'],
    capture_output=True,
    text=True,
    check=False,
  )
  return done.stdout.split('\n')[:-1] if done.returncode == 0 else []


def machine() -> str:
  """Returns one line: processor, cores, memory, GPUs, versions, load."""
  model = platform.processor() or platform.machine()
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  with open('/proc/cpuinfo') as lines:
    fields = [line.partition(':') for line in lines]
  for name, _, value in fields:
    if name.strip() == 'model name':
      model = value.strip()
  versions = [f'Python {platform.python_version()}']
  for package in _PACKAGES:
    try:
      versions.append(f'{package} {metadata.version(package)}')
    except metadata.PackageNotFoundError:
      continue
  parts = [
    model,
    f'{cores()} cores',
    f'{memory / 2**30:.0f} GiB',
    *gpus(),
    *versions,
    f'load at the start {os.getloadavg()[0]:.1f}',
  ]
  return ', '.join(parts)


def cores() -> int:
  """Returns how many cores this process may use."""
  return len(os.sched_getaffinity(0))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table, its columns aligned for a terminal as well."""
  cells = [list(header), *(list(row) for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  rule = ['-' * width for width in widths]

  def line(row):
    padded = (cell.ljust(w) for cell, w in zip(row, widths, strict=True))
    return f'| {" | ".join(padded)} |'

  return '\n'.join(line(row) for row in [cells[0], rule, *cells[1:]])


def failures(reasons: Mapping[str, str]) -> str:
  """Returns a line for each contender that is not in the table."""
  return '\n'.join(f'Not run: {name}: {why}' for name, why in reasons.items())


def milliseconds(seconds: Sequence[float], middle: float) -> tuple[str, str]:
  """Returns the median and the range of some durations, in milliseconds."""
  low, high = _four_digits(min(seconds)), _four_digits(max(seconds))
  return _four_digits(middle), f'{low} to {high}'


def _four_digits(seconds: float) -> str:
  """Returns milliseconds with four digits, and never an exponent."""
  value = 1e3 * seconds
  return f'{value:.4g}' if value < 9999.5 else f'{value:.0f}'
