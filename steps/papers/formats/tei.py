"""TEI as GROBID writes it, from the PDF of a paper.

    <TEI><teiHeader>…</teiHeader><text><body><div><head n="2.1">Mice</head><p>…</p></div>…

Kept: title, the paper's own identifiers, abstract, sections, captions, keywords, date, journal,
language, licence. Left out: references and the marks that point to them, tables (counted),
formulas, footnotes, what stands in `<back>`.
"""

import re
from collections.abc import Iterator
from typing import Any

from steps.papers.formats.citation_marks import without_citations
from steps.papers.formats.fields import (
    abstract_of,
    date_in,
    language_code,
    own_identifiers,
    without_nothing,
)
from steps.papers.formats.outline import DEEPEST, leveled, nest
from steps.papers.formats.xml_source import child, children, local_name
from steps.papers.formats.xml_text import text_of
from steps.papers.records import PaperFields, RecordProblem

_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
# Ends of a citation in the text of an element: characters that XML cannot hold.
_OPEN, _CLOSE = "\x02", "\x03"
_PARTS_LEFT_OUT = {"formula", "figure", "table", "note", "listBibl", "biblStruct", "graphic"}
_ARXIV = re.compile(
    r"(?:arxiv\s*:\s*)?(\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v\d+)?", re.I
)
_NUMBER = re.compile(
    r"(\d{1,2}(?:\.\d{1,2}){1,4}\.?|\d{1,2}\.|[IVX]{1,5}\.)\s+(?=[^\W\d_])(?![a-z])"
)
_LETTERS = re.compile(r"[^\W\d_]{2}")


def convert_tei(element: Any) -> PaperFields:
    """One `<TEI>` as a paper.

    Args:
        element: The lxml element, in whatever namespace.

    Raises:
        RecordProblem: With reason no_text, where it has neither a header nor a text.
    """
    header, text = child(element, "teiHeader"), child(element, "text")
    if header is None and text is None:
        raise RecordProblem("no_text", f"<{local_name(element)}> holds no teiHeader and no text")
    source = child(header, "fileDesc", "sourceDesc", "biblStruct")
    profile = child(header, "profileDesc")
    title = _title(header, source)
    abstract, summaries = abstract_of(_abstract(child(profile, "abstract")))
    body = _Body()
    sections = body.sections(child(text, "body"))
    return without_nothing(
        {
            **_identifiers(header, source),
            "title": title,
            "abstract": abstract,
            "full_text": [*summaries, *sections],
            "captions": body.captions,
            "keywords": _keywords(profile),
            "journal": _journal(header, source),
            "publication_date": _date(header, source),
            "language": _language(header, text),
            **_licence(header),
            "tables_left_out": body.tables,
        }
    )


# --- what stands in the header -----------------------------------------------------------


def _title(header: Any, source: Any) -> str:
    """The main title of the file, else that of the source."""
    places = (child(header, "fileDesc", "titleStmt"), child(source, "analytic"))
    titles = [title for place in places if place is not None for title in children(place, "title")]
    titles.sort(key=lambda title: title.get("type") != "main")
    return next((text for title in titles if (text := text_of(title, _inline))), "")


def _identifiers(header: Any, source: Any) -> dict[str, str]:
    """The paper's own: those of the journal stand deeper, those it cites in `<back>`."""
    found: dict[str, str] = {}
    for place in (source, child(source, "analytic"), child(header, "fileDesc", "publicationStmt")):
        for element in children(place, "idno") if place is not None else []:
            found.setdefault((element.get("type") or "").lower(), text_of(element))
    arxiv = _ARXIV.match(found.get("arxiv", ""))
    other = (
        f"arxiv:{arxiv[1]}" if arxiv else f"md5:{found['md5'].lower()}" if found.get("md5") else ""
    )
    return own_identifiers(
        found.get("pmid") or found.get("pubmed"), found.get("doi"),
        found.get("pmcid") or found.get("pmc"), other,
    )  # fmt: skip


def _abstract(abstract: Any) -> Iterator[tuple[str, str]]:
    """Pairs of label and text: each head rules the first paragraph behind it."""
    label = ""
    for element in abstract.iter("{*}head", "{*}p") if abstract is not None else []:
        text = _text(element)
        if local_name(element) == "head":
            label = text
        elif text:
            yield label, text
            label = ""


def _keywords(profile: Any) -> list[str]:
    """The terms; where GROBID could not tell them apart, its one text at its separators."""
    found: list[str] = []
    for keywords in profile.iter("{*}keywords") if profile is not None else []:
        terms = [text_of(term) for term in keywords.iter("{*}term")]
        found += terms or re.split(r"\s*[;,•·]\s*", text_of(keywords))
    return [term.rstrip(" .;,") for term in found if term.strip(" .;,")]


def _journal(header: Any, source: Any) -> str:
    titles = (
        children(child(source, "monogr"), "title") if child(source, "monogr") is not None else []
    )
    titles.sort(key=lambda title: (title.get("level") != "j", title.get("type") != "main"))
    publisher = child(header, "fileDesc", "publicationStmt", "publisher")
    places = titles if publisher is None else [*titles, publisher]
    return next((text for place in places if (text := text_of(place))), "")


