"""Bundles of paper files: .tar (packed or not) and .zip, read file by file.

Nothing is written to disk, so a name that leads out of the bundle leads nowhere. PMC packs a
paper beside its figures and PDF; what cannot hold papers by its name is passed over.
"""

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from steps.config.paper_sections import Limits
from steps.errors import UserError, first_line, printable
from steps.papers.file_bytes import Bytes

Say = Callable[[str], None]

_NO_PAPERS = frozenset((
    ".pdf", ".jpg", ".jpeg", ".gif", ".png", ".tif", ".tiff", ".bmp", ".eps", ".svg", ".webp",
    ".mov", ".mp4", ".avi", ".mp3", ".wav", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx",
    ".rtf", ".md5", ".sha256", ".css", ".js", ".htm", ".html", ".xhtml", ".txt", ".md", ".log",
))  # fmt: skip
_BUNDLES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip", ".rar", ".7z")
_PACKINGS = (".gz", ".zst")
_NOTES = frozenset(("readme", "license", "licence", "copying", "thumbs.db", "desktop.ini"))
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Headers of tar that hold a long name or attributes; they are read whole.
_LONG_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_MAX_LONG_HEADER_BYTES = 1 << 20
# What zipfile lets through of a broken file, besides its own error. RuntimeError: a password.
_ZIP_TROUBLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, IndexError, struct.error, OSError,
)  # fmt: skip


# --- what a file is ----------------------------------------------------------------------


def is_tar(head: bytes) -> bool:
    """Whether a file whose first 512 bytes or more are these is a tar."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "replace")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def is_zip(head: bytes) -> bool:
    """Whether a file that begins so is a zip, be it empty."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_parquet(head: bytes) -> bool:
    """Whether a file that begins so is Parquet, be it encrypted."""
    return head.startswith((b"PAR1", b"PARE"))


# --- members -----------------------------------------------------------------------------


def tar_members(
    source: Bytes, limits: Limits, say: Say | None = None
) -> Iterator[tuple[str, IO[bytes]]]:
    """The files of a tar that may hold papers, in their order, reading it as a stream.

    Args:
        source: The tar, its compression undone.
        limits: What it may expand to.
        say: Takes a line about what is passed over.

    Yields:
        Name of the file, fit to be shown, and the file, which can be read until the next one
        is asked for.

    Raises:
        UserError: The tar is corrupt or truncated, or expands to more than the limit; also of
            reading from a file.
    """
    choice = _Choice(source.name, say)
    counted = _Counter(source.name, limits)
    with _tar_trouble(source.name, ""):
        archive = tarfile.open(  # noqa: SIM115 (closing it would only forget its own buffers)
            fileobj=cast(IO[bytes], source), mode="r|", tarinfo=_StrictHeader
        )
    name = ""
    while True:
        with _tar_trouble(source.name, name):
            member = archive.next()
            # Of a million files, tarfile would keep every header.
            archive.members.clear()  # type: ignore[attr-defined]
        if member is None:
            break
        name = _shown(member.name)
        if not member.isreg() or not choice.wants(name):
            continue
        with _tar_trouble(source.name, name):
            file = archive.extractfile(member)
        if file is not None:
            yield name, _guarded(file.read, _tar_trouble, source.name, name, counted)
            counted.check()
    choice.say_bundles()
    doubt = _doubtful_end(archive)
    if doubt and say is not None:
        say(f"{source.name}: {doubt}")


def zip_members(
    path: Path, limits: Limits, say: Say | None = None
) -> Iterator[tuple[str, IO[bytes]]]:
    """The files of a zip that may hold papers; see `tar_members`.

    A file that cannot be opened (encrypted, of an unknown compression) raises its error when
    it is read, so that the ones after it can still be had.

    Raises:
        UserError: The zip is corrupt, or expands to more than the limit.
    """
    choice = _Choice(path.name, say)
    counted = _Counter(path.name, limits)
    with _zip_trouble(path.name, ""):
        archive = zipfile.ZipFile(path)
    with archive:
        for member in archive.infolist():
            name = _shown(member.filename)
            if name.endswith("/") or _is_link(member) or not choice.wants(name):
                continue
            file = _ZipFile(archive, member)
            yield name, _guarded(file.read, _zip_trouble, path.name, name, counted)
            file.close()
            counted.check()
    choice.say_bundles()


def _shown(name: str) -> str:
    """A name that can be printed and written as UTF-8, whatever bytes it was made of."""
    return printable(name.encode("utf-8", "backslashreplace").decode())


