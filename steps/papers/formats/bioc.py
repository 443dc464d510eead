"""BioC documents as papers, of BioC JSON and of BioC XML: those of PMC and of PubTator.

    {"id": "PMC1", "passages": [{"infons": {"section_type": "INTRO", …}, "text": "…"}, …]}

A document is a list of passages. What each is stands in its infons: PMC gives the section
("INTRO") and the kind ("title_2", "paragraph"), PubTator for abstracts only the kind. References,
tables (counted), contributions and the like are left out.
"""

import re
from typing import Any

from steps.papers.formats.fields import (
    abstract_of,
    date_in,
    one_line,
    own_identifiers,
    without_nothing,
)
from steps.papers.formats.json_values import name_in, names_in, object_in, objects_in, text_in
from steps.papers.formats.outline import nest, under_paths
from steps.papers.formats.xml_source import child, children
from steps.papers.formats.xml_text import text_of
from steps.papers.headings import section_of_heading
from steps.papers.records import PaperFields, RecordProblem

# The heading that stands for a section where the paper itself has none.
_HEADING_OF_TYPE = {
    "INTRO": "Introduction",
    "METHODS": "Methods",
    "RESULTS": "Results",
    "DISCUSS": "Discussion",
    "CONCL": "Conclusions",
    "CASE": "Case report",
    "APPENDIX": "Appendix",
}
_LEFT_OUT = {
    "REF", "ACK_FUND", "ACK", "FUND", "AUTH_CONT", "COMP_INT", "ABBR", "SUPPL", "REVIEW_INFO",
}  # fmt: skip
_LEFT_OUT_KINDS = {"ref", "footnote", "footnotes", "formula", "disp_formula", "equation"}
# What Auto-CORPus calls a passage by the ontology IAO, in PMC's words.
_KIND_OF_TITLE = {
    "document title": ("TITLE", "front"),
    "keywords section": ("KEYWORD", "paragraph"),
    "textual abstract section": ("ABSTRACT", "abstract"),
    "figure section": ("FIG", "fig_caption"),
    "table section": ("TABLE", "table_caption"),
}
_LEVEL = re.compile(r"(?:abstract_)?title(?:_(\d))?")
_CITED = re.compile(r"\s*(?:;|\.?\s*(?:19|20)\d\d[\s;]|\.?\s*doi\s*:)", re.IGNORECASE)
_A_DOI = re.compile(r"(?:^|[:/\s])10\.\d{1,9}/\S")
_DOI = re.compile(r"\bdoi\s*:\s*(10\.\d{4,9}/\S+?)[.;,]?(?:\s|$)", re.IGNORECASE)
_LICENCE = re.compile(
    r"https?://creativecommons\.org/[\w./-]+\w/?|Creative Commons\b[\w\s-]{0,60}?\bLicen[cs]e",
    re.IGNORECASE,
)
_LONGEST_NAME = 60  # characters of the name of a licence
_WORDS_APART = re.compile(r"\s*[;|]\s*|\s*,\s+")


def convert_document(document: dict[str, Any]) -> PaperFields:
    """One document as a paper.

    Args:
        document: Of BioC JSON, or what `document_of` makes of BioC XML; what its collection says
            of all documents may stand under "collection_infons".

    Raises:
        RecordProblem: With reason wrong_type, where passages, their infons or texts are
            something else.
    """
    about = object_in(document, "collection_infons")
    document = {**document, "infons": about | object_in(document, "infons")}
    walk = _Passages()
    for passage in objects_in(document, "passages"):
        walk.take(passage)
    abstract, summaries = abstract_of(walk.abstract)
    title = walk.title
    return without_nothing(
        {
            **_identifiers(document, walk.infons),
            "title": title,
            "abstract": abstract,
            "full_text": [*summaries, *walk.nested()],
            "captions": walk.captions(),
            "keywords": _keywords(walk),
            "journal": _journal(document, walk.infons),
            "publication_date": _date(document, walk.infons),
            "license": _licence(_first("license", walk.infons, object_in(document, "infons"))),
            "tables_left_out": len(walk.tables),
        }
    )


