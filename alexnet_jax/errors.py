"""The one exception that is meant for the person at the terminal."""


class UserError(Exception):
  """A mistake that the user can mend.

  The message is one line that names what was given, what was needed and the
  remedy. `main.py` prints it without a traceback and exits with code 2.
  Everything else that goes wrong is a defect and keeps its traceback.
  """
