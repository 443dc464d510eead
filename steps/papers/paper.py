"""The fields of one record become a `Paper`.

Only what is used is looked at, and read as people write it: a score in quotes, a journal as an
object, a structured abstract as labelled parts. A record whose text or score is something else
is a `RecordProblem`, which the pipeline turns into a rejection with its reason.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from steps.papers.headings import lookup
from steps.papers.identifiers import MAX_IDENTIFIER_CHARACTERS, Identity, identity_of
from steps.papers.json_text import decode_json, is_missing
from steps.papers.records import RecordProblem

TIERS = ("gold_standard", "high_quality", "medium_quality", "low_quality", "filtered_out")
TIER_ALIASES = {"moderate_quality": "medium_quality"}

# The names by which a field is known besides its own, without case, blanks and underscores.
_SYNONYMS = {
    "pmid": "pubmedid pubmed pubmedids",
    "pmcid": "pmc pmcids pubmedcentralid",
    "other_id": "arxivid arxiv paperid corpusid documentid",
    "doi": "dois",
    "title": "articletitle papertitle fulltitle question",
    "abstract": "abstracttext contexts",
    "full_text": "fulltext body bodytext articlebody sections",
    "text": "content",
    "journal": "journaltitle journalname containertitle",
    "publication_date": "pubdate publicationyear publishtime published date year",
    "keywords": "keyword keywordlist",
    "tier": "qualitytier",
    "score": "qualityscore",
    "license": "licence",
    "publication_types": "publicationtype publicationtypes pubtypes articletype",
}
_KEY_MARKS = re.compile(r"[\s_-]+")
MISSING_NUMBERS = "NaN or Infinity read as missing"


class Paper(msgspec.Struct, frozen=True):
    """One paper, of the fields that are used; see `steps.papers.records.PaperFields`.

    The shape of the sections in `full_text` is left to `steps.papers.sections`.

    Attributes:
        notes: What was read in another way than it stands, as a line for the report.
    """

    pmid: Any = None
    doi: Any = None
    pmcid: Any = None
    other_id: Any = None
    title: str | None = None
    abstract: str | None = None
    full_text: str | list[Any] | dict[str, Any] | None = None
    text: str | None = None
    journal: str | None = None
    publication_date: str | None = None
    score: float | None = None
    tier: str | None = None
    keywords_found: list[str] = []
    keywords: list[str] = []
    benchmarks_used: list[str] = []
    benchmarks: list[str] = []
    validation_methods: list[str] = []
    captions: list[str] = []
    language: str | None = None
    license: str | None = None
    open_access: bool | None = None
    publication_types: list[str] = []
    retracted: str | None = None
    tables_left_out: int = 0
    source_format: str = "json"
    notes: tuple[str, ...] = ()


_LISTS = (
    "keywords_found", "keywords", "benchmarks_used", "benchmarks", "validation_methods",
    "captions",
)  # fmt: skip


def paper_of(fields: Mapping[str, Any], source_format: str = "json") -> Paper:
    """The paper that the fields of a record make.

    Raises:
        RecordProblem: With reason wrong_type, where text, score or tier are something else.
    """
    notes: list[str] = []
    values = _by_name(fields, notes)
    if "section" in fields and "text" in values and not values.keys() & {"title", "abstract"}:
        raise RecordProblem(
            "wrong_layout",
            "the record is one paragraph, a text with its section and no title: put the "
            "paragraphs of a paper together, as a list under full_text",
        )
    if not values.get("full_text") and not values.get("text"):
        values["full_text"] = _sections_at_the_top(fields)
    title = _text(values, "title")
    types = _names(values.get("publication_types"))
    date = values.get("publication_date")
    return Paper(
        pmid=values.get("pmid"),
        doi=values.get("doi"),
        pmcid=values.get("pmcid"),
        other_id=values.get("other_id"),
        title=title,
        abstract=_abstract(values.get("abstract")),
        full_text=_full_text(values.get("full_text")),
        text=_text(values, "text"),
        journal=_name_in(values.get("journal")),
        publication_date=_date(date),
        score=_score(values.get("score")),
        tier=_text(values, "tier"),
        language=_name_in(values.get("language")),
        license=_name_in(values.get("license")),
        open_access=_yes(values.get("open_access")),
        retracted=_retracted(values.get("retracted")) or _said_retracted(title, types),
        tables_left_out=_count(values.get("tables_left_out")),
        source_format=source_format,
        notes=tuple(notes),
        publication_types=types,
        **{key: _names(values.get(key)) for key in _LISTS},
    )


def _by_name(fields: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The fields that are used, by our names, without what is missing."""
    values: dict[str, Any] = {}
    others: dict[str, Any] = {}
    missing = 0
    for key, value in fields.items():
        if is_missing(value):
            missing += value is not None
        elif key in _USED:
            values[key] = value
        else:
            others[key] = value
    for key, value in others.items():
        field = _FIELD_OF_NAME.get(_KEY_MARKS.sub("", key).lower())
        if key == "contexts" and isinstance(value, list) and value and isinstance(value[0], dict):
            field = "full_text"  # sections; plain texts are the parts of an abstract
        if field is not None and not values.get(field) and value:
            values[field] = value
            notes.append(f"key {key[:40]!r} read as {field}")
    if missing:
        notes.extend([MISSING_NUMBERS] * missing)
    return values


