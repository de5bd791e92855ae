"""Memory pages of 2 MiB for arrays on the CPU."""

import os
import platform
import sys

VARIABLE, SETTING = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'


def use() -> None:
  """Restarts the process with large pages, if the system has them.

  XLA allocates its temporary memory at every step, 1.5 GiB at a batch of 128,
  and the system provides it in pages of 4 KiB, each cleared when first touched:
  7 % of the step. The C library reads this setting once, at the start of a
  process, so the process replaces itself and keeps its process ID.

  Does nothing without the GNU C library, or if the variable is set.
  """
  if VARIABLE in os.environ or platform.libc_ver()[0] != 'glibc':
    return
  os.environ[VARIABLE] = SETTING
  os.execv(sys.executable, sys.orig_argv)
