"""One record, checked whole, becomes a `Paper`.

A record that is not what the papers layout says is a `RecordProblem`, which the pipeline turns
into a rejection with its reason; nothing of it is lost.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from steps.papers.records import RecordProblem

TIERS = ("gold_standard", "high_quality", "medium_quality", "low_quality", "filtered_out")
TIER_ALIASES = {"moderate_quality": "medium_quality"}
MAX_IDENTIFIER_CHARACTERS = 250

# Keys of a section whose value is not text to learn from and may be a number.
SECTION_NUMBERING = frozenset({"id", "level", "number", "order", "sec_num", "type"})
_PMID_PREFIX = re.compile(r"^\s*pmid\s*:?\s*", re.IGNORECASE)
_DOI_PREFIX = re.compile(r"^\s*(?:https?://(?:dx\.)?doi\.org/|doi\s*:\s*)", re.IGNORECASE)


class Paper(msgspec.Struct, frozen=True):
    """One record of the papers layout; keys that are not named here are ignored.

    The shape of the sections in `full_text` is left to `steps.papers.sections`.
    """

    pmid: str | Annotated[int, msgspec.Meta(ge=0, lt=10**18)] | None = None
    doi: str | None = None
    title: str | None = None
    abstract: str | None = None
    full_text: str | list[Any] | dict[str, Any] | None = None
    text: str | None = None
    authors: str | list[str | dict[str, Any]] | None = None
    journal: str | None = None
    publication_date: str | Annotated[int, msgspec.Meta(ge=0, lt=10**9)] | None = None
    score: float | None = None
    tier: str | None = None
    ai_ml_detected: bool | None = None
    component_scores: dict[str, float | None] | list[float | None] | None = None
    reasoning: str | list[str] | None = None
    keywords_found: str | list[str] | None = None
    keywords: str | list[str] | None = None
    benchmarks_used: str | list[str] | None = None
    benchmarks: str | list[str] | None = None
    validation_methods: str | list[str] | None = None
    scored_at: str | None = None


@dataclass(frozen=True)
class Identity:
    """What names a paper; records that share a PMID or a DOI are one paper.

    Attributes:
        pmid: PubMed identifier, or "".
        doi: Digital object identifier in lower case without its resolver, or "".
    """

    pmid: str
    doi: str

    @property
    def paper_id(self) -> str:
        """The PMID where there is one, else the DOI."""
        return self.pmid or self.doi


def parse_paper(data: bytes) -> Paper:
    """Check one record against the papers layout, at every depth.

    Args:
        data: JSON text of the record.

    Returns:
        The paper. Lone surrogates are replaced by U+FFFD.

    Raises:
        RecordProblem: With reason malformed_json, invalid_utf8, wrong_type or not_finite.
    """
    try:
        paper = msgspec.convert(_decode(data), Paper)
        _check_leaves(paper.full_text, "full_text")
    except UnicodeDecodeError as error:
        raise RecordProblem("invalid_utf8", f"byte {error.start}: {error.reason}") from error
    except msgspec.ValidationError as error:
        raise RecordProblem("wrong_type", str(error)) from error
    except RecursionError as error:
        raise RecordProblem("malformed_json", "nested too deeply") from error
    except ValueError as error:  # of json, which names line, column and byte
        raise RecordProblem("malformed_json", str(error)) from error
    parts = paper.component_scores or []
    for number in (paper.score, *(parts.values() if isinstance(parts, dict) else parts)):
        if number is not None and not math.isfinite(number):
            raise RecordProblem("not_finite", f"a score is {number}, expected a finite number")
    return paper


def _check_leaves(value: Any, key: str) -> None:
    """Refuse anything but text within a full text, except the numbering of its sections."""
    if isinstance(value, dict):
        for inner, item in value.items():
            _check_leaves(item, inner)
    elif isinstance(value, list):
        for item in value:
            _check_leaves(item, key)
    elif not isinstance(value, str | None) and key not in SECTION_NUMBERING:
        raise RecordProblem("wrong_type", f"{value!r} in full_text at {key[:60]!r}, expected text")


def _decode(data: bytes) -> Any:
    text = data.decode()
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # msgspec is strict; json also reads NaN and lone surrogates, which other writers emit.
        return _without_surrogates(json.loads(text))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


def identify(paper: Paper) -> Identity:
    """The identifier of a paper.

    Raises:
        RecordProblem: With reason no_identifier, where pmid and doi are absent or blank, or
            bad_identifier, where one is no single short word.
    """
    pmid = _PMID_PREFIX.sub("", "" if paper.pmid is None else str(paper.pmid)).strip()
    doi = _DOI_PREFIX.sub("", paper.doi or "").strip().lower()
    if not pmid and not doi:
        raise RecordProblem("no_identifier", "neither pmid nor doi is given")
    for name in (pmid, doi):
        if len(name) > MAX_IDENTIFIER_CHARACTERS or not name.isprintable() or " " in name:
            raise RecordProblem("bad_identifier", f"{name[:60]!r} is no identifier")
    return Identity(pmid, doi)


def identifier_in(data: bytes) -> str | None:
    """The identifier that a rejected record gives, as far as it can be read."""
    try:
        value = _decode(data)
        names = [value.get("pmid"), value.get("doi")] if isinstance(value, dict) else []
        found = [str(name).strip() for name in names if isinstance(name, str | int)]
    except (ValueError, RecursionError):
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
