"""The papers layout: a wrapper object with a "papers" list, a bare list, or JSON Lines.

`read_records` cuts a file, plain or compressed, into the bytes of single records as a stream,
so that memory stays bounded however long the list is, and the parsing can be spread over
processes. A broken record is named, and reading goes on with the next; a file that cannot be
read as the layout says is a `UserError`.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from steps.errors import UserError
from steps.papers.inputs import LINE_SUFFIXES, Bytes
from steps.papers.records import RawRecord

UTF8_BOM = b"\xef\xbb\xbf"
READ_BYTES = 1 << 20

# Runs from inside a JSON value to the next bracket, stepping over whole strings. Possessive
# quantifiers keep it linear: without them an unclosed string would be tried in every way.
_TO_NEXT_BRACKET = re.compile(
    rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL
)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\":]++")
_SPACE = re.compile(rb"[ \t\r\n]*+")


def read_records(
    path: Path, max_decompressed_bytes: int, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Cut a file into the bytes of its records, reading it as a stream.

    Args:
        path: File in the papers layout: wrapper, list or JSON Lines; plain, gzip or Zstandard.
        max_decompressed_bytes: Most bytes that a compressed file may expand to.
        max_record_bytes: Most bytes of one record.

    Yields:
        The records in the order of the file. Only their outer shape has been looked at.

    Raises:
        UserError: The file is empty, truncated, corrupt, too large, or of another layout.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    if stem.endswith(LINE_SUFFIXES):
        yield from read_lines(path, max_decompressed_bytes, max_record_bytes)
        return
    with closing(Bytes(path, max_decompressed_bytes)) as source:
        yield from _Scanner(path.name, source, max_record_bytes).records()


def read_lines(
    path: Path, max_decompressed_bytes: int, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Cut a text file into its lines, passing over blank ones; see `read_records`."""
    with closing(Bytes(path, max_decompressed_bytes)) as source:
        yield from _Scanner(path.name, source, max_record_bytes).lines()


