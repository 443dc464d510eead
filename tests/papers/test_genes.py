"""Gene mentions: whole tokens of the lexicon, words only with evidence, exact spans."""

import gzip
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import UserError
from steps.papers.genes import SHIPPED_LEXICON, GeneLexicon, GeneMention, find_genes

LEXICON = GeneLexicon.load()
GENES_AND_WORDS = "WAS SET REST IMPACT MAX KIT MET AR"
NOT_GENES_ALONE = f"{GENES_AND_WORDS} CAT OR AND PCR CI DNA RNA AIDS"


def named(text: str) -> list[tuple[str, str, str]]:
    return [(m.surface, m.symbol, m.species) for m in find_genes(text, LEXICON)]


@pytest.mark.parametrize(
    ("text", "surface", "symbol"),
    [
        ("BRCA1-mutant cells", "BRCA1", "BRCA1"),
        ("TP53/MDM2 binding", "MDM2", "MDM2"),
        ("an anti-CD20 antibody", "CD20", "MS4A1"),
        ("IL-6 was high", "IL-6", "IL6"),
        ("TNF-\u03b1 was high", "TNF-\u03b1", "TNF"),
        ("TNF-alpha-induced death", "TNF-alpha", "TNF"),
        ("BRAFV600E melanoma", "BRAF", "BRAF"),
        ("expansions in C9orf72 cause it", "C9orf72", "C9orf72"),
        ("CD4+ T cells", "CD4", "CD4"),
        ("HER2-positive tumours", "HER2", "ERBB2"),
        ("levels of p53 rose", "p53", "TP53"),
        ("miR-21 was up", "miR-21", "MIR21"),
        ("the allele HLA-DRB1*04", "HLA-DRB1", "HLA-DRB1"),
    ],
)
def test_a_human_spelling_is_found_with_its_symbol(text: str, surface: str, symbol: str) -> None:
    assert (surface, symbol, "human") in named(text), f"{named(text)} in {text!r}"


@pytest.mark.parametrize(
    ("spelling", "symbol"),
    [
        ("Trp53", "TP53"),
        ("Brca1", "BRCA1"),
        ("Pax6", "PAX6"),
        ("Pten", "PTEN"),
        ("Kras", "KRAS"),
        ("S100a4", "S100A4"),
        ("Ngf", "NGF"),
    ],
)
def test_a_mouse_spelling_is_told_by_its_casing(spelling: str, symbol: str) -> None:
    assert named(f"{spelling}-null mice") == [(spelling, symbol, "mouse")], spelling


def test_the_casing_alone_tells_the_species() -> None:
    found = named("BRCA1 in women, Brca1 in mice, brca1 in neither")
    assert found == [("BRCA1", "BRCA1", "human"), ("Brca1", "BRCA1", "mouse")], "by casing"


def test_a_mouse_spelling_of_three_letters_needs_evidence() -> None:
    assert named("the Ngf of these results") == [], "three letters may be anything"
    assert named("the Ngf gene") == [("Ngf", "NGF", "mouse")], "the context says gene"


