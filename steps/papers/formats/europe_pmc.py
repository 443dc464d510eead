"""One result of Europe PMC's REST service as a paper, of resultType core or lite.

    {"id": "31000001", "source": "MED", "pmid": "31000001", "title": "…", "abstractText": "…"}

The functions that read JSON values without trusting their types stand here too; the other
JSON formats use them.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from steps.papers.formats.jats import iso_date, language_code
from steps.papers.identifiers import identity_of
from steps.papers.json_text import is_missing
from steps.papers.possessive import compile_possessive
from steps.papers.records import PaperFields, RecordProblem

_OWN_KEYS = {
    "abstractText", "authorString", "authorList", "journalInfo", "journalTitle", "pubTypeList",
    "pubYear", "isOpenAccess", "inEPMC", "firstPublicationDate", "fullTextUrlList",
    "bookOrReportDetails",
}  # fmt: skip
_HEADING = compile_possessive(
    r"<h(\d)\b[^<>]{0,200}>([^<>]*+(?:<(?!/?h\d)[^<>]*+>[^<>]*+)*+)</h\1\s?>", re.I
)
_TAG = re.compile(r"<[^<>]{1,200}>")
_SPACE = re.compile(r"\s+")
_DATE = re.compile(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?))?)?")
_RETRACTED_TITLE = re.compile(r"\W*(withdrawn|retracted)\s*(?:article|paper)?\s*:", re.IGNORECASE)
# Abstracts of another kind, which are sections of their own; and labels that say nothing.
_SUMMARIES = {
    "author summary", "plain language summary", "lay summary", "non-technical summary",
    "editor's summary", "editorial summary", "significance statement", "highlights", "key points",
}  # fmt: skip
_NO_LABELS = {"abstract", "summary", "text", "unlabelled", "unassigned"}


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
    title = text_in(value, "title")
    abstract, sections = _abstract(text_in(value, "abstractText"))
    types = _types(value)
    free = name_in(value, "isOpenAccess").upper()
    return without_nothing(
        {
            **_identifiers(value),
            "title": title,
            "abstract": abstract,
            "full_text": sections,
            "keywords": names_in(object_in(value, "keywordList"), "keyword"),
            "journal": _journal(value),
            "publication_date": date_in(name_in(value, "firstPublicationDate"))
            or date_in(name_in(value, "pubYear")),
            "language": language_code(name_in(value, "language")),
            "license": name_in(value, "license"),
            "open_access": free == "Y" if free in ("Y", "N") else None,
            "publication_types": types,
            "retracted": _retracted(value, types) or retracted_by_title(title),
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


def _retracted(value: dict[str, Any], types: list[str]) -> str:
    if "retracted publication" in (kind.lower() for kind in types):
        return "retracted"
    links = object_in(value, "commentCorrectionList").get("commentCorrection")
    linked = any(
        name_in(link, "type").lower() == "retraction in"
        for link in (links if isinstance(links, list) else [links])
        if isinstance(link, dict)
    )
    return "retracted" if linked else ""


# --- what the JSON formats have in common ------------------------------------------------


def _only(value: Any) -> Any:
    """What a list of one holds, for some exporters (getpapers) wrap every value in one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def text_in(value: Mapping[str, Any], key: str) -> str:
    """Text to learn from, on one line; see `text_as_given_in`."""
    return one_line(text_as_given_in(value, key))


def text_as_given_in(value: Mapping[str, Any], key: str) -> str:
    """Text to learn from, character for character; "" where there is none.

    Raises:
        RecordProblem: With reason wrong_type, where it is something else.
    """
    text = _only(value.get(key))
    if is_missing(text):
        return ""
    if not isinstance(text, str):
        raise RecordProblem("wrong_type", f"{key} is {type(text).__name__}, expected text")
    return text


def objects_in(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects of a list that holds text to learn from.

    Raises:
        RecordProblem: With reason wrong_type, where it is no list of objects.
    """
    items = value.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise RecordProblem("wrong_type", f"{key} is {type(items).__name__}, expected a list")
    found = [item for item in items if item is not None]
    wrong = next((item for item in found if not isinstance(item, dict)), None)
    if wrong is not None:
        raise RecordProblem("wrong_type", f"{key} holds {type(wrong).__name__}, expected objects")
    return found


def object_in(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object of particulars; empty where it is something else."""
    inner = _only(value.get(key))
    return inner if isinstance(inner, dict) else {}


def name_in(value: Mapping[str, Any], key: str) -> str:
    """A name, number or code on one line; "" where it is something else."""
    name = _only(value.get(key))
    if isinstance(name, int) and not isinstance(name, bool) and abs(name) < 10**18:
        return str(name)
    return one_line(name) if isinstance(name, str) else ""


def names_in(value: Mapping[str, Any], key: str) -> list[str]:
    """A list of names, or a single one; what is no name is passed over."""
    names = value.get(key)
    items = names if isinstance(names, list) else [names]
    return [name for item in items if isinstance(item, str) and (name := one_line(item))]


def one_line(text: str) -> str:
    """A text with each run of white space as one blank."""
    return _SPACE.sub(" ", text).strip()


def date_in(text: str) -> str:
    """The date that a text begins with, as YYYY, YYYY-MM or YYYY-MM-DD; "" where it has none."""
    match = _DATE.match(text)
    return iso_date(match[1], match[2] or "", match[3] or "") if match else ""


def own_identifiers(
    pmid: Any = "", doi: Any = "", pmcid: Any = "", other_id: str = ""
) -> dict[str, str]:
    """The identifiers of a paper in their usual form, without placeholders such as "N/A".

    Args:
        pmid: PubMed identifier, however it is written.
        doi: The paper's own.
        pmcid: With or without "PMC".
        other_id: Used where there is none of these.
    """
    try:
        found = identity_of(pmid, doi, pmcid, other_id)
    except RecordProblem:  # none, which is reported once the whole paper is read
        return {}
    names = {"pmid": found.pmid, "doi": found.doi, "pmcid": found.pmcid}
    return {k: v for k, v in names.items() if v} or {"other_id": found.other_id}


def abstract_of(parts: Any) -> tuple[str, list[Any]]:
    """An abstract from its parts.

    Args:
        parts: Pairs of label and text, in their order.

    Returns:
        The paragraphs, those with a label behind it; and as sections of the full text what is a
        summary of another kind, such as PLOS's author summary.
    """
    paragraphs: list[str] = []
    sections: list[Any] = []
    for label, text in parts:
        label, text = one_line(label).rstrip(" :."), one_line(text)
        if not text:
            continue
        if label.lower() in _SUMMARIES:
            sections.append({"heading": label, "paragraphs": [text]})
        elif label and label.lower() not in _NO_LABELS:
            paragraphs.append(f"{label}: {text}")
        else:
            paragraphs.append(text)
    return "\n\n".join(paragraphs), sections


def retracted_by_title(title: str) -> str:
    """Which of retracted and withdrawn a title begins with, before a colon; else ""."""
    begins = _RETRACTED_TITLE.match(title)
    return begins[1].lower() if begins else ""


def without_nothing(values: dict[str, Any]) -> PaperFields:
    """The fields that say something."""
    return cast(
        PaperFields,
        {key: v for key, v in values.items() if v is False or v not in ("", [], 0, None)},
    )
