"""Variant mentions: real notations are found, look-alikes are not, spans are exact."""

import itertools

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from steps.papers import variants
from steps.papers.variants import find_variants

NOTATIONS = {
    "hgvs_coding": (
        "c.1799T>A c.35delG c.88-2A>G c.93+1G>T c.*32G>A c.-13G>T c.76_78del c.76_77insT "
        "c.(35delG) c.112_117delinsTG c.G1714C c.640_667del28 c.429_452dup"
    ),
    "hgvs_protein": (
        "p.Val600Glu p.V600E p.(Val600Glu) p.Gln26* p.Arg97fs*16 p.Arg97ProfsTer23 p.E947stop "
        "p.Lys23_Val25del p.Trp24= p.G204VfsX28 p.W111X"
    ),
    "hgvs_genomic": "g.2885G>C m.3243A>G n.76A>C g.32386323_32386325del m.8993T>C",
    "protein_substitution": (
        "V600E Val600Glu R238X Arg1306Trp Leu858Arg Ser-326-Cys W1282X Arg(506)Gln M1V Gly12-->Asp"
    ),
    "nucleotide_substitution": (
        "1691G>A G20210A C677T -308G/A IVS2+1G>A IVS10-6T-->G G-395A C(-260)T 233G-->A T-1131C "
        "+142C/G A-->G C\u2192T"
    ),
    "rsid": "rs7903146 rs1801133 rs16754",
    "indel": (
        "35delG 185delAG 5382insC 899dupC 904-906delGAG del642T dup24bp delTTCA IVS4+2delT "
        "1067_1068insT 1067/1068insT 1811+1.6kbdelA dup(24bp) -94ins/delATTG 35DELG Tdel219 "
        "999del5 deltaAGAA"
    ),
    "protein_indel": (
        "delF508 DeltaF508 \u0394F508 F508del Phe508del Ile262fs R58fsX12 R97fs*23 Arg97ProfsX23 "
        "E746-A750del delE746-A750 L747_P753delinsS D770_N771insSVD"
    ),
    "cytoband": "17p13.1 Xq28 11q23-q24 22q11.2 1p36 9p21",
}
EXAMPLES = [
    (kind, notation) for kind, notations in NOTATIONS.items() for notation in notations.split()
]
LOOKALIKES = (
    "T47D T-47D HEK293T K562 H1N1 H5N1 HeLa MCF10A NIH3T3 T98G S288C L5178Y C57BL/6J H3K27me3 "
    "IL-2 COX-2 P450 A549 H1299 SV40 CD4 S100A4 E2F1 SH-SY5Y 2.10A A/T 12p 1:10 p53 c-myc e.g. "
    "Met326Met C677C 10-20 A-T inserted deletion 24-well A12 EcoRI T4 O(2)"
)
TEMPLATES = ("We found {} in the proband.", "({})", "{}", "two alleles, {}, were seen")


@pytest.mark.parametrize(("kind", "notation"), EXAMPLES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_notation_is_found_whole_and_with_its_kind(
    template: str, kind: str, notation: str
) -> None:
    text = template.format(notation)
    found = [(mention.surface, mention.kind) for mention in find_variants(text)]
    assert found == [(notation, kind)], f"in {text!r}"


@pytest.mark.parametrize(
    ("text", "surface", "kind"),
    [
        ("a C-->T transition at nucleotide 3916 of exon 28", None, "nucleotide_substitution"),
        ("the (G --> C) substitution at position 1201 was new", None, "nucleotide_substitution"),
        ("an Asn --> Ser substitution at codon 127 was found", None, "protein_substitution"),
        ("alleles (rs4586, A/G) of exon 2", "A/G", "nucleotide_substitution"),
        ("with BRAFV600E tumours", "V600E", "protein_substitution"),
        ("with JAK2V617F tumours", "V617F", "protein_substitution"),
        ("the Glu 272 to stop mutation", "Glu 272 to stop", "protein_substitution"),
        ("loss of 16q in tumours", "16q", "cytoband"),
    ],
)
def test_a_phrase_is_found_in_its_context(text: str, surface: str | None, kind: str) -> None:
    mentions = find_variants(text)
    expected = surface or max((m.surface for m in mentions), key=len, default="nothing")
    assert (expected, kind) in [(m.surface, m.kind) for m in mentions], f"{mentions}"
    if surface is None:
        assert regex.search(r"\d", expected), f"the position is left out of {expected!r}"


@pytest.mark.parametrize(
    "lookalike",
    LOOKALIKES.split(),
)
def test_what_only_looks_like_a_variant_is_not_found(lookalike: str) -> None:
    found = find_variants(f"We used {lookalike} in this work.")
    assert found == [], f"{lookalike} was taken for a variant"


def test_a_mention_inside_a_longer_one_is_not_reported_again() -> None:
    found = find_variants("c.1799T>A (p.Val600Glu)")
    assert [m.surface for m in found] == ["c.1799T>A", "p.Val600Glu"], "1799T>A or V600E again"


def test_an_ambiguous_substitution_follows_the_list_it_stands_in() -> None:
    kinds = {m.surface: m.kind for m in find_variants("A49T, Q126R and G158R were found")}
    assert kinds["A49T"] == "protein_substitution", "beside Q126R it is a residue"
    kinds = {m.surface: m.kind for m in find_variants("MTHFR C677T and A1298C were typed")}
    assert set(kinds.values()) == {"nucleotide_substitution"}, "no residue among them"


PIECES = st.sampled_from(
    [notation for _, notation in EXAMPLES]
    + [" ", ", ", "/", "(", ")", "-", ">", "->", "del", "IVS", "c.", "p.", "rs", "+", "1", "A", "x"]
)


@given(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=20).map("".join)))
@example("c.76_78del/c.76_78del, 12 A-->G-->T")
def test_spans_are_exact_sorted_and_apart(text: str) -> None:
    mentions = find_variants(text)
    for mention in mentions:
        assert text[mention.start : mention.end] == mention.surface, "the span is not the surface"
        assert mention.surface, "an empty mention"
    for before, after in itertools.pairwise(mentions):
        assert before.end <= after.start, f"{before} and {after} overlap or are out of order"


@given(st.lists(PIECES, max_size=20).map("".join))
def test_a_hint_never_hides_a_match(text: str) -> None:
    for pattern in variants._PATTERNS:
        if pattern.regex.search(text):
            assert pattern.hint.search(text), f"hint {pattern.hint.pattern} hides a match"


def test_every_repetition_is_bounded_so_that_the_scan_is_linear() -> None:
    unbounded = regex.compile(r"(?<!\\)(?:\\\\)*(?:[*+]|\{\d*,\})")
    character_class = regex.compile(r"\\.|\[(?:\\.|[^\]\\])+\]")
    for pattern in variants._PATTERNS:
        for source in (pattern.regex.pattern, pattern.hint.pattern):
            bare = character_class.sub("x", source)
            assert not unbounded.search(bare), f"{source} repeats without a bound"


@pytest.mark.parametrize(
    "piece", ["A", "1", "-", "c.", "1-", "IVS1+", "del1", "p.Ala1", "A/", "1 ", "(A>", "Ala-"]
)
def test_a_hostile_text_is_scanned_before_a_generous_timeout(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    for pattern in variants._PATTERNS:
        for _ in pattern.regex.finditer(text, timeout=30):
            pass
