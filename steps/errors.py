"""The one exception that a user can cause, and the trouble with disks that becomes one."""

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

# A disk that is full, read-only or somebody else's, or a quota or `ulimit -f` that is used up.
DISK_TROUBLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
)


class UserError(Exception):
    """Something the user can mend: bad input, a wrong setting, a missing file.

    The message is one line that names the value, what was expected, the file and
    record where there is one, and the fix. The step prints it and exits 2. Raise it
    where the cause is understood, and never to dress up a bug.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        """Take a message; what would move the cursor or hide text of it is written out."""
        super().__init__(printable(message))

    # Of several processes that train together, all have raised it: the first one says it.
    is_shared = False


@contextmanager
def writing_to(place: str, fix: str) -> Iterator[None]:
    """Say in one line that a place cannot be written to; any other error passes as it is.

    Args:
        place: What is written, as the message names it.
        fix: What the user can do.

    Raises:
        UserError: The disk is full, over its quota or write-protected.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        raise UserError(f"{place} cannot be written ({os.strerror(error.errno)}): {fix}") from error


def printable(text: str) -> str:
    """A text as one line without control characters: names and keys may bring terminal escapes."""
    shown = []
    for character in " ".join(text.split("\n")):
        hidden = unicodedata.category(character) in ("Cc", "Cf") and character != "\t"
        shown.append(f"\\x{ord(character):02x}" if hidden else character)
    return "".join(shown)


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, or the name of its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
