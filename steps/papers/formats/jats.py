"""JATS, the XML of PubMed Central and of most publishers, as papers.

    <article><front><article-meta>…</article-meta></front><body><sec>…</sec></body></article>

Kept: the paper's own identifiers, title, abstract with its labels, sections as they nest,
captions, keywords, licence, dates, kind and language. Left out: references and the marks that
point to them, tables (counted), display formulas, footnotes, sub-articles (reviews, replies).
"""

import re
from collections.abc import Iterator
from typing import Any

from steps.papers.formats.fields import iso_date, language_code, without_nothing
from steps.papers.formats.xml_source import child, children, local_name
from steps.papers.formats.xml_text import citation, text_of
from steps.papers.headings import section_of_heading
from steps.papers.identifiers import is_placeholder
from steps.papers.licences import commons_licence
from steps.papers.records import PaperFields, RecordProblem

_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
# Abstracts that are none: pictures, teasers, lists of contents, translations.
_OTHER_ABSTRACTS = frozenset(
    {
        "graphical", "toc", "teaser", "video", "web-summary", "key-points", "highlights",
        "editor-summary", "precis", "short-title", "toc-abstract",
    }
)  # fmt: skip
_AUTHOR_SUMMARIES = frozenset(
    ["summary", "author-summary", "plain-language-summary", "lay-summary"]
)
_LEFT_OUT = frozenset(
    {
        "table", "table-wrap-foot", "fn", "fn-group", "disp-formula", "disp-formula-group",
        "graphic", "media", "object-id", "supplementary-material", "ref-list", "permissions",
        "attrib", "alt-text", "long-desc", "index-term", "tex-math", "inline-graphic",
        "inline-supplementary-material", "sec-meta", "copyright-statement",
    }
)  # fmt: skip
_NOTE_REFERENCES = frozenset(["fn", "aff", "corresp", "author-notes", "contrib", "table-fn"])
_PARAGRAPHS = frozenset(
    {
        "p", "verse-group", "preformat", "code", "speech", "statement", "disp-quote", "list",
        "def-list",
    }
)  # fmt: skip
_CONTAINERS = frozenset(
    ["boxed-text", "fig-group", "table-wrap-group", "floats-group", "app-group"]
)
_KIND_OF_SECTION = {
    "intro": "Introduction", "methods": "Methods", "materials": "Methods", "results": "Results",
    "discussion": "Discussion", "conclusions": "Conclusions",
}  # fmt: skip
_CAPTIONED = frozenset(["fig", "table-wrap"])
_RETRACTED_BY = frozenset(["retraction-forward", "retracted-by", "retraction", "withdrawn-by"])
_DOI_LINE = re.compile(r"DOI:?\s*\S+$")  # behind some abstracts
_NOTICES = {"retraction": "Retraction of Publication", "correction": "Published Erratum"}


def convert_article(article: Any) -> PaperFields:
    """One `<article>` as a paper.

    Args:
        article: The lxml element, in whatever namespace.

    Raises:
        RecordProblem: With reason no_text, where there is no article-meta to read.
    """
    meta = child(article, "front", "article-meta")
    if meta is None:
        raise RecordProblem("no_text", "the article has no article-meta: it is no whole article")
    kind = article.get("article-type") or ""
    walk = _Body()
    sections = [*_summaries(meta), *walk.sections_of(child(article, "body"))]
    sections += walk.back(child(article, "back"))
    walk.captions_of(child(article, "floats-group"))
    values: dict[str, Any] = {
        **_identifiers(meta),
        "title": _title(meta),
        "abstract": _abstract(meta),
        "full_text": sections,
        "captions": walk.captions,
        "keywords": _keywords(meta),
        "journal": _journal(article),
        "publication_date": _date(meta),
        "language": language_code(article.get(_XML_LANG)),
        "publication_types": [_NOTICES.get(kind, kind)] if kind else [],
        "retracted": _retracted(meta, kind),
        "tables_left_out": walk.tables,
        **_licence(article, meta),
    }
    return without_nothing(values)


# --- what stands before the text ---------------------------------------------------------


def _identifiers(meta: Any) -> PaperFields:
    """The article's own: those of related and of cited articles stand deeper."""
    found: PaperFields = {}
    for element in children(meta, "article-id"):
        kind, value = (element.get("pub-id-type") or "").lower(), text_of(element)
        if not value or is_placeholder(value):
            continue
        if kind == "pmid":
            found.setdefault("pmid", value)
        elif kind == "doi":
            found.setdefault("doi", value)
        elif kind in ("pmc", "pmcid", "pmc-uid"):
            digits = value.upper().removeprefix("PMC")
            found.setdefault("pmcid", f"PMC{digits}")
        elif kind == "arxiv":
            found.setdefault("other_id", f"arxiv:{value}")
    return found


