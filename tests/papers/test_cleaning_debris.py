"""What cleaning must keep beside what it cuts, and what a cut must not leave behind."""

import json
import time

import pytest

from steps.papers.cleaning.recipe import clean_text
from steps.papers.headings import DROPPED, section_of_heading
from steps.papers.sections import split_sections
from tests.support.project import SHARED_DATA

# Headings as Pandoc writes them ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("# References {-}", DROPPED),
        ("## Methods {#s2 .unnumbered}", "methods"),
        ("## Results ##", "results"),
        ("## 3. Results {#sec:3} ", "results"),
        ("### Discussion ### {#s4 key=value}", "discussion"),
        ("Introduction {#s1}", "introduction"),
        ("Introduction {#s1} {.plain}", "introduction"),
        ('Conclusions {#s5 .plain title="The end of it"}', "conclusion"),
        ("Results {n=12}", None),
        ("Methods {#s2", None),
    ],
)
def test_the_attributes_of_a_heading_are_no_part_of_it(heading: str, section: str | None) -> None:
    assert section_of_heading(heading) == section


def test_headings_of_pandoc_open_their_sections_and_leave_no_marks() -> None:
    text = (
        "Introduction {#s1}\n============\n\nGenes matter.\n\n## Methods {#s2 .unnumbered}\n\n"
        "Mice were kept.\n\nWestern blotting {#s2-1}\n----------------\nBlots were read.\n\n"
        "### mRNA levels {#s2-2}\n\nThey were low.\n\nResults\n-------\n\nMice grew.\n\n"
        "## Patients and families ##\n\nThey came.\n\n# References {-}\n\nDoe J. Maps of mice."
    )
    assert split_sections(text) == [
        ("introduction", "Genes matter."),
        (
            "methods",
            "Mice were kept.\n\nWestern blotting\n\nBlots were read.\n\nmRNA levels\n\n"
            "They were low.",
        ),
        ("results", "Mice grew.\n\nPatients and families\n\nThey came."),
    ]


def test_a_section_named_with_attributes_is_known() -> None:
    listed = [
        {"heading": "Methods {#s2}", "text": "Mice."},
        {"heading": "Cell lines {#s3 .unnumbered}", "text": "Two of them."},
        {"heading": "References {-}", "text": "Doe J. Maps."},
    ]
    assert split_sections(listed) == [("methods", "Mice.\n\nCell lines\n\nTwo of them.")]


def test_a_text_that_was_not_split_loses_the_marks_and_the_references_too() -> None:
    text = "## Results {#s3}\n\nMice grew.\n\nReferences {#s9}\n----------\n\nDoe J. Maps of mice."
    assert clean_text(text) == "Results\n\nMice grew."


@pytest.mark.parametrize(
    "text",
    [
        "The set {-} was empty, and so was the set {n=12}",
        "We counted # of cells and #3 of them",
        "the sequence was\n--------\nand went on",
    ],
)
def test_marks_that_are_no_heading_stay(text: str) -> None:
    assert clean_text(text) == text.replace("\n", " ")


def test_the_real_case_of_pandoc_is_split() -> None:
    path = SHARED_DATA / "cases" / "pandoc-headings" / "papers.json"
    for paper in json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []:
        ((name, text),) = split_sections(paper["full_text"])
        assert name == "introduction"
        assert not any(mark in text for mark in ("{", "===", "Doe J"))


