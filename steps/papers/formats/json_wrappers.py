"""Objects around papers: where the list stands in what databases and people export.

An object is told from a paper by its keys, in the order in which they come: it is read as a
stream, and what stands after the list is not known when the list is given out.
"""

import difflib
import json
import re
from collections.abc import Generator, Iterator
from enum import Enum

import msgspec

from steps.errors import UserError
from steps.papers.formats.json_scanner import Scanner
from steps.papers.records import RawRecord

# A list of objects under one of these is a list of papers; names are compared in lower case.
LISTS = frozenset(
    {
        "papers", "pubtator3", "documents", "collection", "articles", "records", "results",
        "hits", "data", "items", "works", "docs", "texts",
    }
)  # fmt: skip
# Under these stands an object that holds the list: resultList.result is Europe PMC's.
_RESULT_LIST = "resultlist"
CONTAINERS = LISTS | {_RESULT_LIST, "result", "response", "message"}
# An object with one of these is a paper, whatever lists come after it.
PAPER_KEYS = frozenset(
    {
        "pmid", "pmcid", "doi", "title", "abstract", "abstracttext", "text", "paper_id", "paperid",
        "corpusid", "document_id", "contexts", "other_id", "body_text", "full_text", "fulltext",
        "passages", "attributes", "_source", "identifiers", "article_ids", "externalids",
    }
)  # fmt: skip
# What holds the words of a paper; without one, an object under a strange key is not taken for one.
_TEXT_KEYS = frozenset(
    {
        "abstract", "abstracttext", "text", "body_text", "full_text", "fulltext", "passages",
        "attributes",
    }
)  # fmt: skip
_IDENTIFIER_KEYS = frozenset({"pmid", "pmcid", "pmc", "doi", "paper_id", "paperid", "other_id"})
# Objects that are about the export, or parts of a paper: no papers are looked for in them.
_ASIDE = frozenset(
    {
        "metadata", "meta", "header", "responseheader", "info", "infons", "request", "query",
        "params", "facets", "aggregations", "links", "included", "authors", "affiliations",
        "references", "bib_entries", "ref_entries", "citations", "bibliography", "sections",
        "figures", "tables", "annotations", "keywords",
    }
)  # fmt: skip
_MAX_DEPTH = 2
# Names of one paper in an envelope: {"article": {...}}. They say nothing of which paper it is.
_ONE = frozenset({"paper", "article", "document", "record", "work", "item", "publication"})
_IDENTIFIERS = (
    ("pmid", re.compile(r"\d+")),
    ("pmcid", re.compile(r"PMC\d+", re.IGNORECASE)),
    ("doi", re.compile(r"10\.[^/\s]+/\S+")),
)
_SHOWN_KEYS = 4
_SHOWN_CHARACTERS = 24


class Kind(Enum):
    """What an object turned out to be."""

    WRAPPER = "holds papers, which have been given"
    PAPER = "a paper"
    OTHER = "neither"


