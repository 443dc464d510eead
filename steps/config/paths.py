"""Where the project lies, and how a file that a user names is found."""

import difflib
from pathlib import Path

from steps.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def find_file(path: str | Path, what: str, option: str) -> Path:
    """Find a file by its path, from the working folder or else from the project.

    Raises:
        UserError: It is in neither; the message names the nearest file names.
    """
    given = Path(path).expanduser()
    for candidate in (given, PROJECT_ROOT / given):
        if candidate.is_file():
            return candidate
    folder = next((c for c in (given.parent, PROJECT_ROOT / given.parent) if c.is_dir()), None)
    names = sorted(entry.name for entry in folder.iterdir()) if folder else []
    near = difflib.get_close_matches(given.name, names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise UserError(f"{what} {str(path)!r} is not a file{hint} Give an existing one with {option}.")
