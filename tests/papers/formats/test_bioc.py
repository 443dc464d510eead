"""Documents of BioC become papers, from JSON and from XML alike."""

from typing import Any

import pytest

from steps.papers.formats.bioc import convert_document, document_of
from steps.papers.formats.outline import nest, under_paths
from steps.papers.formats.xml_source import parse_element
from steps.papers.records import RecordProblem
from steps.papers.sections import split_sections
from tests.support.mutations import mutations


def passage(section: str, kind: str, text: str, **infons: str) -> dict[str, Any]:
    about = {"section_type": section, "type": kind, **infons}
    return {"offset": 0, "infons": about, "text": text, "sentences": [], "annotations": []}


PMC: dict[str, Any] = {
    "id": "PMC6500001",
    "infons": {"license": "CC BY"},
    "passages": [
        {
            "offset": 0,
            "infons": {
                "article-id_pmid": "31000001",
                "article-id_pmc": "6500001",
                "article-id_doi": "10.1234/gen.1",
                "journal-title": "Journal of Genes",
                "kwd": "BRCA1; DNA repair",
                "section_type": "TITLE",
                "type": "front",
                "year": "2019",
            },
            "text": "A variant of BRCA1",
        },
        passage("ABSTRACT", "abstract_title_1", "Background"),
        passage("ABSTRACT", "abstract", "Genes are many."),
        passage("ABSTRACT", "abstract_title_1", "Results:"),
        passage("ABSTRACT", "abstract", "We found one."),
        passage("ABSTRACT", "abstract", "And another."),
        passage("ABSTRACT", "abstract_title_1", "Author summary"),
        passage("ABSTRACT", "abstract", "Plainly said."),
        passage("INTRO", "paragraph", "Right under no heading."),
        passage("METHODS", "title_1", "Materials and methods"),
        passage("METHODS", "title_2", "Mice"),
        passage("METHODS", "title_3", "Housing"),
        passage("METHODS", "paragraph", "In cages\n of steel."),
        passage("METHODS", "title_2", "Statistics"),
        passage("METHODS", "paragraph", "R was used."),
        passage("METHODS", "formula", "x = y"),
        passage("RESULTS", "title_1", "Results"),
        passage("FIG", "fig_title_caption", "A figure.", id="F1"),
        passage("FIG", "fig_caption", "It shows BRCA1.", id="F1"),
        passage("RESULTS", "paragraph", "It was there."),
        passage("TABLE", "table_caption", "A table.", id="T1"),
        passage("TABLE", "table", "a b 1 2", id="T1"),
        passage("TABLE", "table_footnote", "Starred.", id="T1"),
        passage("TABLE", "table", "c d 3 4", id="T2"),
        passage("RESULTS", "footnote", "A note."),
        passage("CONCL", "paragraph", "So it is."),
        passage("ACK_FUND", "title_1", "Acknowledgements"),
        passage("ACK_FUND", "paragraph", "We thank all."),
        passage("AUTH_CONT", "paragraph", "AB wrote."),
        passage("COMP_INT", "paragraph", "None."),
        passage("SUPPL", "title_1", "Supplement"),
        passage("ABBR", "paragraph", "BRCA1: gene"),
        passage("REF", "title", "References"),
        passage("REF", "ref", "A cited title", **{"pub-id_pmid": "7"}),
    ],
}
PMC_PAPER = {
    "pmid": "31000001",
    "pmcid": "PMC6500001",
    "doi": "10.1234/gen.1",
    "title": "A variant of BRCA1",
    "abstract": "Background: Genes are many.\n\nResults: We found one.\n\nAnd another.",
    "full_text": [
        {"heading": "Author summary", "paragraphs": ["Plainly said."]},
        {"heading": "Introduction", "paragraphs": ["Right under no heading."]},
        {
            "heading": "Materials and methods",
            "sections": [
                {
                    "heading": "Mice",
                    "sections": [{"heading": "Housing", "paragraphs": ["In cages of steel."]}],
                },
                {"heading": "Statistics", "paragraphs": ["R was used."]},
            ],
        },
        {"heading": "Results", "paragraphs": ["It was there."]},
        {"heading": "Conclusions", "paragraphs": ["So it is."]},
    ],
    "captions": ["A figure. It shows BRCA1.", "A table."],
    "keywords": ["BRCA1", "DNA repair"],
    "journal": "Journal of Genes",
    "publication_date": "2019",
    "license": "CC BY",
    "tables_left_out": 2,
}


def test_a_full_text_of_pmc() -> None:
    assert convert_document(PMC) == PMC_PAPER


