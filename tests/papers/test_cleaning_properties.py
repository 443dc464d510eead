"""Mentions of genes and variants survive cleaning; citations, links and markup do not.

Both are tested together: a mention and a piece of noise are planted next to each other in the
same sentence, and the cleaned sentence must be the one that never held the noise.
"""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.papers.cleaning.recipe import RULE_NAMES, clean_text
from tests.support.project import SHARED_DATA

GENES = """
BRCA1|TP53|KRAS|PU.1|IL-6|IL-1β|TNF-α|TGF-β1|IFN-γ|NF-κB|c-MYC|p27Kip1|HLA-DRB1|HLA-B*57:01
HLA-DQB1*06:02|HLA-A*02:01:01:01|CYP2D6*4|UGT1A1*28|NKX2-5|PI3Kγ|PDGFRβ|Pten|Brca2|Trp53
Tbx15|MT-ND4|MIR21|hsa-miR-21-5p|let-7a|LINC00673|SNORD116|H3K27me3|CD4+CD25+|Foxp3|BCR-ABL1
EML4-ALK|C9orf72|5′-UTR|3′-UTR|Ca2+|α-synuclein|β-catenin|Δ32|HER2/neu|Apoe−/−|CD3ε|HIF-1α
4EBP1|14-3-3ζ|A1BG-AS1|TCRαβ|Xq28-linked|SARS-CoV-2|GATA-3|DXS269|D4Z4|(CA)n|CAG
"""
VARIANTS = """
c.68_69del|c.35delG|c.[123A>G]|c.[76A>C];[94G>T]|c.1521_1523delCTT|c.-17T>C|c.*557G>A|c.444-62C>A
c.1181_1186+20del26|c.304ins(GCG)|c.429_452dup|c.1044_1049delTTCTGGinsACACT|c.1544-?_2916+?
c.4002A > G|c.32C-->T|c.[435C>G;456del]|g.140453136A>T|g.2885G>C|m.3243A>G|n.123+45G>A|r.76a>c
p.Val600Glu|p.V600E|V600E|p.(Arg97Profs*23)|p.Glu169*|p.G204VfsX28|p.W10R|p.[Arg97Cys];[=]
Glu98X|Arg 3500 Gln|Ile462Val|His3543Tyr|R1306W|Y248del|L1503R|3020insC|20210G>A|-455G>A|-1001C/T
+3100 T/G|IVS10 + 4G|IVS3+1G>A|IVS64+5g->a|IVSI-1 (G-->A)|codon 104 G --> A|1067-1068 ins 5 bp
6bINS|dup24bp|A --> G transition at 127 position|CAC(3543)TAC|del14b_17b|F508del|p.R469[R,X]
c.-128GGC[79]|NM_002024.5:c.-129CGG[79]|AGCTCCTCCTTCTC/-|p.Leu858Arg/p.Thr790Met
"""
IDENTIFIERS = """
NM_007294.4|NP_000537.3|NC_000017.11|NM_000059.4:c.5946del|ENSG00000012048.23|ENST00000357654
GSE12345|GSM1234567|SRR1234567|PRJNA123456|AF123456|U12345.1|P04637|Q9Y6K9|rs7903146|rs334
ss123456|esv2758162|nsv515783|COSM476|VCV000017661|RCV000007523|OMIM 113705|HGNC:1100|CVCL_0030
chr7:140,753,336|chr17:43,044,295-43,125,483|chrX:153,000,000|GRCh38|hg19|chr2:g.1234567A>G
"""
CYTOGENETICS = """
17q21.31|5q31|del(5q)|t(9;22)(q34;q11)|inv(16)(p13q22)|dup(15)(q11q13)|46,XX|47,XY,+21
46,XX,del(5)(q13q33)[20]|45,X[12]/46,XX[8]|1q32-q41|Xp11.2|22q11.2|14q32.33|i(17q)|ring(13)
"""
CHEMISTRY = """
[3H]thymidine|[3H]-thymidine|[32P]dCTP|[γ-32P]ATP|[α-32P]dCTP|[35S]methionine|[14C]acetate
[125I]iodide|[Ca2+]|[Ca2+]i|[K(+)]|[2Fe-2S]|[1,25(OH)2D3]|1,25-(OH)2D3|³H|¹⁴C|³²P|¹²⁵I|⁹⁹ᵐTc
(n = 12)|10 m²|R²|Ca²⁺|TTAGGG|PtdIns [4, 5] P2|ATGCGTACCTGA|5′-GATTACA-3′|(GT)[12]
5'-cttgcaggagaactttccagaa-3'|NKX2.1|GGGGCC|Aβ[1–42]|poly(A)|IgG1κ|p16INK4a|1q21.1q21.2
"""
MENTIONS = [
    mention
    for table in (GENES, VARIANTS, IDENTIFIERS, CYTOGENETICS, CHEMISTRY)
    for mention in table.strip().replace("\n", "|").split("|")
]

