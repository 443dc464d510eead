"""Papers of S2ORC in its releases, of CORD-19 and of unarXive are read alike."""

import json
from typing import Any

import pytest

from steps.papers.formats import s2orc
from steps.papers.records import RecordProblem
from tests.support.mutations import mutations

SHA = "0123456789abcdef0123456789abcdef01234567"


def paragraph(text: str, section: str | None, *cited: str, **more: Any) -> dict[str, Any]:
    """A paragraph whose text holds each citation once."""
    spans = [
        {"start": text.index(mark), "end": text.index(mark) + len(mark), "text": mark}
        for mark in cited
    ]
    return {"text": text, "section": section, "cite_spans": spans, "ref_spans": [], **more}


CORD19: dict[str, Any] = {
    "paper_id": SHA,
    "metadata": {"title": "A variant of BRCA1", "authors": [{"first": "Jo", "last": "Doe"}]},
    "abstract": [
        paragraph("Abstract: Genes are many [1].", "Abstract", "[1]"),
        paragraph("And BRCA1.", "Abstract"),
    ],
    "body_text": [
        paragraph("Shown before [1, 2] .", "Introduction", "[1,", "2]"),
        paragraph(
            "Doe et al. (2001) agree \n (Roe, 2003).",
            "Introduction",
            "Doe et al. (2001)",
            "(Roe, 2003)",
        ),
        paragraph("In cages.", "Mice"),
        paragraph("", "Empty"),
        paragraph("It was found.", "Results"),
    ],
    "bib_entries": {"BIBREF0": {"title": "Cited", "other_ids": {"DOI": ["10.9999/cited"]}}},
    "ref_entries": {
        "FIGREF0": {"text": "Figure 1: It shows BRCA1.", "latex": None, "type": "figure"},
        "FIGREF1": {"text": ", which they explained by it.", "type": "figure"},
        "FIGREF2": {"text": "mRNA of all genes.", "type": "figure"},
        "TABREF0": {"text": "Table 1. Of genes.", "type": "table", "html": "<table/>"},
        "EQREF0": {"text": "x = y is it", "type": "equation"},
    },
    "back_matter": [paragraph("We thank all.", "Acknowledgements")],
}  # fmt: skip
BODY = [
    {
        "heading": "Introduction",
        "paragraphs": ["Shown before.", "Doe et al. agree."],
    },
    {"heading": "Mice", "paragraphs": ["In cages."]},
    {"heading": "Results", "paragraphs": ["It was found."]},
]
CAPTIONS = ["Figure 1: It shows BRCA1.", "mRNA of all genes.", "Table 1. Of genes."]


def test_cord_19_of_a_pdf() -> None:
    assert s2orc.recognises(CORD19)
    assert s2orc.format_of(CORD19) == "cord19"
    assert s2orc.convert(CORD19) == {
        "other_id": f"sha1:{SHA}",
        "title": "A variant of BRCA1",
        "abstract": "Genes are many.\n\nAnd BRCA1.",
        "full_text": BODY,
        "captions": CAPTIONS,
        "tables_left_out": 1,
    }


def test_cord_19_of_pmc_has_no_abstract_and_headings_from_the_inside_out() -> None:
    value = {
        "paper_id": "PMC140001",
        "metadata": {"title": "A variant", "authors": []},
        "body_text": [
            {
                "text": "Shown [1,2].",
                "section": "Background",
                "cite_spans": [
                    {"start": 7, "end": 8, "mention": "1", "ref_id": "BIBREF0"},
                    {"start": 9, "end": 10, "mention": "2", "ref_id": None},
                ],
            },
            paragraph("In cages.", "Mice ::: Methods"),
            paragraph("Of steel.", "Mice ::: Methods"),
            paragraph("By R.", "Statistics ::: Methods"),
        ],
        "ref_entries": {},
    }
    assert s2orc.format_of(value) == "cord19"
    assert s2orc.convert(value) == {
        "pmcid": "PMC140001",
        "title": "A variant",
        "full_text": [
            {"heading": "Background", "paragraphs": ["Shown."]},
            {
                "heading": "Methods",
                "sections": [
                    {"heading": "Mice", "paragraphs": ["In cages.", "Of steel."]},
                    {"heading": "Statistics", "paragraphs": ["By R."]},
                ],
            },
        ],
    }