def _sections_at_the_top(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Introduction, methods and so on where they stand beside the title, as keys of their own."""
    found = {
        key: value
        for key, value in fields.items()
        if isinstance(value, str | list) and lookup(key.replace("_", " ").lower()) in _BODY_SECTIONS
    }
    return found or None


_BODY_SECTIONS = ("introduction", "methods", "results", "discussion", "conclusion")
_USED = frozenset(Paper.__struct_fields__) - {"source_format", "notes"}
_FIELD_OF_NAME = {_KEY_MARKS.sub("", field): field for field in _USED} | {
    name: field for field, names in _SYNONYMS.items() for name in names.split()
}


# --- values as people write them ---------------------------------------------------------


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # Crossref writes titles so
    if value is None or isinstance(value, str):
        return value
    raise _wrong_type(key, value, "text")


def _abstract(value: Any) -> str | None:
    """An abstract: text, or its parts with their labels, as an object or as a list."""
    if value is None or isinstance(value, str):
        return None if value is None or _NO_ABSTRACT.fullmatch(value.strip()) else value
    parts = list(_labelled(value, 0))
    if isinstance(value, dict | list) and (parts or not value):
        return "\n\n".join(parts)
    raise _wrong_type("abstract", value, "text or labelled parts")


# What Scopus and others write where there is none.
_NO_ABSTRACT = re.compile(r"[\[(]?no abstract(?: is)?(?: available| provided)?\.?[\])]?", re.I)
_NO_PARTS = frozenset(("id", "lang", "language", "type", "xml:lang", "@id", "@lang"))
_PART_LABELS = ("label", "heading", "title", "section", "name", "nlm_category", "@label")
_PART_TEXTS = ("text", "content", "value", "abstract", "body", "paragraphs", "#text", "sections")
MAX_ABSTRACT_DEPTH = 20


def _labelled(value: Any, depth: int) -> Any:
    """The parts of an abstract, each as "LABEL: text"."""
    if depth > MAX_ABSTRACT_DEPTH:
        raise RecordProblem("wrong_type", f"abstract nested deeper than {MAX_ABSTRACT_DEPTH}")
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, list):
        for item in value:
            yield from _labelled(item, depth + 1)
    elif isinstance(value, dict):
        fields = {str(key).lower(): item for key, item in value.items()}
        text = next((fields[key] for key in _PART_TEXTS if fields.get(key)), None)
        if text is not None:
            label = next((fields[k] for k in _PART_LABELS if isinstance(fields.get(k), str)), "")
            yield from _behind(label, _labelled(text, depth + 1))
        else:
            for key, item in value.items():
                if isinstance(item, str | list | dict) and str(key).lower() not in _NO_PARTS:
                    yield from _behind(str(key), _labelled(item, depth + 1))


def _behind(label: str, parts: Any) -> Any:
    label = label.replace("_", " ").strip().rstrip(":")
    is_label = label and label.lower() not in ("abstract", "text", "unlabelled", "unassigned", "p")
    for number, part in enumerate(parts):
        yield f"{label}: {part}" if is_label and not number else part


def _full_text(value: Any) -> str | list[Any] | dict[str, Any] | None:
    if value is None or isinstance(value, str | list | dict):
        return value
    raise _wrong_type("full_text", value, "text or sections")


def _score(value: Any) -> float | None:
    """A score: a number, in quotes too."""
    if isinstance(value, str):
        if not value.strip() or value.strip().lower() in ("nan", "none", "null", "n/a", "na", "-"):
            return None
        try:
            value = float(value.strip().removesuffix("%"))
        except ValueError:
            raise _wrong_type("score", value, "a number") from None
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise _wrong_type("score", value, "a number")
    return float(value)


def _name_in(value: Any) -> str | None:
    """A name: text, or what an object or a list gives as its name; None where it is neither."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list) and value:
        return _name_in(value[0])
    if isinstance(value, dict):
        fields = {str(key).lower(): item for key, item in value.items()}
        for key in ("name", "title", "full", "fulltitle", "url", "value", "#text", "iso",
                    "isoabbreviation", "abbreviation", "abbrev"):  # fmt: skip
            if isinstance(fields.get(key), str) and fields[key].strip():
                return str(fields[key]).strip()
    return None


def _names(value: Any) -> list[str]:
    """A list of names; a single one is a list of one, and what is no name is passed over."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, dict):
        inner = next((v for v in value.values() if isinstance(v, list)), None)
        return _names(inner) if inner is not None else [str(key) for key in value]
    if not isinstance(value, list):
        return []
    found = []
    for item in value:
        if isinstance(item, dict):
            item = item.get("keyword", item.get("term")) or _name_in(item)
        if isinstance(item, int | float) and not isinstance(item, bool) and not is_missing(item):
            item = str(item)
        if isinstance(item, str) and item.strip():
            found.append(item)
    return found


def _date(value: Any) -> str | None:
    """A date as text; parts (year, month, day) as YYYY-MM-DD."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return str(int(value)) if abs(value) < 1e9 else None
    if isinstance(value, dict):
        fields = {str(key).lower(): item for key, item in value.items()}
        if "date-parts" in fields:
            return _date(fields["date-parts"])
        value = [fields.get("year"), fields.get("month"), fields.get("day")]
    if isinstance(value, list):
        while value and isinstance(value[0], list):
            value = value[0]
        parts = [str(part).strip() for part in value if isinstance(part, str | int)][:3]
        numbers = [f"{int(part):02d}" if part.isdigit() else part for part in parts]
        return "-".join(number for number in numbers if number) or None
    return None


def _yes(value: Any) -> bool | None:
    if isinstance(value, str):
        return value.strip().lower() in ("y", "yes", "true", "1", "open", "open access")
    return bool(value) if isinstance(value, bool | int) else None


def _retracted(value: Any) -> str | None:
    if isinstance(value, str):
        name = value.strip().lower()
        return name if name and name not in ("no", "n", "false", "0", "none") else None
    return "retracted" if value is True or (isinstance(value, int) and value == 1) else None


# How journals mark a paper that they have taken back: "RETRACTED: …", "Withdrawn article: …".
_TAKEN_BACK = re.compile(
    r"[\s\W]*(retracted|withdrawn)(?:\s+(?:article|paper|chapter|manuscript))?\s*[:\]\u2013\u2014]",
    re.IGNORECASE,
)
_RETRACTED_TYPES = frozenset(("retracted publication", "retracted article", "retracted-article"))


def _said_retracted(title: str | None, publication_types: list[str]) -> str | None:
    """Whether title or kind say that the paper was taken back; a notice about another is not."""
    if any(name.casefold() in _RETRACTED_TYPES for name in publication_types):
        return "retracted"
    marked = _TAKEN_BACK.match(title or "")
    return marked[1].lower() if marked else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _wrong_type(key: str, value: Any, expected: str) -> RecordProblem:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return RecordProblem("wrong_type", f"{key} is {shown}, expected {expected}")


# --- who a paper is, and how good --------------------------------------------------------


def identify(paper: Paper) -> Identity:
    """The identifier of a paper.

    Raises:
        RecordProblem: With reason no_identifier or bad_identifier, see `identity_of`.
    """
    return identity_of(paper.pmid, paper.doi, paper.pmcid, paper.other_id)


def identifier_in(data: bytes) -> str | None:
    """The identifier that a rejected record gives, as far as it can be read."""
    try:
        value = decode_json(data)
        names = _by_name(value, []) if isinstance(value, dict) else {}
        found = [
            str(names[key]).strip()
            for key in ("pmid", "doi", "pmcid", "other_id")
            if isinstance(names.get(key), str | int)
        ]
    except (RecordProblem, ValueError):
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
