"""A record in whatever format becomes the fields of the papers layout."""

from collections.abc import Callable, Mapping
from typing import Any

from steps.papers.formats import FORMATS, bioc, europe_pmc, s2orc
from steps.papers.formats.jats import convert_article
from steps.papers.formats.pubmed_xml import convert_pubmed
from steps.papers.formats.tei import convert_tei
from steps.papers.formats.xml_source import parse_element
from steps.papers.json_text import decode_json
from steps.papers.records import RawRecord, RecordProblem

_OF_XML: dict[str, Callable[[Any], Mapping[str, Any]]] = {
    "pubmed_xml": convert_pubmed,
    "jats": convert_article,
    "bioc_xml": lambda element: bioc.convert_document(bioc.document_of(element)),
    "tei": convert_tei,
}


def paper_fields(record: RawRecord) -> tuple[str, Mapping[str, Any]]:
    """The format of a record, a key of `FORMATS`, and its fields in the papers layout.

    Raises:
        RecordProblem: It cannot be read as its format says.
    """
    if record.problem is not None:
        raise RecordProblem(*record.problem)
    if record.source_format in _OF_XML:
        element = parse_element(record.data)
        return record.source_format, _OF_XML[record.source_format](element)
    value = decode_json(record.data)
    if not isinstance(value, dict):
        raise RecordProblem("wrong_type", f"a record is {type(value).__name__}, expected an object")
    if record.source_format != "json":
        return record.source_format, value
    return fields_of_json(value)


# Objects within a record that hold the paper, or what is told about it.
_HOLDERS = ("attributes", "paper", "article", "document", "record", "_source")
_ABOUT = ("metadata", "identifiers", "article_ids", "ids", "externalIds", "external_ids")
_OWN_TEXT = frozenset(
    ("title", "abstract", "full_text", "text", "passages", "body_text", "content")
)


def unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    """A record whose paper stands one object deeper, as JSON:API and Elasticsearch write it.

    Identifiers and metadata in an object of their own come up beside the text; what the record
    says itself goes before.
    """
    for name in _HOLDERS:
        inner = value.get(name)
        if isinstance(inner, dict) and inner.keys() & _OWN_TEXT and not value.keys() & _OWN_TEXT:
            value = inner | {k: v for k, v in value.items() if k != name and k not in inner}
    if "passages" in value or s2orc.recognises(value):
        return value  # these know their own
    for name in _ABOUT:
        about = value.get(name)
        if isinstance(about, dict):
            value = value | {k: v for k, v in about.items() if k not in value}
    return value


def fields_of_json(value: dict[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The format of a JSON record, by its shape, and its fields."""
    value = unwrapped(value)
    if "passages" in value:
        return "bioc_json", bioc.convert_document(value)
    if s2orc.recognises(value):
        return s2orc.format_of(value), s2orc.convert(value)
    if europe_pmc.recognises(value):
        return "europe_pmc", europe_pmc.convert(value)
    # What import_papers has written says what it came from.
    stated = value.get("source_format")
    return stated if isinstance(stated, str) and stated in FORMATS else "json", value