def _title(meta: Any) -> str:
    group = child(meta, "title-group")
    title = child(group, "article-title") if group is not None else child(meta, "article-title")
    if title is None:
        return ""
    subtitle = child(group, "subtitle") if group is not None else None
    parts = [text_of(part, _inline) for part in (title, subtitle) if part is not None]
    return ": ".join(part.rstrip(":") for part in parts if part)


def _abstract(meta: Any) -> str:
    """The abstract: one without a type before others, English before other languages."""
    found = [
        abstract
        for abstract in children(meta, "abstract", "trans-abstract")
        if (abstract.get("abstract-type") or "").lower() not in _OTHER_ABSTRACTS | _AUTHOR_SUMMARIES
    ]

    def rank(abstract: Any) -> tuple[bool, bool, bool]:
        language = language_code(abstract.get(_XML_LANG))
        translated = local_name(abstract) == "trans-abstract"
        return bool(abstract.get("abstract-type")), language not in ("", "en"), translated

    for abstract in sorted(found, key=rank):
        parts = list(_labelled(abstract))
        if parts or (text := text_of(abstract, _inline)):
            return "\n\n".join(parts) or text
    return ""


def _labelled(abstract: Any) -> Iterator[str]:
    """The paragraphs of an abstract, each after its label, such as "METHODS: We …"."""
    for part in abstract:
        name = local_name(part)
        if name == "sec":
            heading = child(part, "title")
            inner = " ".join(_labelled(part))
            label = text_of(heading, _inline).rstrip(" :.") if heading is not None else ""
            if inner and not label.lower().startswith("supplementa"):
                yield f"{label}: {inner}" if label else inner
        elif name in _PARAGRAPHS and (text := text_of(part, _inline)) and not _DOI_LINE.match(text):
            yield text


def _summaries(meta: Any) -> Iterator[dict[str, Any]]:
    for abstract in children(meta, "abstract"):
        if (abstract.get("abstract-type") or "").lower() in _AUTHOR_SUMMARIES:
            heading = child(abstract, "title")
            name = text_of(heading, _inline) if heading is not None else "Author summary"
            paragraphs = list(_labelled(abstract))
            if paragraphs:
                yield {"heading": name, "paragraphs": paragraphs}


def _keywords(meta: Any) -> list[str]:
    groups = [g for g in children(meta, "kwd-group") if g.get("kwd-group-type") != "abbreviations"]
    return [
        text
        for group in groups
        for keyword in children(group, "kwd", "compound-kwd")
        if (text := text_of(keyword, _inline))
    ]


def _journal(article: Any) -> str:
    meta = child(article, "front", "journal-meta")
    if meta is None:
        return ""
    title = child(meta, "journal-title-group", "journal-title")
    title = child(meta, "journal-title") if title is None else title
    if title is not None:
        return text_of(title)
    ids = children(meta, "journal-id")
    return text_of(ids[0]) if ids else ""


def _date(meta: Any) -> str:
    """The earliest full date of publication: YYYY, YYYY-MM or YYYY-MM-DD."""
    dates = [iso_date(*(_of(date, part) for part in ("year", "month", "day")))
             for date in children(meta, "pub-date")]  # fmt: skip
    found = [date for date in dates if date]
    return min(found, key=lambda date: (date[:4], -len(date), date), default="")


def _of(element: Any, name: str) -> str:
    inner = child(element, name)
    return text_of(inner) if inner is not None else ""


def _licence(article: Any, meta: Any) -> dict[str, Any]:
    """The licence by its address, else as the text says it; and whether it is open access."""
    link, kind, words = "", "", []
    for permissions in [*children(meta, "permissions"), *children(meta, "copyright-statement")]:
        words.append(text_of(permissions))
        for element in permissions.iter("{*}license", "{*}license_ref", "{*}ext-link", "{*}uri"):
            name = local_name(element)
            href = text_of(element) if name == "license_ref" else element.get(_XLINK_HREF) or ""
            if "creativecommons.org" in href or (name != "ext-link" and name != "uri"):
                link = link or href.strip()
            if name == "license":
                kind = kind or (element.get("license-type") or "")
    said = " ".join(words)
    declared = any(
        "open_access" in (node.text or "")
        for node in article.xpath(".//processing-instruction('properties')")[:50]
    )
    licence = link or commons_licence(said) or kind
    free = declared or "creativecommons" in licence or "cc-by" in licence or "open" in kind.lower()
    return {"license": licence, "open_access": True if free else None}


def _retracted(meta: Any, kind: str) -> str:
    """Whether the paper itself has been retracted; a notice about another one has not."""
    if kind in _NOTICES:
        return ""
    if kind in ("retracted-article", "withdrawn-article"):
        return kind.removesuffix("-article")
    linked = any(
        element.get("related-article-type") in _RETRACTED_BY
        for element in children(meta, "related-article")
    )
    return "retracted" if linked else ""


