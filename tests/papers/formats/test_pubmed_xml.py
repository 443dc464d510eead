"""PubMed records become papers: their own identifiers, labelled abstracts, retractions."""

from typing import Any

import pytest
from lxml import etree

from steps.papers.formats.pubmed_xml import convert_pubmed
from steps.papers.records import RecordProblem
from tests.support.papers_in_formats import PUBMED_RECORD as RECORD


def convert(text: str) -> dict[str, Any]:
    return dict(convert_pubmed(etree.fromstring(text)))


def test_a_record_becomes_a_paper_with_its_own_identifiers() -> None:
    assert convert(RECORD) == {
        "pmid": "12345678",
        "doi": "10.1000/Own.1",
        "pmcid": "PMC55",
        "title": "Loss of PTEN and IL-2<sup>+</sup> cells.",
        "abstract": "BACKGROUND: Why ERBB2.\n\nRESULTS: c.35delG was seen.\n\nFree.",
        "keywords": ["PTEN"],
        "journal": "The journal of tests",
        "publication_date": "2018-05-17",
        "language": "en",
        "publication_types": ["Journal Article", "Review"],
    }


def test_an_older_citation_reads_the_same() -> None:
    citation = RECORD[RECORD.index("<MedlineCitation") : RECORD.index("<PubmedData")]
    older = convert(citation)
    assert older.pop("doi") == "10.1000/Own.1"
    assert older == {k: v for k, v in convert(RECORD).items() if k not in ("doi", "pmcid")}


@pytest.mark.parametrize(
    ("old", "new", "retracted"),
    [
        ('RefType="CommentIn"', 'RefType="RetractionIn"', "retracted"),
        ('RefType="CommentIn"', 'RefType="RetractionOf"', None),
        ('RefType="CommentIn"', 'RefType="ErratumIn"', None),
    ],
)
def test_a_retracted_paper_says_so_and_a_notice_is_none(
    old: str, new: str, retracted: str | None
) -> None:
    assert convert(RECORD.replace(old, new, 1)).get("retracted") == retracted


def test_the_title_of_a_translated_paper_loses_its_brackets() -> None:
    title = "Loss of <i>PTEN</i> and IL-2<sup>+</sup> cells."
    assert convert(RECORD.replace(title, "[Loss of PTEN].", 1))["title"] == "Loss of PTEN"
    assert (
        convert(RECORD.replace(title, "[11C]PIB and [18F].", 1))["title"] == "[11C]PIB and [18F]."
    )


def test_a_chapter_of_a_book_is_a_paper() -> None:
    chapter = """<PubmedBookArticle><BookDocument><PMID>20301425</PMID><ArticleIdList>
    <ArticleId IdType="bookaccession">NBK1247</ArticleId></ArticleIdList><Book><BookTitle>Gene
    pages</BookTitle><PubDate><Year>1993</Year></PubDate></Book><Language>eng</Language>
    <ArticleTitle>BRCA1 cancer</ArticleTitle><Abstract><AbstractText Label="CLINICAL
    CHARACTERISTICS">Text.</AbstractText></Abstract></BookDocument></PubmedBookArticle>"""
    paper = convert(chapter)
    assert (paper["pmid"], paper["title"], paper["journal"]) == (
        "20301425", "BRCA1 cancer", "Gene pages",
    )  # fmt: skip
    assert paper["publication_date"] == "1993"


def test_a_record_without_a_citation_is_a_problem() -> None:
    with pytest.raises(RecordProblem, match="no_text"):
        convert("<PubmedArticle><PubmedData/></PubmedArticle>")