def test_one_rule_holds_for_every_symbol_that_the_lexicon_marks() -> None:
    lines = gzip.decompress(SHIPPED_LEXICON.read_bytes()).decode("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    marked = [row[0] for row in rows if row[5] in ("word", "abbreviation")]
    assert len(marked) > 200, "the lexicon marks too few to test the rule"
    for symbol in marked:
        assert named(f"we saw {symbol} here") == [], f"{symbol} alone was taken for a gene"
        assert named(f"we saw {symbol.title()} here") == [], f"{symbol.title()} is a word"
        assert named(f"we saw {symbol.lower()} here") == [], f"{symbol.lower()} is a word"
        found = named(f"mutations in {symbol} were seen")
        assert (symbol, symbol, "human") in found, f"{symbol} missed where a gene is meant"


@pytest.mark.parametrize("word", NOT_GENES_ALONE.split())
def test_a_word_is_no_gene_without_evidence(word: str) -> None:
    assert named(f"the {word} of these results, 95% {word}") == [], f"{word} was taken for a gene"


@pytest.mark.parametrize("symbol", GENES_AND_WORDS.split())
@pytest.mark.parametrize(
    "text", ["the {} gene", "mutations in {}", "expression of {} rose", "{} mRNA", "TP53, {} and"]
)
def test_a_word_is_a_gene_where_the_context_says_so(text: str, symbol: str) -> None:
    surfaces = [surface for surface, _, _ in named(text.format(symbol))]
    assert symbol in surfaces, f"{symbol} missed in {text.format(symbol)!r}"


def test_evidence_once_counts_for_the_whole_text() -> None:
    mentions = named("The REST gene is on 4q12. Loss of REST is lethal.")
    assert len(mentions) == 2, "the second REST means what the first one meant"


def test_a_definition_as_something_else_takes_the_mentions_away() -> None:
    assert named("hepatocellular carcinoma (MET) was common; MET grew") == [], "MET is a disease"
    assert named("DMD patients walk late") == [], "patients have a disease, not a gene"
    assert named("mutations of the DMD gene in DMD patients") == [("DMD", "DMD", "human")], (
        "one gene, one disease"
    )


def test_what_a_spelling_means_anywhere_in_a_text_it_means_everywhere() -> None:
    genes = "They had mutations in CAT, and in others the TAT gene. "
    assert [surface for surface, _, _ in named(genes)] == ["CAT", "TAT"], "nothing speaks against"
    behind = f"{genes}Chloramphenicol was not used, and chloramphenicol is dear."
    assert [surface for surface, _, _ in named(behind)] == ["TAT"], "CAT is the enzyme of bacteria"
    before = f"HIV was not found. {genes}"
    assert [surface for surface, _, _ in named(before)] == ["CAT"], "Tat is a protein of HIV"


@pytest.mark.parametrize(
    "text",
    [
        "Cat and Set and Rest and Was and Impact",
        "The Cat sat; Max was here; Type II and XII, chromosome X",
        "V600E and R175H were typed",
        "K562, HeLa, HEK293, HL-60 and T47D cells",
        "cut with EcoRI, BamHI and HindIII",
        "5 mM NaCl, 10 kDa, 37 C, pH 7.4, 20 kb",
        "Ca2+, Fe2+ and Mg2+ ions",
        "Th1 and Th2 cells; Fig1 and Tab1",
        "Met1 and Arg1 residues",
        "XBRCA1 and BRCA1X and BRCA1_x",
        "THE IMPACT OF REST ON RECOVERY",
        "C/EBP sites",
    ],
)
def test_what_is_no_gene_is_not_found(text: str) -> None:
    assert named(text) == [], f"{named(text)} in {text!r}"


def test_the_longest_spelling_wins() -> None:
    assert [surface for surface, _, _ in named("HLA-DRB1 and IL-1beta")] == ["HLA-DRB1", "IL-1beta"]


PIECE_NAMES = (
    "TP53 BRCA1 IL-6 Trp53 REST WAS gene TNF-\u03b1 CD4+ BRAFV600E ( ) - / , . _ \u03b1 x 1"
)
PIECES = st.sampled_from([*PIECE_NAMES.split(), " "])


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=15).map("".join)))
def test_spans_are_exact_sorted_and_apart(text: str) -> None:
    mentions = find_genes(text, LEXICON)
    for mention in mentions:
        assert text[mention.start : mention.end] == mention.surface, "the span is not the surface"
        assert not text[mention.start - 1 : mention.start].isalnum(), "starts inside a word"
    for before, after in itertools.pairwise(mentions):
        assert before.end <= after.start, f"{before} and {after} overlap or are out of order"


def test_the_shipped_lexicon_says_where_it_comes_from_and_is_small() -> None:
    text = gzip.decompress(SHIPPED_LEXICON.read_bytes()).decode("utf-8")
    header = text[: text.index("symbol\t")]
    assert "NCBI Entrez Gene, September 2022" in header, "no source and date"
    assert "Homo sapiens" in header, "no species"
    assert SHIPPED_LEXICON.stat().st_size < 2_000_000, "over 2 MB"
    assert SHIPPED_LEXICON.read_bytes()[4:8] == bytes(4), "the time of building is in the file"
    rows = [line.split("\t")[0] for line in text[text.index("symbol\t") :].splitlines()[1:]]
    assert rows == sorted(rows), "not sorted"
    assert len(rows) > 40_000, "genes are missing"


def test_a_lexicon_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv.gz"
    rows = (
        "symbol\tentrez_id\tgene_type\tensembl_id\taliases\tambiguous\nABCX1\t1\tncRNA\t\tFOOX9\t\n"
    )
    path.write_bytes(gzip.compress(rows.encode()))
    found = find_genes("FOOX9 and TP53", GeneLexicon.load(path))
    assert found == [GeneMention(0, 5, "ABCX1", "human", "FOOX9")], "TP53 is not in that lexicon"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"symbol\n", "cannot read"),
        (gzip.compress(b"TP53" * 9)[:-12] + bytes(20), "cannot read"),
        (gzip.compress(b"symbol\tname\nTP53\tx\n"), "columns"),
        (gzip.compress(b""), "columns"),
        (
            gzip.compress(
                b"symbol\tentrez_id\tgene_type\tensembl_id\taliases\tambiguous\nTP53\t7157\n"
            ),
            "record 1",
        ),
    ],
    ids=["no gzip", "cut gzip", "other columns", "empty", "short row"],
)
def test_a_file_that_is_no_lexicon_is_refused_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "broken.tsv.gz"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        GeneLexicon.load(path)
    message = str(refusal.value)
    assert reason in message and str(path) in message, message
    assert "\n" not in message, "more than one line"


def test_a_missing_lexicon_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.tsv.gz"):
        GeneLexicon.load(tmp_path / "absent.tsv.gz")
