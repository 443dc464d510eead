"""Which papers were taken back, by a list of their identifiers.

    named = read_retractions(Path("retraction_watch.csv"), settings.limits)
    named.holds(identity_of("12345678", None))

A list is a text with one PMID, DOI or PMCID a line; JSON or JSON Lines of such, or of papers; or
a table with a column of identifiers. Of the table of Retraction Watch, which Crossref gives out,
the papers are read and not the notices about them, and of its rows those that are retractions: a
correction or an expression of concern takes nothing back, and a paper that was reinstated stands.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.identifiers import Identity, identity_of
from steps.papers.json_text import decode_json
from steps.papers.records import RecordProblem

KINDS = ("pmid", "doi", "pmcid")
# Names of columns in lower case, letters alone. Those of Retraction Watch go before all others:
# its table has the notice's own identifiers beside them.
_PAPER_COLUMNS = {
    "originalpaperpubmedid": "pmid",
    "originalpaperdoi": "doi",
}
_COLUMNS = {
    "pmid": "pmid",
    "pubmedid": "pmid",
    "pubmed": "pmid",
    "doi": "doi",
    "articledoi": "doi",
    "pmcid": "pmcid",
    "pmc": "pmcid",
    "paperid": "pmid",
    "paper": "pmid",
    "identifier": "pmid",
}
_NATURE = "retractionnature"
_COMMENT = re.compile(r"\s+#.*|^#.*")


@dataclass(frozen=True)
class Retractions:
    """The papers of a list.

    Attributes:
        name: The file's name.
        identifiers: All of their identifiers, as `Identity` holds them.
    """

    name: str
    identifiers: frozenset[str]

    def holds(self, paper: Identity) -> bool:
        """Whether a paper is on the list, by any of its identifiers."""
        return not self.identifiers.isdisjoint(paper.names)


def read_retractions(path: Path, limits: Limits) -> Retractions:
    """Read a list of retracted papers.

    Args:
        path: A text, JSON, JSON Lines or a table with a header; plain, gzip or Zstandard.
        limits: The section `scientific_data.limits`.

    Raises:
        UserError: It cannot be read, names nobody, or a line is no identifier.
    """
    with closing(Bytes.open(path, limits.max_decompressed_bytes)) as source:
        data = source.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name}: is no list of identifiers: not UTF-8 ({error.reason} at byte "
            f"{error.start}); expected one PMID, DOI or PMCID a line, or a table with a header"
        ) from None
    if text.lstrip()[:1] in ("[", "{"):
        papers = list(_of_json(path.name, text))
    else:
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter, columns = _table_columns(path.name, first)
        if columns:
            papers = list(_of_table(path.name, text, delimiter, columns))
        else:
            papers = list(_of_lines(path.name, text))
    if not papers:
        raise UserError(f"{path.name}: names no paper: expected one PMID, DOI or PMCID a line")
    return Retractions(path.name, frozenset(name for paper in papers for name in paper.names))


def _of_lines(name: str, text: str) -> Iterator[Identity]:
    """One identifier a line; # begins a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        bare = _COMMENT.sub("", line).strip().strip('"')
        if bare:
            yield _identity(f"{name}, line {number}", bare)


def _of_json(name: str, text: str) -> Iterator[Identity]:
    """A list of identifiers or of papers, one under papers, or JSON Lines of them."""
    try:
        content = decode_json(text.encode())
        records = content.get("papers", [content]) if isinstance(content, dict) else content
    except RecordProblem as whole:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            records = [decode_json(line.encode()) for line in lines]
        except RecordProblem:
            raise UserError(f"{name}: neither JSON nor JSON Lines ({whole.detail})") from None
    if not isinstance(records, list):
        raise UserError(f"{name}: expected a JSON list of identifiers or of papers")
    for number, record in enumerate(records):
        where = f"{name}, record {number}"
        if isinstance(record, dict):
            found = {
                kind: record[key]
                for key in record
                if (kind := _COLUMNS.get(_bare(key))) and record[key] not in (None, "")
            }
            yield _identity_of_columns(where, found)
        else:
            yield _identity(where, record)


def _table_columns(name: str, header: str) -> tuple[str, dict[int, str]]:
    """Delimiter of a table and its columns of identifiers; none where it is no table."""
    for delimiter in ",\t;|":
        cells = next(csv.reader([header], delimiter=delimiter), [])
        for known in (_PAPER_COLUMNS, _COLUMNS):
            columns = {
                n: known[_bare(cell)] for n, cell in enumerate(cells) if _bare(cell) in known
            }
            if columns:
                return delimiter, columns
    if "," in header or "\t" in header:
        raise UserError(
            f"{name}: no column of its header is one of identifiers: expected one called pmid, doi "
            f"or pmcid, found {header[:100]!r}"
        )
    return "", {}


def _of_table(
    name: str, text: str, delimiter: str, columns: Mapping[int, str]
) -> Iterator[Identity]:
    """The papers of a table, without those that it says were reinstated."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [_bare(cell) for cell in next(rows)]
    nature = header.index(_NATURE) if _NATURE in header else None
    taken_back: list[Identity] = []
    reinstated: set[str] = set()
    for number, row in enumerate(rows, 1):
        found = {kind: row[n] for n, kind in columns.items() if n < len(row) and row[n].strip()}
        said = row[nature].strip().casefold() if nature is not None and nature < len(row) else ""
        if not found or (said and said not in ("retraction", "reinstatement")):
            continue
        try:
            paper = _identity_of_columns(f"{name}, record {number}", found)
        except UserError:
            # Retraction Watch has rows for papers without any identifier.
            if nature is None:
                raise
            continue
        if said == "reinstatement":
            reinstated.update(paper.names)
        else:
            taken_back.append(paper)
    for paper in taken_back:
        if reinstated.isdisjoint(paper.names):
            yield paper


def _identity_of_columns(where: str, found: Mapping[str, Any]) -> Identity:
    if set(found) == {"pmid"}:
        return _identity(where, found["pmid"])
    return _checked(where, found, [found.get(kind) for kind in KINDS])


def _identity(where: str, name: Any) -> Identity:
    """The identity by one identifier of whichever kind."""
    if isinstance(name, str) and re.match(r"[a-z]\w*:(?!//)\S", name) and not _says_kind(name):
        return _checked(where, name, [None, None, None, name])
    found = _checked(where, name, [name])
    # Collections have identifiers of their own (DEMO-0001); a word is none.
    if found.pmid and not any(character.isdigit() for character in found.pmid):
        raise UserError(f"{where}: {str(name)[:60]!r} is no PMID, DOI or PMCID")
    return found


def _says_kind(name: str) -> bool:
    return name.casefold().startswith(("pmid", "doi", "pmc", "pubmed", "info:doi"))


def _checked(where: str, shown: Any, values: Sequence[Any]) -> Identity:
    padded = [*values, *[None] * (4 - len(values))]
    try:
        return identity_of(padded[0], padded[1], padded[2], padded[3])
    except RecordProblem:
        raise UserError(f"{where}: {str(shown)[:60]!r} is no PMID, DOI or PMCID") from None


def _bare(column: Any) -> str:
    return re.sub(r"[\W_]+", "", str(column).casefold())
