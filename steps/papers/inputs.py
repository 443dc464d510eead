"""The files that a name, a folder or a pattern stands for."""

import difflib
import glob
from collections.abc import Callable
from pathlib import Path

from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.formats.detect import HEAD_BYTES, named_as_papers, recognised

# --- finding files ---------------------------------------------------------------------


def resolve_inputs(
    location: str, what: str = "papers", also: Callable[[Path], bool] = lambda _: False
) -> list[Path]:
    """List the paper files that a local location names.

    Args:
        location: A file, a folder (its files that hold papers by their content, not those of
            subfolders), or a glob pattern (`**` reaches into subfolders).
        what: What an error calls them.
        also: Which files of a folder are to be read besides.

    Returns:
        The files in sorted order, at least one.

    Raises:
        UserError: Nothing is there, a link is broken, the folder holds no papers, or one of
            the files is not regular or may not be read.
    """
    try:
        files = _find_files(location, what, also)
        for file in files:
            _check_readable(file, what)
    except OSError as error:
        at = error.filename or location
        raise UserError(
            f"{what} {str(at)!r} cannot be read ({error.strerror}): "
            "check the name and that you may read it"
        ) from error
    return files


def _find_files(location: str, what: str, also: Callable[[Path], bool]) -> list[Path]:
    path = Path(location).expanduser()
    if path.is_symlink() and not path.exists():
        return [path]
    if path.is_dir():
        files = (p for p in path.iterdir() if not p.is_dir())
        found = sorted(p for p in files if also(p) or _may_hold_papers(p))
        if not found:
            raise UserError(
                f"{what} folder {location!r} holds no papers: expected files of JSON, JSON Lines, "
                "PubMed XML, JATS, BioC, TEI, CSV, TSV or Parquet, or .tar or .zip of such files"
            )
        return found
    if path.exists():
        return [path]
    if glob.has_magic(location):
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))
        found = sorted(match for match in matches if not match.is_dir())
        if found:
            return found
        raise UserError(
            f"{what} pattern {location!r} matches no file: "
            "check it, and that you may read its folder"
        )
    raise UserError(f"{what} {location!r} does not exist{_nearest_names(path)}")


def _may_hold_papers(path: Path) -> bool:
    """Whether a file of a folder is to be read: by its content; a hidden one is not.

    A broken link, a file that may not be read and one that is empty count, if their name ends as
    those of papers do: whoever put them there is told.
    """
    if path.name.startswith("."):
        return False
    if not path.is_file():  # a pipe or a broken link: opening it could wait for ever
        return named_as_papers(path.name)
    try:
        with path.open("rb") as file:
            head = Bytes(file, path.name, 1 << 24).head(HEAD_BYTES)
    except (OSError, UserError):
        return named_as_papers(path.name)
    return recognised(head, path.name) is not None or (not head and named_as_papers(path.name))


def _check_readable(path: Path, what: str) -> None:
    """Refuse a broken link, and what is no regular file: a pipe or device would wait for ever.

    Raises:
        UserError: Says which of the two it is.
        OSError: It may not be read.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{what} {str(path)!r} is a broken link to {str(path.readlink())!r}: "
            "restore its target, or remove the link"
        )
    if not path.is_file():
        raise UserError(f"{what} {str(path)!r} is no regular file: name one")
    with path.open("rb") as file:
        file.read(1)


def _nearest_names(path: Path) -> str:
    """Names near to a missing path, as the end of an error message."""
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        return f": did you mean {' or '.join(repr(str(folder / name)) for name in near)}?"
    return f": {str(folder)!r} holds nothing of a similar name. Name an existing file or folder"
