"""Full text in all its shapes becomes sections with canonical names."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.errors import UserError
from steps.papers.headings import DROPPED, SECTION_NAMES, section_of_heading
from steps.papers.sections import drop_repeated_front, split_sections
from tests.support.project import SHARED_DATA


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("Abstract", "abstract"),
        ("Introduction", "introduction"),
        ("BACKGROUND", "introduction"),
        ("2. Methods", "methods"),
        ("Materials & Methods", "methods"),
        ("Materials and methods:", "methods"),
        ("Patients and Methods", "methods"),
        ("Experimental procedures", "methods"),
        ("IV. RESULTS", "results"),
        ("3 Results", "results"),
        ("Results and discussion", "results"),
        ("Discussion and conclusions", "discussion"),
        ("## Discussion", "discussion"),
        ("**Conclusions**", "conclusion"),
        ("Concluding remarks", "conclusion"),
        ("Key words", "keywords"),
        ("Case presentation", "other"),
        ("References", DROPPED),
        ("Acknowledgements", DROPPED),
        ("Acknowledgments and Funding", DROPPED),
        ("Authors’ contributions", DROPPED),
        ("Conflict of Interest", DROPPED),
        ("Supplementary Table S1 and S2", DROPPED),
        ("List of abbreviations", DROPPED),
        ("Figures and Tables", DROPPED),
        ("results", None),
        ("Western blotting", None),
        ("Results of the screen", None),
        ("We found no results.", None),
        ("", None),
    ],
)
def test_headings_have_canonical_names(heading: str, section: str | None) -> None:
    assert section_of_heading(heading) == section


def test_a_string_is_split_at_its_heading_lines() -> None:
    text = (
        "A title\n\nAbstract\n\nWe asked.\n\nIntroduction\n\nGenes matter.\n\n1 2 3\n\n"
        "Materials and Methods\n\nMice\n\nThey were kept.\n\nResults\n\nThey grew.\n\n"
        "Discussion\n\nGrowth is good.\n\nReferences\n\n1. Doe 2001."
    )
    assert split_sections(text) == [
        ("other", "A title"),
        ("abstract", "We asked."),
        ("introduction", "Genes matter.\n\n1 2 3"),
        ("methods", "Mice\n\nThey were kept."),
        ("results", "They grew."),
        ("discussion", "Growth is good."),
    ]


def test_the_labels_of_a_structured_abstract_stay_in_it() -> None:
    text = (
        "Abstract\n\nBackground\n\nWhy.\n\nMethods\n\nHow.\n\nResults\n\nWhat.\n\n"
        "Conclusions\n\nSo.\n\nBackground\n\nGenes matter.\n\nMethods\n\nMice.\n\nResults\n\nFur."
    )
    assert split_sections(text) == [
        ("abstract", "Why.\n\nHow.\n\nWhat.\n\nSo."),
        ("introduction", "Genes matter."),
        ("methods", "Mice."),
        ("results", "Fur."),
    ]


def test_labels_that_are_no_section_names_stay_in_the_abstract_too() -> None:
    text = "Abstract\nObjective\nWhy.\nDesign\nHow.\nFindings\nWhat.\nIntroduction\nGenes matter."
    assert split_sections(text) == [
        ("abstract", "Why.\n\nHow.\n\nWhat."),
        ("introduction", "Genes matter."),
    ]


def test_an_article_behind_an_empty_abstract_keeps_its_sections() -> None:
    body = "Genes matter a great deal. " * 80
    text = f"Abstract\n\nIntroduction\n\n{body}\n\nMethods\n\n{body}\n\nResults\n\n{body}"
    assert [name for name, _ in split_sections(text)] == ["introduction", "methods", "results"]


def test_text_under_the_abstract_means_that_the_next_heading_ends_it() -> None:
    text = "Abstract\n\nWe asked.\n\nMethods\n\nMice.\n\nResults\n\nGrowth."
    assert split_sections(text) == [
        ("abstract", "We asked."),
        ("methods", "Mice."),
        ("results", "Growth."),
    ]


def test_numbered_headings_are_understood() -> None:
    text = (
        "1. Introduction\nGenes matter.\n2. Methods\n2.1 Patients\nThey came.\n2.2. Results\n"
        "of the tests were kept.\n3. Case of a clan\nThey moved.\n4. Results\n10.5 Mb were lost.\n"
        "5 Discussion\nIt is so."
    )
    assert split_sections(text) == [
        ("introduction", "Genes matter."),
        ("methods", "Patients\nThey came.\nResults\nof the tests were kept."),
        ("other", "Case of a clan\nThey moved."),
        ("results", "10.5 Mb were lost."),
        ("discussion", "It is so."),
    ]


def test_a_sentence_that_begins_with_a_number_is_no_heading() -> None:
    text = "Results\n12 patients came.\n2.5 Mb were lost.\n\n3. Carriers were typed."
    assert split_sections(text) == [("results", text.removeprefix("Results\n"))]


def test_a_wrapped_line_that_reads_like_a_heading_is_text() -> None:
    text = "Discussion\nOur findings agree with the\nResults\nof others."
    assert split_sections(text) == [("discussion", text.removeprefix("Discussion\n"))]


def test_paragraphs_that_begin_with_their_heading_are_taken_or_dropped() -> None:
    text = (
        "Abstract: We asked\nand knew.\n\nKeywords: BRCA1, repair\n\nIntroduction\n\nGenes matter."
        "\n\nFunding: A grant.\n\nThey still matter.\n\nConflicts of interest. None."
    )
    assert split_sections(text) == [
        ("abstract", "We asked\nand knew."),
        ("keywords", "BRCA1, repair"),
        ("introduction", "Genes matter.\n\nThey still matter."),
    ]


def test_the_body_of_a_review_behind_its_keywords_is_other() -> None:
    text = "Abstract\n\nWe review.\n\nKeywords: repair\n\nBRCA2\n\nThe gene was found."
    assert split_sections(text) == [
        ("abstract", "We review."),
        ("keywords", "repair"),
        ("other", "BRCA2\n\nThe gene was found."),
    ]


def test_a_review_does_not_vanish_behind_its_abbreviations() -> None:
    prose = "The gene was found long ago in yeast. It was then seen in mice and men. " * 5
    text = f"Abbreviations\n\nBER: base excision repair; NER: nucleotide excision repair\n\n{prose}"
    assert split_sections(text) == [("other", prose.strip())]


def test_summary_is_the_abstract_in_front_and_the_conclusion_at_the_end() -> None:
    text = "Summary\n\nWe asked.\n\nIntroduction\n\nGenes.\n\nSummary\n\nThey matter."
    assert [name for name, _ in split_sections(text)] == ["abstract", "introduction", "conclusion"]


def test_neighbours_of_the_same_name_merge() -> None:
    text = "Methods\n\nMice.\n\nExperimental procedures\n\nMen.\n\nResults\n\nGrowth."
    assert split_sections(text) == [("methods", "Mice.\n\nMen."), ("results", "Growth.")]


def test_a_text_without_headings_is_other() -> None:
    assert split_sections("Genes matter.\n\nThey do.") == [("other", "Genes matter.\n\nThey do.")]
    assert split_sections("") == []


@pytest.mark.parametrize("heading_key", ["heading", "title", "name", "section"])
@pytest.mark.parametrize("text_key", ["text", "content", "body", "paragraphs"])
def test_a_list_of_sections_under_any_usual_keys(heading_key: str, text_key: str) -> None:
    sections = [
        {heading_key: "Abstract", text_key: "We asked."},
        {heading_key: "1. Introduction", text_key: ["Genes matter.", "They do."]},
        {heading_key: "Materials and Methods", text_key: "Mice."},
        {heading_key: "Patients", text_key: "They came."},
        {heading_key: "Results", text_key: "Growth."},
        {heading_key: "References", text_key: ["1. Doe 2001."]},
    ]
    assert split_sections(sections) == [
        ("abstract", "We asked."),
        ("introduction", "Genes matter.\n\nThey do."),
        ("methods", "Mice.\n\nPatients\n\nThey came."),
        ("results", "Growth."),
    ]


def test_nested_sections_belong_to_the_section_around_them() -> None:
    sections = [
        {
            "title": "Abstract",
            "sections": [
                {"title": "Background", "text": "Why."},
                {"title": "Results", "text": "What."},
            ],
        },
        {
            "title": "Methods",
            "text": "General.",
            "sections": [{"title": "Mice", "text": "Kept.", "subsections": [{"text": "Fed."}]}],
        },
        {"title": "A new pathway", "text": "It was found."},
        {"title": "Declarations", "sections": [{"title": "Results", "text": "None."}]},
    ]
    assert split_sections(sections) == [
        ("abstract", "Why.\n\nWhat."),
        ("methods", "General.\n\nMice\n\nKept.\n\nFed.\n\nA new pathway\n\nIt was found."),
    ]


def test_an_unknown_heading_behind_the_introduction_opens_the_body_of_a_review() -> None:
    sections = [
        {"heading": "Introduction", "text": "Genes."},
        {"heading": "BRCA2 and repair", "text": "It repairs."},
    ]
    assert split_sections(sections) == [
        ("introduction", "Genes."),
        ("other", "BRCA2 and repair\n\nIt repairs."),
    ]


def test_a_mapping_from_heading_to_text() -> None:
    table = {
        "title": "A title",
        "abstract": "We asked.",
        "materials_and_methods": {"Mice": "Kept.", "Cells": ["Grown.", "Fed."]},
        "RESULTS": "Growth.",
        "references": ["1. Doe"],
        "discussion": None,
    }
    assert split_sections(table) == [
        ("other", "A title"),
        ("abstract", "We asked."),
        ("methods", "Mice\n\nKept.\n\nCells\n\nGrown.\n\nFed."),
        ("results", "Growth."),
    ]


def test_a_list_of_paragraphs_and_heading_lines() -> None:
    assert split_sections(["Introduction", "Genes matter.", "Results", "Growth."]) == [
        ("introduction", "Genes matter."),
        ("results", "Growth."),
    ]
    assert split_sections({"body": "Introduction\nGenes.\nResults\nGrowth."}) == [
        ("introduction", "Genes."),
        ("results", "Growth."),
    ]


@pytest.mark.parametrize(
    ("value", "sections", "note"),
    [
        (12, [], "int in the full text, not read"),
        ([{"heading": "Results", "text": 3.5}], [], "float in the full text, not read"),
        ({"Results": ["a", True]}, [("results", "a")], "bool in the full text, not read"),
        ([{"heading": ["Results"], "text": "a"}], [("results", "a")], None),
        ([{"heading": 2, "title": "Results", "text": "a"}], [("results", "a")], None),
        ([{"heading": {"text": "Results"}, "text": "a"}], [("results", "a")], None),
        ([{"heading": "Abbreviations", "text": "AB"}, {"heading": "Pathogenesis", "text": "p"}],
         [("other", "Pathogenesis\n\np")], None),
        ([{"heading": "Methods", "text": "m"}, {"heading": "Data availability", "text": "d"},
          {"heading": "Statistics", "text": "s"}], [("methods", "m\n\nStatistics\n\ns")], None),
        ([{"heading": "Results", "text": "a", "level": 2, "sec_type": "x"}],
         [("results", "a")], None),
        ([{"heading": "Results", "text": "a", "is_main": True, "x_count": 4}],
         [("results", "a")], None),
        ([{"heading": "Results", "text": "a", "caption_block": "one two three four five six seven "
          "eight nine"}], [("results", "a")], "key 'caption_block' of a section, not read"),
        ([{"section": "Methods", "text": "a", "cite_spans": [{"start": 1, "text": "[1]"}]},
          {"section": "Methods", "text": "b", "cite_spans": []}], [("methods", "a\n\nb")], None),
        ([{"section": "Patients", "text": "a"}, {"section": "Patients", "text": "b"}],
         [("other", "Patients\n\na\n\nb")], None),
        ({"Methods": "a", "pmid": "1", "license": "CC BY"}, [("methods", "a")], None),
        ([{"heading": "Methods", "text": "m"}, {"heading": "Ethics statement", "text": "e"},
          {"heading": "Patients", "text": "p"}], [("methods", "m\n\nPatients\n\np")], None),
        ([{"heading": "References", "text": "r"}, {"heading": "Doe 2001", "text": "d"}], [], None),
        ([{"heading": "Acknowledgements", "text": "a"}, {"heading": "Results", "text": "r"}],
         [("results", "r")], None),
        ([{"heading": "Methods", "sections": [{"heading": "Mice", "text": "m"},
                                              {"heading": "Ethics approval", "text": "e"}]},
          {"heading": "Results", "sections": [{"heading": "Growth", "text": "g"}]},
          {"heading": "Discussion", "text": "d"}],
         [("methods", "Mice\n\nm"), ("results", "Growth\n\ng"), ("discussion", "d")], None),
        ([{"heading": "Results", "sections": [{"heading": "Funding", "text": "f"}]},
          {"heading": "Survival", "text": "s"}], [("results", "Survival\n\ns")], None),
    ],
)  # fmt: skip
def test_what_is_no_text_is_passed_over_and_noted(
    value: Any, sections: list[tuple[str, str]], note: str | None
) -> None:
    notes: list[str] = []
    assert split_sections(value, notes) == sections
    assert notes == ([note] if note else [])


def test_nesting_without_end_is_refused() -> None:
    value: Any = "text"
    for _ in range(2000):
        value = [{"heading": "A", "sections": [value]}]
    with pytest.raises(UserError, match="nested deeper than 50"):
        split_sections(value)


def test_a_repeated_title_and_abstract_are_dropped() -> None:
    sections = split_sections(
        "Mapping of a Locus.\n\nAbstract\n\nBackground\n\nWhy we asked.\n\nResults\n\nWe know now."
        "\n\nIntroduction\n\nGenes matter."
    )
    abstract = "Why we asked. We know now."
    assert drop_repeated_front(sections, "Mapping of a locus", abstract) == [
        ("introduction", "Genes matter.")
    ]
    assert drop_repeated_front(sections, "Another", "Something else was said here.") == sections
    assert drop_repeated_front(sections, None, None) == sections


def test_an_abstract_repeated_without_heading_is_dropped_and_the_rest_of_the_front_stays() -> None:
    sections = split_sections("A title\n\nJane Doe\n\nWe asked and now know.\n\nResults\n\nGrowth.")
    assert drop_repeated_front(sections, "A title", "We asked, and now know") == [
        ("other", "Jane Doe"),
        ("results", "Growth."),
    ]


def test_what_repeats_the_abstract_later_stays() -> None:
    sections = [("results", "We asked."), ("other", "We asked.")]
    assert drop_repeated_front(sections, None, "We asked.") == sections


lines = st.sampled_from(
    [
        *(
            "Abstract",
            "Background",
            "1. Methods",
            "2.1 Mice",
            "Results",
            "References",
            "Keywords: a",
        ),
        *(
            "Abbreviations",
            "Genes matter.",
            "They do",
            "",
            "",
            "Summary",
            "3. Fish",
            "Funding: none",
        ),
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(lines, max_size=25).map("\n".join))
def test_sections_are_named_filled_and_differ_from_their_neighbours(text: str) -> None:
    sections = split_sections(text)
    assert all(name in SECTION_NAMES and name != "title" for name, _ in sections)
    assert all(body.strip() == body != "" for _, body in sections)
    assert all(a[0] != b[0] for a, b in pairwise(sections))


def test_real_articles_fall_into_their_sections() -> None:
    path = SHARED_DATA / "fulltext_articles.json"
    papers = json.loads(path.read_text("utf-8"))["papers"] if path.is_file() else []
    for paper in papers:
        sections = drop_repeated_front(split_sections(paper["full_text"]), paper["title"], None)
        names = [name for name, _ in sections]
        assert names[0] in ("abstract", "other"), paper["pmid"]
        assert names.count("abstract") == 1, paper["pmid"]
        abstract_words = len(dict(sections)["abstract"].split())
        assert 80 < abstract_words < 400, (paper["pmid"], abstract_words)
        kept = sum(len(text) for _, text in sections)
        assert kept > 0.75 * len(paper["full_text"]), (paper["pmid"], names)
        assert not any("We thank" in text for _, text in sections), paper["pmid"]