# Written for this test. {m} is the mention, {n} the noise behind it.
SENTENCES = [
    "We found {m}{n} in three of the families.",
    "Carriers of {m}{n} were followed up for nine years, and none of them fell ill.",
    "Expression fell after knock-down of {m}{n}; that of the neighbouring gene did not.",
    "A role of {m}{n}, first seen in yeast, was confirmed in patients (P = 0.03).",
    "Among the loci, {m}{n} had the strongest signal (P = 3e-9, n = 4,512).",
    "The second cohort (median age 54) did not replicate {m}{n}.",
    "{m}{n} was assayed in whole blood at 37 °C and stained with 5 μM of the dye.",
    "Samples were typed for {m}{n}: the assay is described below.",
]

# Attached to the word before, and set off from it by a space.
RAISED_CITATIONS = [
    "¹²",
    "¹²,¹⁵",
    "⁵–⁸",
    "¹²,¹⁵–¹⁸",
    "<sup>12</sup>",
    "<sup>12,15–18</sup>",
    "<sup>7, 9</sup>",
    '<sup><xref ref-type="bibr" rid="b4">4</xref></sup>',
    "$^{14}$",
    "$^{4,6}$",
]
CITATIONS = [
    " [12]",
    " [12,15–18]",
    " [3, 7, 9-11]",
    " [4-6]",
    " [[81]]",
    " [1], [5] and [6]",
    " [2] [4]",
    " ([14])",
    " (reviewed in [12,13])",
    " [e.g. [24]]",
    " (Doe et al., 2019)",
    " (Doe et al. 2019a,b)",
    " (Doe & Roe, 2019)",
    " (Doe and Roe 2003; Smith et al. 2001, 2004)",
    " (see Doe et al., 2019)",
    " (reviewed by van der Berg 1999; O'Brien et al. 2011)",
    " [Müller et al., 2018]",
    " (García-López et al., in press)",
    " (J. M. Doe et al., Am. J. Hum. Genet. 55:1092-1102, 1994)",
    " [Doe, J. M., & Roe, A. (1995) Biochemistry 14, 3855-3863]",
    " (Di Cristofano and McDonald 2000)",
    " (Doe et al., unpublished data)",
    r" \cite{doe2019}",
    r"~\citep[see][]{doe2019,roe2003}",
    " (ref. 12)",
    " (refs 12-14)",
    " (PMID: 12345678)",
    ' [<xref ref-type="bibr" rid="b1">1</xref>,<xref ref-type="bibr" rid="b2">2</xref>]',
    ' (<xref ref-type="bibr" rid="b1">1</xref>, <xref ref-type="bibr" rid="b2">2</xref>)',
]
LINKS = [
    " (https://www.example.org/data?id=12&x=3)",
    " (http://genome.example.edu/~doe/)",
    " http://example.com/a_(b)",
    " at https://example.org/tools/v2.1/index.html",
    " (www.example.com)",
    " at ftp://ftp.example.gov/pub/set.gz",
    " (doi:10.1000/xyz.123)",
    " https://doi.org/10.1000/182",
    " (10.1093/nar/gkz1031)",
    " (see http://example.org)",
    " from example.org/downloads",
    " <https://example.net/x>",
]
EMAILS = [
    " (jane.doe@example.org)",
    " (e-mail: j.doe+lab@cs.example.ac.uk)",
    " (E-mail: doe_j@example-lab.com)",
    " jdoe@example.edu",
    " <doe@example.org>",
]
MARKUP = [  # around the mention
    ("<i>", "</i>"),
    ("<b>", "</b>"),
    ('<italic toggle="yes">', "</italic>"),
    ("<em>", "</em>"),
    ('<span class="gene">', "</span>"),
    ("<jats:italic>", "</jats:italic>"),
    ("&lt;i&gt;", "&lt;/i&gt;"),
    ("\\textit{", "}"),
    ("\\emph{", "}"),
    ("<!-- note -->", ""),
    ("", "&#8203;"),
    ("", "<sub></sub>"),
]


