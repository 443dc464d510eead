"""What a file holds, told by its content; the name helps only where the content cannot say."""

import re
from typing import Literal

from steps.errors import UserError
from steps.papers.formats.bundles import is_parquet, is_tar, is_zip
from steps.papers.formats.xml_source import root_name

Kind = Literal[
    "json", "jsonl", "delimited", "parquet", "tar", "zip",
    "pubmed_xml", "jats", "bioc_xml", "tei",
]  # fmt: skip

HEAD_BYTES = 1 << 16
LINE_SUFFIXES = (".jsonl", ".ndjson")
KIND_OF_ROOT: dict[str, Kind] = {
    "PubmedArticleSet": "pubmed_xml",
    "PubmedArticle": "pubmed_xml",
    "PubmedBookArticleSet": "pubmed_xml",
    "PubmedBookArticle": "pubmed_xml",
    "MedlineCitationSet": "pubmed_xml",
    "MedlineCitation": "pubmed_xml",
    "article": "jats",
    "pmc-articleset": "jats",
    "OAI-PMH": "jats",
    "articles": "jats",
    "collection": "bioc_xml",
    "document": "bioc_xml",
    "TEI": "tei",
    "teiCorpus": "tei",
}
_READ = "PubMed XML, JATS, BioC, TEI, JSON, CSV, TSV, Parquet, or a .tar or .zip of such files"
# What begins so is something else, and the line says what to do with it.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF: turn it into TEI with GROBID, or take the paper's XML"),
    (b"\xd0\xcf\x11\xe0", "an old Office file: save the table as CSV"),
    (b"\x1f\x9d", "compressed with compress: compress it with gzip"),
    (b"BZh", "compressed with bzip2: compress it with gzip or zstd"),
    (b"\xfd7zXZ", "compressed with xz: compress it with gzip or zstd"),
    (b"Rar!", "a RAR archive: pack the files as .zip or .tar.gz"),
    (b"7z\xbc\xaf", "a 7z archive: pack the files as .zip or .tar.gz"),
    (b"{\\rtf", "an RTF document: take the paper's XML"),
    (b"SQLite format 3", "an SQLite database: export the table as CSV"),
)
_DELIMITED_SUFFIXES = (".csv", ".tsv", ".tab")
_JSON_SUFFIXES = (".json", *LINE_SUFFIXES)
_NAMES = (*_JSON_SUFFIXES, ".csv", ".tsv", ".xml", ".nxml", ".parquet", ".tar", ".tgz", ".zip")
# What tells JSON of papers from other JSON where the name says nothing.
_PAPER_KEY = re.compile(
    rb'"(?:pmid|PMID|doi|DOI|title|abstract|papers|passages|body_text|resultList)"\s*:'
)
# Tagged text that reference managers write: "PMID- 123" and "TY  - JOUR".
_TAGGED = re.compile(
    rb"\s*(?:PMID- ?\d|TY  - [A-Z]|FN [A-Z]|@(?:article|book|misc)\s?\{)", re.IGNORECASE
)


def detect(head: bytes, name: str) -> Kind:
    """Say what a file is.

    Args:
        head: Its first decompressed bytes, `HEAD_BYTES` of them or all.
        name: Its name.

    Raises:
        UserError: It is nothing that papers come in; says what it is where that shows.
    """
    kind = recognised(head, name)
    if kind is None:
        raise UserError(f"{name}: {_what_it_is(head)}; papers come as {_READ}")
    return kind


def recognised(head: bytes, name: str) -> Kind | None:
    """As `detect`, but None where it is nothing that papers come in."""
    stem = name.removesuffix(".gz").removesuffix(".zst").lower()
    if is_zip(head):
        return None if b"[Content_Types].xml" in head[:4096] else "zip"
    if is_parquet(head):
        return "parquet"
    if is_tar(head):
        return "tar"
    if any(head.startswith(magic) for magic, _ in _OTHERS) or _TAGGED.match(head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        root = root_name(head)
        return KIND_OF_ROOT.get(root) if root else None
    if stem.endswith(_JSON_SUFFIXES):
        return "jsonl" if stem.endswith(LINE_SUFFIXES) else "json"
    if text[:1] in (b"{", b"["):
        return "json" if _PAPER_KEY.search(text) else None
    return "delimited" if stem.endswith(_DELIMITED_SUFFIXES) or _is_table(text) else None


def named_as_papers(name: str) -> bool:
    """Whether a name ends as those of files of papers do."""
    stem = name.removesuffix(".gz").removesuffix(".zst").lower()
    return stem.endswith(_NAMES)


def _is_table(text: bytes) -> bool:
    """Whether the first line reads like the header of a table of papers."""
    header = text.partition(b"\n")[0].lower()
    return b"\0" not in header and bool(
        re.search(rb"[,;\t|]", header) and re.search(rb"\b(title|abstract|pmid|doi)\b", header)
    )


def _what_it_is(head: bytes) -> str:
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return f"is {what}"
    if is_zip(head):
        return "is an Office document: save the table as CSV"
    if _TAGGED.match(head):
        return "is a list of references as tagged text: export it as XML or CSV"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:4]:
        return (
            f"is not UTF-8 (first bytes {head[:4].hex(' ')}, as of UTF-16 or UTF-32): convert it, "
            "for example with iconv -f UTF-16 -t UTF-8"
        )
    root = root_name(head)
    if root is not None and root.lower() == "html":
        return "is a web page, not the paper's XML (was the download refused?)"
    if root is not None:
        return f"is XML with the root <{root[:60]}>, expected one of {', '.join(KIND_OF_ROOT)}"
    if not head.strip():
        return "is empty"
    return f"begins with {head[:20].decode('utf-8', 'replace')!r}"