def test_headings_from_the_outside_in() -> None:
    value = {"paper_id": "1", "body_text": [paragraph("In cages.", "Methods ::: Mice")]}
    assert s2orc.convert(value)["full_text"] == [
        {"heading": "Methods", "sections": [{"heading": "Mice", "paragraphs": ["In cages."]}]}
    ]


def test_the_first_s2orc() -> None:
    value = {
        "paper_id": "15770001",
        "metadata": {
            "title": "A variant of BRCA1",
            "abstract": "AbstractGenes are many.",
            "year": "2001",
            "arxiv_id": None,
            "pmc_id": "PMC350001",
            "pubmed_id": "15400001",
            "doi": "10.1234/Gen.1",
            "venue": "J. Genes",
            "journal": "Journal of Genes",
        },
        "s2_pdf_hash": SHA,
        "grobid_parse": {
            "abstract": [paragraph("Other words.", "Abstract")],
            "body_text": CORD19["body_text"],
            "ref_entries": CORD19["ref_entries"],
        },
        "latex_parse": None,
    }
    assert s2orc.recognises(value)
    assert s2orc.format_of(value) == "s2orc"
    assert s2orc.convert(value) == {
        "pmid": "15400001",
        "pmcid": "PMC350001",
        "doi": "10.1234/gen.1",
        "title": "A variant of BRCA1",
        "abstract": "Genes are many.",
        "full_text": BODY,
        "captions": CAPTIONS,
        "journal": "Journal of Genes",
        "publication_date": "2001",
        "tables_left_out": 1,
    }


def test_the_release_of_doc2json() -> None:
    value = {
        "paper_id": "18980001",
        "header": {"generated_with": "S2ORC 1.0.0"},
        "title": "A variant of BRCA1",
        "year": "",
        "venue": "J. Genes",
        "identifiers": {"doi": "N/A", "arxiv_id": "2101.00001v2"},
        "abstract": "",
        "pdf_parse": {
            "_pdf_hash": "",
            "abstract": [paragraph("Genes are many.", "Abstract", sec_num=None)],
            "body_text": [
                paragraph("Shown.", "Introduction", sec_num="1"),
                paragraph("All of it.", "Methods", sec_num="2"),
                paragraph("In cages.", "Mice", sec_num="2.1"),
            ],
            "ref_entries": {
                "FIGREF0": {"text": "Of all genes.", "fig_num": "1", "type_str": "figure"}
            },
        },
    }
    assert s2orc.recognises(value)
    assert s2orc.convert(value) == {
        "other_id": "arxiv:2101.00001",
        "title": "A variant of BRCA1",
        "abstract": "Genes are many.",
        "full_text": [
            {"heading": "Introduction", "paragraphs": ["Shown."]},
            {
                "heading": "Methods",
                "paragraphs": ["All of it."],
                "sections": [{"heading": "Mice", "paragraphs": ["In cages."]}],
            },
        ],
        "captions": ["Of all genes."],
        "journal": "J. Genes",
    }


def test_metadata_and_parses_that_stand_in_files_of_their_own() -> None:
    row = {
        "paper_id": "7",
        "title": "A variant",
        "abstract": "Genes.",
        "year": 2003,
        "pubmed_id": None,
        "doi": None,
        "journal": None,
        "venue": "J. Genes",
        "has_pdf_parse": True,
    }
    assert s2orc.recognises(row)
    assert s2orc.convert(row) == {
        "other_id": "s2:7",
        "title": "A variant",
        "abstract": "Genes.",
        "journal": "J. Genes",
        "publication_date": "2003",
    }
    parse = {"paper_id": "7", "_pdf_hash": SHA, "abstract": [], "body_text": CORD19["body_text"]}
    assert s2orc.format_of(parse) == "s2orc"
    assert s2orc.convert(parse) == {"other_id": "s2:7", "full_text": BODY}


