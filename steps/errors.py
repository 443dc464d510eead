"""The one exception that a user can cause."""


class UserError(Exception):
    """Something the user can mend: bad input, a wrong setting, a missing file.

    The message is one line that names the value, what was expected, the file and
    record where there is one, and the fix. The step prints it and exits 2. Raise it
    where the cause is understood, and never to dress up a bug.
    """

    exit_code = 2
