"""Papers in JSON, as people write it, cut into the bytes of single records.

A file may hold a list, objects one behind the other (JSON Lines, or each over several lines),
an object that holds the list (`json_wrappers` says under which names), or several of these one
behind the other. It is read as a stream, so that memory stays bounded however long the list is,
and the parsing can be spread over processes. A broken record is named, and reading goes on with
the next; a file that cannot be read as one of these layouts is a `UserError`.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.formats.detect import LINE_SUFFIXES
from steps.papers.formats.json_scanner import BrokenJson, Scanner
from steps.papers.formats.json_wrappers import (
    CONTAINERS,
    PAPER_KEYS,
    Kind,
    WrapperReader,
    refusal,
)
from steps.papers.records import RawRecord

# A line is taken as one object, without a look at each bracket, where it begins with a key that
# only papers have, or names nothing that makes a wrapper.
_PAPER_FIRST = re.compile(
    rb'\{\s*+"(?:%s)"\s*+:' % b"|".join(sorted(key.encode() for key in PAPER_KEYS))
)
_MAY_WRAP = re.compile(
    rb'\{\s*+"[^"]*+"\s*+:\s*+\{|"(?:%s)"\s*+:\s*+[\[{]'
    % b"|".join(sorted(key.encode() for key in CONTAINERS)),
    re.IGNORECASE,
)
_ONE_VALUE = msgspec.json.Decoder(msgspec.Raw)
# A line up to this long is looked at as a whole; longer ones, such as a list on one line, are not.
MAX_LINE_BYTES = 1 << 20


def records_of(
    source: Bytes, name: str, max_record_bytes: int, *, lines: bool
) -> Iterator[RawRecord]:
    """Cut an open file into the bytes of its records, reading it as a stream.

    Args:
        source: Its bytes.
        name: How messages call it.
        max_record_bytes: Most bytes of one record.
        lines: Whether it is JSON Lines by its name. There a line that breaks off is one broken
            record; in a document it is the document that is broken.

    Yields:
        The records in the order of the file. Only their outer shape has been looked at.

    Raises:
        UserError: The file is empty, truncated, corrupt, too large, or of another layout.
    """
    reader = _Reader(Scanner(name, source, max_record_bytes), lines)
    yield from reader.lines() if lines else reader.document()


def read_records(
    path: Path, max_decompressed_bytes: int, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Cut a file into the bytes of its records; see `records_of`.

    Args:
        path: File of papers in JSON; plain, gzip or Zstandard.
        max_decompressed_bytes: Most bytes that a compressed file may expand to.
        max_record_bytes: Most bytes of one record.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    with closing(Bytes.open(path, max_decompressed_bytes)) as source:
        yield from records_of(
            source, path.name, max_record_bytes, lines=stem.endswith(LINE_SUFFIXES)
        )


def read_lines(
    path: Path, max_decompressed_bytes: int, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Cut a text file into its lines, passing over blank ones: text, whatever it looks like."""
    with closing(Bytes.open(path, max_decompressed_bytes)) as source:
        scanner = Scanner(path.name, source, max_record_bytes)
        number = 0
        while scanner.peek():
            offset = scanner.offset - scanner.column()
            yield RawRecord(number, offset, _rest_of_line(scanner))
            number += 1


