"""What names a paper: PMID, DOI, PMCID, however they are written."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from steps.papers.records import RecordProblem

MAX_IDENTIFIER_CHARACTERS = 250
_PMID_PREFIX = re.compile(
    r"^\s*(?:https?://(?:www\.)?(?:pubmed\.ncbi\.nlm\.nih\.gov|ncbi\.nlm\.nih\.gov/pubmed)/"
    r"|(?:pmid|pubmed(?:\s?id)?|medline|med)\s*[:#]?)\s*",
    re.IGNORECASE,
)
_DOI_PREFIX = re.compile(
    r"^\s*(?:https?://(?:dx\.|www\.)?doi\.org/|doi\.org/|doi\s*[:=]?\s*(?=10\.|$|\D)|info:doi/)\s*",
    re.IGNORECASE,
)
_PMCID = re.compile(
    r"^(?:https?://\S*/)?(?:pmcid\s*:?\s*)?(PMC\d{1,10})(?:\.\d+)?/?$", re.IGNORECASE
)
# What exporters write where there is no identifier.
_PLACEHOLDER = re.compile(
    r"<?n[./]?\s?a\.?[nt]?>?|pmc|#n/?a!?|nan|nil|null|none|undefined|unknown|missing|pending|empty|tb[adc]"
    r"|false|true|not?[\s_-]*(?:yet[\s_-]*)?(?:available|applicable|found|assigned|known|provided"
    r"|given|specified|indexed|listed|doi|pmid|id|value|data|registered)|unavailable|unassigned"
    r"|in press|to be (?:assigned|announced|determined)|without|absent|0+(?:\.0+)?|\W*|x+|-1",
    re.IGNORECASE,
)
_NEXT_DOI = re.compile(r"[\s;,|]+(?=(?:https?://\S{0,20}doi\.org/|doi:\s?)?10\.\d)", re.IGNORECASE)
_NEXT_NUMBER = re.compile(r"[\s;,|]+")
_DOI_IN_ADDRESS = re.compile(r"https?://\S*?/(10\.\d{4,9}/\S+)", re.IGNORECASE)
_NO_PMID = re.compile(r"-\d+|\d+\.\d+|\d+(?:\.\d+)?e\+?\d+", re.IGNORECASE)
_FROM_FLOAT = re.compile(r"(\d+)\.0+")  # 12345678.0, as tables with gaps are written


@dataclass(frozen=True)
class Identity:
    """What names a paper; records that share one of these are one paper.

    Attributes:
        pmid: PubMed identifier, or "".
        doi: Digital object identifier in lower case without its resolver, or "".
        pmcid: Identifier of PubMed Central, "PMC123", or "".
        other_id: Another one with its kind, "arxiv:2101.00001", where there is none of these.
    """

    pmid: str
    doi: str
    pmcid: str = ""
    other_id: str = ""

    @property
    def paper_id(self) -> str:
        """The PMID where there is one, else the DOI, the PMCID, the other."""
        return self.pmid or self.doi or self.pmcid or self.other_id

    @property
    def names(self) -> tuple[str, ...]:
        """All that it has of these."""
        return tuple(filter(None, (self.pmid, self.doi, self.pmcid, self.other_id)))


def identity_of(pmid: Any, doi: Any, pmcid: Any = None, other_id: Any = None) -> Identity:
    """The identity by the values of its fields.

    Placeholders ("N/A", "nan", "0") count as absent. One bad identifier beside a good one does
    no harm; of several in one field the first is the paper's own.

    Raises:
        RecordProblem: With reason no_identifier, where all are absent, or bad_identifier, where
            what there is is no identifier.
    """
    found: dict[str, str] = {}
    bad: list[str] = []
    for kind, value in (("pmid", pmid), ("pmcid", pmcid), ("doi", doi), ("other_id", other_id)):
        for text in _texts(value):
            name = _clean(kind, text)
            if not name or is_placeholder(name):
                continue
            central = _PMCID.match(name)
            if central:
                found.setdefault("pmcid", central[1].upper())
            elif kind == "pmcid" and name.isdigit():
                found.setdefault("pmcid", f"PMC{name}")
            elif kind == "pmid" and (doi_inside := _clean("doi", name)).startswith("10."):
                found.setdefault("doi", doi_inside)
            elif _is_identifier(kind, name):
                found.setdefault(kind, name)
            else:
                bad.append(name)
            break
    if not found and bad:
        raise RecordProblem("bad_identifier", f"{bad[0][:60]!r} is no identifier")
    if not found:
        raise RecordProblem("no_identifier", "neither pmid nor doi is given")
    names = [found.get(kind, "") for kind in ("pmid", "doi", "pmcid", "other_id")]
    return Identity(*names)


def is_placeholder(name: str) -> bool:
    """Whether a text says that there is no identifier: "N/A", "doi: none", "0", "-"."""
    bare = _DOI_PREFIX.sub("", _PMID_PREFIX.sub("", name))
    return _PLACEHOLDER.fullmatch(bare.strip()) is not None


def _texts(value: Any) -> list[str]:
    """The value of an identifier as texts: a string, a whole number, or those in a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        whole = isinstance(value, int) or (abs(value) < 1e15 and value == int(value))
        return (
            [str(int(value)) if whole else str(value)] if abs(value) < 1e18 else [str(value)[:99]]
        )
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        inner = next((value[key] for key in ("value", "id", "#text", "_") if key in value), None)
        return _texts(inner) if not isinstance(inner, dict | list) else []
    return []


def _clean(kind: str, text: str) -> str:
    text = unicodedata.normalize("NFKC", text).strip()
    if kind == "doi":
        name = unquote(_DOI_PREFIX.sub("", text).strip())
        inside = _DOI_IN_ADDRESS.match(name)  # the page of a publisher
        name = (inside[1] if inside else name).split("?")[0]
        return _NEXT_DOI.split(name)[0].rstrip(".,;").strip().lower()
    if kind == "pmid":
        name = _PMID_PREFIX.sub("", text).strip().rstrip("/")
        parts = _NEXT_NUMBER.split(name)
        if len(parts) > 1 and all(part.isdigit() for part in parts if part):
            name = parts[0]
        whole = _FROM_FLOAT.fullmatch(name)
        name = whole[1] if whole else name
        return name.lstrip("0") or "0" if name.isdigit() else name
    return text


def _is_identifier(kind: str, name: str) -> bool:
    fits = len(name) <= MAX_IDENTIFIER_CHARACTERS and name.isprintable() and " " not in name
    return fits and not (kind == "pmid" and _NO_PMID.fullmatch(name))