# Brackets that count or measure ---------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Marrow held 46,XY,del(7)(q22q34)[6]/47,sl,+19[9]/48,sdl1,+21[5].",
        "We saw 47,XX,+8,t(9;22)(q34;q11.2),der(1)t(1;19)(q23;p13),-7,-12,+mar[17] in blasts.",
        "It read 45, XX, -7, del(5)(q13q33), t(3; 12)(q26; p13)[11] on the day.",
        "The karyotype was 46,XX [20] in both.",
        "The child was mos 45,X [12]/46,XX [18] in blood.",
        "Blasts were 45~48,XY,-5,+8[cp14]/46,XY[6].",
        "It was 46XX[20] after treatment.",
        "FISH gave nuc ish(RUNX1x2)[200] and nuc ish(KMT2A,MLLT3)x2[150].",
        "FISH gave nuc ish(3'KMT2Ax1,5'KMT2Ax2)[40]/(KMT2Ax2)[160] then.",
        "FISH gave nuc ish (RUNX1x2) [200] then.",
    ],
)
def test_counts_of_cells_stay(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "The age was 52 [40–63] years, and the index 31 [26-35].",
        "The odds were 1.4 [1.1-2.2] and the delay 9.5 [IQR 6–12] days.",
        "Carriers aged 47 years [39–55] had a score of 12.5 [9–15].",
        "Of them 40% [31–49] were ill, aged 47 [39, 55] years.",
        "The group was younger (29 [21–38]) by far.",
    ],
)
def test_the_range_behind_its_value_stays(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("as found [3], and [12,14] with mice [28–41].", "as found with mice."),
        ("A 46,XX karyotype [12] is rare.", "A 46,XX karyotype is rare."),
        ("It was 46,XX. [12] Then it ended.", "It was 46,XX. Then it ended."),
        ("It was 46,XX[20] [3] as before.", "It was 46,XX[20] as before."),
        ("With 46,XX [12, 15] we agree.", "With 46,XX we agree."),
        ("Loss of Pax2[12] and Sox2 [9] did it.", "Loss of Pax2 and Sox2 did it."),
        ("In exon 12 [10–14] of caspase 3 [2–5] it", "In exon 12 of caspase 3 it"),
        ("In 60 patients [28–41] and IL-2 [1–4] it", "In 60 patients and IL-2 it"),
        ("It rose to 90 [28–41] at last.", "It rose to 90 at last."),
    ],
)
def test_citations_beside_counts_and_values_go(before: str, after: str) -> None:
    assert clean_text(before) == after


# Statements that begin a text -----------------------------------------------------------------

_TEXT = "We read the genes of two families. One variant was found in both."


@pytest.mark.parametrize(
    "statement",
    [
        "Funding: This work was paid by the Example Trust.",
        "Funding: NIH.",
        "FUNDING: Example Inc. of Sampletown gave the money.",
        "Funding. The Example Trust paid, to A. B. Doe. Grants came from the Board as well.",
        "Acknowledgements: We thank Jane. We are grateful to Joe for his mice.",
    ],
)
def test_a_text_on_one_line_loses_only_the_statement_that_begins_it(statement: str) -> None:
    assert clean_text(f"{statement} {_TEXT}") == _TEXT
    assert split_sections(f"{statement} {_TEXT}") == [("other", _TEXT)]


@pytest.mark.parametrize(
    "statement",
    [
        "Competing interests: none declared.",
        "Abbreviations: SNP, single nucleotide polymorphism.",
        "Author contributions: Jane read the genes. Joe wrote the paper.",
    ],
)
def test_other_statements_do_not_take_the_whole_text_with_them(statement: str) -> None:
    ((name, text),) = split_sections(f"{statement} {_TEXT}")
    assert name == "other"
    assert text.endswith(_TEXT)
    assert not text.startswith(statement.split(". ")[0])


def test_a_wrapped_text_loses_only_the_statement_too() -> None:
    wrapped = (
        "Funding: the Example Trust. We read the genes\nof two families. One variant was found."
    )
    assert clean_text(wrapped) == "We read the genes of two families. One variant was found."
    ((_, text),) = split_sections(wrapped)
    assert text == "We read the genes\nof two families. One variant was found."


def test_a_text_without_stops_is_kept() -> None:
    text = "Funding: the trust paid, we read genes " + "and mice " * 80 + "and closed"
    assert clean_text(text) == text
    assert [name for name, _ in split_sections(text)] == ["other"]


def test_a_statement_among_other_paragraphs_goes_whole() -> None:
    text = f"{_TEXT} {_TEXT}\n\nFunding: the Trust paid. It had no say.\n\n{_TEXT}"
    assert clean_text(text) == f"{_TEXT} {_TEXT}\n\n{_TEXT}"