class _Reader:
    """Gives the records of one file, whose layout shows as it is read."""

    def __init__(self, scanner: Scanner, lines: bool) -> None:
        self._scanner = scanner
        self._papers = WrapperReader(scanner)
        self._named_lines = lines
        self._in_list = False  # by lines: a list stands open
        self._gave_up = False  # by lines: what closes the brackets of a broken record may follow
        self._slow_until = 0  # up to this byte a line has been looked at as a whole

    def document(self) -> Iterator[RawRecord]:
        """Lists and wrappers one behind the other; from a single object on as `lines`."""
        scanner = self._scanner
        after = ""
        while first := scanner.peek():
            if first == b"[":
                yield from self._papers.array()
            elif first == b"{":
                alone = yield from self._object()
                if alone:
                    yield from self.lines()
                    return
            elif first == b"," and after:
                scanner.at += 1
            else:
                raise scanner.malformed(
                    after or "expected a list of papers or an object with a 'papers' list"
                )
            after = "expected the end of the file"

    def lines(self) -> Iterator[RawRecord]:
        """Objects one behind the other, on a line each or not, in lists or not."""
        scanner = self._scanner
        scanner.by_lines = True
        while True:
            yield from self._plain_lines()
            first = self._next()
            if not first:
                break
            line = self._whole_line() if first == b"{" else None
            if line is not None:
                yield line
                continue
            scanner.anchor = None
            start = scanner.offset - scanner.column()
            try:
                if first == b"{":
                    yield from self._object()
                elif self._in_list:
                    yield self._papers.record(start, scanner.value())
                else:
                    yield self._papers.record(start, _rest_of_line(scanner))
            except BrokenJson as error:
                yield self._give_up(error)
        if self._in_list:
            raise scanner.truncated()

    def _next(self) -> bytes:
        """Step to the next record, over what stands between records; its first byte."""
        scanner = self._scanner
        while True:
            first = scanner.peek()
            if first == b"[" and not self._in_list:
                self._in_list = True
            elif first == b"]" and (self._in_list or self._gave_up):
                self._in_list = False
            elif first != b"," and not (first == b"}" and self._gave_up):
                return first
            scanner.at += 1

    def _plain_lines(self) -> Iterator[RawRecord]:
        """Records as long as each line is a flat object of a paper: the usual case, and fast."""
        scanner = self._scanner
        buffer, base, at, limit = scanner.buffer, scanner.base, scanner.at, scanner.limit
        find, startswith = buffer.find, buffer.startswith
        number = scanner.number
        first_key = b"\n"  # how the line before began; no line begins with a line break
        while True:
            end = find(b"\n", at)
            close = find(b"}", at, end) if end >= 0 else -1
            if close < end - 1 and not (close == end - 2 and startswith(b"\r", end - 1)):
                return
            if close < 0 or end - at > limit or find(b"{", at + 1, end) >= 0:
                return
            if not startswith(first_key, at):
                match = _PAPER_FIRST.match(buffer, at, end)
                if not match:
                    return
                first_key = match.group()
            line = buffer[at : close + 1]
            offset = base + at
            at = scanner.at = end + 1
            scanner.number = number + 1
            yield RawRecord(number, offset, line)
            number += 1

    def _whole_line(self) -> RawRecord | None:
        """The line from here on, if it plainly is one object and no wrapper: the usual case."""
        scanner = self._scanner
        start = scanner.offset
        if start < self._slow_until:
            return None
        end = scanner.buffer.find(b"\n", scanner.at)
        if end < 0:
            length = scanner.line_length(MAX_LINE_BYTES)
            if length is None:
                self._slow_until = scanner.base + len(scanner.buffer)
                return None
            end = scanner.at + length
        line = scanner.buffer[scanner.at : end].rstrip()
        if line.endswith(b","):
            line = line[:-1].rstrip()
        if not (_is_one_value(line) and (_PAPER_FIRST.match(line) or not _MAY_WRAP.search(line))):
            self._slow_until = scanner.base + end
            return None
        if len(line) > scanner.limit:
            raise scanner.too_long(start)
        start -= scanner.column()
        scanner.at = min(end + 1, len(scanner.buffer))  # where `_plain_lines` can go on
        return self._papers.record(start, line)

    def _object(self) -> Generator[RawRecord, None, bool]:
        """The papers of the object that starts here; whether it is one itself."""
        scanner = self._scanner
        start = scanner.offset - (scanner.column() if scanner.by_lines else 0)
        kind = yield from self._papers.outermost()
        if kind is Kind.WRAPPER:
            return False
        data = scanner.buffer[scanner.anchor : scanner.at]
        if len(data) > scanner.limit:
            raise scanner.too_long(start)
        scanner.anchor = None
        # One line of JSON Lines may be anything; a file of nothing else was meant to be papers.
        is_all = scanner.number == 0 and (not self._named_lines or b"\n" in data)
        if kind is Kind.OTHER and is_all and not scanner.peek():
            raise UserError(refusal(scanner.name, self._papers.keys))
        yield self._papers.record(start, data)
        return True

    def _give_up(self, error: BrokenJson) -> RawRecord:
        """The broken record as it stands: its line, or where it has more, up to the next one.

        Which line begins the next record is told by the indentation: no deeper than this one's.
        """
        scanner = self._scanner
        if scanner.anchor is not None:
            scanner.at, scanner.anchor = scanner.anchor, None
        start = scanner.offset
        begins = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]{0,%d}[{\[]" % scanner.column(besides=b"[,"))
        length = _within_limit(scanner, scanner.line_length(scanner.limit))
        on_later_line = error.offset > start + length
        while on_later_line and scanner.at + length < len(scanner.buffer):
            following = _within_limit(scanner, scanner.line_length(scanner.limit, length + 1))
            line = scanner.buffer[scanner.at + length + 1 : scanner.at + following]
            if begins.match(line):
                break
            length = following
        data = scanner.buffer[scanner.at : scanner.at + length].strip()
        if not data:
            raise error  # the file ends between records
        scanner.at += length
        self._in_list = False
        self._gave_up = True
        return self._papers.record(start, data)


def _is_one_value(line: bytes) -> bool:
    try:
        _ONE_VALUE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _rest_of_line(scanner: Scanner) -> bytes:
    """The line from here on, and step to its end."""
    length = _within_limit(scanner, scanner.line_length(scanner.limit))
    scanner.at += length
    return scanner.buffer[scanner.at - length : scanner.at].strip()


def _within_limit(scanner: Scanner, length: int | None) -> int:
    if length is None or length > scanner.limit:
        raise scanner.too_long(scanner.offset)
    return length
