"""JATS articles become papers: own identifiers, text without marks, captions apart."""

import re
from typing import Any

import pytest
from lxml import etree

from steps.papers.formats.fields import iso_date, language_code
from steps.papers.formats.jats import convert_article
from steps.papers.licences import commons_licence
from steps.papers.records import RecordProblem
from tests.support.papers_in_formats import JATS_ARTICLE as ARTICLE


def convert(text: str) -> dict[str, Any]:
    return dict(convert_article(etree.fromstring(text)))


def test_an_article_becomes_a_paper_with_all_that_it_says() -> None:
    assert convert(ARTICLE) == {
        "pmid": "11111111",
        "pmcid": "PMC2222222",
        "doi": "10.1000/jst.1",
        "title": "The role of BRCA1 in Mus musculus",
        "abstract": "Background: We saw p.Arg97Gln.\n\nResults: It was TP53 < 5 α.",
        "full_text": [
            {"heading": "Author Summary", "paragraphs": ["In plain words."]},
            {"heading": "", "paragraphs": ["Before any heading."]},
            {
                "heading": "Introduction",
                "paragraphs": [
                    "As known, EGFR matters. Shown by Miller et al. (2001) and others for "
                    "10<sup>5</sup> cells at T<sub>4</sub> (see Figure 1)."
                ],
            },
            {
                "heading": "Methods",
                "paragraphs": ["Mice."],
                "sections": [
                    {
                        "heading": "Sequencing of KRAS",
                        "paragraphs": [
                            "We ran it: x<sup>2</sup> times.",
                            "First item.",
                            "Second item.",
                        ],
                    }
                ],
            },
            {"heading": "Appendix A", "paragraphs": ["More detail."]},
        ],
        "captions": ["Figure 1. Growth. Of MYC cells.", "Table 1. Primers used."],
        "keywords": ["BRCA1", "mouse"],
        "journal": "Journal of Small Tests",
        "publication_date": "2021-04-03",
        "language": "en",
        "publication_types": ["research-article"],
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "open_access": True,
        "tables_left_out": 1,
    }


def test_a_namespace_changes_nothing() -> None:
    inside = ARTICLE.replace("<article ", '<article xmlns="https://jats.nlm.nih.gov/ns/1.3/" ', 1)
    assert convert(inside) == convert(ARTICLE)


@pytest.mark.parametrize(
    ("old", "new", "retracted"),
    [
        ('"companion"', '"retraction-forward"', "retracted"),
        ('"companion"', '"correction-forward"', None),
        ('article-type="research-article"', 'article-type="retraction"', None),
        ('article-type="research-article"', 'article-type="retracted-article"', "retracted"),
    ],
)
def test_a_retracted_paper_says_so_and_a_notice_is_none(
    old: str, new: str, retracted: str | None
) -> None:
    assert convert(ARTICLE.replace(old, new, 1)).get("retracted") == retracted


def test_a_notice_is_of_its_kind() -> None:
    notice = ARTICLE.replace('article-type="research-article"', 'article-type="retraction"', 1)
    assert convert(notice)["publication_types"] == ["Retraction of Publication"]


def test_what_is_no_article_is_a_problem_of_its_record() -> None:
    with pytest.raises(RecordProblem, match="no_text: the article has no article-meta"):
        convert("<article><body><p>Text.</p></body></article>")


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("under the Creative Commons Attribution License, which permits", "cc-by"),
        ("the Creative Commons Attribution Non-Commercial No Derivatives licence.", "cc-by-nc-nd"),
        ("Creative Commons Attribution-ShareAlike 3.0.", "cc-by-sa"),
        ("The article lies in the public domain.", "public-domain"),
        ("All rights reserved.", ""),
    ],
)
def test_a_licence_in_words_has_its_name(text: str, licence: str) -> None:
    assert commons_licence(text) == licence


@pytest.mark.parametrize(
    ("parts", "date"),
    [
        (("2018", "May", "7"), "2018-05-07"),
        (("2018", "05", ""), "2018-05"),
        (("1998 Dec-1999 Jan", "", ""), "1998"),
        (("2018", "13", "1"), "2018"),
        (("", "5", "1"), ""),
    ],
)
def test_a_date_has_one_form(parts: tuple[str, str, str], date: str) -> None:
    assert iso_date(*parts) == date


def test_languages_have_two_letters() -> None:
    assert [language_code(c) for c in ("eng", "en-US", "FRE", None, "und")] == [
        "en", "en", "fr", "", "",
    ]  # fmt: skip


def abstract_of(abstracts: str, body: str = "") -> dict[str, Any]:
    return convert(
        "<article><front><article-meta><article-id pub-id-type='pmid'>N/A</article-id>"
        f"<article-id pub-id-type='DOI'>10.1/x</article-id>{abstracts}</article-meta></front>"
        f"<body>{body}</body></article>"
    )


@pytest.mark.parametrize(
    "abstracts",
    [
        "<abstract abstract-type='objective'><p>X</p></abstract><abstract><p>A</p></abstract>",
        "<abstract xml:lang='fr'><p>F</p></abstract><abstract xml:lang='en'><p>A</p></abstract>",
        "<trans-abstract xml:lang='en'><p>A</p></trans-abstract>",
        "<abstract>A</abstract>",
    ],
)
def test_the_abstract_is_the_one_without_a_type_and_in_english(abstracts: str) -> None:
    paper = abstract_of(abstracts)
    assert paper["abstract"] == "A"
    assert paper["doi"] == "10.1/x"
    assert "pmid" not in paper


def test_boxes_keep_their_text_and_sections_their_kind() -> None:
    box = "<boxed-text><sec><title>Box one</title><p>Beta.</p></sec></boxed-text>"
    body = (
        f"<sec><p>Alpha. {box}</p><list><list-item><p>One. {box}</p></list-item></list></sec>"
        "<sec sec-type='methods'><title>Patients</title><p>We saw them.</p></sec>"
    )
    first, second = abstract_of("", body)["full_text"]
    assert first["paragraphs"] == ["Alpha.", "Box one", "Beta.", "One.", "Box one", "Beta."]
    assert second == {
        "heading": "Methods",
        "sections": [{"heading": "Patients", "paragraphs": ["We saw them."]}],
    }


@pytest.mark.parametrize(
    ("paragraph", "text"),
    [
        ("Seen ({3}, Table 1) there.", "Seen (Table 1) there."),
        ("Seen ({3}). See ref. {8}.", "Seen. See."),
        ("It fell [{3}–{5}], as {1} said.", "It fell, as said."),
        ("Of 5 (range, 3) and {2}.", "Of 5 (range, 3) and."),
    ],
)
def test_a_mark_that_goes_leaves_no_comma_behind(paragraph: str, text: str) -> None:
    marked = re.sub(r"\{(\d)\}", r"<xref ref-type='bibr' rid='r'>\1</xref>", paragraph)
    (section,) = abstract_of("", f"<p>{marked}</p>")["full_text"]
    assert section["paragraphs"] == [text]


def test_a_formula_is_told_once() -> None:
    formula = (
        "<inline-formula><m:math xmlns:m='http://www.w3.org/1998/Math/MathML'><m:semantics><m:mi>x"
        "</m:mi><m:annotation encoding='application/x-tex'>x</m:annotation></m:semantics></m:math>"
        "</inline-formula>"
    )
    (section,) = abstract_of("", f"<p>Let {formula} be.</p>")["full_text"]
    assert section["paragraphs"] == ["Let x be."]