class _Choice:
    """Which files of a bundle may hold papers, by name."""

    def __init__(self, bundle: str, say: Say | None) -> None:
        self._bundle = bundle
        self._say = say
        self._bundles: list[str] = []  # the first of those within, and how many there are
        self._num_bundles = 0

    def wants(self, name: str) -> bool:
        path = PurePosixPath(name.replace("\\", "/").lower())
        if path.name.startswith("._") or path.name == ".ds_store" or "__macosx" in path.parts:
            return False  # what macOS adds
        if path.name.endswith(_BUNDLES):
            self._bundles = self._bundles or [name]
            self._num_bundles += 1
            return False
        stem = path.with_suffix("") if path.suffix in _PACKINGS else path
        return stem.suffix not in _NO_PAPERS and path.name not in _NOTES

    def say_bundles(self) -> None:
        if self._bundles and self._say is not None:
            more = self._num_bundles - 1
            others = f" and {more} more" if more else ""
            self._say(
                f"{self._bundle}: passed over {self._bundles[0]!r}{others}, bundles within the "
                "bundle: unpack it to read them"
            )


class _Counter:
    """The bytes that the files of one bundle have expanded to.

    What a directory says of sizes is not trusted: a bomb lies.
    """

    def __init__(self, bundle: str, limits: Limits) -> None:
        self._bundle = bundle
        self._limit = limits.max_decompressed_bytes
        self._total = 0

    def add(self, size: int) -> None:
        self._total += size
        self.check()

    def check(self) -> None:
        """Raise also for whoever goes on to the next file after the error."""
        if self._total > self._limit:
            raise UserError(
                f"{self._bundle}: decompresses to more than {self._limit} bytes: if the file is "
                "meant to be that large, raise scientific_data.limits.max_decompressed_bytes"
            )


Trouble = Callable[[str, str], Any]
Read = Callable[[int], bytes]


class _Guarded(io.RawIOBase):
    """A file of a bundle, its bytes counted and its errors told with both names."""

    def __init__(
        self, read: Read, trouble: Trouble, names: tuple[str, str], counter: _Counter
    ) -> None:
        super().__init__()
        self._read = read
        self._trouble = trouble
        self._names = names
        self._counter = counter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._trouble(*self._names):
            data = self._read(len(buffer))
        self._counter.add(len(data))
        buffer[: len(data)] = data
        return len(data)


def _guarded(read: Read, trouble: Trouble, bundle: str, name: str, counter: _Counter) -> IO[bytes]:
    return io.BufferedReader(_Guarded(read, trouble, (bundle, name), counter), 1 << 16)


# --- tar ---------------------------------------------------------------------------------


class _StrictHeader(tarfile.TarInfo):
    """A header of a tar; a broken one is an error.

    tarfile itself takes a broken header after the first for the end of the bundle, and what
    follows would be lost without a word.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictHeader":
        try:
            header = super().frombuf(buf, encoding, errors)
        except (
            tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise tarfile.ReadError(str(error)) from None
        if header.size < 0:
            raise tarfile.ReadError("negative size")
        if header.type in _LONG_HEADERS and header.size > _MAX_LONG_HEADER_BYTES:
            raise tarfile.ReadError(f"a name or attributes of {header.size} bytes")
        return header


def _doubtful_end(archive: tarfile.TarFile) -> str:
    """What is odd about how a tar ends, of which tarfile says nothing; "" where nothing is.

    Reads what is left, so that the checksum behind packed bytes is looked at as well.
    """
    stream = archive.fileobj
    assert stream is not None
    if stream.tell() == archive.offset:
        return "has no end marker: it may be cut short"
    while rest := stream.read(1 << 20):
        if rest.strip(b"\0"):
            return "goes on behind its end marker, which is not read: are several tars joined?"
    return ""


@contextmanager
def _tar_trouble(bundle: str, member: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, OverflowError, IndexError) as error:
        place = f", in or after {member!r}" if member else ""
        raise UserError(
            f"{bundle}: corrupt or truncated tar{place} ({first_line(error)}): "
            "pack or download it again"
        ) from error


# --- zip ---------------------------------------------------------------------------------


class _ZipFile:
    """A file of a zip that is opened when it is first read."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._member = member
        self._file: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        if self._file is None:
            if self._member.flag_bits & 1:
                raise RuntimeError("it is encrypted")
            self._file = self._archive.open(self._member)
        return self._file.read(size)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _is_link(member: zipfile.ZipInfo) -> bool:
    return (member.external_attr >> 16) & 0o170000 == 0o120000


@contextmanager
def _zip_trouble(bundle: str, member: str) -> Iterator[None]:
    place = f"{bundle}: {member!r}" if member else bundle
    try:
        yield
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(
            f"{place}: packed in a way that is not read ({first_line(error)}): "
            "unpack it, and pack it again as .zip or .tar.gz"
        ) from error
    except _ZIP_TROUBLE as error:
        if "encrypted" in str(error):
            raise UserError(
                f"{place}: is encrypted: unpack the zip with its password first"
            ) from error
        raise UserError(
            f"{place}: corrupt or truncated zip ({first_line(error)}): pack or download it again"
        ) from error
