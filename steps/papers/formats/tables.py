"""Tables of papers, one a row: CSV, TSV and Parquet, read as a stream.

Which column holds which field is guessed by the names that PubMed, Scopus, Web of Science,
Zotero, CORD-19 and others write, or named in the configuration. A row becomes JSON in the papers
layout.
"""

import contextlib
import csv
import decimal
import difflib
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from steps.config.paper_sections import Limits
from steps.errors import UserError, first_line, printable
from steps.papers.file_bytes import Bytes
from steps.papers.formats.fields import language_code
from steps.papers.records import RawRecord

Say = Callable[[str], None]
Columns = Mapping[str, str | None]
Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL and QUOTE_NONE

READ_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16
MAX_FIELD_BYTES = (1 << 31) - 2  # a C long, less the byte that shows that a line goes on
# Few: of a text that all rows share the file holds one, and a batch as many as it has rows.
PARQUET_BATCH_ROWS = 64
DELIMITERS = ",\t;|"

# Names of columns by field, the best ones first, in lower case and without what is no letter or
# digit. A year stands before "publicationdate", which Web of Science writes without one.
_NAMES = {
    "title": "title articletitle papertitle documenttitle primarytitle ti",
    "abstract": "abstract abstracttext abstractnote articleabstract summary ab",
    "full_text": "fulltext bodytext articlebody papertext body text content",
    "pmid": "pmid pubmedid pubmedids pubmed pm",
    "pmcid": "pmcid pmcids pmc pubmedcentralid",
    "doi": "doi articledoi digitalobjectidentifier digitalobjectidentifierdoi di",
    "score": "score qualityscore overallscore totalscore",
    "tier": "tier qualitytier",
    "journal": "journal journalbook journaltitle journalname sourcetitle publicationtitle "
    "publicationname containertitle venue so",
    "publication_date": "datepublished publisheddate publishtime firstpublicationdate pubdate "
    "publicationyear publicationdate pubyear date year py",
    "keywords": "keywords authorkeywords keyword keywordlist de",
    "license": "license licence licensetype openaccesslicense",
    "language": "language languageoforiginaldocument languages lang la",
}
# Tags of Web of Science. "so" or "de" alone could be anything, beside "ti" they are tags.
_TAGS = frozenset(("ti", "ab", "pm", "di", "so", "py", "de", "la"))
_KNOWN = frozenset(" ".join(_NAMES.values()).split())
_NO_VALUE = frozenset(
    ("", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "NaT", "#N/A")
)
_FROM_FLOAT = re.compile(r"(\d+)\.0+")  # 12345678.0: pandas has no integers in a column with gaps
_SLASHED_DATE = re.compile(r"(\d{4})/(\d{1,2})(?:/(\d{1,2}))?")
_LANGUAGES = {
    "english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it",
    "portuguese": "pt", "chinese": "zh", "japanese": "ja", "russian": "ru", "korean": "ko",
    "polish": "pl", "dutch": "nl", "turkish": "tr", "czech": "cs", "hungarian": "hu",
}  # fmt: skip


# --- columns -----------------------------------------------------------------------------


def guess_columns(header: Sequence[str], given: Columns | None, name: str) -> dict[str, str]:
    """Say which column of a table holds which field.

    Args:
        header: Names of the columns.
        given: What the user says, by field; "" says that no column holds it. The fields that
            are absent or None are guessed.
        name: How messages call the table.

    Returns:
        Names of columns by field, in the order in which messages list them.

    Raises:
        UserError: A given column is not there, or no column holds text.
    """
    given = {field: column for field, column in (given or {}).items() if column is not None}
    for field, column in given.items():
        if field not in _NAMES:
            raise UserError(
                f"scientific_data.columns names {field!r}, expected one of {', '.join(_NAMES)}"
            )
        if column and column not in header:
            raise UserError(
                f"{name}: no column {column!r} for scientific_data.columns.{field}"
                f"{_nearest_column(column, header)}: the header has {_shown(header)}"
            )
    taken = set(given.values())
    by_key: dict[str, str] = {}
    for column in header:
        if column not in taken:
            by_key.setdefault(_key(column), column)
    if "ti" not in map(_key, header):
        by_key = {key: column for key, column in by_key.items() if key not in _TAGS}
    columns = {}
    for field, names in _NAMES.items():
        guess = next((by_key[key] for key in names.split() if key in by_key), "")
        if column := given.get(field, guess):
            columns[field] = column
    if not columns.keys() & {"title", "abstract", "full_text"}:
        raise UserError(
            f"{name}: no column holds a title, an abstract or a full text: name one under "
            "scientific_data.columns, such as {title: NAME}; the header has " + _shown(header)
        )
    return columns


