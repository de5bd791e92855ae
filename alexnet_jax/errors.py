"""The exceptions that are meant for the person at the terminal."""


class UserError(Exception):
  """A mistake that the user can mend.

  The message is one line that names what was given, what was needed and the
  remedy. `main.py` prints it without a traceback and exits with `exit_code`.
  Everything else that goes wrong is a defect and keeps its traceback.
  """

  exit_code = 2


class DivergedError(UserError):
  """A run whose loss or parameters are no longer finite; see `UserError`."""

  exit_code = 3
