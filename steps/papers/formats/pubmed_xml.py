"""PubMed's XML (PubmedArticleSet, and the older MedlineCitationSet) as papers.

    <PubmedArticle><MedlineCitation><PMID>…</PMID><Article>…</Article></MedlineCitation>…

A record holds the identifiers of the papers that it cites and comments on as well; only those
of the citation itself and of its own list of identifiers are taken.
"""

import re
from typing import Any

from steps.papers.formats.fields import iso_date, language_code, without_nothing
from steps.papers.formats.xml_source import local_name
from steps.papers.formats.xml_text import text_of
from steps.papers.records import PaperFields, RecordProblem

_BRACKETED = re.compile(r"\[(.+)\]\s?\.?$", re.DOTALL)


def convert_pubmed(record: Any) -> PaperFields:
    """One PubmedArticle, PubmedBookArticle or MedlineCitation as a paper.

    Args:
        record: The lxml element.

    Raises:
        RecordProblem: With reason no_text, where it holds no citation.
    """
    if local_name(record) == "PubmedBookArticle":
        return _convert_book(record)
    whole = local_name(record) != "MedlineCitation"
    citation = record.find("MedlineCitation") if whole else record
    article = citation.find("Article") if citation is not None else None
    if article is None:
        raise RecordProblem("no_text", f"<{local_name(record)}> holds no Article")
    values: dict[str, Any] = {
        **_identifiers(record, citation, article),
        "title": _title(article),
        "abstract": _abstract(article.find("Abstract")) or _english_abstract(citation),
        "keywords": _texts(citation.find("KeywordList"), "Keyword"),
        "journal": _plain(article, "Journal/Title") or _plain(article, "Journal/ISOAbbreviation"),
        "publication_date": _date(article),
        "language": language_code(_plain(article, "Language")),
        "publication_types": _texts(article.find("PublicationTypeList"), "PublicationType"),
        "retracted": _retracted(citation),
    }
    return without_nothing(values)


def _convert_book(record: Any) -> PaperFields:
    """A chapter of an online book, such as those of GeneReviews."""
    document = record.find("BookDocument")
    if document is None:
        raise RecordProblem("no_text", "<PubmedBookArticle> holds no BookDocument")
    title = _of(document, "ArticleTitle") or _of(document, "Book/BookTitle")
    values: dict[str, Any] = {
        "pmid": _of(document, "PMID"),
        "doi": _own_ids(document.find("ArticleIdList"), "doi"),
        "title": title,
        "abstract": _abstract(document.find("Abstract")),
        "keywords": _texts(document.find("KeywordList"), "Keyword"),
        "journal": _of(document, "Book/BookTitle"),
        "publication_date": _parts_of_date(document.find("Book/PubDate")),
        "language": language_code(_of(document, "Language")),
        "publication_types": _texts(document, "PublicationType"),
    }
    return without_nothing(values)


def _identifiers(record: Any, citation: Any, article: Any) -> dict[str, str]:
    own = record.find("PubmedData/ArticleIdList")
    valid = [
        text_of(element)
        for element in article.findall("ELocationID")
        if element.get("EIdType") == "doi" and element.get("ValidYN") != "N"
    ]
    return {
        "pmid": _plain(citation, "PMID") or _own_ids(own, "pubmed"),
        "doi": next(iter(valid), "") or _own_ids(own, "doi"),
        "pmcid": _own_ids(own, "pmc"),
    }


def _own_ids(id_list: Any, kind: str) -> str:
    if id_list is None:
        return ""
    found = [
        text_of(element)
        for element in id_list.findall("ArticleId")
        if (element.get("IdType") or "").lower() == kind
    ]
    return next(iter(found), "")


def _title(article: Any) -> str:
    """The title; one that PubMed translated stands in square brackets there, which go."""
    title = _of(article, "ArticleTitle") or _of(article, "VernacularTitle")
    bracketed = _BRACKETED.match(title)
    return bracketed[1] if bracketed and "[" not in bracketed[1] else title


def _abstract(abstract: Any) -> str:
    """The parts of an abstract as paragraphs, those with a label after it."""
    if abstract is None:
        return ""
    parts = []
    for element in abstract.findall("AbstractText"):
        text = text_of(element)
        label = (element.get("Label") or "").strip().rstrip(":")
        if text:
            parts.append(f"{label}: {text}" if label and label != "UNLABELLED" else text)
    return "\n\n".join(parts)


def _english_abstract(citation: Any) -> str:
    """An abstract in English that another body wrote, where the journal gave none."""
    others = citation.findall("OtherAbstract")
    return next((_abstract(o) for o in others if o.get("Language", "eng") == "eng"), "")


def _date(article: Any) -> str:
    issue = _parts_of_date(article.find("Journal/JournalIssue/PubDate"))
    return issue or _parts_of_date(article.find("ArticleDate"))


def _parts_of_date(date: Any) -> str:
    if date is None:
        return ""
    year = _plain(date, "Year") or _plain(date, "MedlineDate")
    return iso_date(year, _plain(date, "Month"), _plain(date, "Day"))


def _retracted(citation: Any) -> str:
    links = citation.find("CommentsCorrectionsList")
    kinds = {e.get("RefType") for e in links} if links is not None else set()
    return "retracted" if "RetractionIn" in kinds else ""


def _texts(element: Any, name: str) -> list[str]:
    if element is None:
        return []
    return [text for inner in element.findall(name) if (text := text_of(inner))]


def _of(element: Any, path: str) -> str:
    inner = element.find(path)
    return text_of(inner) if inner is not None else ""


def _plain(element: Any, path: str) -> str:
    """As `_of`, for what never holds markup."""
    return (element.findtext(path) or "").strip()
