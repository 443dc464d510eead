"""TEI of GROBID becomes papers, without citations, tables and back matter."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from steps.papers.formats.citation_marks import without_citations
from steps.papers.formats.outline import leveled
from steps.papers.formats.tei import convert_tei
from steps.papers.formats.xml_source import parse_element
from steps.papers.records import RecordProblem

HEADER = """
<teiHeader xml:lang="en">
 <fileDesc>
  <titleStmt>
   <title level="a" type="main">A variant of <hi rend="italic">BRCA1</hi></title>
  </titleStmt>
  <publicationStmt>
   <publisher>Gene Press</publisher>
   <availability status="free">
    <licence target="https://creativecommons.org/licenses/by/4.0/"><p>CC BY</p></licence>
   </availability>
   <date type="published" when="2019-05-07">7 May 2019</date>
  </publicationStmt>
  <sourceDesc><biblStruct>
   <analytic>
    <author><persName><surname>Doe</surname></persName></author>
    <title level="a" type="main">A variant</title>
   </analytic>
   <monogr>
    <title level="j" type="abbrev">J Genes</title>
    <title level="j" type="main">Journal of Genes</title>
    <idno type="ISSN">1234-5678</idno>
    <imprint><biblScope unit="volume">3</biblScope><date type="published" when="2019"/></imprint>
   </monogr>
   <idno type="MD5">0123ABCD</idno>
   <idno type="DOI">10.1234/Gen.1</idno>
   <idno type="PMID">31000001</idno>
   <idno type="PMCID">PMC6500001</idno>
  </biblStruct></sourceDesc>
 </fileDesc>
 <profileDesc>
  <textClass><keywords><term>BRCA1,</term><term>repair.</term></keywords></textClass>
  <abstract><div>
   <head>Background</head><p>Genes are many <ref type="bibr">[1]</ref>.</p>
   <head>Results</head><p>We found one.</p><p>And another.</p>
  </div></abstract>
 </profileDesc>
</teiHeader>"""
BODY = """
<text xml:lang="en"><body>
 <div><head n="1">Introduction</head>
  <p>As shown <ref type="bibr" target="#b0">[1,</ref><ref type="bibr" target="#b1">2]</ref>, and in
   <ref type="figure" target="#f0">Fig. 1</ref>.<note place="foot">A note.</note></p></div>
 <div><head n="2.">Methods</head></div>
 <div><head n="2.1">Mice</head><p>Of 10<hi rend="superscript">6</hi> cells <formula>x = y</formula>
  each.</p><formula>E = mc</formula></div>
 <div><head>Housing of mice</head><p><s>Cages.</s><s>Of steel.</s></p></div>
 <div><head>2.2. Statistics</head><list><item>One.</item><item>Two.</item></list></div>
 <div><head>Discussion</head><p>Doe et al. <ref type="bibr">(2001)</ref> said so.</p></div>
 <figure xml:id="f0"><head>Fig. 1 .</head><label/><figDesc>It shows BRCA1.</figDesc></figure>
 <figure xml:id="f1"><head>Figure 2</head><figDesc>Figure 2. It shows TP53.</figDesc></figure>
 <figure xml:id="f2"><head>Figure 3</head><figDesc/></figure>
 <figure type="table"><head>Table 1</head><figDesc>Of genes.</figDesc>
  <table><row><cell>1</cell></row></table></figure>
</body>
<back>
 <div type="acknowledgement"><div><head>Acknowledgements</head><p>We thank all.</p></div></div>
 <div type="references"><listBibl><biblStruct><analytic><title>Cited</title>
  <idno type="DOI">10.9999/cited</idno></analytic></biblStruct></listBibl></div>
