"""Any file of papers into the bytes of its records: the reader is chosen by the content."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO

import msgspec

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.formats.bundles import tar_members, zip_members
from steps.papers.formats.detect import HEAD_BYTES, Kind, detect, recognised
from steps.papers.formats.papers_json import records_of
from steps.papers.formats.tables import read_delimited, read_parquet
from steps.papers.formats.xml_source import cut_elements, root_name
from steps.papers.json_text import decode_json
from steps.papers.records import RawRecord, RecordProblem

Say = Callable[[str], None]
Columns = Mapping[str, str]
# The elements that hold one paper each, by format.
_ELEMENTS: dict[str, frozenset[str]] = {
    "pubmed_xml": frozenset({"PubmedArticle", "PubmedBookArticle"}),
    "jats": frozenset({"article"}),
    "bioc_xml": frozenset({"document"}),
    "tei": frozenset({"TEI"}),
}
_OLD_PUBMED = frozenset({"MedlineCitation"})
_ONE_PAPER = frozenset({"article", "TEI"})  # roots that are one paper: the whole file is it


def read_papers(
    path: Path, limits: Limits, columns: Columns | None, say: Say
) -> Iterator[RawRecord]:
    """Cut a file, or the files of a bundle, into the bytes of their records, as a stream.

    Args:
        path: A file in any format that papers come in, plain, gzip or Zstandard; or a .tar or
            .zip of such files.
        limits: The section `scientific_data.limits`.
        columns: Columns of tables by field, where the configuration names some.
        say: Takes a line about how the file is read.

    Yields:
        The records in the order of the file. A file of a bundle that cannot be read is one
        record with its problem, and so is the place where an XML file breaks off.

    Raises:
        UserError: The file is nothing that papers come in, or cannot be read.
    """
    with closing(Bytes.open(path, limits.max_decompressed_bytes)) as source:
        kind = detect(source.head(HEAD_BYTES), path.name)
        if kind == "zip":
            yield from _read_bundle(path.name, zip_members(path, limits, say), limits, columns, say)
        elif kind == "tar":
            yield from _read_bundle(
                path.name, tar_members(source, limits, say), limits, columns, say
            )
        elif kind == "parquet":
            yield from read_parquet(path, path.name, columns, limits, say)
        else:
            yield from _read_stream(kind, source, limits, columns, say)


def _read_stream(
    kind: Kind, source: Bytes, limits: Limits, columns: Columns | None, say: Say
) -> Iterator[RawRecord]:
    size = limits.max_record_bytes
    if kind in ("json", "jsonl"):
        yield from _documents_of(records_of(source, source.name, size, lines=kind == "jsonl"))
    elif kind == "delimited":
        yield from read_delimited(source, columns, size, say)
    else:
        root = root_name(source.head(HEAD_BYTES))
        if root in _ONE_PAPER:
            yield _whole_file(source, kind, size)
        else:
            old = root is not None and root.startswith("MedlineCitation")
            names = _OLD_PUBMED if old else _ELEMENTS[kind]
            yield from cut_elements(source, names, kind, size)


def _documents_of(records: Iterator[RawRecord]) -> Iterator[RawRecord]:
    """Cut records that are whole BioC collections, as PubMed Central gives them in a list.

    What a collection says of itself holds for each of its documents.
    """
    number = 0
    for record in records:
        documents = [record]
        if b'"documents"' in record.data and b'"passages"' in record.data:
            documents = _cut_collection(record)
        for document in documents:
            yield document._replace(number=number)
            number += 1


def _cut_collection(record: RawRecord) -> list[RawRecord]:
    try:
        value = decode_json(record.data)
    except RecordProblem:
        return [record]
    documents = value.get("documents") if isinstance(value, dict) else None
    if not isinstance(documents, list) or "passages" in value:
        return [record]
    return [
        record._replace(
            data=msgspec.json.encode(
                {"collection_infons": value.get("infons"), **document}
                if isinstance(document, dict)
                else document
            )
        )
        for document in documents
    ]


def _whole_file(source: Bytes, kind: Kind, max_record_bytes: int) -> RawRecord:
    parts = []
    size = 0
    while data := source.read(1 << 20):
        parts.append(data)
        size += len(data)
        if size > max_record_bytes:
            detail = (
                f"more than scientific_data.limits.max_record_bytes ({max_record_bytes}): "
                "raise it if that is one paper"
            )
            return RawRecord(0, 0, parts[0][:1000], kind, problem=("too_large", detail))
    return RawRecord(0, 0, b"".join(parts), kind)


def _read_bundle(
    bundle: str,
    members: Iterator[tuple[str, IO[bytes]]],
    limits: Limits,
    columns: Columns | None,
    say: Say,
) -> Iterator[RawRecord]:
    """The records of all files of a bundle, numbered through."""
    number = 0
    passed_over = []
    for name, file in members:
        try:
            source = Bytes(file, name, limits.max_decompressed_bytes)
            kind = recognised(source.head(HEAD_BYTES), name)
            if kind is None or kind in ("tar", "zip"):
                passed_over.append(name)
                continue
            if kind == "parquet":
                records = read_parquet(source.read(), name, columns, limits, say)
            else:
                records = _read_stream(kind, source, limits, columns, say)
            for record in records:
                yield record._replace(number=number, member=name)
                number += 1
        except UserError as error:
            problem = ("unreadable_file", str(error))
            yield RawRecord(number, 0, b"", member=name, problem=problem)
            number += 1
    if passed_over:
        say(f"{bundle}: {len(passed_over)} files hold no papers, such as {passed_over[0]!r}")
