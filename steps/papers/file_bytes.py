"""The bytes of a file of papers, compressed or not."""

import gzip
import zlib
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from steps.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Bytes:
    """The decompressed bytes of one file, with every trouble turned into a `UserError`.

    Attributes:
        name: How messages call the file.
        total: Decompressed bytes read so far.
    """

    def __init__(self, file: IO[bytes], name: str, max_decompressed_bytes: int) -> None:
        """Look at the first bytes of `file`, which need not be seekable."""
        self.name = name
        self.total = 0
        self._limit = max_decompressed_bytes
        self._ahead = b""  # decompressed, and not yet given out
        try:
            magic = file.read(4)
        except OSError as error:
            raise UserError(self._unreadable(error)) from error
        self._file = _Resumed(magic, file)
        self._compression = _compression_of(name, magic)
        self._gzip = (
            gzip.GzipFile(fileobj=cast(IO[bytes], self._file))
            if self._compression == "gzip"
            else None
        )
        self._zstd = _ZstdFrames(self._file) if self._compression == "zst" else None

    @classmethod
    def open(cls, path: Path, max_decompressed_bytes: int) -> "Bytes":
        """Open a file.

        Raises:
            UserError: It cannot be read, or is not what its name says.
        """
        try:
            file = path.open("rb")
        except OSError as error:
            raise UserError(
                f"{path.name}: cannot be read: {error.strerror}: "
                "check the disk, and that you may read the file"
            ) from error
        return cls(file, path.name, max_decompressed_bytes)

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all there are; they are read again afterwards."""
        while len(self._ahead) < size and (data := self._decompressed(size)):
            self._ahead += data
        return self._ahead[:size]

    def read(self, size: int = -1) -> bytes:
        """Up to about `size` more bytes; empty at the end. Without a size, all that are left."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        return self._decompressed(size)

    def _decompressed(self, size: int) -> bytes:
        try:
            if self._gzip is not None:
                data = self._gzip.read(size)
            elif self._zstd is not None:
                data = self._zstd.read()
            else:
                data = self._file.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise UserError(
                f"{self.name}: corrupt {self._compression} data after "
                f"{self.total} decompressed bytes ({error}): compress or download it again"
            ) from error
        except OSError as error:
            raise UserError(self._unreadable(error)) from error
        self.total += len(data)
        if self.total > self._limit and self._compression != "plain":
            raise UserError(
                f"{self.name}: decompresses to more than {self._limit} bytes: if the file is "
                "meant to be that large, raise scientific_data.limits.max_decompressed_bytes"
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unreadable(self, error: OSError) -> str:
        return (
            f"{self.name}: cannot be read: {error.strerror} (after {self.total} bytes): "
            "check the disk, and that you may read the file"
        )


class _Resumed:
    """A file whose first bytes have been read already, from its beginning."""

    def __init__(self, first: bytes, file: IO[bytes]) -> None:
        self._first = first
        self._file = file
        self.close = file.close

    def read(self, size: int) -> bytes:
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        return self._file.read(size)


class _ZstdFrames:
    """Zstandard frames one after the other; a frame that breaks off is an error."""

    def __init__(self, file: _Resumed) -> None:
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


def _compression_of(file_name: str, magic: bytes) -> str:
    """The compression that the first bytes show, checked against the name."""
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    if magic == ZSTD_MAGIC:
        return "zst"
    for suffix, name in ((".gz", "gzip"), (".zst", "Zstandard")):
        if file_name.endswith(suffix) and magic:
            raise UserError(
                f"{file_name}: ends in {suffix} but is no {name} file "
                f"(first bytes {magic.hex(' ')}): rename it or compress it again"
            )
    return "plain"
