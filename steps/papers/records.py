"""Find the input files, split them into records and parse each record into a `Paper`.

A file holds a wrapper object with a "papers" list, a bare list, or JSON Lines, plain or
compressed with gzip or Zstandard. Files are read as a stream: `read_records` cuts them
into the bytes of single records, so that memory stays bounded however large the list is
and the parsing can be spread over processes. `parse_paper` then checks one record whole.

A file that cannot be read as the layout says is a `UserError`; a record that is not what
the layout says is a `RecordProblem`, which the pipeline turns into a rejection.
"""

import difflib
import glob
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import msgspec
import zstandard

from steps.errors import UserError

PAPER_SUFFIXES = tuple(
    kind + packing for kind in (".json", ".jsonl", ".ndjson") for packing in ("", ".gz", ".zst")
)
LINE_SUFFIXES = (".jsonl", ".ndjson")
TIERS = ("gold_standard", "high_quality", "medium_quality", "low_quality", "filtered_out")
TIER_ALIASES = {"moderate_quality": "medium_quality"}

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
UTF8_BOM = b"\xef\xbb\xbf"
READ_BYTES = 1 << 20
MAX_IDENTIFIER_CHARACTERS = 250
# Keys of a section whose value is not text to learn from and may be a number.
SECTION_NUMBERING = frozenset({"id", "level", "number", "order", "sec_num", "type"})

_PMID_PREFIX = re.compile(r"^\s*pmid\s*:?\s*", re.IGNORECASE)
_DOI_PREFIX = re.compile(r"^\s*(?:https?://(?:dx\.)?doi\.org/|doi\s*:\s*)", re.IGNORECASE)

# Runs from inside a JSON value to the next bracket, stepping over whole strings. Possessive
# quantifiers keep it linear: without them an unclosed string would be tried in every way.
_TO_NEXT_BRACKET = re.compile(
    rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL
)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\":]++")
_SPACE = re.compile(rb"[ \t\r\n]*+")


class RecordProblem(Exception):
    """One record cannot be used; it is rejected and the run goes on.

    Attributes:
        reason: Machine word, the key of the funnel.
        detail: One readable line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason and the detail."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RawRecord(NamedTuple):
    """The bytes of one record and where they stood.

    Attributes:
        number: Number of the record in its file, counted from 0.
        offset: First byte of the record in the decompressed file.
        data: The record's JSON text, not yet checked.
    """

    number: int
    offset: int
    data: bytes


class Paper(msgspec.Struct, frozen=True):
    """One record of the papers layout; keys that are not named here are ignored.

    The shape of the sections in `full_text` is left to `steps.papers.sections`.
    """

    pmid: str | Annotated[int, msgspec.Meta(ge=0, lt=10**18)] | None = None
    doi: str | None = None
    title: str | None = None
    abstract: str | None = None
    full_text: str | list[Any] | dict[str, Any] | None = None
    text: str | None = None
    authors: str | list[str | dict[str, Any]] | None = None
    journal: str | None = None
    publication_date: str | Annotated[int, msgspec.Meta(ge=0, lt=10**9)] | None = None
    score: float | None = None
    tier: str | None = None
    ai_ml_detected: bool | None = None
    component_scores: dict[str, float | None] | list[float | None] | None = None
    reasoning: str | list[str] | None = None
    keywords_found: str | list[str] | None = None
    keywords: str | list[str] | None = None
    benchmarks_used: str | list[str] | None = None
    benchmarks: str | list[str] | None = None
    validation_methods: str | list[str] | None = None
    scored_at: str | None = None


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


class _Bytes:
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


# --- splitting files into records ------------------------------------------------------


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
    with closing(_Bytes(path, max_decompressed_bytes)) as source:
        yield from _Scanner(path.name, source, max_record_bytes).records()


def read_lines(
    path: Path, max_decompressed_bytes: int, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Cut a text file into its lines, passing over blank ones; see `read_records`."""
    with closing(_Bytes(path, max_decompressed_bytes)) as source:
        yield from _Scanner(path.name, source, max_record_bytes).lines()


