"""Papers of Semantic Scholar's corpora: S2ORC old and new, CORD-19, and unarXive.

    {"paper_id": "PMC1", "metadata": {…}, "abstract": […], "body_text": [{"section": …, "text": …}]}
    {"corpusid": 1, "externalids": {…}, "content": {"text": "…", "annotations": {…}}}

All but the new S2ORC are lists of paragraphs, each with its heading and with the places of the
marks that cite; in the new one a single text has lists of such places, as JSON in strings.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from steps.papers.formats.citation_marks import without_citations
from steps.papers.formats.fields import (
    abstract_of,
    date_in,
    iso_date,
    one_line,
    own_identifiers,
    without_nothing,
)
from steps.papers.formats.json_values import (
    name_in,
    names_in,
    object_in,
    objects_in,
    text_as_given_in,
    text_in,
)
from steps.papers.formats.outline import DEEPEST, leveled, nest, under_paths
from steps.papers.headings import section_of_heading
from steps.papers.records import PaperFields, RecordProblem

_PARSES = ("pdf_parse", "grobid_parse", "jats_parse", "latex_parse")
_METADATA = {"pubmed_id", "pmc_id", "arxiv_id", "has_pdf_parse", "mag_id", "s2_pdf_hash"}
_ABOVE = ":::"  # between the headings of a section and of the one around it
_SHA1 = re.compile(r"[0-9a-f]{40}")
_PMCID = re.compile(r"PMC\d+", re.IGNORECASE)
_ARXIV = re.compile(r"(?:\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?=v\d+$|$)")
# Of unarXive; REF is what it has where LaTeX says \\ref.
_MARKER = re.compile(r"\{\{\w+:[^{}]{0,100}\}\}|(?<!\w)REF(?!\w)")
_HEADED_ABSTRACT = re.compile(
    r"(?:abstract|summary)\s*(?:[:.—–-]\s*|\s(?=[A-Z])|(?=[A-Z][a-z]))", re.I
)
_MONTHS_DATE = re.compile(r"\w{3}, (\d{1,2}) (\w{3}) (\d{4})")
_NOT_NAMED = re.compile(r"\s*(?:\bvol(?:ume)?\b|[\d(,:;]).*", re.IGNORECASE | re.DOTALL)


def recognises(value: dict[str, Any]) -> bool:
    """Whether a JSON object is a paper of one of these corpora, by its keys."""
    if "corpusid" in value:
        return True
    return "paper_id" in value and bool(
        "body_text" in value or value.keys() & {*_PARSES} or value.keys() & _METADATA
    )


def format_of(value: dict[str, Any]) -> str:
    """What the report calls it: "cord19", or "s2orc" for all others."""
    own = name_in(value, "paper_id")
    named = _SHA1.fullmatch(own) or _PMCID.fullmatch(own)
    return "cord19" if "body_text" in value and named else "s2orc"


def convert(value: dict[str, Any]) -> PaperFields:
    """One paper of S2ORC, CORD-19 or unarXive.

    Args:
        value: An object that `recognises` takes.

    Raises:
        RecordProblem: With reason wrong_type, where text or lists of text are something else.
    """
    if "corpusid" in value:
        return _convert_annotated(value)
    metadata = object_in(value, "metadata")
    parse = next((value[k] for k in _PARSES if object_in(value, k).get("body_text")), value)
    paragraphs = objects_in(parse, "body_text")
    title = text_in(value, "title") or text_in(metadata, "title") or text_in(parse, "title")
    abstract, summaries = _abstract(value, metadata, parse)
    captions, tables = _captions(parse)
    return without_nothing(
        {
            **_identifiers(value, metadata),
            "title": title,
            "abstract": abstract,
            "full_text": [*summaries, *_outline(paragraphs)],
            "captions": captions,
            "journal": _journal(value, metadata),
            "publication_date": _date(value, metadata),
            "license": name_in(metadata, "license") or name_in(value, "license"),
            "tables_left_out": tables,
        }
    )


# --- lists of paragraphs -----------------------------------------------------------------


def _identifiers(value: dict[str, Any], metadata: dict[str, Any]) -> dict[str, str]:
    places = (value, metadata, object_in(value, "identifiers"))
    own = name_in(value, "paper_id")
    arxiv = _first(("arxiv_id", "arxiv"), *places) or (own if _is_of_arxiv(metadata) else "")
    match = _ARXIV.match(arxiv)
    if match:
        other = f"arxiv:{match[0]}"
    elif _SHA1.fullmatch(own):
        other = f"sha1:{own}"
    else:
        other = f"s2:{own}" if own.isdigit() else own
    pmcid = _first(("pmcid", "pmc_id", "pmc"), *places) or (own if _PMCID.fullmatch(own) else "")
    pmid = _first(("pmid", "pubmed_id", "pubmed"), *places)
    return own_identifiers(pmid, _first(("doi",), *places), pmcid, other)


def _is_of_arxiv(metadata: dict[str, Any]) -> bool:
    return "journal-ref" in metadata or "categories" in metadata


def _first(keys: Iterable[str], *places: dict[str, Any]) -> str:
    return next((name for place in places for key in keys if (name := name_in(place, key))), "")


def _journal(value: dict[str, Any], metadata: dict[str, Any]) -> str:
    """The journal; of arXiv's reference to it ("Nat. Phys. 5 (2009) 1") the name."""
    if _is_of_arxiv(metadata):
        return _NOT_NAMED.sub("", name_in(metadata, "journal-ref")).rstrip(" .,") or "arXiv"
    places = (value, metadata)
    return (
        _first(("journal",), *places)
        or next((n for place in places if (n := name_in(object_in(place, "journal"), "name"))), "")
        or _first(("venue",), *places)
    )


