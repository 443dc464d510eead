"""Variant mentions: real notations are found, look-alikes are not, spans are exact."""

import itertools

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from steps.papers.variants import anchors, finder
from steps.papers.variants.finder import find_variants

NOTATIONS = {
    "hgvs_coding": (
        "c.1799T>A c.35delG c.88-2A>G c.93+1G>T c.*32G>A c.-13G>T c.76_78del c.76_77insT "
        "c.(35delG) c.112_117delinsTG c.G1714C c.640_667del28 c.429_452dup c.76A&gt;C c.76A\u2192C "
        "c.76A\u2013>C c.IVS2+1G>A c.-22-2A>C c.677C/T c.112_117inv c.[76A>C;83G>C] "
        "c.[35delG];[35delG] c.[35delG]+[167delT] c.(?_-30)_(12+1_13-1)del c.1544-?_2916+? "
        "c.1210-12T[5] C.1100delC "
        "c.677G>T/A c.1101_1103[5] c.123CAG[36] c.1210-34TG[11]T[5] c.2393_2401del9 "
        "c.(301+1_302-1)del"
    ),
    "hgvs_protein": (
        "p.Val600Glu p.V600E p.(Val600Glu) p.Gln26* p.Arg97fs*16 p.Arg97ProfsTer23 p.E947stop "
        "p.Lys23_Val25del p.Trp24= p.G204VfsX28 p.W111X p.R97Pfs*23 p.Met1? p.Ter110Glnext*17 "
        "p.*110Glnext*17 p.L747_P753delinsS p.Lys2_Met3insGlnSerLys p.[Arg97Trp];[Gly12Asp] "
        "p.[R97W;G12D] p.Ala2[10] P.V600E "
        "p.97fs p.L367= p.Leu367Leu p.(=) p.Gln1756Profs*74 p.Q1756PfsX74"
    ),
    "hgvs_genomic": (
        "g.2885G>C m.3243A>G n.76A>C g.32386323_32386325del m.8993T>C m.A3243G mt.3243A>G r.76a>c "
        "g.IVS3+4A>G g.-308G>A "
        "g.12345678A>G m.8993T>G/C m.3243A-G g.140,453,136A>T"
    ),
    "protein_substitution": (
        "V600E Val600Glu R238X Arg1306Trp Leu858Arg Ser-326-Cys W1282X Arg(506)Gln M1V Gly12-->Asp "
        "Val600\u2192Glu R506-->Q R97* R97Stop R97Ter Arg97* Arg97stop Arg97-stop E873-TAG R-4Q "
        "Val600-to-Glu Ala(-9)Val Ala-9Val Arg-->Leu Arg\u2192Trp 104(G11)Cys-->Tyr 192Gln/Arg "
        "tyr231-->ter"
    ),
    "nucleotide_substitution": (
        "1691G>A G20210A C677T -308G/A IVS2+1G>A IVS10-6T-->G G-395A C(-260)T 233G-->A T-1131C "
        "+142C/G A-->G C\u2192T 677C&gt;T 677C-T A3243\u2192G C-677-T -308(G>A) \u2212308G>A "
        "3849+10kbC>T 1811+1.6kbA>G IVS10nt-11G>A IVS12nt1 IVS3-2A 2183AA>G CAC(3543)TAC "
        "CGA-->TGA 1358T=>C "
        "A/C1166 C/T-13910 G/A-308 C/T(-13910) C>T-13910 A-6G -1234567G>A G2677T/A 2677G>T/A "
        "8344A-->G IVS10+1g>a IVS4(+1)G>A IVS3C>T IVS4DS+1G>A IVS4DS,G-A,+1 EX6-96A>G CGC72CCC "
        "chr7:140453136A>T -1082*A/G IVS7-2A\u2192G IVS1,5G>C"
    ),
    "rsid": "rs7903146 rs1801133 rs16754 RS7903146 rs#7903146",
    "indel": (
        "35delG 185delAG 5382insC 899dupC 904-906delGAG del642T dup24bp delTTCA IVS4+2delT "
        "1067_1068insT 1067/1068insT 1811+1.6kbdelA dup(24bp) -94ins/delATTG 35DELG Tdel219 "
        "999del5 deltaAGAA AGCTCC/- "
        "(CAG)36 (CA)n (TG)12(T)5 (GT)(17) A(TA)7TAA A[TA]7TAA [CAG]n (GGN)n 2393del9 1294del40 "
        "delAG185 2183delAA>G 167-delT del(35G) 6bINS 4bp-del 1494ins/del6 del2235-2249 "
        "123^124insA 3120+1kbdel8.6kb 123Adel -141CIns/Del"
    ),
    "protein_indel": (
        "delF508 DeltaF508 \u0394F508 F508del Phe508del Ile262fs R58fsX12 R97fs*23 Arg97ProfsX23 "
        "E746-A750del delE746-A750 L747_P753delinsS D770_N771insSVD DeltaF304/305 "
        "97fsX12 fs97X R97Pfs*12 Arg97fs V1234fs Gly12ValfsTer5"
    ),
    "cytoband": "17p13.1 Xq28 11q23-q24 22q11.2 1p36 9p21 8q21.3-8q22.1",
}
EXAMPLES = [
    (kind, notation) for kind, notations in NOTATIONS.items() for notation in notations.split()
]
LOOKALIKES = (
    "T47D T-47D HEK293T K562 H1N1 H5N1 HeLa MCF10A NIH3T3 T98G S288C L5178Y C57BL/6J H3K27me3 "
    "IL-2 COX-2 P450 A549 H1299 SV40 CD4 S100A4 E2F1 SH-SY5Y 2.10A A/T 12p 1:10 p53 c-myc e.g. "
    "Met326Met C677C 10-20 A-T inserted deletion 24-well A12 EcoRI T4 O(2) H3K9ac H2O F12K B12 "
    "H-2K(b) IL-2R E2F D11S287E G418R RS-232 Ser/Thr A260/A280 DQB1*0201 U1A/U1B C/EBP Val/Ala "
    "\u0394G \u0394\u0394CT 12-O-tetradecanoylphorbol ATM-/- 5'-CTCAGGA-3' NM_004006 D2S1338"
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
        ("typing MTHFR677C>T in", "677C>T", "nucleotide_substitution"),
        ("the IL-6 -174G/C site", "-174G/C", "nucleotide_substitution"),
        ("the IL-10-1082A/G site", "-1082A/G", "nucleotide_substitution"),
        ("the TNF-\u03b1-308 G/A site", "-308 G/A", "nucleotide_substitution"),
        ("in intron 2 +1G>A was", "+1G>A", "nucleotide_substitution"),
        ("an IVS II-745 (C>G) allele", "IVS II-745 (C>G)", "nucleotide_substitution"),
        ("an IVS10-11 G>A allele", "IVS10-11 G>A", "nucleotide_substitution"),
        ("the -491 A to T change", "-491 A to T", "nucleotide_substitution"),
        ("of codon 17 (A>T) in", "codon 17 (A>T)", "nucleotide_substitution"),
        ("at codon 72 (Arg/Pro) in", "codon 72 (Arg/Pro)", "nucleotide_substitution"),
        ("rs1800562G>A was typed", "rs1800562", "rsid"),
        ("rs1800562G>A was typed", "G>A", "nucleotide_substitution"),
        ("rs7903146T carriers", "rs7903146", "rsid"),
        ("typing rs 7903146 and", "rs 7903146", "rsid"),
        ("the V600 E mutation", "V600 E", "protein_substitution"),
        ("R506 to Q was", "R506 to Q", "protein_substitution"),
        ("G1496 to A was", "G1496 to A", "nucleotide_substitution"),
        ("KrasG12D mice", "G12D", "protein_substitution"),
        ("p53R172H cells", "R172H", "protein_substitution"),
        ("the glioma H3K27M", "K27M", "protein_substitution"),
        ("glutamic acid 342 to lysine", "glutamic acid 342 to lysine", "protein_substitution"),
        ("the 192Q/R polymorphism", "192Q/R", "protein_substitution"),
        ("six tyrosine --> alanine", "tyrosine --> alanine", "protein_substitution"),
        ("a del E746-A750 here", "del E746-A750", "protein_indel"),
        ("CCR5-Delta32 carriers", "Delta32", "indel"),
        ("with 876 deltaAGAA in", "876 deltaAGAA", "indel"),
        ("and 1067-1068 ins 5 bp in", "1067-1068 ins 5 bp", "indel"),
        ("the 22q11.2DS patients", "22q11.2", "cytoband"),
        ("the T/C 677 variant", "T/C 677", "nucleotide_substitution"),
        ("the -/T 1234 insertion", "-/T 1234", "nucleotide_substitution"),
        ("the G>C (-174) site", "G>C (-174)", "nucleotide_substitution"),
        ("the lactase C/T -13910 site", "C/T -13910", "nucleotide_substitution"),
        ("a mutation, IVS10+1, g-->t, was", "IVS10+1, g-->t", "nucleotide_substitution"),
        ("an IVS 10 + 1 G > T allele", "IVS 10 + 1 G > T", "nucleotide_substitution"),
        ("an IVS2, +1G>A allele", "IVS2, +1G>A", "nucleotide_substitution"),
        ("an IVS2+1 (G to A) allele", "IVS2+1 (G to A)", "nucleotide_substitution"),
        ("an IVS4 (-2) A>G allele", "IVS4 (-2) A>G", "nucleotide_substitution"),
        ("an IVS3 G(-1)-->C allele", "IVS3 G(-1)-->C", "nucleotide_substitution"),
        ("an IVS I-5 (G-C) allele", "IVS I-5 (G-C)", "nucleotide_substitution"),
        ("in intron 4 +1 G>A was", "+1 G>A", "nucleotide_substitution"),
        ("an IVS3 C/T allele", "IVS3 C/T", "nucleotide_substitution"),
        ("a G>A at IVS2+1 here", "G>A at IVS2+1", "nucleotide_substitution"),
        ("the 1525-1 g-->a allele", "1525-1 g-->a", "nucleotide_substitution"),
        ("a c.123 + 1G > A allele", "c.123 + 1G > A", "hgvs_coding"),
        ("a c. 123+1 G>A allele", "c. 123+1 G>A", "hgvs_coding"),
        ("a c.123+1 G to A allele", "c.123+1 G to A", "hgvs_coding"),
        ("a c.123+5 (G>A) allele", "c.123+5 (G>A)", "hgvs_coding"),
        ("a c.1799 T &gt; A allele", "c.1799 T &gt; A", "hgvs_coding"),
        ("a c.\u2212308G>A allele", "c.\u2212308G>A", "hgvs_coding"),
        ("a silent change, L367L, was", "L367L", "protein_substitution"),
        ("the c.1101G>A (Leu367Leu) site", "Leu367Leu", "protein_substitution"),
        ("found G6482C (V460V) and", "V460V", "protein_substitution"),
        ("L367L (c.1101G>A) was", "L367L", "protein_substitution"),
        ("the synonymous L367L was", "L367L", "protein_substitution"),
        ("the p.Leu367Leu site", "p.Leu367Leu", "hgvs_protein"),
        ("an arginine 124-to-cysteine change", "arginine 124-to-cysteine", "protein_substitution"),
        (
            "an arginine-to-cysteine at codon 124",
            "arginine-to-cysteine at codon 124",
            "protein_substitution",
        ),
        (
            "a Gly-to-Arg substitution at position 12",
            "Gly-to-Arg substitution at position 12",
            "protein_substitution",
        ),
        ("with Cys for Arg at position 124", "Cys for Arg at position 124", "protein_substitution"),
        ("of the (CTG) n repeat", "(CTG) n", "indel"),
        ("a (TA)6/(TA)7 carrier", "(TA)6", "indel"),
        ("repeats (CT)(4)-TT-(CT)(8)-(GT)(24) here", "(CT)(4)-TT-(CT)(8)-(GT)(24)", "indel"),
        ("at chr7:140,453,136 A>T here", "chr7:140,453,136 A>T", "nucleotide_substitution"),
        ("NC_000007.13:g.140453136A>T was", "g.140453136A>T", "hgvs_genomic"),
        ("the 1,295,228 C>T site", "1,295,228 C>T", "nucleotide_substitution"),
        ("carriers of 97fs, who", "97fs", "protein_indel"),
        ("del 40 bp at 1294 was", "del 40 bp at 1294", "indel"),
        ("delA at nucleotide 123 was", "delA at nucleotide 123", "indel"),
        ("the -675 4G/5G site", "-675 4G/5G", "indel"),
        ("the -652 6N ins/del site", "-652 6N ins/del", "indel"),
        ("codons 41/42 (-TTCT) and", "codons 41/42 (-TTCT)", "indel"),
        ("CD 8/9 (+G) and", "CD 8/9 (+G)", "indel"),
        ("the CD17 AAG>TAG allele", "CD17 AAG>TAG", "nucleotide_substitution"),
        ("G to A at position 1691 was", "G to A at position 1691", "nucleotide_substitution"),
        ("GGT to GAT at codon 12 was", "GGT to GAT at codon 12", "nucleotide_substitution"),
        (
            "G-->A transition at position -308 was",
            "G-->A transition at position -308",
            "nucleotide_substitution",
        ),
        (
            "A/G substitution at position -1555 was",
            "A/G substitution at position -1555",
            "nucleotide_substitution",
        ),
        ("C>T at nt 677 was", "C>T at nt 677", "nucleotide_substitution"),
        ("at nt 677 C>T was", "677 C>T", "nucleotide_substitution"),
        ("at nt 677 (C to T) was", "677 (C to T)", "nucleotide_substitution"),
        ("at position -308 (G/A) was", "-308 (G/A)", "nucleotide_substitution"),
        ("at nucleotide 677: C>T was", "677: C>T", "nucleotide_substitution"),
        ("the nt.3243A>G site", "3243A>G", "nucleotide_substitution"),
        ("the MTHFR C 677 T variant", "C 677 T", "nucleotide_substitution"),
        ("an m.3243 A > G carrier", "m.3243 A > G", "hgvs_genomic"),
        ("at np 3243 A-->G was", "3243 A-->G", "nucleotide_substitution"),
        ("the \u2011308 G\u2192A site", "\u2011308 G\u2192A", "nucleotide_substitution"),
        ("the rs123456[C/G] site", "C/G", "nucleotide_substitution"),
        ("the rs123456:C>G site", "C>G", "nucleotide_substitution"),
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


OTHERWISE = (
    "a C to T transition at nucleotide 3916 | arginine to glutamine substitution at residue 753"
    " | the order Val > Ala > Thr was kept | the cis Lys 116-Pro 117 bond"
    " | phosphorylation of serine 133 | we saw > 10 bands and < 5 A"
    " | a 32-bp deletion of exon 3 | the A/C ratio was 1166 to 1 | the C/T ratio of 13910 reads"
    " | blood groups A/B 308 donors | the A/C 1166 column was packed"
    " | genotypes C/C 120, C/T 234 and T/T 45 | A/G 45 (12%) and G/G 30 | A/T 50%, G/C 50%"
    " | an A/T 12.5 ratio | influenza A/California/7/2009 and A/Texas/50/2012"
    " | stored at A/T -20 degrees C | mice were ATM-/- 120 days old"
    " | IVS 10 mg/kg of immunoglobulin | the IVS 2 cm thick"
    " | IVS (interventricular septum) 12 mm | an intron of 4 kb"
    " | a silent period of 120 ms in T47T cells | Met326Met genotype carriers"
    " | carriers of C677C | the A222A genotype | the T47T line was silent in A12A wells"
    " | leucine at position 12 | arginine-to-lysine ratio at week 12"
    " | arginine to ornithine ratio at day 12 | glycine for alanine was exchanged"
    " | the Gly-to-Arg distance of 12 nm | vitamins (CA) 36 patients | the marker D7S523"
    " | cancer (CA)3 was seen | ataxia (AT) 12 patients | the (GAG)2 polyprotein"
    " | telomeric (TTAGGG)n repeats | oligo (dT)12-18 primers | poly(A)12 tails"
    " | poly(AC)n was annealed | a CC(A/T)6GG box | the CC[AT]6GG consensus"
    " | three copies, (AAGTGA)4, of the site | primers (5'-CAGTACGATC-3')"
    " | the peptide (CAG)2'-OMe | pulses of 97fs were used | a 120 fs laser | a 35 fs delay"
    " | fs 97 patients | the chr7:140453136 position | chr7:140453136-140453200"
    " | 12,345,678 A of current | a 4 bp-deletion in intron 2 | the 4G/5G networks"
    " | telephone 1G/2G standards | the insertion/deletion (I/D) polymorphism"
    " | exon 3 del carriers | exon 12 deletion | G to A transition in exon 3"
    " | from A to G in alphabetical order | panels A to C at left | Figures A/B and C/D"
    " | Fig. 2 A/C, 12 cells | hepatitis A to C at position | change from C to T in group 2"
    " | p = 0.05 | p.= 0.05 | p.=0.03 | see p. 97 of the book | pp. 97-99 | HLA-A/B 1234"
    " | the C/EBP-308 site | HLA-C/A2 antigens | the anti-T/B1 serum | T/C-28a2 chondrocytes"
    " | at -20 C and at -80 C | between -308 and -207 | the -308 A allele"
    " | nt 677 to 690 were deleted | np 3243 was read | codon 12 of KRAS | codons 41/42 of HBB"
    " | CD4/8 (-) cells | CD 8/9 (+) cells | CD55 (-A) | catalogue number A1298 | plasmid pGT12"
    " | pUC19 and pBR322 | GAT12 and CAT2 | ATCC TCC123 | TAG1 and CAT3 | insulin 12 U/kg"
    " | 2-del-3 and 12-dup | del 12 patients | ins 3 of them | Glu for 12 days"
    " | Met for Val in general | the order Val > Ala | 10 A > 5 A | 12 C > 10 C | n. 12 A"
    " | m. 3 g | ratio G:C 50 | c. 120 patients | c. 1500 A.D. | HIV-1 1A/2A | genotypes 1a/1b"
    " | CYP2C9*2/*3 | at 37 C to T cells | from 4 C to 37 C | 5' UTR (CA) n = 12"
    " | group (GC) n = 12 | controls (GT) n=30 | cases (CA)n = 30"
)


@pytest.mark.parametrize("text", OTHERWISE.split(" | "))
def test_what_a_text_says_otherwise_is_not_found(text: str) -> None:
    assert find_variants(text) == [], f"in {text!r}"


LATER_KINDS = {
    "nucleotide_substitution": (
        "862+5A | 862 + 5A | -286C>T>A | 2677G>T,A | 655A/C>G | 711+1G-T | 1705(+1)G-->A"
        " | T(-786)-->C | G+1A | G(+1)-->A | T-786\u2192C | (-308)G/A | (-308) G>A | 3,243 A>G"
        " | 677C-T | -308 (G-A) | *14G>A | IVS1, position 110 (G-->A) | IVS-I, nt 110 (G-->A)"
        " | IVS II 745 C-->G | IVS3 G+1A | gIVS12-6T>C | IVS4as-2A>G | IVS11 T93C | 1166 [A/C]"
        " | C -344T | A-->C(1166) | - 308 G/A | 1002 +1 G>A | GAG to AAG | AATAAA to AATGAA"
        " | codon 123 (CGA to TGA) | codon 123 CGA to TGA | CGA(Arg)-->TGA(stop)"
        " | GAG (Glu) to AAG (Lys) | G-->A (nt 1691) | 677C\xaeT"
        " | G-->A variation at position IVS2+181 | g-->a transition at position-9"
        " | ACA-->ACG change of codon 990 | A-->G substitution at nt 1166"
        " | A-to-G at position +49 | T-->C substitution at nucleotide 3,243"
        " | A-->C transversion at nucleotide (nt) 345 | G-->A nonsense mutation at codon 123"
        " | G/A single nucleotide polymorphism at position -308"
        " | G-A transition at nucleotide 1138 | T-->C transition at 14484"
        " | G-->A transition at nt345 | A --> G transition at 127 position"
    ),
    "hgvs_coding": (
        "c.108C4A | c.1002-2A4G | c.35DelG | c.C677>T | c.677:C>T | c.123(CAG)36"
        " | c.1210-12T(5_9) | c.677 C-T | c.123_124delAG/insT | c1002G>A | c35delG"
    ),
    "hgvs_genomic": ("m3243A>G | g.IVS4-44A>G"),
    "indel": (
        "-118T(9>10) | in3(TG)(12) | -141C del | 1234 T del | -2467T/delT | 123/4delTT"
        " | 1234 (delT) | 123delTT/insA | 1100DelC | FSC 8 (-AA) | delexon18 | dele2,3(21kb)"
        " | del14b_17b | -53(TA)6>7 | -1663in/delT | 1494 ins/del 6 bp | 185delAG"
    ),
    "protein_substitution": ("X400Q | X400Gln | Cys(TGC)-->Arg(CGC) | Arg (CGG) to Gln (CAG)"),
    "protein_indel": ("Leu1007fsinsC"),
}


@pytest.mark.parametrize(
    ("kind", "notation"),
    [(kind, one) for kind, several in LATER_KINDS.items() for one in several.split(" | ")],
)
@pytest.mark.parametrize("template", ["a carrier of {} was seen", "the sites {}, as before"])
def test_a_notation_with_spaces_is_found_whole(template: str, kind: str, notation: str) -> None:
    text = template.format(notation)
    found = [(mention.surface, mention.kind) for mention in find_variants(text)]
    assert found == [(notation, kind)], f"in {text!r}"


@pytest.mark.parametrize(
    ("text", "surfaces"),
    [
        ("FcgammaRIIA-131R/H and", ["131R/H"]),
        ("a C-G polymorphism in", ["C-G"]),
        ("MIF -137 G>Cis associated", ["-137 G>C"]),
        ("the 5'UTR G98 T (rs1805193)", ["G98 T", "rs1805193"]),
        ("the G98 T, Ser128Arg and", ["G98 T", "Ser128Arg"]),
        ("the A1166-C polymorphism", ["A1166-C"]),
        ("the A1166/C site", ["A1166/C"]),
        ("with rs123-C>G in", ["rs123", "C>G"]),
        ("with rs4680 (A to G) in", ["rs4680", "A to G"]),
        ("with rs4680G/A in", ["rs4680", "G/A"]),
        ("the A/G (rs12345) site", ["A/G", "rs12345"]),
        ("a polymorphism (C/T) of", ["C/T"]),
        ("SNP309 T/G was", ["T/G"]),
        ("a C/T missense mutation", ["C/T"]),
        ("a g-->a transition in", ["g-->a"]),
        ("the CCR5-del32 allele", ["del32"]),
        ("CFTRdele2,3(21kb) was", ["dele2,3(21kb)"]),
        ("exon 3 (G-->A) was", ["G-->A"]),
        ("A-204C/G-308A was", ["A-204C", "G-308A"]),
        ("1236C>T-2677G>T/A-3435C>T", ["1236C>T", "2677G>T/A", "3435C>T"]),
        ("the CD 15 (G-A) allele", ["CD 15 (G-A)"]),
        ("C1236T-G2677T-C3435T was", ["C1236T", "G2677T", "C3435T"]),
    ],
)
def test_mentions_side_by_side_are_found_apart(text: str, surfaces: list[str]) -> None:
    assert [mention.surface for mention in find_variants(text)] == surfaces


RESEMBLING = (
    "the genotype -308 A/A or -308 G/G | T -786 T carriers | G-C to A-T transitions"
    " | A-T mutations cause ataxia | the C-G content | a C-to-T transition at nucleotide 123"
    " | A549 T cells and CD4 T cells | group C -344 T cells | buffer A -150 A | a 100V/A ratio"
    " | MAGE-123A/B | phi X174E phage | HLA-B*1301N | CAT to TAG | from A-12 to C-14"
    " | panels A-1 to C-3 | in 120 (A-C) of them | Fig. 2(A-C) | chromosome 3 A/T rich"
    " | the SNP, A/G ratio | c.108C4C was | 108C4A was | CRL-1573\xae T | scores of A - 100 C"
    " | the T(9>10) comparison | pH 7 + 5A"
)


@pytest.mark.parametrize("text", RESEMBLING.split(" | "))
def test_what_resembles_the_later_kinds_is_not_found(text: str) -> None:
    assert find_variants(text) == [], f"in {text!r}"


def test_a_mention_inside_a_longer_one_is_not_reported_again() -> None:
    found = find_variants("c.1799T>A (p.Val600Glu)")
    assert [m.surface for m in found] == ["c.1799T>A", "p.Val600Glu"], "1799T>A or V600E again"


def test_several_changes_are_several_mentions_but_in_one_bracket() -> None:
    for text, surfaces in {
        "c.[76A>C;83G>C] was": ["c.[76A>C;83G>C]"],
        "c.76A>C/83G>C was": ["c.76A>C", "83G>C"],
        "677C>T/1298A>C was": ["677C>T", "1298A>C"],
        "M235T/T704C was": ["M235T", "T704C"],
        "rs123:C>G was": ["rs123", "C>G"],
        "of -592C/A and -819C/T": ["-592C/A", "-819C/T"],
        "G20210A, C677T, and A1298C": ["G20210A", "C677T", "A1298C"],
        "5382insC, 185delAG and 2393del9": ["5382insC", "185delAG", "2393del9"],
        "IVS7-2A\u2192G/2168A\u2192G was": ["IVS7-2A\u2192G", "2168A\u2192G"],
    }.items():
        assert [m.surface for m in find_variants(text)] == surfaces, f"in {text!r}"


def test_an_ambiguous_substitution_follows_the_list_it_stands_in() -> None:
    kinds = {m.surface: m.kind for m in find_variants("A49T, Q126R and G158R were found")}
    assert kinds["A49T"] == "protein_substitution", "beside Q126R it is a residue"
    kinds = {m.surface: m.kind for m in find_variants("MTHFR C677T and A1298C were typed")}
    assert set(kinds.values()) == {"nucleotide_substitution"}, "no residue among them"
    kinds = {m.surface: m.kind for m in find_variants("the (C62A, C69A) mutant enzyme")}
    assert set(kinds.values()) == {"protein_substitution"}, "an enzyme has residues"


def test_an_ambiguous_substitution_follows_the_residues_of_its_text() -> None:
    text = "V89L and R246W were seen. Another carrier had {}."
    kinds = {m.surface: m.kind for m in find_variants(text.format("A49T"))}
    assert kinds["A49T"] == "protein_substitution", "the text speaks of residues"
    kinds = {m.surface: m.kind for m in find_variants(text.format("C265T"))}
    assert kinds["C265T"] == "nucleotide_substitution", "base 265 lies in the codon of V89L"
    kinds = {m.surface: m.kind for m in find_variants(text.format("G20210A"))}
    assert kinds["G20210A"] == "nucleotide_substitution", "no protein is that long"


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


SENTENCES = st.lists(
    st.sampled_from(
        [notation for _, notation in EXAMPLES]
        + LOOKALIKES.split()
        + [
            "mutation",
            "in",
            "exon",
            "at",
            "nucleotide",
            "codon",
            "12",
            "of",
            "the",
            "A",
            "T",
            "G",
            "patients",
        ]
    ),
    max_size=12,
)


@given(SENTENCES, st.sampled_from([" ", ", ", "; ", " (", ") "]), st.integers(0, 400))
def test_reading_only_around_anchors_finds_what_reading_all_finds(
    words: list[str], gap: str, padding: int
) -> None:
    text = "of the " * (padding // 7) + gap.join(words) + " and so on" * (padding // 10)
    everywhere = finder._find_in(text, [(0, len(text), finder._NOTATIONS)])
    assert find_variants(text) == everywhere, "an anchor is missing, or its reach is too short"


def test_every_repetition_is_bounded_so_that_the_scan_is_linear() -> None:
    unbounded = regex.compile(r"(?<!\\)(?:\\\\)*(?:[*+]|\{\d*,\})")
    character_class = regex.compile(r"\\.|\[(?:\\.|[^\]\\])+\]")
    sources = [notation.pattern for notation in finder._NOTATIONS]
    sources += [anchor.pattern for anchor in anchors.PATTERN_ANCHORS]
    sources += [beside.pattern for _, _, beside in anchors.WORD_ANCHORS if beside]
    for source in sources:
        bare = character_class.sub("x", source)
        assert not unbounded.search(bare), f"{source} repeats without a bound"


@pytest.mark.parametrize(
    "piece",
    [
        "A",
        "1",
        "-",
        "c.",
        "1-",
        "IVS1+",
        "del1",
        "p.Ala1",
        "A/",
        "1 ",
        "(A>",
        "Ala-",
        "(CA)1",
        "IVS1, ",
        "chr1:",
        "G to ",
        "1,111",
        "A/C",
    ],
)
def test_a_hostile_text_is_scanned_before_a_generous_timeout(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    for pattern in finder._NOTATIONS:
        for _ in pattern.compiled.finditer(text, timeout=30):
            pass
