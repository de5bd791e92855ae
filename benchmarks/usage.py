"""What a process has used: memory, and processor time with its children's."""

import os
import resource
import time


def peak_memory() -> int:
  """Returns the most memory this process has held so far, in bytes (Linux)."""
  with open('/proc/self/status') as status:
    lines = dict(line.split(':', 1) for line in status)
  return int(lines['VmHWM'].split()[0]) * 1024


def cpu_seconds() -> float:
  """Returns the processor time of this process and its descendants (Linux)."""
  ended = resource.getrusage(resource.RUSAGE_CHILDREN)
  return (
    time.process_time()
    + ended.ru_utime
    + ended.ru_stime
    + sum(_alive(child) for child in _children('self'))
  )


def _children(pid: int | str) -> list[str]:
  found = []
  for task in os.listdir(f'/proc/{pid}/task'):
    with open(f'/proc/{pid}/task/{task}/children') as names:
      found += names.read().split()
  return found


def _alive(pid: str) -> float:
  """Returns the processor time of another process and its descendants."""
  try:
    with open(f'/proc/{pid}/stat') as stat:
      # The second field, the program's name, may hold anything but ')'.
      fields = stat.read().rsplit(')', 1)[1].split()
    children = _children(pid)
  except FileNotFoundError:
    return 0.0  # It ended in between.
  # utime, stime, cutime and cstime: fields 14 to 17 of proc(5).
  seconds = sum(map(int, fields[11:15])) / os.sysconf('SC_CLK_TCK')
  return seconds + sum(map(_alive, children))