def test_the_list_of_mentions_is_long_enough() -> None:
    assert len(set(MENTIONS)) >= 120
    assert len(set(MENTIONS)) == len(MENTIONS), "a mention stands twice"


@pytest.mark.parametrize("mention", MENTIONS)
def test_a_mention_survives_verbatim_in_every_sentence(mention: str) -> None:
    for sentence in SENTENCES:
        planted = sentence.format(m=mention, n="")
        assert clean_text(planted) == planted


def _share_that_vanishes(noises: list[str], mentions: list[str] = MENTIONS) -> float:
    """Share of (mention, noise) pairs of which the noise goes without any trace."""
    vanished = 0
    failures = []
    for mention in mentions:
        for position, noise in enumerate(noises):
            sentence = SENTENCES[(len(mention) + position) % len(SENTENCES)]
            cleaned = clean_text(sentence.format(m=mention, n=noise))
            assert mention in cleaned, f"{mention!r} lost beside {noise!r}: {cleaned!r}"
            if cleaned == sentence.format(m=mention, n=""):
                vanished += 1
            else:
                failures.append((mention, noise, cleaned))
    print(*failures[:20], sep="\n")
    return vanished / (len(mentions) * len(noises))


def test_citations_beside_a_mention_vanish() -> None:
    assert _share_that_vanishes(CITATIONS) >= 0.99


def test_raised_citations_attached_to_a_mention_vanish() -> None:
    # Behind a raised number nobody can tell where the citation begins: m²¹² is not tried.
    mentions = [mention for mention in MENTIONS if not mention.endswith(("²", "³"))]
    assert _share_that_vanishes(RAISED_CITATIONS, mentions) >= 0.99


def test_links_beside_a_mention_vanish() -> None:
    assert _share_that_vanishes(LINKS) >= 0.99


def test_emails_beside_a_mention_vanish() -> None:
    assert _share_that_vanishes(EMAILS) >= 0.99


def test_markup_around_a_mention_vanishes() -> None:
    pairs = [(mention, left, right) for mention in MENTIONS for left, right in MARKUP]
    failures = [
        (mention, left)
        for position, (mention, left, right) in enumerate(pairs)
        for sentence in [SENTENCES[position % len(SENTENCES)]]
        if clean_text(sentence.format(m=left + mention + right, n=""))
        != sentence.format(m=mention, n="")
    ]
    assert len(failures) <= 0.01 * len(pairs), failures[:20]


numbers = st.integers(1, 150)
ranges = st.tuples(numbers, st.integers(1, 6)).map(lambda r: f"{r[0]}–{r[0] + r[1]}")
numeric_citations = st.lists(numbers.map(str) | ranges, min_size=1, max_size=5).map(
    lambda items: f" [{','.join(items)}]"
)
surnames = st.sampled_from(
    ["Doe", "Roe", "García", "O'Brien", "McDonald", "van der Berg", "Müller", "Łukasz", "El-Sayed"]
)
author_years = st.builds(
    lambda name, rest, year, letter: f" ({name}{rest}, {year}{letter})",
    surnames,
    st.sampled_from(["", " et al.", " and Roe", " & Smith", " et al"]),
    st.integers(1950, 2029),
    st.sampled_from(["", "a", "b"]),
)
author_year_lists = st.lists(author_years, min_size=1, max_size=3).map(
    lambda items: " (" + "; ".join(item.strip(" ()") for item in items) + ")"
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(MENTIONS),
    st.sampled_from(MENTIONS),
    st.sampled_from(SENTENCES),
    numeric_citations | author_years | author_year_lists | st.sampled_from(LINKS + EMAILS),
)
def test_two_mentions_with_noise_between_come_out_as_if_it_had_never_been(
    first: str, second: str, sentence: str, noise: str
) -> None:
    planted = sentence.format(m=f"{first} and {second}", n=noise)
    assert clean_text(planted) == sentence.format(m=f"{first} and {second}", n="")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MENTIONS), author_year_lists)