def document_of(element: Any) -> dict[str, Any]:
    """A `<document>` of BioC XML as the object that it would be in BioC JSON."""
    return {
        "id": _text(element, "id"),
        "infons": _infons(element),
        "passages": [
            {
                "infons": _infons(passage),
                "text": _text(passage, "text"),
                "sentences": [
                    {"text": _text(sentence, "text")} for sentence in children(passage, "sentence")
                ],
            }
            for passage in children(element, "passage")
        ],
    }


def _text(element: Any, name: str) -> str:
    inner = child(element, name)
    return text_of(inner) if inner is not None else ""


def _infons(element: Any) -> dict[str, str]:
    return {infon.get("key") or "": text_of(infon) for infon in children(element, "infon")}


class _Passages:
    """A walk over the passages, which gathers what is text and counts what is left out."""

    def __init__(self) -> None:
        self.title = ""
        self.infons: dict[str, Any] = {}
        self.abstract: list[tuple[str, str]] = []
        self.keywords: list[str] = []
        self.sections: list[tuple[int, str, list[str]]] = []
        self.tables: set[str] = set()
        self._captions: list[tuple[str, list[str]]] = []
        self._section_type = ""
        self._label = ""
        self._titled: list[tuple[list[str], str]] = []

    def take(self, passage: dict[str, Any]) -> None:
        """Take one passage for what its infons say."""
        infons = passage.get("infons")
        if infons is None:
            infons = {}
        if not isinstance(infons, dict):
            raise RecordProblem(
                "wrong_type", f"infons is {type(infons).__name__}, expected an object"
            )
        section = name_in(infons, "section_type").upper()
        kind = name_in(infons, "type").lower()
        text = _passage_text(passage)
        if "section_title_1" in infons:
            if not self._take_titled(infons, text):
                return
            section, kind = _KIND_OF_TITLE[name_in(infons, "iao_name_1").lower()]
        is_front = section == "TITLE" or (kind in ("front", "title") and not section)
        if is_front and not self.title:
            self.title = text
            self.infons = infons
        elif is_front:
            return  # the title again, or that of a part of the article
        elif section.startswith("TABLE") or kind.startswith("table"):
            self._take_table(kind or section.lower(), infons, text)
        elif section.startswith("FIG") or kind.startswith("fig"):
            self._take_caption(kind, infons, text)
        elif section == "KEYWORD" or kind in ("keyword", "keywords", "kwd"):
            if not _LEVEL.fullmatch(kind):
                self.keywords += [word for word in _WORDS_APART.split(text) if word]
        elif section == "ABSTRACT" or kind.startswith("abstract"):
            self._take_abstract(kind, text)
        elif text and section not in _LEFT_OUT and kind not in _LEFT_OUT_KINDS:
            self._take_text(section, kind, text)

    def _take_titled(self, infons: dict[str, Any], text: str) -> bool:
        """Text below the headings that Auto-CORPus repeats in each passage; True if it is none."""
        about = name_in(infons, "iao_name_1").lower()
        if about in _KIND_OF_TITLE or about == "references section":
            return about in _KIND_OF_TITLE
        titles = [name_in(infons, f"section_title_{level}") for level in range(1, 7)]
        self._titled.append((titles[: titles.index("")] if "" in titles else titles, text))
        return False

    def _take_abstract(self, kind: str, text: str) -> None:
        if _LEVEL.fullmatch(kind):
            self._label = text
        else:
            # The label rules the first paragraph behind it.
            self.abstract.append((self._label, text))
            self._label = ""

    def _take_text(self, section: str, kind: str, text: str) -> None:
        title = _LEVEL.fullmatch(kind)
        if title:
            level = int(title[1] or 1)
            of_type = _HEADING_OF_TYPE.get(section, "")
            if of_type and section != self._section_type and section_of_heading(text) is None:
                # A heading that does not say of what kind its text is stands under one that does.
                self.sections.append((1, of_type, []))
                level = max(level, 2)
            self.sections.append((level, text, []))
        elif not self.sections or section != self._section_type:
            # Text right under a section that the paper gave no heading, as introductions often are.
            self.sections.append((1, _HEADING_OF_TYPE.get(section, ""), [text]))
        else:
            self.sections[-1][2].append(text)
        self._section_type = section

    def _take_table(self, kind: str, infons: dict[str, Any], text: str) -> None:
        identifier = name_in(infons, "id") or name_in(infons, "file")
        if "cap" in kind or "title" in kind:
            self._take_caption(kind, infons, text)
        elif kind in ("table", "") and not identifier:
            identifier = f" {len(self.tables)}"
        if identifier:
            self.tables.add(identifier)

    def _take_caption(self, kind: str, infons: dict[str, Any], text: str) -> None:
        """A caption's title and text stand in passages of their own, with the figure's id."""
        if not text or "foot" in kind:
            return
        identifier = name_in(infons, "id")
        if identifier and self._captions and self._captions[-1][0] == identifier:
            self._captions[-1][1].append(text)
        else:
            self._captions.append((identifier, [text]))

    def nested(self) -> list[dict[str, Any]]:
        """The sections as they nest."""
        return nest([*self.sections, *under_paths(self._titled)])

    def captions(self) -> list[str]:
        """The captions, each in one piece."""
        return [" ".join(parts) for _, parts in self._captions]