def _key(column: str) -> str:
    return re.sub(r"[\W_]+", "", column.casefold())


def _nearest_column(column: str, header: Sequence[str]) -> str:
    by_key = {_key(name): name for name in header}
    near = difflib.get_close_matches(_key(column), by_key, n=1, cutoff=0.5)
    return f", did you mean {by_key[near[0]]!r}?" if near else ""


def _shown(header: Sequence[str]) -> str:
    names = ", ".join(repr(column[:40]) for column in header[:40])
    return names + (f" and {len(header) - 40} more" if len(header) > 40 else "")


def _columns_line(name: str, columns: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{field} from {column!r}" for field, column in columns.items())
    return printable(f"{name}: {pairs}; name others under scientific_data.columns")


# --- CSV and TSV -------------------------------------------------------------------------


def read_delimited(
    source: Bytes, columns: Columns | None, max_record_bytes: int, say: Say
) -> Iterator[RawRecord]:
    """Cut a table as text into its rows, reading it as a stream.

    Args:
        source: UTF-8 with commas, tabs, semicolons or bars between the cells; the first line
            names the columns.
        columns: Columns by field, where the user names some.
        max_record_bytes: Most bytes of one row.
        say: Takes a line about which column is read as what.

    Yields:
        The rows as papers. One that has more or fewer cells than the header comes with its
        problem and all its cells; blank ones are passed over.

    Raises:
        UserError: The table is empty, not in UTF-8, has no column of text, or a row has no end.
    """
    _check_encoding(source)
    # The limit of csv is one for the whole process; `_Lines` holds the rows to this one first.
    max_record_bytes = min(max_record_bytes, MAX_FIELD_BYTES)
    csv.field_size_limit(max(csv.field_size_limit(), max_record_bytes))
    delimiter, quoting = _delimiter_and_quoting(source.head(SAMPLE_BYTES), columns)
    source_format = "tsv" if delimiter == "\t" else "csv"
    lines = _Lines(source, max_record_bytes)
    rows = _rows(csv.reader(lines, delimiter=delimiter, quoting=quoting), lines)
    header = [cell.strip() for cell in next(rows, [])]
    if not header:
        raise UserError(f"{source.name}: is empty: expected a table with a header")
    found = guess_columns(header, columns, source.name)
    say(_columns_line(source.name, found))
    places = [(field, header.index(column)) for field, column in found.items()]
    for number, row in enumerate(rows):
        while len(row) > len(header) and not row[-1].strip():
            row.pop()  # lines that end with a delimiter, as Web of Science writes them
        if len(row) == len(header):
            fields = _paper_fields((field, row[place]) for field, place in places)
            yield RawRecord(number, lines.row_offset, msgspec.json.encode(fields), source_format)
        else:
            detail = f"line {lines.row_line}: {len(row)} cells, the header has {len(header)}"
            yield RawRecord(
                number, lines.row_offset, msgspec.json.encode(row), source_format,
                problem=("malformed_row", detail),
            )  # fmt: skip


def _rows(reader: Iterator[list[str]], lines: "_Lines") -> Iterator[list[str]]:
    """The rows that hold anything; `lines` knows where the last one began."""
    lines.start_row()
    for row in reader:
        if any(cell and not cell.isspace() for cell in row):
            yield row
        lines.start_row()


def _check_encoding(source: Bytes) -> None:
    head = source.head(4)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise UserError(
            f"{source.name}: is not UTF-8 (first bytes {head.hex(' ')}, as of UTF-16 or "
            "UTF-32): convert it, for example with iconv -f UTF-16 -t UTF-8"
        )


def _delimiter_and_quoting(sample: bytes, columns: Columns | None) -> tuple[str, Quoting]:
    """How the table is written, by its first rows.

    The delimiter is the one that makes known names of the header. Many writers of TSV leave
    quotes alone, so that one at the start of a cell opens nothing: there the reading counts that
    gives rows of one length, and more of them.
    """
    text = sample.decode("utf-8-sig", "replace")
    wanted = _KNOWN | {_key(column) for column in (columns or {}).values() if column}

    def rows(delimiter: str, quoting: Quoting) -> Iterator[list[str]]:
        lines = io.StringIO(text, newline="")
        return filter(None, csv.reader(lines, delimiter=delimiter, quoting=quoting))

    def names_found(delimiter: str) -> tuple[int, int]:
        header = next(rows(delimiter, csv.QUOTE_MINIMAL), [])
        return sum(_key(cell) in wanted for cell in header), len(header)

    def misfits(quoting: Quoting) -> tuple[int, int]:
        found = list(rows(delimiter, quoting))
        if len(sample) >= SAMPLE_BYTES:
            found.pop()  # cut off by the end of the sample
        return sum(len(row) != len(found[0]) for row in found), -len(found)

    delimiter = max(DELIMITERS, key=names_found)
    header = next(rows(delimiter, csv.QUOTE_NONE), [])
    if delimiter != "\t" or all(len(c) > 1 and c[0] == c[-1] == '"' for c in header):
        return delimiter, csv.QUOTE_MINIMAL
    ways: tuple[Quoting, ...] = (csv.QUOTE_MINIMAL, csv.QUOTE_NONE)
    return delimiter, min(ways, key=misfits)


class _Lines(Iterator[str]):
    """The lines of a table for the csv module, and where they stand.

    Attributes:
        name: How messages call the table.
        row_line: Line where the row began, from 1.
        row_offset: First byte of the row.
    """

    def __init__(self, source: Bytes, max_record_bytes: int) -> None:
        self.name = source.name
        self.row_offset = self._offset = self._line = 0
        self.row_line = 1
        self._file = io.BufferedReader(_Readable(source), READ_BYTES)
        self._limit = max_record_bytes
        self._ready: list[bytes] = []  # the last one comes next

    def start_row(self) -> None:
        self.row_line, self.row_offset = self._line + 1, self._offset

    def __next__(self) -> str:
        if not self._ready:
            # Lines that only \r ends, as old spreadsheets on a Mac write them, come as one.
            self._ready = self._file.readline(self._limit + 1).splitlines(keepends=True)[::-1]
        if not self._ready:
            if self._offset > self.row_offset:
                raise UserError(
                    f"{self.name}: ends within the row of line {self.row_line}: a quote is not "
                    "closed, or the file is truncated: mend or export it again"
                )
            raise StopIteration
        line = self._ready.pop()
        start = self._offset
        self._offset += len(line)
        self._line += 1
        if self._offset - self.row_offset > self._limit:
            raise UserError(
                f"{self.name}: the row of line {self.row_line} is longer than {self._limit} "
                "bytes: close its quote, or if that is one paper, raise "
                "scientific_data.limits.max_record_bytes"
            )
        try:
            return line.decode("utf-8" if start else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(self._not_utf8(line, error)) from error

    def _not_utf8(self, line: bytes, error: UnicodeDecodeError) -> str:
        around = line[max(0, error.start - 20) : error.start + 20].decode("cp1252", "replace")
        return (
            f"{self.name}: line {self._line} is not UTF-8 (byte 0x{line[error.start]:02x} at "
            f"{self._offset - len(line) + error.start}), it looks like Windows-1252, in which it "
            f"says {around.strip()!r}: convert the file with iconv -f CP1252 -t UTF-8"
        )


class _Readable(io.RawIOBase):
    """Bytes as the io module wants them."""

    def __init__(self, source: Bytes) -> None:
        super().__init__()
        self._source = source
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        data = self._left or self._source.read(size)
        self._left = data[size:]
        buffer[: len(data[:size])] = data[:size]
        return len(data[:size])


# --- Parquet -----------------------------------------------------------------------------


def read_parquet(
    path_or_bytes: Path | bytes, name: str, columns: Columns | None, limits: Limits, say: Say
) -> Iterator[RawRecord]:
    """Cut a Parquet file into its rows, a batch at a time; only the columns used are read.

    Args:
        path_or_bytes: The file, or what it holds.
        name: How messages call it.
        columns: Columns by field, where the user names some.
        limits: What a file and a record may cost.
        say: Takes a line about which column is read as what.

    Yields:
        The rows as papers.

    Raises:
        UserError: The file is corrupt, too large, or has no column of text.
    """
    total = 0
    for number, values in enumerate(_parquet_rows(path_or_bytes, name, columns, say)):
        data = msgspec.json.encode(_paper_fields(values))
        total += len(data)
        if len(data) > limits.max_record_bytes:
            raise UserError(
                f"{name}: record {number} is longer than {limits.max_record_bytes} bytes: if that "
                "is one paper, raise scientific_data.limits.max_record_bytes"
            )
        if total > limits.max_decompressed_bytes:
            raise UserError(
                f"{name}: decompresses to more than {limits.max_decompressed_bytes} bytes: if the "
                "file is meant to be that large, raise "
                "scientific_data.limits.max_decompressed_bytes"
            )
        yield RawRecord(number, 0, data, "parquet")


def _parquet_rows(
    path_or_bytes: Path | bytes, name: str, columns: Columns | None, say: Say
) -> Iterator[Iterable[tuple[str, Any]]]:
    """Fields and values of the rows, with every trouble of the file as a `UserError`."""
    content = pa.BufferReader(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes
    try:
        schema = pq.read_schema(content)
        found = guess_columns(schema.names, columns, name)
        say(_columns_line(name, found))
        used = list(dict.fromkeys(found.values()))
        with pq.ParquetFile(content, buffer_size=READ_BYTES) as file:
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=used):
                names = batch.schema.names
                cells = [_cells(batch.column(names.index(c))) for c in found.values()]
                for row in zip(*cells, strict=True):
                    yield zip(found, row, strict=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        # OSError also of pages that do not decompress, ValueError of text that is not UTF-8.
        raise UserError(
            f"{name}: cannot be read as Parquet ({first_line(error)}): "
            "download or write the file again"
        ) from error


def _cells(array: Any) -> list[Any]:
    """The values of a column of a batch; dates as text."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        # The dictionary holds the texts of other batches as well.
        used = array.indices.unique()
        words = _cells(array.dictionary.take(used))
        word_at = dict(zip(used.to_pylist(), words, strict=True))
        return [word_at[at] for at in array.indices.to_pylist()]
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.date32(), safe=False)
    if pa.types.is_temporal(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        array = array.cast(pa.string())  # old writers do not say that their bytes are text
    return list(array.to_pylist())


# --- rows into papers --------------------------------------------------------------------


def _paper_fields(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The papers layout of a row, without the fields that it leaves empty."""
    fields = {}
    for field, value in values:
        plain = _plain(value)
        converted = None if plain is None else _CONVERTERS.get(field, _text)(plain)
        if converted not in (None, "", []):
            fields[field] = converted
    return fields


def _plain(value: Any) -> Any:
    """A value without what says that there is none, and without the types of Parquet."""
    if isinstance(value, str):
        text = value.strip()
        return None if text in _NO_VALUE else text
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list):
        return [plain for item in value if (plain := _plain(item)) is not None]
    return value


def _text(value: Any, joint: str = " ") -> Any:
    """Text; a list of texts joined; what is nested deeper as it is, for the layout reads it."""
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return joint.join(str(item) for item in value)
    if isinstance(value, bool | int | float):
        return _number_as_text(value)
    return value


def _paragraphs(value: Any) -> Any:
    """As `_text`; a cell of text that holds the JSON of sections becomes these."""
    if isinstance(value, str) and value[0] in "[{":
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            value = _plain(msgspec.json.decode(value))
    return _text(value, "\n\n")


def _number_as_text(value: Any) -> str:
    text = str(value)
    whole = _FROM_FLOAT.fullmatch(text)
    return whole[1] if whole else text


def _identifier(value: Any) -> str:
    return _number_as_text(_text(value, "; "))


def _pmcid(value: Any) -> str:
    name = _identifier(value)
    return f"PMC{name}" if name.isdecimal() else name


def _score(value: Any) -> Any:
    """A number where it is one; else what stands there, for the check of records to say so."""
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return value
    return number if math.isfinite(number) else str(value)  # JSON has no infinity


def _keywords(value: Any) -> Any:
    """A list: as it is, or out of "a; b", "a | b", "a, b", or the text of a list."""
    if not isinstance(value, str):
        return value if isinstance(value, list | dict) else [_number_as_text(value)]
    inner = re.fullmatch(r"""\[\s*(["'].*["'])\s*,?\s*\]""", value, re.DOTALL)
    if inner:  # JSON, or what Python prints of a list
        parts = re.split(r"""["']\s*,\s*["']""", inner[1][1:-1])
    else:
        parts = value.split(next((mark for mark in ";|," if mark in value), ";"))
    return [part.strip() for part in parts if part.strip()]


def _date(value: Any) -> str:
    text = _number_as_text(_text(value))
    slashed = _SLASHED_DATE.fullmatch(text)
    return "-".join(part.zfill(2) for part in slashed.groups() if part) if slashed else text


def _language(value: Any) -> str:
    """The code of the first language named; "" for what is none."""
    first = value[0] if isinstance(value, list) and value else value
    name = str(first).split(";")[0].strip().lower()
    code = _LANGUAGES.get(name) or language_code(name)
    return code if re.fullmatch(r"[a-z]{2,3}", code) else ""


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "abstract": _paragraphs,
    "full_text": _paragraphs,
    "pmid": _identifier,
    "pmcid": _pmcid,
    "score": _score,
    "keywords": _keywords,
    "publication_date": _date,
    "language": _language,
}