def _date(value: dict[str, Any], metadata: dict[str, Any]) -> str:
    """The date; for arXiv that of the first version, "Thu, 22 Dec 2022 17:01:56 GMT"."""
    versions = metadata.get("versions")
    first = versions[0] if isinstance(versions, list) and versions else None
    created = name_in(first, "created") if isinstance(first, dict) else ""
    match = _MONTHS_DATE.match(created)
    if match:
        return iso_date(match[3], match[2], match[1])
    keys = ("publication_date", "publicationdate", "publish_time", "update_date", "year")
    return date_in(_first(keys, value, metadata))


def _abstract(*places: dict[str, Any]) -> tuple[str, list[Any]]:
    """The abstract: a text, its paragraphs with their sections, or one such; the first there is."""
    for place in places:
        given = place.get("abstract")
        if given is None or isinstance(given, str):
            text = _unheaded(_cut(text_in(place, "abstract"), {}))
            found: tuple[str, list[Any]] = (text, [])
        else:
            parts = [given] if isinstance(given, dict) else objects_in(place, "abstract")
            found = abstract_of(
                (name_in(part, "section"), _unheaded(_cut(text_as_given_in(part, "text"), part)))
                for part in parts
            )
        if any(found):
            return found
    return "", []


def _unheaded(text: str) -> str:
    """An abstract without the word "Abstract" that GROBID may leave before it."""
    match = _HEADED_ABSTRACT.match(text)
    return text[match.end() :] if match and match.end() < len(text) else text