def _passage_text(passage: dict[str, Any]) -> str:
    """The text of a passage; where it has none of its own, that of its sentences."""
    text = text_in(passage, "text")
    if text:
        return text
    return one_line(" ".join(text_in(s, "text") for s in objects_in(passage, "sentences")))


def _identifiers(document: dict[str, Any], infons: dict[str, Any]) -> dict[str, str]:
    """Those of the first passage and of the document, whose id is of either kind."""
    about = object_in(document, "infons")
    own = name_in(document, "id")
    is_central = own.upper().startswith("PMC")
    pmcid = _first("article-id_pmc", infons, about) or _first("pmcid", document, about)
    if not pmcid and is_central:
        pmcid = own
    pmid = _first("article-id_pmid", infons, about) or _first("pmid", document, about)
    if not pmid and own.isdigit() and own != pmcid.upper().removeprefix("PMC"):
        pmid = own
    cited = _DOI.search(name_in(infons, "journal"))
    given = [_first("article-id_doi", infons, about)]
    given += [name_in(place, "doi") for place in (infons, about, document)]
    given += [own, cited[1] if cited else ""]
    doi = next((name for name in given if _A_DOI.search(name)), "")
    return own_identifiers(pmid, doi, pmcid, own)


def _first(key: str, *places: dict[str, Any]) -> str:
    found = (name_in(place, key) for place in places)
    return next((name for name in found if name and name.lower() not in ("none", "null", "0")), "")


def _journal(document: dict[str, Any], infons: dict[str, Any]) -> str:
    """PubTator's passage gives the whole citation, of which the journal is the beginning."""
    name = _first("journal-title", infons) or _first("journal", document)
    if name:
        return name
    cited = _first("journal", infons, object_in(document, "infons"))
    return _CITED.split(cited)[0].strip()


def _date(document: dict[str, Any], infons: dict[str, Any]) -> str:
    about = object_in(document, "infons")
    return date_in(_first("date", document)) or date_in(_first("year", infons, document, about))


def _licence(text: str) -> str:
    """The licence by its address or name, where PMC gives the whole paragraph that states it."""
    if len(text) <= _LONGEST_NAME:
        return text
    named = _LICENCE.search(text)
    return named[0] if named else text


def _keywords(walk: _Passages) -> list[str]:
    """PMC joins the keywords by blanks where it does not by commas: then they are one text."""
    given = [word for text in names_in(walk.infons, "kwd") for word in _WORDS_APART.split(text)]
    return [word for word in given if word] or walk.keywords