def test_a_mention_that_shares_brackets_with_a_citation_stays(mention: str, noise: str) -> None:
    planted = f"The variant (in {mention}; {noise.strip(' ()')}) is rare."
    assert clean_text(planted) == f"The variant (in {mention}) is rare."


PIECES = [
    *CITATIONS,
    *LINKS,
    *EMAILS,
    *RAISED_CITATIONS,
    *[left for left, _ in MARKUP],
    *MENTIONS,
    *["[", "(", ")", "]", "12", ",", ";", ".", " ", "\n", "\n\n", "-", "–", "&", "amp;", "lt;"],
    *["<", ">", "sup>", "¹", "10", "x", "×", "^", "e-05", "P", "=", "<", ".05", ". 05", "$", "{"],
    *["\\", "alpha", "}", "_", "see", "in", "at", "Figure 1", "A", "References", "Copyright 2001"],
    *["micro", "M", "µ", "°C", "%", "\xad", "ﬁ", "Ã©", "Î±", "\u2009", "\xa0", "\t", "\r", "\x00"],
    *["{#s2}", "# ", "\n====\n", "\n---\n", "46,XX", "[20]", "/", "34", "[28–41]", "x2", " and "],
    *["Funding: ", "We thank", "according to", "reviewed in", "for details", " (TRUNCATED AT 9"],
    *["[ABSTRACT TRUNCATED AT 250 WORDS]", "URL: ", "available", ", ", ": ", "years", "cells"],
    *["\u0301", "wild", "type", "Abstract", "doi:", "[corrected]", "\ud800", "x" * 130, "(A) "],
]
mixed_text = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=80)


@settings(max_examples=600, deadline=None)
@given(mixed_text)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned


@settings(max_examples=200, deadline=None)
@given(mixed_text, st.sets(st.sampled_from(RULE_NAMES)))
def test_cleaning_twice_is_cleaning_once_whatever_rules_are_off(text: str, off: set[str]) -> None:
    rules = dict.fromkeys(off, False)
    cleaned = clean_text(text, rules)
    assert clean_text(cleaned, rules) == cleaned


# Real text, where it is present ----------------------------------------------------------------


def _real(name: str) -> list[dict[str, object]]:
    """Records of a shared data file; none where the folder is not there."""
    path = SHARED_DATA / name
    if not path.is_file():
        return []
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    records: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))["papers"]
    return records


def test_annotated_variants_of_real_abstracts_survive_where_they_stand() -> None:
    for record in _real("variant_mentions.jsonl"):
        text = str(record["text"])
        cleaned = clean_text(text)
        for surface, *_ in record["mentions"]:  # type: ignore[attr-defined]
            assert text.count(surface) <= cleaned.count(surface), (record["pmid"], surface)


def test_noise_planted_at_the_ends_of_real_sentences_vanishes() -> None:
    chance = random.Random(7)
    surfaces = MENTIONS + [
        surface
        for record in _real("variant_mentions.jsonl")
        for surface, *_ in record["mentions"]  # type: ignore[attr-defined]
    ]
    abstracts = [str(record["abstract"]) for record in _real("genomics_abstracts.json")]
    abstracts = [text for text in abstracts if ". The " in text] or [
        " ".join(sentence.format(m="the gene", n="") for sentence in SENTENCES) + " The end."
    ]
    failures = []
    tried = 300
    for _ in range(tried):
        text = chance.choice(abstracts).replace(". The ", ". The {m}{n}, and the ", 1)
        head, _, tail = text.partition("{m}{n}")
        mention = chance.choice(surfaces)
        raised = [] if mention.endswith(("²", "³")) else RAISED_CITATIONS
        noise = chance.choice(CITATIONS + raised + LINKS + EMAILS)
        cleaned = clean_text(head + mention + noise + tail)
        assert mention in cleaned, f"{mention!r} lost beside {noise!r}"
        if cleaned != clean_text(head + mention + tail):
            failures.append((mention, noise))
    assert len(failures) <= 0.01 * tried, failures