class _Scanner:
    """Walks over JSON text in a sliding window.

    `_buffer` holds the bytes from `_base` on; `_at` is the place in the buffer that has
    been reached. Everything before the value that is being read is dropped on refill.
    """

    def __init__(self, name: str, source: _Bytes, max_record_bytes: int) -> None:
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


# --- parsing one record ----------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """What names a paper; records that share a PMID or a DOI are one paper.

    Attributes:
        pmid: PubMed identifier, or "".
        doi: Digital object identifier in lower case without its resolver, or "".
    """

    pmid: str
    doi: str

    @property
    def paper_id(self) -> str:
        """The PMID where there is one, else the DOI."""
        return self.pmid or self.doi


def parse_paper(data: bytes) -> Paper:
    """Check one record against the papers layout, at every depth.

    Args:
        data: JSON text of the record.

    Returns:
        The paper. Lone surrogates are replaced by U+FFFD.

    Raises:
        RecordProblem: With reason malformed_json, invalid_utf8, wrong_type or not_finite.
    """
    try:
        paper = msgspec.convert(_decode(data), Paper)
        _check_leaves(paper.full_text, "full_text")
    except UnicodeDecodeError as error:
        raise RecordProblem("invalid_utf8", f"byte {error.start}: {error.reason}") from error
    except msgspec.ValidationError as error:
        raise RecordProblem("wrong_type", str(error)) from error
    except RecursionError as error:
        raise RecordProblem("malformed_json", "nested too deeply") from error
    except ValueError as error:  # of json, which names line, column and byte
        raise RecordProblem("malformed_json", str(error)) from error
    parts = paper.component_scores or []
    for number in (paper.score, *(parts.values() if isinstance(parts, dict) else parts)):
        if number is not None and not math.isfinite(number):
            raise RecordProblem("not_finite", f"a score is {number}, expected a finite number")
    return paper


def _check_leaves(value: Any, key: str) -> None:
    """Refuse anything but text within a full text, except the numbering of its sections."""
    if isinstance(value, dict):
        for inner, item in value.items():
            _check_leaves(item, inner)
    elif isinstance(value, list):
        for item in value:
            _check_leaves(item, key)
    elif not isinstance(value, str | None) and key not in SECTION_NUMBERING:
        raise RecordProblem("wrong_type", f"{value!r} in full_text at {key[:60]!r}, expected text")


def _decode(data: bytes) -> Any:
    text = data.decode()
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # msgspec is strict; json also reads NaN and lone surrogates, which other writers emit.
        return _without_surrogates(json.loads(text))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


def identify(paper: Paper) -> Identity:
    """The identifier of a paper.

    Raises:
        RecordProblem: With reason no_identifier, where pmid and doi are absent or blank, or
            bad_identifier, where one is no single short word.
    """
    pmid = _PMID_PREFIX.sub("", "" if paper.pmid is None else str(paper.pmid)).strip()
    doi = _DOI_PREFIX.sub("", paper.doi or "").strip().lower()
    if not pmid and not doi:
        raise RecordProblem("no_identifier", "neither pmid nor doi is given")
    for name in (pmid, doi):
        if len(name) > MAX_IDENTIFIER_CHARACTERS or not name.isprintable() or " " in name:
            raise RecordProblem("bad_identifier", f"{name[:60]!r} is no identifier")
    return Identity(pmid, doi)


def identifier_in(data: bytes) -> str | None:
    """The identifier that a rejected record gives, as far as it can be read."""
    try:
        value = _decode(data)
        names = [value.get("pmid"), value.get("doi")] if isinstance(value, dict) else []
        found = [str(name).strip() for name in names if isinstance(name, str | int)]
    except (ValueError, RecursionError):
        return None
    return next((name[:MAX_IDENTIFIER_CHARACTERS] for name in found if name), None)


def canonical_tier(tier: str | None) -> str | None:
    """The canonical name of a quality tier; moderate_quality is medium_quality.

    Raises:
        RecordProblem: With reason unknown_tier.
    """
    if tier is None or not tier.strip():
        return None
    name = re.sub(r"[\s-]+", "_", tier.strip().lower())
    name = TIER_ALIASES.get(name, name)
    if name not in TIERS:
        raise RecordProblem("unknown_tier", f"tier {tier!r}, expected one of {', '.join(TIERS)}")
    return name
