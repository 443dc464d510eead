"""One result of Europe PMC's REST service as a paper, of resultType core or lite.

{"id": "31000001", "source": "MED", "pmid": "31000001", "title": "…", "abstractText": "…"}
"""

import re
from typing import Any

from steps.papers.formats.fields import (
    abstract_of,
    date_in,
    language_code,
    own_identifiers,
    without_nothing,
)
from steps.papers.formats.json_values import name_in, names_in, object_in, text_in
from steps.papers.possessive import compile_possessive
from steps.papers.records import PaperFields

_OWN_KEYS = {
    "abstractText", "authorString", "authorList", "journalInfo", "journalTitle", "pubTypeList",
    "pubYear", "isOpenAccess", "inEPMC", "firstPublicationDate", "fullTextUrlList",
    "bookOrReportDetails",
}  # fmt: skip
_HEADING = compile_possessive(
    r"<h(\d)\b[^<>]{0,200}>([^<>]*+(?:<(?!/?h\d)[^<>]*+>[^<>]*+)*+)</h\1\s?>", re.I
)
_TAG = re.compile(r"<[^<>]{1,200}>")


def recognises(value: dict[str, Any]) -> bool:
    """Whether a JSON object is a result of Europe PMC: it has an id, a source, and its names."""
    return "id" in value and "source" in value and bool(value.keys() & _OWN_KEYS)


def convert(value: dict[str, Any]) -> PaperFields:
    """One result of a search as a paper.

    Args:
        value: An element of resultList.result.

    Raises:
        RecordProblem: With reason wrong_type, where title or abstract is no text.
    """
    abstract, sections = _abstract(text_in(value, "abstractText"))
    free = name_in(value, "isOpenAccess").upper()
    return without_nothing(
        {
            **_identifiers(value),
            "title": text_in(value, "title"),
            "abstract": abstract,
            "full_text": sections,
            "keywords": names_in(object_in(value, "keywordList"), "keyword"),
            "journal": _journal(value),
            "publication_date": date_in(name_in(value, "firstPublicationDate"))
            or date_in(name_in(value, "pubYear")),
            "language": language_code(name_in(value, "language")),
            "license": name_in(value, "license"),
            "open_access": free == "Y" if free in ("Y", "N") else None,
            "publication_types": _types(value),
            "retracted": _retracted(value),
        }
    )


def _identifiers(value: dict[str, Any]) -> dict[str, str]:
    """The paper's own; the id is a PMID or PMCID by its source, else that of a preprint."""
    source, own = name_in(value, "source").upper(), name_in(value, "id")
    return own_identifiers(
        pmid=name_in(value, "pmid") or (own if source == "MED" else ""),
        doi=name_in(value, "doi"),
        pmcid=name_in(value, "pmcid") or (own if source == "PMC" else ""),
        other_id=own if source == "PPR" or not source else f"{source.lower()}:{own}" if own else "",
    )


def _abstract(text: str) -> tuple[str, list[Any]]:
    """The abstract with its headings as labels; and summaries of another kind as sections."""
    if "<" not in text:
        return text, []
    # The text before the first heading, then a level, a heading and a text each time.
    pieces = _HEADING.split(text)
    labelled = [("", pieces[0])]
    labelled += [(pieces[i + 1], pieces[i + 2]) for i in range(1, len(pieces), 3)]
    return abstract_of((_TAG.sub("", label), part) for label, part in labelled)


def _types(value: dict[str, Any]) -> list[str]:
    """Kinds of publication: a list in core, one text with semicolons in lite."""
    return names_in(object_in(value, "pubTypeList"), "pubType") or [
        kind for part in names_in(value, "pubType") for kind in re.split(r"\s*;\s*", part) if kind
    ]


def _journal(value: dict[str, Any]) -> str:
    journal = object_in(object_in(value, "journalInfo"), "journal")
    book = object_in(value, "bookOrReportDetails")
    return (
        name_in(journal, "title")
        or name_in(value, "journalTitle")
        or name_in(book, "comprisingTitle")
        or name_in(book, "publisher")
    )


def _retracted(value: dict[str, Any]) -> str:
    """Whether a notice says so; title and kind are looked at for all formats alike."""
    links = object_in(value, "commentCorrectionList").get("commentCorrection")
    linked = any(
        name_in(link, "type").lower() == "retraction in"
        for link in (links if isinstance(links, list) else [links])
        if isinstance(link, dict)
    )
    return "retracted" if linked else ""