class _Scanner:
    """Walks over JSON text in a sliding window.

    `_buffer` holds the bytes from `_base` on; `_at` is the place in the buffer that has
    been reached. Everything before the value that is being read is dropped on refill.
    """

    def __init__(self, name: str, source: Bytes, max_record_bytes: int) -> None:
        self._name = name
        self._source = source
        self._limit = max_record_bytes
        self._buffer = source.read(READ_BYTES)
        self._base = 0
        self._at = 0
        self._ended = False
        self._check_encoding()

    def records(self) -> Iterator[RawRecord]:
        """The records of a wrapper, a bare list, or lines of objects without that suffix."""
        first = self._peek()
        if first == b"[":
            yield from self._array(0)
            self._expect_end()
        elif first == b"{":
            yield from self._object_first()
        else:
            raise UserError(
                f"{self._name}: byte {self._offset}: expected a list of papers or an object "
                f"with a 'papers' list, found {self._here()}"
            )

    def lines(self) -> Iterator[RawRecord]:
        """One record a line; blank lines are passed over."""
        index = 0
        while True:
            end = self._buffer.find(b"\n", self._at)
            while end < 0 and self._refill():
                self._check_size(index)
                end = self._buffer.find(b"\n", self._at)
            line = self._buffer[self._at : end if end >= 0 else len(self._buffer)]
            if len(line) > self._limit:
                raise UserError(self._too_long(index, self._offset))
            if line.strip():
                yield RawRecord(index, self._offset, line.strip())
                index += 1
            if end < 0:
                return
            self._at = end + 1

    def _object_first(self) -> Iterator[RawRecord]:
        """A file that opens with an object: a wrapper, or the first of JSON Lines."""
        record_start = self._offset
        collected = bytearray(b"{")  # the object so far, in case it is a record itself
        keys: set[bytes] = set()
        is_wrapper = False
        index = 0
        self._at += 1
        while self._peek() != b"}":
            if len(collected) > 1 or is_wrapper:
                self._expect(b",")
                self._peek()
                collected += b","
            if self._peek() != b'"':
                found = self._peek()
                raise UserError(
                    self._malformed("expected a key in double quotes")
                    if found
                    else self._truncated(index)
                )
            key = self._value(index)
            self._expect(b":")
            first = self._peek()
            if key == b'"papers"':
                if first != b"[":
                    raise UserError(
                        f"{self._name}: byte {self._offset}: 'papers' must be a list, "
                        f"found {self._here()}"
                    )
                is_wrapper = True
                for record in self._array(index):
                    index = record.number + 1
                    yield record
                continue
            value = self._value(index)
            if is_wrapper:
                continue
            keys.add(key)
            collected += key + b":" + value
            if len(collected) > self._limit:
                raise UserError(
                    f"{self._name}: its first {self._limit} bytes hold no 'papers' list: expected "
                    '{"papers": [...]}, a list of papers, or one paper a line; or raise '
                    "scientific_data.limits.max_record_bytes"
                )
        self._at += 1
        if is_wrapper:
            self._expect_end()
            return
        if not self._peek() and not keys & {b'"pmid"', b'"doi"'}:
            raise UserError(
                f"{self._name}: holds one object without a 'papers' list: expected "
                '{"papers": [...]}, a list of papers, or one paper a line'
            )
        yield RawRecord(0, record_start, bytes(collected) + b"}")
        for record in self.lines():
            yield record._replace(number=record.number + 1)

    def _array(self, index: int) -> Iterator[RawRecord]:
        """The elements of the list that starts here, numbered from `index`."""
        self._expect(b"[")
        if self._peek() == b"]":
            self._at += 1
            return
        while True:
            self._peek()
            offset = self._offset
            yield RawRecord(index, offset, self._value(index))
            index += 1
            if self._peek() == b"]":
                self._at += 1
                return
            self._expect(b",")

    def _value(self, index: int) -> bytes:
        """The JSON value that starts here, and step over it."""
        first = self._buffer[self._at : self._at + 1]
        if first in (b"{", b"["):
            return self._bracketed(index)
        pattern = _STRING if first == b'"' else _SCALAR
        while True:
            match = pattern.match(self._buffer, self._at)
            # A value that touches the end of the window may go on in the next one.
            if match and (match.end() < len(self._buffer) or self._ended):
                self._at = match.end()
                return match.group()
            if not match and first != b'"':
                raise UserError(
                    self._malformed("expected a value") if first else self._truncated(index)
                )
            if not self._refill() and not match:
                raise UserError(self._truncated(index))
            self._check_size(index)

    def _bracketed(self, index: int) -> bytes:
        """The object or list that starts here; only brackets and strings are looked at."""
        depth = 0
        cursor = self._at
        while True:
            cursor = _TO_NEXT_BRACKET.match(self._buffer, cursor).end()  # type: ignore[union-attr]
            symbol = self._buffer[cursor : cursor + 1]
            if symbol in (b"{", b"["):
                depth += 1
            elif symbol in (b"}", b"]"):
                depth -= 1
            else:  # the end of the window, or a string that does not close within it
                before = self._at
                if not self._refill():
                    raise UserError(self._truncated(index))
                self._check_size(index)
                cursor -= before - self._at
                continue
            cursor += 1
            if depth == 0:
                value = self._buffer[self._at : cursor]
                if len(value) > self._limit:
                    raise UserError(self._too_long(index, self._offset))
                self._at = cursor
                return value

    def _refill(self) -> bool:
        """Drop what has been passed, read more; False at the end of the file."""
        if self._ended:
            return False
        kept = self._buffer[self._at :]
        # Reading as much again as is held keeps a long record linear, not quadratic.
        data = self._source.read(max(READ_BYTES, len(kept)))
        self._base += self._at
        self._at = 0
        self._buffer = kept + data
        self._ended = not data
        return bool(data)

    def _peek(self) -> bytes:
        """Step over white space; the next byte, or nothing at the end of the file."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer) or not self._refill():
                return self._buffer[self._at : self._at + 1]

    def _expect(self, symbol: bytes) -> None:
        found = self._peek()
        if not found:
            raise UserError(self._truncated(None))
        if found != symbol:
            raise UserError(self._malformed(f"expected {symbol.decode()!r}"))
        self._at += 1

    def _expect_end(self) -> None:
        if self._peek():
            raise UserError(self._malformed("expected the end of the file"))

    @property
    def _offset(self) -> int:
        return self._base + self._at

    def _check_encoding(self) -> None:
        head = self._buffer[:4]
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
            raise UserError(
                f"{self._name}: is not UTF-8 (first bytes {head.hex(' ')}, as of UTF-16 or "
                "UTF-32): convert it, for example with iconv -f UTF-16 -t UTF-8"
            )
        if head.startswith(UTF8_BOM):
            self._at = len(UTF8_BOM)
        if not self._peek():
            raise UserError(f"{self._name}: is empty: expected a list of papers")

    def _check_size(self, index: int) -> None:
        if len(self._buffer) - self._at > self._limit + READ_BYTES:
            raise UserError(self._too_long(index, self._offset))

    def _here(self) -> str:
        return repr(self._buffer[self._at : self._at + 20].decode("utf-8", "replace"))

    def _malformed(self, expected: str) -> str:
        return (
            f"{self._name}: malformed JSON at byte {self._offset}: {expected}, found "
            f"{self._here()}: mend or export the file again"
        )

    def _truncated(self, index: int | None) -> str:
        record = "" if index is None else f" in record {index}, which starts at byte {self._offset}"
        return (
            f"{self._name}: the JSON breaks off at byte {self._base + len(self._buffer)}{record}: "
            "the file is truncated, copy or export it again"
        )

    def _too_long(self, index: int, offset: int) -> str:
        return (
            f"{self._name}: record {index} at byte {offset} is longer than {self._limit} bytes: "
            "if that is one paper, raise scientific_data.limits.max_record_bytes"
        )
