"""What the converters of all formats have in common: dates, languages, identifiers, abstracts."""

import re
from typing import Any, cast

from steps.papers.identifiers import identity_of
from steps.papers.records import PaperFields, RecordProblem

_SPACE = re.compile(r"\s+")
_DATE = re.compile(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?))?)?")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_LANGUAGES_OF_NOTHING = frozenset(("und", "mul", "zxx"))
_TWO_LETTERS = {
    "eng": "en", "fre": "fr", "fra": "fr", "ger": "de", "deu": "de", "spa": "es", "ita": "it",
    "jpn": "ja", "chi": "zh", "zho": "zh", "rus": "ru", "por": "pt", "pol": "pl", "kor": "ko",
    "dut": "nl", "nld": "nl", "dan": "da", "swe": "sv", "nor": "no", "fin": "fi", "cze": "cs",
    "ces": "cs", "hun": "hu", "tur": "tr", "heb": "he", "ukr": "uk", "rum": "ro", "gre": "el",
}  # fmt: skip
# Abstracts of another kind, which are sections of their own; and labels that say nothing.
_SUMMARIES = {
    "author summary", "plain language summary", "lay summary", "non-technical summary",
    "editor's summary", "editorial summary", "significance statement", "highlights", "key points",
}  # fmt: skip
_NO_LABELS = {"abstract", "summary", "text", "unlabelled", "unassigned"}


def iso_date(year: str, month: str, day: str) -> str:
    """A date by its parts: ("2018", "May", "7") is 2018-05-07; "" without a year."""
    match = re.search(r"\d{4}", year)
    if not match:
        return ""
    number = int(month) if month.isdigit() else next(
        (n for n, name in enumerate(_MONTHS, 1) if month.lower().startswith(name)), 0
    )  # fmt: skip
    if not 1 <= number <= 12:
        return match[0]
    if not day.isdigit() or not 1 <= int(day) <= 31:
        return f"{match[0]}-{number:02d}"
    return f"{match[0]}-{number:02d}-{int(day):02d}"


def language_code(code: str | None) -> str:
    """ISO 639-1 code of a language in that or in ISO 639-2; "" where it says none."""
    name = (code or "").strip().lower().split("-")[0].split("_")[0]
    return "" if name in _LANGUAGES_OF_NOTHING else _TWO_LETTERS.get(name, name)


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


def without_nothing(values: dict[str, Any]) -> PaperFields:
    """The fields that say something."""
    return cast(
        PaperFields,
        {key: v for key, v in values.items() if v is False or v not in ("", [], 0, None)},
    )