</back></text>"""


def tei(
    header: str = HEADER, body: str = BODY, namespace: str = "http://www.tei-c.org/ns/1.0"
) -> Any:
    xmlns = f' xmlns="{namespace}"' if namespace else ""
    return parse_element(f"<TEI{xmlns}>{header}{body}</TEI>".encode())


PAPER = {
    "pmid": "31000001",
    "pmcid": "PMC6500001",
    "doi": "10.1234/gen.1",
    "title": "A variant of BRCA1",
    "abstract": "Background: Genes are many.\n\nResults: We found one.\n\nAnd another.",
    "full_text": [
        {"heading": "Introduction", "paragraphs": ["As shown, and in Fig. 1."]},
        {
            "heading": "Methods",
            "sections": [
                {"heading": "Mice", "paragraphs": ["Of 10<sup>6</sup> cells each."]},
                {"heading": "Housing of mice", "paragraphs": ["Cages. Of steel."]},
                {"heading": "Statistics", "paragraphs": ["One.", "Two."]},
            ],
        },
        {"heading": "Discussion", "paragraphs": ["Doe et al. said so."]},
    ],
    "captions": ["Fig. 1. It shows BRCA1.", "Figure 2. It shows TP53.", "Table 1. Of genes."],
    "keywords": ["BRCA1", "repair"],
    "journal": "Journal of Genes",
    "publication_date": "2019-05-07",
    "language": "en",
    "license": "https://creativecommons.org/licenses/by/4.0/",
    "open_access": True,
    "tables_left_out": 1,
}


@pytest.mark.parametrize("namespace", ["http://www.tei-c.org/ns/1.0", ""])
def test_a_whole_paper(namespace: str) -> None:
    assert convert_tei(tei(namespace=namespace)) == PAPER


def with_ids(ids: str) -> Any:
    source = f"<sourceDesc><biblStruct>{ids}</biblStruct></sourceDesc>"
    return convert_tei(tei(f"<teiHeader><fileDesc>{source}</fileDesc></teiHeader>", ""))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ('<idno type="MD5">0123ABCD</idno>', {"other_id": "md5:0123abcd"}),
        (
            '<idno type="arXiv">arXiv:2101.00001v2 [q-bio.GN] 1 Jan 2021</idno>'
            '<idno type="MD5">01</idno>',
            {"other_id": "arxiv:2101.00001"},
        ),
        ('<idno type="DOI">N/A</idno>', {}),
        ('<monogr><idno type="DOI">10.1/journal</idno></monogr>', {}),
        ('<analytic><idno type="doi">https://doi.org/10.1/A</idno></analytic>', {"doi": "10.1/a"}),
    ],
)
def test_identifiers_of_the_paper_itself(ids: str, expected: dict[str, str]) -> None:
    assert with_ids(ids) == expected


def test_a_title_and_a_journal_from_where_they_stand() -> None:
    assert with_ids("<analytic><title>Given here</title></analytic>") == {"title": "Given here"}
    assert with_ids('<monogr><title level="m">A book</title></monogr>') == {"journal": "A book"}


def test_a_head_that_grobid_ended_too_early_goes_on_in_the_caption() -> None:
    body = (
        "<text><body><figure><head>Fig. 2 M</head><figDesc>-waves of it.</figDesc></figure>"
        "<figure><head>Fig. 3</head><figDesc>of genes.</figDesc></figure></body></text>"
    )
    assert convert_tei(tei("", body)) == {"captions": ["Fig. 2 M-waves of it.", "Fig. 3 of genes."]}


def test_parts_that_stand_where_they_rarely_do() -> None:
    body = (
        "<text><body><p>Under no heading<ref type='foot'>2</ref>.</p>"
        "<div><head>Methods</head><p>Of genes.</p>"
        "<div><head>Mice</head><p>In cages.<figure><figDesc>It shows BRCA1.</figDesc></figure></p>"
        "</div><p>Back in the methods.</p></div>"
        "<table><row/></table></body></text>"
    )
    assert convert_tei(tei("", body)) == {
        "full_text": [
            {"heading": "", "paragraphs": ["Under no heading."]},
            {
                "heading": "Methods",
                "paragraphs": ["Of genes."],
                "sections": [
                    {"heading": "Mice", "paragraphs": ["In cages."]},
                    {"heading": "", "paragraphs": ["Back in the methods."]},
                ],
            },
        ],
        "captions": ["It shows BRCA1."],
        "tables_left_out": 1,
    }


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("<head>2. Mice</head>", "Mice"),
        ("<head>IV. Mice</head>", "Mice"),
        ("<head>V. cholerae</head>", "V. cholerae"),
        ("<head>16 S rRNA</head>", "16 S rRNA"),
        ("<head n='2.1'>5. Mice</head>", "5. Mice"),
        ("<head>5-HT receptors</head>", "5-HT receptors"),
    ],
)
def test_the_number_of_a_heading_goes(head: str, expected: str) -> None:
    body = f"<text><body><div>{head}<p>x</p></div></body></text>"
    assert convert_tei(tei("", body)) == {"full_text": [{"heading": expected, "paragraphs": ["x"]}]}


def test_a_file_of_neither_header_nor_text_is_refused() -> None:
    with pytest.raises(RecordProblem, match="no_text"):
        convert_tei(tei("", ""))


def test_levels_by_number() -> None:
    numbers = ["", "1", "1.1", "1.1.1", "1.2", "3.1", "3.2", "2", "1.1.1.1.1.1.1.1", "IV"]
    parts = [(number, "Genes", ["x"]) for number in numbers]
    assert [level for level, _, _ in leveled(parts)] == [1, 1, 2, 3, 2, 1, 1, 1, 1, 1]


def test_a_known_heading_without_a_number_is_a_section_of_its_own() -> None:
    parts = [("2", "Methods", []), ("", "Mice", ["x"]), ("", "Results", ["x"]), ("", "Mice", ["x"])]
    assert [level for level, _, _ in leveled(parts)] == [1, 2, 1, 1]


def test_a_heading_alone_has_the_unnumbered_sections_behind_it() -> None:
    parts = [("", "results", []), ("", "Mice", ["x"]), ("", "Cages", ["x"]), ("", "dIscussIon", [])]
    assert [level for level, _, _ in leveled(parts)] == [1, 2, 2, 1]


def test_a_statement_on_ethics_ends_no_methods() -> None:
    headings = [
        "Introduction",
        "A gene",
        "Methods",
        "Ethics statement",
        "Mice",
        "Results",
        "A gene",
    ]
    parts = [("", heading, ["x"]) for heading in headings]
    assert [level for level, _, _ in leveled(parts)] == [1, 1, 1, 2, 2, 1, 1]


# --- citations ---------------------------------------------------------------------------


def cut(marked: str) -> str:
    """Cut the citations that stand in curly brackets."""
    text, spans = "", []
    for number, piece in enumerate(re.split("[{}]", marked)):
        if number % 2:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return without_citations(text, spans)


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("stroke {[1]}, tremor {[2]} or {[3,}{4]}.", "stroke, tremor or."),
        ("so {[10]}{[11]}{[12]}.", "so."),
        ("patients. {[1,}{[4]}{[5]} However", "patients. However"),
        ("culture [{1},{2}]. With", "culture. With"),
        ("diseases. {1} Gene", "diseases. Gene"),
        ("cells{12}.", "cells."),
        ("programs {4,7–9} .", "programs."),
        ("both {(12)} and {(13)} of", "both of"),
        ("(ref. [{1}], and in {[2]}) it", "it"),
        ("(see {[4]} and {[5]}) it", "it"),
        ("America {(Doe and Roe, 1979;} {Roe, 1980;} {1990;} {Poe, 1983} ). It", "America. It"),
        ("it ({Doe, 2001}, {2002}; but see {Lee, 2003}).", "it."),
        ("(e.g., {Wu et al., 2014)} it", "it"),
        ("{Smith et al. (2001)} showed", "Smith et al. showed"),
        ("{Smith et al.} ({2001}) showed", "Smith et al. showed"),
        ("{Smith et al. [12]} showed", "Smith et al. showed"),
        ("{Lee (2003, 2004a)} found", "Lee found"),
        ("by {Lee, 2003} found", "by Lee, 2003 found"),
        ("(TP53; {Lee, 2003}) it", "(TP53; Lee, 2003) it"),
        ("the gene ({BRCA1}) is", "the gene (BRCA1) is"),
        ("5 × 10 {6} cells", "5 × 10 6 cells"),
        ("10{6} cells", "106 cells"),
        ("Ca {2+} ions", "Ca 2+ ions"),
        ("so {12) } and {([14])}.", "so."),
        ("{" + "Doe, 2001; " * 40 + "}", " ".join(["Doe, 2001;"] * 40)),
        ("of {}nothing", "of nothing"),
        ("\x04 a \x05b\x06 {[1]}", "a b"),
    ],
)
def test_citations_go_and_names_in_a_sentence_stay(marked: str, expected: str) -> None:
    assert cut(marked) == expected


def test_places_outside_of_the_text_or_of_each_other_are_passed_over() -> None:
    assert without_citations("a [1] b", [(2, 5), (2, 5), (3, 4), (9, 12), (6, 5)]) == "a b"


@given(
    st.text("([1,;Lee 2003)]\x04\x07{}é", max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12),
)
def test_no_stand_in_is_left_whatever_the_text(text: str, spans: list[tuple[int, int]]) -> None:
    found = without_citations(text, spans)
    assert found == " ".join(found.split())
    assert len(found) <= len(text)
    assert not set(found) & set("\x04\x05\x06\x07\x08")


# --- trees of any shape ------------------------------------------------------------------


def test_whatever_is_missing_or_misplaced_it_is_read_or_refused() -> None:
    whole = etree.tostring(tei())
    count = len(list(etree.fromstring(whole).iter()))
    for place in range(1, count):
        for change in ("remove", "empty", "rename", "comment", "double"):
            root = etree.fromstring(whole)
            element = list(root.iter())[place]
            around = element.getparent()
            if change == "remove":
                around.remove(element)
            elif change == "empty":
                element.clear()
            elif change == "rename":
                element.tag = "{http://www.tei-c.org/ns/1.0}p"
            elif change == "comment":
                element.insert(0, etree.Comment("said"))
            else:
                around.append(etree.fromstring(etree.tostring(element, with_tail=False)))
            fields = convert_tei(root)
            assert "10.9999/cited" not in str(fields)