class WrapperReader:
    """Gives the papers of an object or a list, and says whether there were any.

    Attributes:
        keys: Keys of the outermost object read last, each with the first byte of its value.
    """

    def __init__(self, scanner: Scanner) -> None:
        """Read from where `scanner` stands."""
        self._scanner = scanner
        self.keys: list[tuple[str, bytes]] = []
        self._infons = b""

    def record(self, start: int, data: bytes) -> RawRecord:
        """The next record, with what a BioC collection says of all its documents."""
        if self._infons and data.startswith(b"{") and data[1:].strip() != b"}":
            data = b'{"collection_infons":' + self._infons + b"," + data[1:]
        self._scanner.number += 1
        return RawRecord(self._scanner.number - 1, start, data)

    def array(self) -> Iterator[RawRecord]:
        """The elements of the list that starts here."""
        scanner = self._scanner
        scanner.at += 1
        if scanner.peek() == b"]":
            scanner.at += 1
            return
        while True:
            scanner.peek()
            start = scanner.offset
            yield self.record(start, scanner.value())
            if scanner.peek() == b"]":
                scanner.at += 1
                return
            scanner.expect(b",")

    def outermost(self) -> Generator[RawRecord, None, Kind]:
        """The papers in the object that starts here; the anchor stands at it if it is none."""
        self._scanner.anchor = self._scanner.at
        self.keys = []
        self._infons = b""
        return (yield from self._walk(0, ""))

    def _walk(self, depth: int, container: str) -> Generator[RawRecord, None, Kind]:
        """Read the object that starts here, key by key.

        Args:
            depth: How many objects it stands in.
            container: Its key in the object around it.
        """
        scanner = self._scanner
        is_paper = found = found_papers = False
        scanner.at += 1
        separator = b""
        while scanner.peek() != b"}":
            name = self._key(separator)
            separator = b","
            lower = name.lower()
            opening = scanner.peek()
            if depth == 0:
                self.keys.append((name, opening))
                self._check_papers(name, opening, is_paper)
            is_paper = is_paper or (lower in PAPER_KEYS and not found)
            if is_paper and scanner.by_lines:
                scanner.close_object()  # no look at the other keys: there are many records
                return Kind.PAPER
            if opening == b"[" and self._holds_papers(lower, container, is_paper, depth):
                scanner.anchor = None
                found = True
                found_papers = found_papers or lower == "papers"
                yield from self.array()
            elif lower == "infons" and depth == 0 and opening == b"{" and not is_paper:
                infons = scanner.value()
                self._infons = b"" if infons[1:-1].isspace() or infons == b"{}" else infons
                self._check_held()
            elif opening != b"{" or is_paper or found_papers or lower in _ASIDE:
                self._pass_over()
            elif _field_of(name) != "other_id" and (depth == 0 or container in CONTAINERS):
                scanner.anchor = None
                found = True
                start = scanner.offset
                yield self.record(start, _keyed(name, scanner.value()))
            elif depth < _MAX_DEPTH:
                found = (yield from self._nested(depth, name)) or found
            else:
                self._pass_over()
        scanner.at += 1
        if found:
            scanner.anchor = None
            return Kind.WRAPPER
        return Kind.PAPER if is_paper else Kind.OTHER

    def _key(self, separator: bytes) -> str:
        scanner = self._scanner
        if separator:
            scanner.expect(separator)
        found = scanner.peek()
        if not found:
            raise scanner.truncated()
        if found != b'"':
            raise scanner.malformed("expected a key in double quotes")
        key = scanner.value()
        scanner.expect(b":")
        try:
            return str(json.loads(key))
        except ValueError:  # not UTF-8, or a bad escape: whoever parses the record says so
            return key[1:-1].decode("utf-8", "replace")

    def _check_papers(self, name: str, opening: bytes, is_paper: bool) -> None:
        scanner = self._scanner
        if name == "papers" and opening not in (b"[", b"{", b"") and not is_paper:
            raise UserError(
                f"{scanner.name}: byte {scanner.offset}: 'papers' must be a list, "
                f"found {scanner.here()}"
            )

    def _holds_papers(self, lower: str, container: str, is_paper: bool, depth: int) -> bool:
        """Whether the list that starts here, under such a key, is one of papers."""
        if lower == "papers" and not is_paper:
            return True  # whatever is in it
        named = lower in LISTS or (lower == "result" and container == _RESULT_LIST)
        if is_paper:
            named = lower == "papers" and depth == 0  # a collection with a title or a DOI
        if not named:
            return False
        inside = self._scanner.peek_inside()
        return inside == b"{" or (inside == b"]" and not is_paper)

    def _nested(self, depth: int, name: str) -> Generator[RawRecord, None, bool]:
        """Look for papers in the object under a key; or it is one itself, with text in it."""
        scanner = self._scanner
        start = scanner.offset
        if scanner.anchor is None:
            scanner.anchor = scanner.at
            anchored_here = True
        else:
            anchored_here = False
        kind = yield from self._walk(depth + 1, name.lower())
        if kind is Kind.WRAPPER:
            return True
        if kind is Kind.PAPER:
            value = scanner.buffer[start - scanner.base : scanner.at]
            if _keys_of(value).keys() & _TEXT_KEYS:
                scanner.anchor = None
                known = CONTAINERS | _ONE
                data = value if name.lower() in known else _keyed(name, value)
                yield self.record(start, data)
                return True
        self._check_held()
        if anchored_here:
            scanner.anchor = None
        return False

    def _pass_over(self) -> None:
        self._scanner.value()
        self._check_held()

    def _check_held(self) -> None:
        """Refuse an object of which more is held than a record may have."""
        scanner = self._scanner
        if scanner.anchor is not None and scanner.at - scanner.anchor > scanner.limit:
            raise UserError(
                f"{scanner.name}: its first {scanner.limit} bytes hold no 'papers' list: expected "
                '{"papers": [...]}, a list of papers, or one paper a line; or raise '
                "scientific_data.limits.max_record_bytes"
            )


def refusal(name: str, keys: list[tuple[str, bytes]]) -> str:
    """The message that a file holds one object which is neither a wrapper nor a paper."""
    shown = ", ".join(repr(key[:_SHOWN_CHARACTERS]) for key, _ in keys[:_SHOWN_KEYS])
    more = ", ..." if len(keys) > _SHOWN_KEYS else ""
    return (
        f"{name}: holds one object without a 'papers' list, with the keys {shown or '(none)'}"
        f'{more}: expected {{"papers": [...]}}, a list of papers, or one paper a line'
        f"{_nearest(keys)}"
    )


def _nearest(keys: list[tuple[str, bytes]]) -> str:
    """Which of the keys may have been meant as a known one, as the end of a message."""
    for key, _ in keys:
        if key.lower() in LISTS:
            return f"; {key!r} must be a list of objects"
        near = difflib.get_close_matches(key.lower(), sorted(LISTS), n=1, cutoff=0.75)
        if near:
            return f"; rename {key[:_SHOWN_CHARACTERS]!r} to {near[0]!r}?"
    for key, opening in keys:
        if opening == b"[":
            return f"; rename {key[:_SHOWN_CHARACTERS]!r} to 'papers' if it lists them"
    return ""


def _field_of(key: str) -> str:
    """The field of a paper that a key like this is the value of."""
    return next((field for field, form in _IDENTIFIERS if form.fullmatch(key)), "other_id")


def _keyed(key: str, value: bytes) -> bytes:
    """The object that stands under an identifier, with that as a field if it has none."""
    own = _keys_of(value)
    if not own and value[1:-1].strip():
        return value  # no object, or malformed: whoever parses it says so
    if any(bytes(own[name]) not in (b"null", b'""') for name in own.keys() & _IDENTIFIER_KEYS):
        return value
    # At the end: of two equal keys the last one counts, and the first may be null.
    field = f"{', ' if own else ''}{json.dumps(_field_of(key))}: {json.dumps(key)}}}"
    return value[:-1] + field.encode()


def _keys_of(value: bytes) -> dict[str, msgspec.Raw]:
    """Keys of an object in lower case, with their values; none where it is malformed."""
    try:
        own = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return {key.lower(): raw for key, raw in own.items()}
