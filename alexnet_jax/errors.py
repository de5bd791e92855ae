"""Exceptions whose message is for the person at the terminal."""

from typing import Any


class UserError(Exception):
  """A mistake that the user can fix.

  The message is one line that names what was given, what was needed and the
  remedy. `main.py` prints it without a traceback and exits with `exit_code`.
  Everything else that goes wrong is a defect and keeps its traceback.
  """

  exit_code = 2


class DivergedError(UserError):
  """A run whose loss or parameters are no longer finite; see `UserError`."""

  exit_code = 3


class LostProcessError(UserError):
  """Another process of the job has ended; see `UserError`."""

  exit_code = 4

  def __init__(self, reason: str):
    """Builds the message.

    Args:
      reason: of the failure to communicate.
    """
    super().__init__(
      'another process of this job has ended or cannot be reached'
      f' ({" ".join(reason.split())[:200]}): see its log, and start the job'
      ' again with the same command; it resumes from the last checkpoint'
    )


class NothingReadableError(UserError):
  """No image of a source can be read, so there is no result."""

  def __init__(self, source: Any, flag: str = ''):
    """Builds the message.

    Args:
      source: of the images; the log has named each one that failed.
      flag: that names other images; `--config.data.data_dir` by default.
    """
    flag = flag or '--config.data.data_dir'
    of = f"{source.name} '{source.split}'" if source.class_names else flag
    super().__init__(
      f'none of the {source.num_examples} images of {of} can be read: see the'
      f' warnings above, and repair them or name others with {flag}'
    )