def _sections(paragraphs: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
    """Number, heading and paragraphs: neighbours under the same heading are one section."""
    last: tuple[str, str] | None = None
    texts: list[str] = []
    for paragraph in paragraphs:
        text = _cut(text_as_given_in(paragraph, "text"), paragraph)
        number = name_in(paragraph, "sec_num") or name_in(paragraph, "sec_number")
        heading = number.rstrip("."), _cut(name_in(paragraph, "section"), {})
        if last is not None and last != heading:
            yield *last, texts
            texts = []
        last = heading
        texts += [text] if text else []
    if last is not None:
        yield *last, texts


def _outline(paragraphs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sections as they nest, by their numbers or by headings such as "Mice ::: Methods"."""
    parts = list(_sections(paragraphs))
    if any(_ABOVE in heading for _, heading, _ in parts):
        return nest(
            under_paths((_path(heading), text) for _, heading, texts in parts for text in texts)
        )
    return nest(leveled(parts))


def _path(heading: str) -> list[str]:
    """Headings from the outermost on; CORD-19 gives the innermost first, others last."""
    path = [one_line(part) for part in heading.split(_ABOVE)]
    outermost_first = section_of_heading(path[0]) and not section_of_heading(path[-1])
    return path[:DEEPEST] if outermost_first else path[::-1][:DEEPEST]


def _cut(text: str, paragraph: dict[str, Any]) -> str:
    """A text without citations and without the markers of formulas and figures."""
    return without_citations(text, [*_spans(text, paragraph), *_markers(text, paragraph)])


def _markers(text: str, paragraph: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Places of unarXive's markers; its paragraphs say what kind of content they are."""
    if "{{" in text or "content_type" in paragraph:
        yield from (match.span() for match in _MARKER.finditer(text))


def _spans(text: str, paragraph: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Places of the marks, as far as the text that they name stands there."""
    spans = paragraph.get("cite_spans")
    for span in spans if isinstance(spans, list) else []:
        place = _place(span, len(text))
        if place is None:
            continue
        named = span.get("text", span.get("mention"))
        if not isinstance(named, str) or text[place[0] : place[1]] == named:
            yield place


def _place(span: Any, length: int) -> tuple[int, int] | None:
    """The start and end of an annotation; None where it is none within the text."""
    if not isinstance(span, dict):
        return None
    start, end = span.get("start"), span.get("end")
    # Some releases wrote the places as text.
    start = int(start) if isinstance(start, str) and start.isascii() and start.isdigit() else start
    end = int(end) if isinstance(end, str) and end.isascii() and end.isdigit() else end
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        return None
    return start, end


def _captions(parse: dict[str, Any]) -> tuple[list[str], int]:
    """Captions of figures and tables, and how many tables there are."""
    captions = []
    tables = 0
    for entry in object_in(parse, "ref_entries").values():
        if not isinstance(entry, dict):
            continue
        kind = name_in(entry, "type_str") or name_in(entry, "type")
        if kind in ("figure", "table"):
            tables += kind == "table"
            text = text_in(entry, "text") or text_in(entry, "caption")
            captions.append(_cut(text, {}))
    return [caption for caption in captions if _is_caption(caption)], tables


def _is_caption(text: str) -> bool:
    """Whether it is one: older releases took pieces of sentences for captions.

    One of those begins in lower case, unless with a word such as mRNA or p53, or with a comma.
    """
    words = text.split(maxsplit=2)
    if len(words) < 3 or text[0] in ",.;:)]–-":
        return False
    first = words[0].rstrip(",.;:")
    return not (first.isalpha() and first.islower())


# --- one text with annotations -----------------------------------------------------------


def _convert_annotated(value: dict[str, Any]) -> PaperFields:
    """A paper of the new S2ORC; or of its lists of papers and abstracts, which have no text."""
    content = object_in(value, "content") or object_in(value, "body")
    text = content.get("text")
    if text is not None and not isinstance(text, str):
        raise RecordProblem("wrong_type", f"text is {type(text).__name__}, expected text")
    marked = _Annotated(text or "", object_in(content, "annotations"))
    license_of = object_in(object_in(content, "source"), "oainfo") or object_in(
        value, "openaccessinfo"
    )
    title = text_in(value, "title") or next(iter(marked.texts("title")), "")
    abstract = text_in(value, "abstract") or "\n\n".join(marked.texts("abstract"))
    return without_nothing(
        {
            **_external(value),
            "title": title,
            "abstract": _unheaded(abstract),
            "full_text": nest(leveled(marked.sections())),
            "captions": marked.texts("figurecaption") + marked.texts("tablecaption"),
            "journal": name_in(object_in(value, "journal"), "name")
            or _first(("journal", "venue"), value)
            or next(iter(marked.texts("venue")), ""),
            "publication_date": date_in(_first(("publicationdate", "year"), value)),
            "license": name_in(license_of, "license"),
            "publication_types": names_in(value, "publicationtypes"),
            "tables_left_out": len(marked.places("table")),
        }
    )


def _external(value: dict[str, Any]) -> dict[str, str]:
    """The identifiers that others gave the paper, else the corpus's own."""
    ids = object_in(value, "externalids") or object_in(
        object_in(value, "openaccessinfo"), "externalids"
    )
    by_name = {key.lower(): ids[key] for key in ids}
    arxiv = _ARXIV.match(name_in(by_name, "arxiv"))
    own = name_in(value, "corpusid")
    other = f"arxiv:{arxiv[0]}" if arxiv else f"s2:{own}" if own else ""
    return own_identifiers(
        name_in(by_name, "pubmed"),
        name_in(by_name, "doi"),
        name_in(by_name, "pubmedcentral"),
        other,
    )


class _Annotated:
    """A text with its annotations: lists of places by kind, as JSON in strings or as they are."""

    def __init__(self, text: str, annotations: dict[str, Any]) -> None:
        self._text = text
        # "section_header" in one release is "sectionheader" in another.
        self._annotations = {key.replace("_", "").lower(): v for key, v in annotations.items()}
        cited = ((start, end, True) for start, end in self.places("bibref"))
        formulas = ((start, end, False) for start, end in self.places("formula"))
        self._marks: list[tuple[int, int, bool]] = sorted([*cited, *formulas])

    def places(self, kind: str) -> list[tuple[int, int]]:
        """Start and end of each annotation of a kind, in their order."""
        return sorted((start, end) for start, end, _ in self._items(kind))

    def texts(self, kind: str) -> list[str]:
        """The texts of the annotations of a kind that have any."""
        return [text for place in self.places(kind) if (text := self._cut(*place))]

    def sections(self) -> list[tuple[str, str, list[str]]]:
        """Number, heading and paragraphs of each section, in the order of the text."""
        summary = self.places("abstract")
        headers = sorted(
            (start, one_line(self._text[start:end]), name_in(attributes, "n"))
            for start, end, attributes in self._items("sectionheader")
        )
        parts: list[tuple[str, str, list[str]]] = [("", "", [])]
        following = 0
        paragraphs = self.places("paragraph")
        if not paragraphs:  # without annotations the text is all there is
            return [("", "", [part.strip() for part in self._text.split("\n\n") if part.strip()])]
        for start, end in paragraphs:
            if any(first <= start and end <= last for first, last in summary):
                continue  # the abstract, cut into paragraphs
            while following < len(headers) and headers[following][0] <= start:
                _, heading, number = headers[following]
                parts.append((number.rstrip("."), heading, []))
                following += 1
            text = self._cut(start, end)
            parts[-1][2].extend([text] if text else [])
        return parts

    def _items(self, kind: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
        given = self._annotations.get(kind)
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError):
                raise RecordProblem("wrong_type", f"annotations.{kind} is no JSON text") from None
        for item in given if isinstance(given, list) else []:
            place = _place(item, len(self._text))
            if place is not None:
                yield *place, object_in(item, "attributes")

    def _cut(self, start: int, end: int) -> str:
        """A piece of the text without formulas and citations."""
        pieces: list[str] = []
        spans: list[tuple[int, int]] = []
        length, at = 0, start
        for first, last, is_citation in self._marks[bisect_left(self._marks, (start,)) :]:
            if first >= end:
                break
            if first < at or last > end:
                continue
            before = self._text[at:first]
            mark = self._text[first:last] if is_citation else " "
            length += len(before)
            if is_citation:
                spans.append((length, length + len(mark)))
            length += len(mark)
            pieces += [before, mark]
            at = last
        return without_citations("".join([*pieces, self._text[at:end]]), spans)