def as_xml(document: dict[str, Any]) -> bytes:
    def infons(about: dict[str, str]) -> str:
        return "".join(f'<infon key="{key}">{value}</infon>' for key, value in about.items())

    passages = "".join(
        f"<passage>{infons(p['infons'])}<offset>0</offset><text>{p['text']}</text></passage>"
        for p in document["passages"]
    )
    about = infons(document["infons"])
    return f"<document><id>{document['id']}</id>{about}{passages}</document>".encode()


def test_the_same_document_as_xml() -> None:
    assert convert_document(document_of(parse_element(as_xml(PMC)))) == PMC_PAPER


def test_an_abstract_of_pubtator_3() -> None:
    document = {
        "_id": "31000002|None",
        "id": "31000002",
        "infons": {},
        "pmid": 31000002,
        "pmcid": None,
        "date": "2018-09-01T00:00:00Z",
        "journal": "Mol Genes",
        "authors": ["Doe J"],
        "passages": [
            {
                "infons": {
                    "type": "title",
                    "journal": "Mol Genes; 2018 Sep;17(3):1. doi: 10.1234/mol.2. Epub 2018",
                    "year": "2018",
                    "authors": "Doe J",
                    "article-id_pmc": "None",
                },
                "text": "A title.",
                "annotations": [{"infons": {"type": "Gene"}, "text": "BRCA1"}],
            },
            {"infons": {"type": "abstract"}, "text": "An abstract."},
        ],
    }
    assert convert_document(document) == {
        "pmid": "31000002",
        "doi": "10.1234/mol.2",
        "title": "A title.",
        "abstract": "An abstract.",
        "journal": "Mol Genes",
        "publication_date": "2018-09-01",
    }


def test_the_journal_is_the_beginning_of_a_citation() -> None:
    for cited in ("J Med; 2018 Jan", "J Med. 2018 Sep;17(3)", "J Med;2023Jun15", "J Med"):
        infons = {"type": "title", "journal": cited}
        assert convert_document({"passages": [{"infons": infons, "text": "T"}]}) == {
            "title": "T",
            "journal": "J Med",
        }


def test_an_xml_of_pubtator_with_annotations_and_a_namespace() -> None:
    element = parse_element(
        b'<document xmlns="urn:b"><id>26094</id><passage><infon key="type">title</infon>'
        b"<offset>0</offset><text>On &lt;i&gt; and drugs</text><annotation id='0'>"
        b"<infon key='type'>Gene</infon><text>BRCA1</text></annotation></passage>"
        b'<passage><infon key="type">abstract</infon><sentence><text>One.</text></sentence>'
        b"<sentence><text>Two.</text></sentence></passage></document>"
    )
    assert convert_document(document_of(element)) == {
        "pmid": "26094",
        "title": "On <i> and drugs",
        "abstract": "One. Two.",
    }


def test_text_in_sentences_only() -> None:
    sentences = [{"text": "First one."}, {"text": "Second one."}]
    document = {"id": "doc-7", "passages": [{"infons": {}, "sentences": sentences}]}
    assert convert_document(document) == {
        "other_id": "doc-7",
        "full_text": [{"heading": "", "paragraphs": ["First one. Second one."]}],
    }


def test_headings_that_each_passage_repeats() -> None:
    def under(text: str, *titles: str, iao: str = "methods section") -> dict[str, Any]:
        infons = {f"section_title_{level}": title for level, title in enumerate(titles, 1)}
        return {"infons": {**infons, "iao_name_1": iao}, "text": text}

    document = {
        "id": "PMC1",
        "infons": {"pmid": "5", "journal": "J Genes", "year": "2022"},
        "passages": [
            under("A title", "document title", iao="document title"),
            under("genes; mice", "Keywords", iao="keywords section"),
            under("We did.", "Abstract", iao="textual abstract section"),
            under("One.", "Methods", "Mice"),
            under("Two.", "Methods", "Mice"),
            under("Three.", "Methods", "Mice", "Cages"),
            under("Four.", "Results"),
        ],
    }
    assert convert_document(document) == {
        "pmid": "5",
        "pmcid": "PMC1",
        "title": "A title",
        "abstract": "We did.",
        "keywords": ["genes", "mice"],
        "journal": "J Genes",
        "publication_date": "2022",
        "full_text": [
            {
                "heading": "Methods",
                "sections": [
                    {
                        "heading": "Mice",
                        "paragraphs": ["One.", "Two."],
                        "sections": [{"heading": "Cages", "paragraphs": ["Three."]}],
                    }
                ],
            },
            {"heading": "Results", "paragraphs": ["Four."]},
        ],
    }