def annotated(marked: str) -> tuple[str, dict[str, Any]]:
    """A text and its annotations, from pieces such as "<paragraph|Shown <bibref|[1]>.>"."""
    text = ""
    places: dict[str, list[dict[str, Any]]] = {}
    opened: list[tuple[str, int]] = []
    at = 0
    while at < len(marked):
        if marked[at] == "<":
            kind, _, _ = marked[at + 1 :].partition("|")
            opened.append((kind, len(text)))
            at += len(kind) + 1
        elif marked[at] == ">":
            kind, start = opened.pop()
            name, _, number = kind.partition("=")
            item: dict[str, Any] = {"start": start, "end": len(text)}
            places.setdefault(name, []).append(
                {**item, "attributes": {"n": number}} if number else item
            )
        else:
            text += marked[at]
        at += 1
    return text, dict(places)


TEXT, PLACES = annotated(
    "\n<title|A variant of BRCA1> Gene Press\n<abstract|<paragraph|Genes are many.>>\n"
    "<section_header=1|Introduction>\n<paragraph|Shown before <bib_ref|[1,> <bib_ref|2]> .>\n"
    "<section_header=2|Methods>\n<section_header=2.1|Mice>\n"
    "<paragraph|Of <formula|x = y> cages of αβ.>\n<paragraph|Of steel.>\n"
    "<section_header|Results>\n<paragraph|Found.>\n"
    "<section_header|Figure 1>\n<figure|<figure_caption|It shows BRCA1.>>"
    "<table|<table_caption|Of genes.>a b> <title|Cited>"
)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("as_text", [True, False])
def test_the_new_s2orc(joined: bool, as_text: bool) -> None:
    annotations = {
        (key.replace("_", "") if joined else key): json.dumps(value) if as_text else value
        for key, value in PLACES.items()
    }
    value = {
        "corpusid": 254000001,
        "externalids": {
            "arxiv": None,
            "pubmed": "36500001",
            "pubmedcentral": "9700001",
            "doi": "10.1234/Gen.1",
        },
        "content": {
            "source": {"pdfsha": SHA, "oainfo": {"license": "CCBY", "status": "GOLD"}},
            "text": TEXT,
            "annotations": {**annotations, "publisher": None},
        },
    }
    assert s2orc.recognises(value)
    assert s2orc.format_of(value) == "s2orc"
    assert s2orc.convert(value) == {
        "pmid": "36500001",
        "pmcid": "PMC9700001",
        "doi": "10.1234/gen.1",
        "title": "A variant of BRCA1",
        "abstract": "Genes are many.",
        "full_text": [
            {"heading": "Introduction", "paragraphs": ["Shown before."]},
            {
                "heading": "Methods",
                "sections": [{"heading": "Mice", "paragraphs": ["Of cages of αβ.", "Of steel."]}],
            },
            {"heading": "Results", "paragraphs": ["Found."]},
        ],
        "captions": ["It shows BRCA1.", "Of genes."],
        "license": "CCBY",
        "tables_left_out": 1,
    }


def test_the_newest_s2orc_and_its_list_of_papers() -> None:
    text, places = annotated("<paragraph|Found.>")
    value = {
        "corpusid": 1,
        "title": "A variant",
        "openaccessinfo": {"externalids": {"ArXiv": "2101.00001"}, "license": "CCBY"},
        "body": {"text": text, "annotations": {k: json.dumps(v) for k, v in places.items()}},
    }
    assert s2orc.convert(value) == {
        "other_id": "arxiv:2101.00001",
        "title": "A variant",
        "full_text": [{"heading": "", "paragraphs": ["Found."]}],
        "license": "CCBY",
    }
    paper = {
        "corpusid": 2,
        "externalids": {"DOI": None, "PubMed": None, "CorpusId": "2"},
        "title": "Another",
        "venue": "J. Genes",
        "journal": {"name": "Journal of Genes", "volume": "1"},
        "year": 1989,
        "publicationdate": "1989-10-24",
        "publicationtypes": ["JournalArticle"],
    }
    assert s2orc.convert(paper) == {
        "other_id": "s2:2",
        "title": "Another",
        "journal": "Journal of Genes",
        "publication_date": "1989-10-24",
        "publication_types": ["JournalArticle"],
    }


