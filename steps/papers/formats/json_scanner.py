"""JSON text walked over in a sliding window: where its values begin and end, not what they say.

Two ways of reading differ in what a raw line break within a string means. In one document it is
a fault of that string alone, and is left to whoever parses the record. In JSON Lines it means
that the line broke off, and what stands on the next line is another record.
"""

import re

from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.possessive import compile_possessive

UTF8_BOM = b"\xef\xbb\xbf"
READ_BYTES = 1 << 20
# Bytes before the place that has been reached which stay in the window: the indentation.
LOOK_BACK = 64
# Deeper than any paper. Each of many lines that all break off behind an opening bracket would
# otherwise be taken for the beginning of all that follow, which takes quadratic time.
MAX_DEPTH_OVER_LINES = 64

# Runs from inside a JSON value to the next bracket, stepping over whole strings. Possessive
# quantifiers keep it linear: without them an unclosed string would be tried in every way.
_TO_NEXT_BRACKET = compile_possessive(
    rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL
)
_STRING = compile_possessive(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# The same for JSON Lines: also stops at a line break, and no string reaches over one.
_TO_BRACKET_OR_LINE = compile_possessive(
    rb'[^"{}\[\]\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"{}\[\]\n]*+)*+'
)
_STRING_IN_LINE = compile_possessive(rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"')
_SCALAR = re.compile(rb"[^\s,\[\]{}\":]++")
# Files joined with cat have their byte order marks in the middle.
_SPACE = compile_possessive(rb"(?:[ \t\r\n]|\xef\xbb\xbf)*+")


class BrokenJson(UserError):
    """What stands here is no JSON.

    Attributes:
        offset: The byte of the decompressed file at which that shows.
    """

    def __init__(self, message: str, offset: int) -> None:
        """Keep the offset."""
        super().__init__(message)
        self.offset = offset


class Scanner:
    """Walks over JSON text in a sliding window.

    Attributes:
        buffer: The bytes of the file from `base` on.
        base: Where the buffer begins in the decompressed file.
        at: The place in the buffer that has been reached.
        anchor: A place before `at` from which on all is kept, or None. What stands before it,
            and before `at` where there is none, is dropped when the window moves on.
        by_lines: Whether a line break ends a string and may end a record.
        number: Number of the record that is being read, for messages.
    """

    def __init__(self, name: str, source: Bytes, max_record_bytes: int) -> None:
        """Read the first window, and refuse a file that is empty or not UTF-8."""
        self.name = name
        self.limit = max_record_bytes
        self.by_lines = False
        self.number = 0
        self._source = source
        head = source.head(4)
        self.buffer = source.read(READ_BYTES)
        self.base = 0
        self.at = 0
        self.anchor: int | None = None
        self._ended = False
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
            raise UserError(
                f"{name}: is not UTF-8 (first bytes {head.hex(' ')}, as of UTF-16 or "
                "UTF-32): convert it, for example with iconv -f UTF-16 -t UTF-8"
            )
        if not self.peek():
            raise UserError(f"{name}: is empty: expected a list of papers")

    @property
    def offset(self) -> int:
        """The byte of the decompressed file that has been reached."""
        return self.base + self.at

    def peek(self) -> bytes:
        """Step over white space and byte order marks; the next byte, or nothing at the end."""
        while True:
            self.at = _SPACE.match(self.buffer, self.at).end()  # type: ignore[union-attr]
            first = self.buffer[self.at : self.at + 1]
            cut_mark = first == b"\xef" and len(self.buffer) - self.at < len(UTF8_BOM)
            if (first and not cut_mark) or not self.refill():
                return first

    def peek_inside(self) -> bytes:
        """The next byte but white space behind the bracket at which the scanner stands."""
        start = self.offset
        anchored = self.anchor is not None
        if not anchored:
            self.anchor = self.at
        self.at += 1
        found = self.peek()
        self.at = start - self.base
        if not anchored:
            self.anchor = None
        return found

    def expect(self, symbol: bytes) -> None:
        """Step over white space and `symbol`.

        Raises:
            BrokenJson: Something else stands there, or the file ends.
        """
        found = self.peek()
        if not found:
            raise self.truncated()
        if found != symbol:
            raise self.malformed(f"expected {symbol.decode()!r}")
        self.at += 1

    def value(self) -> bytes:
        """The JSON value that starts here, and step over it.

        Raises:
            BrokenJson: No value starts here, or it does not end.
            UserError: It is longer than a record may be.
        """
        start = self.offset
        first = self.buffer[self.at : self.at + 1]
        if first in (b"{", b"["):
            self._close(start, [])
            value = self.buffer[start - self.base : self.at]
            if len(value) > self.limit:
                raise self.too_long(start)
            return value
        pattern = _SCALAR
        if first == b'"':
            pattern = _STRING_IN_LINE if self.by_lines else _STRING
        while True:
            match = pattern.match(self.buffer, self.at)
            # A value that touches the end of the window may go on in the next one.
            if match and (match.end() < len(self.buffer) or self._ended):
                self.at = match.end()
                return match.group()
            if not match and first != b'"':
                raise self.malformed("expected a value") if first else self.truncated()
            self._check_string(self.at)
            if not self.refill() and not match:
                raise self.truncated()
            self._check_size(start)

    def close_object(self) -> None:
        """Step to the end of the object that stands open here, at whose start the anchor is."""
        self._close(self.offset, [b"{"])

    def _close(self, start: int, stack: list[bytes]) -> None:
        """Step to behind the bracket that closes the first of those which stand open.

        Only brackets and strings are looked at, and by lines also whether what stands on either
        side of a line break can stand there within a value.

        Args:
            start: Where the value begins.
            stack: Brackets that stand open; none where the scanner stands at the first.

        Raises:
            BrokenJson: The file ends before, or a line break shows that the value broke off.
            UserError: It is longer than a record may be.
        """
        pattern = _TO_BRACKET_OR_LINE if self.by_lines else _TO_NEXT_BRACKET
        # `at` runs along, so that a long string is not walked over again: the anchor keeps the
        # value. On an error it stays where it is, and says where the broken record starts.
        anchored = self.anchor is not None
        if not anchored:
            self.anchor = self.at
        while True:
            end = pattern.match(self.buffer, self.at).end()  # type: ignore[union-attr]
            symbol = self.buffer[end : end + 1]
            self.at = end
            if symbol in (b"{", b"["):
                stack.append(symbol)
            elif symbol in (b"}", b"]"):
                stack.pop()
            elif symbol == b"\n":
                self._check_line_break(stack)
                continue
            else:  # the end of the window, or a string that does not close within it
                self._check_string(end)
                if not self.refill():
                    raise self.truncated()
                self._check_size(start)
                continue
            self.at = end + 1
            if not stack:
                break
        if not anchored:
            self.anchor = None

    def _check_string(self, at: int) -> None:
        """Refuse a string that starts here, does not close, and by lines could not any more."""
        if self.by_lines and self.buffer.startswith(b'"', at) and self.buffer.find(b"\n", at) >= 0:
            raise self.malformed("expected a string that ends on its line")

    def _check_line_break(self, stack: list[bytes]) -> None:
        """Step over the line break within a value, if what is around it can be JSON.

        Without this, a line that breaks off would take all lines after it with it.

        Args:
            stack: The brackets that stand open.
        """
        before = self.at - 1
        while self.buffer[before : before + 1] in (b" ", b"\t", b"\r", b"\n"):
            before -= 1
        last = self.buffer[before : before + 1]
        following = self.peek()
        fits = last in (b"{", b"[", b",", b":") or following in (b"}", b"]", b",", b":")
        if fits and stack[-1] == b"{" and last in (b"{", b","):
            fits = following in (b'"', b"}")  # a key
        if following and not (fits and len(stack) <= MAX_DEPTH_OVER_LINES):
            raise self.malformed("expected the record to go on")

    def line_length(self, most: int, skip: int = 0) -> int | None:
        """Bytes from here to the first line break, or to the end of the file.

        Args:
            most: More than about this many are not looked through: None.
            skip: So many bytes from here on are passed over.
        """
        while True:
            end = self.buffer.find(b"\n", self.at + skip)
            if end >= 0:
                return end - self.at
            held = len(self.buffer) - self.at
            if held > most:
                return None
            skip = max(skip, held)
            if not self.refill():
                return held

    def column(self, besides: bytes = b"") -> int:
        """Bytes of indentation before here; 0 where something else stands on the line.

        Args:
            besides: What may stand on the line besides white space.
        """
        if not besides and self.buffer[self.at - 1 : self.at] not in (b" ", b"\t"):
            return 0
        before = self.buffer[max(0, self.at - LOOK_BACK) : self.at].rsplit(b"\n", 1)[-1]
        return 0 if before.strip(b" \t" + besides) else len(before)

    def refill(self) -> bool:
        """Drop what has been passed, read more; False at the end of the file."""
        if self._ended:
            return False
        start = max(0, (self.at if self.anchor is None else self.anchor) - LOOK_BACK)
        kept = self.buffer[start:]
        # Reading as much again as is held keeps a long record linear, not quadratic.
        data = self._source.read(max(READ_BYTES, len(kept)))
        self.base += start
        self.at -= start
        if self.anchor is not None:
            self.anchor -= start
        self.buffer = kept + data
        self._ended = not data
        return bool(data)

    def _check_size(self, start: int) -> None:
        """Refuse a value that starts at the offset `start` and is too long already."""
        if self.base + len(self.buffer) - start > self.limit + READ_BYTES:
            raise self.too_long(start if self.anchor is None else self.base + self.anchor)

    # --- messages -----------------------------------------------------------------------

    def here(self) -> str:
        """The next bytes, as a message shows them."""
        return repr(self.buffer[self.at : self.at + 20].decode("utf-8", "replace"))

    def malformed(self, expected: str) -> BrokenJson:
        """The error that something else stands here."""
        return BrokenJson(
            f"{self.name}: malformed JSON at byte {self.offset}: {expected}, found "
            f"{self.here()}: mend or export the file again",
            self.offset,
        )

    def truncated(self) -> BrokenJson:
        """The error that the file ends here."""
        end = self.base + len(self.buffer)
        start = self.at if self.anchor is None else self.anchor
        where = ""
        if self.buffer[start:].strip():
            where = f" in record {self.number}, which starts at byte {self.base + start}"
        return BrokenJson(
            f"{self.name}: the JSON breaks off at byte {end}{where}: "
            "the file is truncated, copy or export it again",
            end,
        )

    def too_long(self, offset: int) -> UserError:
        """The error that the record that starts at `offset` has no end in sight."""
        return UserError(
            f"{self.name}: record {self.number} at byte {offset} is longer than {self.limit} "
            "bytes: if that is one paper, raise scientific_data.limits.max_record_bytes"
        )