@pytest.mark.parametrize(
    ("own", "infons", "expected"),
    [
        ("PMC12", {}, {"pmcid": "PMC12"}),
        ("12", {"article-id_pmc": "PMC12"}, {"pmcid": "PMC12"}),
        ("12", {"article-id_pmc": "34"}, {"pmid": "12", "pmcid": "PMC34"}),
        ("10.1/a", {}, {"doi": "10.1/a"}),
        ("0", {}, {}),
        (None, {}, {}),
    ],
)
def test_the_id_of_a_document_is_of_several_kinds(
    own: Any, infons: dict[str, str], expected: dict[str, str]
) -> None:
    front = {"infons": {"type": "front", **infons}, "text": ""}
    assert convert_document({"id": own, "passages": [front]}) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CC BY-NC", "CC BY-NC"),
        (
            "This is an open-access article distributed under the terms of the Creative Commons "
            "Attribution License, which permits unrestricted use.",
            "Creative Commons Attribution License",
        ),
        (
            "Distributed under the Creative Commons Attribution 4.0 International License "
            "(http://creativecommons.org/licenses/by/4.0/), which permits use.",
            "http://creativecommons.org/licenses/by/4.0/",
        ),
        ("All rights are reserved by the authors and by all of their many readers.", None),
    ],
)
def test_a_licence_is_named(said: str, expected: str | None) -> None:
    front = {"infons": {"type": "front", "license": said}, "text": "T"}
    assert convert_document({"passages": [front]})["license"] == (expected or said)


def test_tables_without_an_id_are_counted_by_their_contents() -> None:
    rows = [passage("TABLE", kind, "x") for kind in ("table_caption", "table", "table")]
    assert convert_document({"passages": rows}) == {"captions": ["x"], "tables_left_out": 2}


def test_captions_that_only_the_section_names() -> None:
    infons = ({"section_type": "FIG_CAP"}, {"section_type": "TABLE_CAP"}, {"section_type": "TABLE"})
    passages = [{"infons": about, "text": "Of all genes."} for about in infons]
    assert convert_document({"passages": passages}) == {
        "captions": ["Of all genes.", "Of all genes."],
        "tables_left_out": 1,
    }


def test_sections_nest_by_level_and_without_text_are_left_out() -> None:
    parts = [(1, "A", ["a"]), (3, "B", ["b"]), (2, "C", []), (1, "D", []), (2, "E", ["e"])]
    assert nest(parts) == [
        {"heading": "A", "paragraphs": ["a"], "sections": [{"heading": "B", "paragraphs": ["b"]}]},
        {"heading": "D", "sections": [{"heading": "E", "paragraphs": ["e"]}]},
    ]


def test_back_under_a_heading_is_a_section_of_its_own() -> None:
    assert under_paths([(["A", "B"], "1"), (["A"], "2"), ([], "3")]) == [
        (1, "A", []),
        (2, "B", ["1"]),
        (1, "A", ["2"]),
        (1, "", ["3"]),
    ]


# --- values of the wrong type ------------------------------------------------------------


def test_whatever_stands_anywhere_it_is_read_or_refused() -> None:
    read = refused = 0
    documents = [value for value in mutations(PMC) if isinstance(value, dict)]
    for mutated in documents:
        try:
            convert_document(mutated)
            read += 1
        except RecordProblem as problem:
            refused += (problem.reason, "\n" in problem.detail) == ("wrong_type", False)
    assert read + refused == len(documents) and read > refused > 50


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        ({"passages": {}}, "passages is dict, expected a list"),
        ({"passages": [1]}, "passages holds int, expected objects"),
        ({"passages": [{"infons": []}]}, "infons is list, expected an object"),
        ({"passages": [{"text": 7}]}, "text is int, expected text"),
    ],
)
def test_what_is_refused_is_named(document: dict[str, Any], detail: str) -> None:
    with pytest.raises(RecordProblem, match=detail):
        convert_document(document)


def test_an_empty_element_is_an_empty_document() -> None:
    assert convert_document(document_of(parse_element(b"<document/>"))) == {}


def test_a_heading_that_does_not_say_its_kind_stands_under_that_of_its_type() -> None:
    def passage(section: str, kind: str, text: str) -> dict[str, Any]:
        return {"infons": {"section_type": section, "type": kind}, "text": text}

    document = {
        "id": "5",
        "passages": [
            passage("INTRO", "paragraph", "We begin."),
            passage("METHODS", "title_2", "Patients"),
            passage("METHODS", "paragraph", "We saw them."),
            passage("RESULTS", "title_1", "TP53 is lost"),
            passage("RESULTS", "paragraph", "It was."),
        ],
    }
    sections = split_sections(convert_document(document)["full_text"])
    assert sections == [
        ("introduction", "We begin."),
        ("methods", "Patients\n\nWe saw them."),
        ("results", "TP53 is lost\n\nIt was."),
    ]