UNARXIVE: dict[str, Any] = {
    "paper_id": "2212.00001",
    "metadata": {
        "id": "2212.00001",
        "title": "Zeros of\n  genes",
        "journal-ref": "Phys. Genes 5 (2009) 101",
        "doi": None,
        "categories": "q-bio.GN",
        "license": "http://creativecommons.org/licenses/by/4.0/",
        "versions": [{"version": "v1", "created": "Thu, 22 Dec 2022 17:01:56 GMT"}],
        "update_date": "2023-01-02",
    },
    "abstract": {"section": "Abstract", "text": "  Let $X$\nbe genes.", "cite_spans": []},
    "body_text": [
        paragraph(
            "Let {{formula:1a}} be many ({{cite:2b}}, {{cite:3c}}) by Lemma REF .",
            "On {{formula:4d}} genes",
            "{{cite:2b}}",
            sec_number="1",
            content_type="paragraph",
        ),
        paragraph("So.", "Mice", sec_number="1.1", content_type="proof"),
    ],
    "ref_entries": {
        "5e": {"caption": "Of {{formula:6f}} all genes.", "type": "figure"},
        "7a": {"latex": "x", "type": "formula"},
    },
}


def test_unarxive() -> None:
    assert s2orc.recognises(UNARXIVE)
    assert s2orc.format_of(UNARXIVE) == "s2orc"
    assert s2orc.convert(UNARXIVE) == {
        "other_id": "arxiv:2212.00001",
        "title": "Zeros of genes",
        "abstract": "Let $X$ be genes.",
        "full_text": [
            {
                "heading": "On genes",
                "paragraphs": ["Let be many by Lemma."],
                "sections": [{"heading": "Mice", "paragraphs": ["So."]}],
            }
        ],
        "captions": ["Of all genes."],
        "journal": "Phys. Genes",
        "publication_date": "2022-12-22",
        "license": "http://creativecommons.org/licenses/by/4.0/",
    }


@pytest.mark.parametrize(
    "other",
    [{"pmid": "1", "abstract": "A"}, {"paper_id": "1", "title": "A"}, {"body_text": []}],
)
def test_other_objects_are_not_taken(other: dict[str, Any]) -> None:
    assert not s2orc.recognises(other)


def test_a_place_that_holds_another_text_is_passed_over() -> None:
    shifted = {"start": 0, "end": 3, "text": "[1]"}
    value = {"paper_id": "1", "body_text": [{"text": "BRCA1 [1].", "cite_spans": [shifted]}]}
    assert s2orc.convert(value)["full_text"] == [{"heading": "", "paragraphs": ["BRCA1 [1]."]}]


# --- values of the wrong type ------------------------------------------------------------


ANNOTATED = {
    "corpusid": 1,
    "externalids": {"DOI": "10.1/a"},
    "journal": {"name": "J"},
    "content": {"source": {"oainfo": {"license": "x"}}, "text": TEXT, "annotations": PLACES},
}


@pytest.mark.parametrize("whole", [CORD19, UNARXIVE, ANNOTATED])
def test_whatever_stands_anywhere_it_is_read_or_refused(whole: dict[str, Any]) -> None:
    read = refused = 0
    values = [value for value in mutations(whole) if isinstance(value, dict)]
    for mutated in values:
        s2orc.recognises(mutated)
        try:
            s2orc.format_of(mutated)
            s2orc.convert(mutated)
            read += 1
        except RecordProblem as problem:
            refused += (problem.reason, "\n" in problem.detail) == ("wrong_type", False)
    assert read + refused == len(values) and read > refused > 5


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"paper_id": "1", "body_text": {}}, "body_text is dict, expected a list"),
        ({"paper_id": "1", "body_text": ["x"]}, "body_text holds str, expected objects"),
        ({"paper_id": "1", "body_text": [{"text": 1}]}, "text is int, expected text"),
        ({"corpusid": 1, "content": {"text": []}}, "text is list, expected text"),
        (
            {"corpusid": 1, "content": {"text": "a", "annotations": {"paragraph": "[{"}}},
            "annotations.paragraph is no JSON text",
        ),
    ],
)
def test_what_is_refused_is_named(value: dict[str, Any], detail: str) -> None:
    with pytest.raises(RecordProblem, match=detail):
        s2orc.convert(value)