def _date(header: Any, source: Any) -> str:
    dates = [
        date
        for place in (
            child(header, "fileDesc", "publicationStmt"),
            child(source, "monogr", "imprint"),
        )
        if place is not None
        for date in children(place, "date")
        if date.get("type") in (None, "published")
    ]
    found = [date_in((date.get("when") or text_of(date)).strip()) for date in dates]
    return max(found, key=len, default="")


def _language(header: Any, text: Any) -> str:
    codes = (part.get(_XML_LANG) for part in (header, text) if part is not None)
    return next((code for given in codes if (code := language_code(given))), "")


def _licence(header: Any) -> dict[str, Any]:
    availability = child(header, "fileDesc", "publicationStmt", "availability")
    if availability is None:
        return {}
    licences = children(availability, "licence", "license")
    named = [(licence.get("target") or "").strip() or text_of(licence) for licence in licences]
    free = (availability.get("status") or "").lower() == "free"
    return {
        "license": next((name for name in named if name), ""),
        "open_access": True if free else None,
    }


# --- the text ----------------------------------------------------------------------------


class _Body:
    """A walk over the body, which gathers captions and counts tables on its way."""

    def __init__(self) -> None:
        self.captions: list[str] = []
        self.tables = 0

    def sections(self, body: Any) -> list[dict[str, Any]]:
        """The sections as their numbers nest them; what GROBID nests stays nested."""
        parts = list(self._parts(body, 0)) if body is not None else []
        levels = leveled((number, heading, texts) for _, number, heading, texts in parts)
        return nest(
            (level + part[0], heading, texts)
            for part, (level, heading, texts) in zip(parts, levels, strict=True)
        )

    def _parts(self, element: Any, depth: int) -> Iterator[tuple[int, str, str, list[str]]]:
        """Depth, number, heading and paragraphs of each part, in the order of the text."""
        number, heading, paragraphs = "", "", list[str]()
        within = min(depth + (local_name(element) == "div"), DEEPEST)
        for part in element:
            name = local_name(part)
            if name == "head":
                if heading or paragraphs:
                    yield depth, number, heading, paragraphs
                number, heading = _numbered(part.get("n") or "", _text(part))
                paragraphs = []
            elif name == "div":
                if heading or paragraphs:
                    yield depth, number, heading, paragraphs
                number, heading, paragraphs = "", "", []
                yield from self._parts(part, within)
                depth = within  # what follows here is no part of the section before it
            elif name == "figure":
                self._take_figure(part)
            elif name == "table":
                self.tables += 1
            elif name in ("list", "listBibl"):
                paragraphs += [t for item in children(part, "item") if (t := _text(item))]
            elif name in ("p", "ab", "quote", "s"):
                for figure in part.iter("{*}figure"):
                    self._take_figure(figure)
                text = _text(part)
                paragraphs += [text] if text else []
        if heading or paragraphs:
            yield depth, number, heading, paragraphs

    def _take_figure(self, figure: Any) -> None:
        """The caption; GROBID often repeats the head, "Fig. 1", at its beginning."""
        self.tables += figure.get("type") == "table" or child(figure, "table") is not None
        head, about = child(figure, "head"), child(figure, "figDesc")
        title = _text(head).rstrip(" .:") if head is not None else ""
        text = _text(about) if about is not None else ""
        if not _LETTERS.search(title) or _plain(text).startswith(_plain(title)):
            title = ""
        # GROBID may end the head within a sentence, or within a word.
        between = "" if text[:1] in "-–" else " " if text[:1].islower() else ". "
        caption = f"{title}{between}{text}" if title and text else title or text
        # A head of "Figure 1" alone says nothing.
        if _LETTERS.search(text) or len(title.split()) > 2:
            self.captions.append(caption)


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _numbered(number: str, heading: str) -> tuple[str, str]:
    """The number of a heading apart from its text, where GROBID has not split them."""
    match = None if number else _NUMBER.match(heading)
    if match:
        return match[1].rstrip("."), heading[match.end() :]
    return number.strip().rstrip("."), heading


def _text(element: Any) -> str:
    """The text of an element without citations."""
    marked = text_of(element, _inline)
    if _OPEN not in marked:
        return marked
    pieces, spans, length = [], [], 0
    for number, piece in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", marked)):
        if number % 2:
            spans.append((length, length + len(piece)))
        pieces.append(piece)
        length += len(piece)
    return without_citations("".join(pieces), spans)


def _inline(element: Any) -> str | None:
    """What stands in place of an inline element; see `text_of`."""
    name = local_name(element)
    if name == "ref" and element.get("type") == "bibr":
        return f"{_OPEN}{text_of(element)}{_CLOSE}"
    if name == "ref" and element.get("type") == "foot":
        return ""
    if name in _PARTS_LEFT_OUT:
        return " "
    if name == "s":
        return f"{text_of(element, _inline)} "
    if name == "hi":
        how = (element.get("rend") or "").lower()
        tag = "sup" if "sup" in how else "sub" if "sub" in how else ""
        return f"<{tag}>{text_of(element, _inline)}</{tag}>" if tag else None
    return None