@pytest.mark.parametrize(
    "mark",
    [
        " [ABSTRACT TRUNCATED AT 250 WORDS]",
        " (ABSTRACT TRUNCATED AT 400 WORDS)",
        "[Abstract truncated at 1000 words]",
        " (abstract truncated at 250 words).",
        " (ABSTRACT TRUNCATED)",
        " ABSTRACT TRUNCATED AT 250\nWORDS",
    ],
)
def test_the_mark_of_a_truncated_abstract_goes_whole(mark: str) -> None:
    assert clean_text("The gene is lost." + mark) == "The gene is lost."


def test_truncated_proteins_stay() -> None:
    text = "The protein is truncated at 250 residues (truncated at exon 3)."
    assert clean_text(text) == text


# What a cut leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Beads (Acme, https://acme.example.org/x) were used.", "Beads (Acme) were used."),
        ("Beads (http://acme.example.org, Acme) were used.", "Beads (Acme) were used."),
        ("It was verified in https://example.org/v2.", "It was verified."),
        ("It is available at: http://example.org/x. We", "It is available. We"),
        ("It is free at http://a.example.org and http://b.example.org.", "It is free."),
        ("It is free ( http://example.org ) here.", "It is free here."),
        ("It is free at  http://example.org , and cheap.", "It is free, and cheap."),
        ("It ran (see http://example.org/m for further details) well.", "It ran well."),
        ("It ran. Please see http://example.org/m for details.", "It ran."),
        ("It ran (version 2, see http://example.org).", "It ran (version 2)."),
        ("It ran (GSE12, available at http://example.org).", "It ran (GSE12)."),
        ("It ran (at http://example.org; version 3).", "It ran (version 3)."),
        ("It is kept. Database URL: http://example.org/db.", "It is kept."),
        ("It is kept. The web site is http://example.org/db.", "It is kept."),
        ("It is kept at the URL: http://example.org/db.", "It is kept."),
        ("http://example.org/db. The map is kept.", "The map is kept."),
        ("Ask Jane (Example University, jane@example.org).", "Ask Jane (Example University)."),
        ("Ask Jane, e-mail: jane@example.org.", "Ask Jane."),
        ("It was sent to jane@example.org.", "It was sent."),
    ],
)
def test_links_and_mails_leave_no_debris(before: str, after: str) -> None:
    assert clean_text(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("The dye (EGFP, [4]) and day 14 (P14; [1]).", "The dye (EGFP) and day 14 (P14)."),
        ("It was done as described in [12].", "It was done as described."),
        ("It was done according to [7,20]. We", "It was done. We"),
        ("Genes are few, see, for example, [19]. We", "Genes are few. We"),
        ("In mice (GFP, reviewed in [3]), it", "In mice (GFP), it"),
        ("It fuses [[39]; and data not shown] here.", "It fuses [data not shown] here."),
        ("It was kept as before ([2]. Mice", "It was kept as before. Mice"),
        ("It was seen by Doe et al., [12].", "It was seen by Doe et al."),
        ("The gene that was knocked in [12].", "The gene that was knocked in."),
    ],
)
def test_citations_leave_no_debris(before: str, after: str) -> None:
    assert clean_text(before) == after


def test_debris_that_the_text_brought_along_is_not_touched() -> None:
    brought = "It ran (see  and ) in mice (Acme,) and was found in. It is at . "
    cut = "x" * 400 + " at https://example.org/x."
    assert clean_text(brought + cut) == clean_text(brought) + " " + "x" * 400 + "."


# Time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    [
        *["[", "46,XX", "46,XX[1]", "46,XX [1]/", "46,X(", "46, XX, ", "10 ", "34 [28–41] ", "[1-"],
        *["{#", "{#a}", "# ", "## A {#s}\n", "====\n", "A\n----\n", "=", "References {-}\n"],
        *["Funding: a\n", "Funding: a. ", "A.\n", "ABSTRACT TRUNCATED ", "ABL1x2)[2]/"],
        *["[1], and ", "reviewed in [1]. ", "(http://a.org, ", "at http://a.org and ", "URL: "],
    ],
)
def test_two_hundred_thousand_characters_of_one_thing_take_a_moment(unit: str) -> None:
    """A pattern that took quadratic time would need minutes for this."""
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    clean_text(text)
    split_sections(text + "}")
    assert time.process_time() - start < 10
