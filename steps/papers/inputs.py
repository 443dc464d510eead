"""The files that papers come in, and their bytes, compressed or not."""

import difflib
import glob
import gzip
import zlib
from pathlib import Path
from typing import IO, Any

import zstandard

from steps.errors import UserError

PAPER_SUFFIXES = tuple(
    kind + packing for kind in (".json", ".jsonl", ".ndjson") for packing in ("", ".gz", ".zst")
)
LINE_SUFFIXES = (".jsonl", ".ndjson")
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


# --- finding files ---------------------------------------------------------------------


def resolve_inputs(location: str, what: str = "papers") -> list[Path]:
    """List the paper files that a local location names.

    Args:
        location: A file, a folder (its files with a known suffix, not those of
            subfolders), or a glob pattern (`**` reaches into subfolders).
        what: What an error calls them.

    Returns:
        The files in sorted order, at least one.

    Raises:
        UserError: Nothing is there, a link is broken, the folder holds no papers, or one of
            the files is not regular or may not be read.
    """
    try:
        files = _find_files(location, what)
        for file in files:
            _check_readable(file, what)
    except OSError as error:
        at = error.filename or location
        raise UserError(
            f"{what} {str(at)!r} cannot be read ({error.strerror}): "
            "check the name and that you may read it"
        ) from error
    return files


def _find_files(location: str, what: str) -> list[Path]:
    path = Path(location).expanduser()
    if path.is_symlink() and not path.exists():
        return [path]
    if path.is_dir():
        found = sorted(
            p for p in path.iterdir() if p.name.endswith(PAPER_SUFFIXES) and not p.is_dir()
        )
        if not found:
            raise UserError(
                f"{what} folder {location!r} holds no papers: "
                f"expected files ending in {', '.join(PAPER_SUFFIXES)}"
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
    return f": {str(folder)!r} holds nothing of a similar name, name an existing file or folder"


# --- opening files ---------------------------------------------------------------------


class Bytes:
    """The decompressed bytes of one file, with every trouble turned into a `UserError`."""

    def __init__(self, path: Path, max_decompressed_bytes: int) -> None:
        self._name = path.name
        self._limit = max_decompressed_bytes
        self._total = 0
        try:
            self._file = path.open("rb")
            magic = self._file.read(4)
            self._file.seek(0)
        except OSError as error:
            raise UserError(self._unreadable(error)) from error
        self._compression = _compression_of(path, magic)
        self._gzip = gzip.GzipFile(fileobj=self._file) if self._compression == "gzip" else None
        self._zstd = _ZstdFrames(self._file) if self._compression == "zst" else None

    def read(self, size: int) -> bytes:
        """Up to about `size` more bytes; empty at the end."""
        try:
            if self._gzip is not None:
                data = self._gzip.read(size)
            elif self._zstd is not None:
                data = self._zstd.read()
            else:
                data = self._file.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UserError(
                f"{self._name}: corrupt {self._compression} data after "
                f"{self._total} decompressed bytes ({error}): compress or download it again"
            ) from error
        except OSError as error:
            raise UserError(self._unreadable(error)) from error
        self._total += len(data)
        if self._total > self._limit and self._compression != "plain":
            raise UserError(
                f"{self._name}: decompresses to more than {self._limit} bytes: if the file is "
                "meant to be that large, raise scientific_data.limits.max_decompressed_bytes"
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unreadable(self, error: OSError) -> str:
        return (
            f"{self._name}: cannot be read: {error.strerror} (after {self._total} bytes): "
            "check the disk, and that you may read the file"
        )


class _ZstdFrames:
    """Zstandard frames one after the other; a frame that breaks off is an error."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: Any = None
        self._pending = b""

    def read(self) -> bytes:
        while True:
            # Small bites: a bomb expands each of them to some 30,000 times its size at once.
            compressed = self._pending or self._file.read(1 << 10)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the last frame breaks off")
                return b""
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            data: bytes = self._frame.decompress(compressed)
            self._pending = b""
            if self._frame.eof:
                self._pending = self._frame.unused_data
                self._frame = None
            if data:
                return data


def _compression_of(path: Path, magic: bytes) -> str:
    """The compression that the first bytes show, checked against the name."""
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    if magic == ZSTD_MAGIC:
        return "zst"
    for suffix, name in ((".gz", "gzip"), (".zst", "Zstandard")):
        if path.name.endswith(suffix) and magic:
            raise UserError(
                f"{path.name}: ends in {suffix} but is no {name} file "
                f"(first bytes {magic.hex(' ')}): rename it or compress it again"
            )
    return "plain"
