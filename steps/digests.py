"""Digests of files and folders."""

import hashlib
from pathlib import Path


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path, names: str = "*") -> str:
    """A SHA-256 over the names and bytes of all files in a folder, wherever it lies.

    Args:
        folder: The folder, with those in it.
        names: Of which files; `*.py` for instance.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob(names) if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(file_sha256(file).encode())
    return digest.hexdigest()