# --- the text ----------------------------------------------------------------------------


def _inline(element: Any) -> str | None:
    """What stands in place of an inline element; see `text_of`."""
    name = local_name(element)
    if name in _LEFT_OUT:
        return _formula(element) if name == "tex-math" else " "
    if name == "xref":
        kind = element.get("ref-type") or ""
        if kind == "bibr":
            return citation(element)
        return "" if kind in _NOTE_REFERENCES else None
    if name == "inline-formula" or name == "alternatives":
        return _formula(element)
    if name in _CAPTIONED or name in _CONTAINERS:
        return " "
    return None


def _formula(element: Any) -> str | None:
    """MathML where there is some, for it reads as text; else TeX, which the cleaning resolves."""
    for inner in element.iter("{*}math"):
        return text_of(inner)
    for inner in element.iter("{*}tex-math"):
        return "".join(inner.itertext())
    return None if local_name(element) != "tex-math" else "".join(element.itertext())


class _Body:
    """A walk over the body, which gathers captions and counts tables on its way."""

    def __init__(self) -> None:
        self.captions: list[str] = []
        self.tables = 0

    def sections_of(self, element: Any) -> list[dict[str, Any]]:
        """The sections directly under an element; its own paragraphs come first."""
        if element is None:
            return []
        paragraphs, sections = self._parts(element)
        return [{"heading": "", "paragraphs": paragraphs}, *sections] if paragraphs else sections

    def back(self, back: Any) -> list[dict[str, Any]]:
        """Sections behind the body: appendices, and methods that a journal prints there."""
        if back is None:
            return []
        found = [self._section(sec) for sec in children(back, "sec")]
        for group in [back, *children(back, "app-group")]:
            found += [self._section(app) for app in children(group, "app")]
        return [section for section in found if section.keys() - {"heading"}]

    def captions_of(self, element: Any) -> None:
        """Captions of figures and tables that float at the end of the article."""
        if element is not None:
            self._parts(element)

    def _section(self, element: Any) -> dict[str, Any]:
        title = child(element, "title")
        section: dict[str, Any] = {"heading": text_of(title, _inline) if title is not None else ""}
        paragraphs, sections = self._parts(element)
        if paragraphs:
            section["paragraphs"] = paragraphs
        if sections:
            section["sections"] = sections
        # A section that says of what kind it is, under a name that does not.
        kind = _KIND_OF_SECTION.get((element.get("sec-type") or "").split("|")[-1].lower())
        if kind and section_of_heading(section["heading"]) is None and section.keys() - {"heading"}:
            return {"heading": kind, "sections": [section]}
        return section

    def _parts(self, element: Any) -> tuple[list[str], list[dict[str, Any]]]:
        paragraphs: list[str] = []
        sections: list[dict[str, Any]] = []
        for part in element:
            name = local_name(part)
            if name == "sec":
                section = self._section(part)
                if section.keys() - {"heading"}:
                    sections.append(section)
            elif name in _CAPTIONED:
                self._caption(part)
            elif name in _CONTAINERS:
                inner, nested = self._parts(part)
                heading = child(part, "caption", "title")
                title = text_of(heading, _inline) if heading is not None else ""
                paragraphs += [title] if title and inner else []
                paragraphs += inner
                sections += nested
            elif name in _PARAGRAPHS:
                paragraphs += self._paragraph(part)
        return paragraphs, sections

    def _paragraph(self, element: Any) -> list[str]:
        for inner in element.iter("{*}fig", "{*}table-wrap"):
            if not any(local_name(around) == "boxed-text" for around in inner.iterancestors()):
                self._caption(inner)
        name = local_name(element)
        if name in ("list", "def-list"):
            items = children(element, "list-item", "def-item")
            texts = [text for item in items if (text := text_of(item, _inline))]
            return texts + self._boxed(element)
        text = text_of(element, _inline)
        return [part for part in (text, *self._boxed(element)) if part]

    def _boxed(self, element: Any) -> list[str]:
        """The text of boxes within a paragraph or a list, headings as paragraphs."""
        found: list[str] = []

        def take(paragraphs: list[str], sections: list[dict[str, Any]]) -> None:
            found.extend(paragraphs)
            for section in sections:
                found.append(section.get("heading", ""))
                take(section.get("paragraphs", []), section.get("sections", []))

        for box in element.iter("{*}boxed-text"):
            take(*self._parts(box))
        return [text for text in found if text]

    def _caption(self, element: Any) -> None:
        self.tables += local_name(element) == "table-wrap"
        label, caption = child(element, "label"), child(element, "caption")
        parts = [text_of(part, _inline) for part in children(caption, "title", "p")] \
            if caption is not None else []  # fmt: skip
        text = " ".join(part for part in parts if part)
        if text:
            name = text_of(label).rstrip(" .:") if label is not None else ""
            self.captions.append(f"{name}. {text}" if name else text)
