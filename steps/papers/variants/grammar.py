"""How variants are written: HGVS, older notations, rs numbers, cytobands, as patterns."""

import regex

# --- parts of the grammar -------------------------------------------------------------

NUCLEOTIDE = r"[ACGTU]"
RESIDUE = r"[ACDEFGHIKLMNPQRSTVWY]"  # the twenty one-letter codes
RESIDUE_OR_STOP = r"(?:[ACDEFGHIKLMNPQRSTVWYX]|\*)"
_THREE_LETTER_CODES = (
    "Ala Arg Asn Asp Cys Gln Glu Gly His Ile Leu Lys Met Phe Pro Ser Thr Trp Tyr Val"
)

# Val, VAL and slips such as GLn, but not the words "his" and "met".
RESIDUE3 = (
    "(?:" + "|".join(f"{code[0]}(?i:{code[1:]})" for code in _THREE_LETTER_CODES.split()) + ")"
)
_AMINO_ACIDS = (
    "alanine arginine asparagine cysteine glutamine glycine histidine isoleucine leucine lysine "
    "methionine phenylalanine proline serine threonine tryptophan tyrosine valine"
)
RESIDUE_NAME = (
    "(?:" + "|".join(_AMINO_ACIDS.split()) + r"|aspart(?:ate|ic\sacid)|glutam(?:ate|ic\sacid))"
)
STOP3 = r"(?:Ter|TER|Stop|STOP|stop|term|X|\*)"
RESIDUE3_OR_STOP = f"(?:{RESIDUE3}|{STOP3})"
ANY_RESIDUE = f"(?:{RESIDUE3}|{RESIDUE})"
MINUS = r"[-\u2010\u2011\u2012\u2013\u2212]"  # hyphens, en dash, minus sign
TO = r"(?:\sto\s|-to-)"
UP_TO = r"[-_\u2010\u2011\u2012\u2013\u2212]"  # between the ends of a range
SIGN = rf"(?:\+|{MINUS})"

# ->, -->, ---->, -- >, ----, =>, >, &gt; left over from HTML, and the arrows of Unicode
ARROW_SIGNS = "\u2192\u21d2\u27f6\u2794\u279c\u279d\u2b62"
LOST_ARROW = "\u00ae"  # the arrow of a symbol font: 677C(R)T, the R in a ring
ARROW = (
    rf"\s?(?:(?:{MINUS}\s?){{1,4}}(?:>|&gt;)|-{{3,4}}|(?:=\s?){{0,3}}(?:>|&gt;)|[{ARROW_SIGNS}]"
    rf"|(?<=\w){LOST_ARROW}(?=\w))\s?"
)
SLASH_OR_ARROW = rf"(?:{ARROW}|\s?/\s?)"
NUMBER = r"\d{1,9}"  # the longest chromosome has 249 million bases
# IVS2, IVS-II, IVS 8a, IVS4DS or IVS4AS (a donor or acceptor site in the style of OMIM), and EX6-96
INTRON = (
    r"(?:(?:IVS|ivs)[\s-]?(?:\d{1,3}|[IVX]{1,5})(?:[DAda][Ss]|(?!n)[a-z])?|E[Xx]\d{1,2}(?=[-+]\d))"
)

# Exonic 1799, intronic 357-3 and 33 + 2, untranslated -13 and *12, and IVS3+1.
KILOBASES = r"\d{1,2}(?:\.\d)?\s?kb\s?"  # far inside an intron: 3849+10kbC>T
OFFSET = rf"(?:\s?(?:{SIGN}|nt?\s?{SIGN}?)\s?(?:{KILOBASES}|{NUMBER}|\?))"
POSITION = rf"(?:{INTRON}{OFFSET}?|ORF\d{{1,3}}{OFFSET}|(?:{SIGN}\s?|\*)?{NUMBER}{OFFSET}?)"

# "33 + 2" is one position, but "6 -174" in "IL-6 -174G/C" is two numbers.
PLAIN_OFFSET = (
    rf"(?:(?:{SIGN}\s?|\s{SIGN}\s)(?:{KILOBASES}|{NUMBER})"
    rf"|\({SIGN}\d{{1,4}}\)|(?<=\d{{3}})\s\+(?=\d{{1,2}}\D){NUMBER})"
)
PLAIN_POSITION = rf"(?:{INTRON}{OFFSET}|(?:{SIGN}|\*)?{NUMBER}(?:{PLAIN_OFFSET})?)"
RANGE = rf"{POSITION}(?:\s?(?:[_^]|{MINUS}|\bto\b)\s?{POSITION})?"
PLAIN_RANGE = (
    r"(?:\d{2,6}/\d{2,6}|\d{3,6}/\d"
    rf"|{PLAIN_POSITION}(?:\s?(?:[_^]|{MINUS}|\bto\b)\s?{PLAIN_POSITION})?)"
)

# A word or a number must not go on across the edge of a mention.
BEFORE = r"(?<![\w.])"
AFTER = r"(?![\w])"

# A signed position may be glued to the gene (TNF-308G/A, IL-10-1082A/G), a bare number only to
# "nt" or, with a change of base after it, to a symbol in capitals (MTHFR677C>T).
BEFORE_POSITION = (
    r"(?=[-+*\d\u2010-\u2013\u2212]|[Ii][Vv]|E[Xx])"  # for speed
    rf"(?<!\d[,.])(?:(?<![\w.>]|\b(?:[Ff]ig\.|[Ff]igs?|[Ff]igures?|[Tt]ables?|[Ee]xons?|[Ii]ntrons?|[Cc]hromosomes?)\s)(?!(?<=[A-Z]-)\d{{1,2}}-\d)|(?<!SNP|[>/\u2192][ACGT])(?<=[A-Z]\d{{0,2}}|[A-Z]-\d{{1,2}}|[\u03b1-\u03c9])(?={SIGN}\d{{2,5}}[^\d-])"
    rf"|(?<=[a-z])(?=\+\d{{2}})|(?<=\b(?:n[tp]|[Mm][Tt]|cDNA)\.?)|(?<=(?<![\w-])[A-Z]{{3,6}})(?=\d{{2,5}}[ACGT](?:>|/|\u2192|--)))"
)

# What is deleted, inserted or duplicated: delTT, del28, ins(GCG), del 8 bp, delexon3
LENGTH = r"\d{1,3}\.\d{1,2}\s?kb|\d{1,5}(?:[\s-]?(?:bp|kb|nts?|base pairs?)(?![a-z]))?"
SEQUENCE = rf"{NUCLEOTIDE}{{1,60}}(?!(?!ins)[A-Za-z])"
INDEL_WORD = (
    r"(?:delins|deletion|insertion|duplication|indel|del|ins|dup|inv|con"
    r"|(?:Del|Ins|Dup|DEL|INS|DUP)(?![a-z]))"
)
INDEL_OBJECT = rf"(?:{SEQUENCE}|\({NUCLEOTIDE}{{1,60}}\)|\((?:{LENGTH})\)|{LENGTH})"
FRAMESHIFT_END = r"(?:\*|X|Ter|ter|stop)\s?(?:\d{1,4}|\?)?"
FRAMESHIFT = (
    r"(?:fs|FS)(?:ins[ACGT]{1,6}"
    rf"|[\s-]?(?:\({FRAMESHIFT_END}\)|{FRAMESHIFT_END})|/\d{{1,4}}|\d{{1,4}})?"
)

# G2677T/A, -286C>T>A, 2677G>T,A, 2677G/T(A), 655A/C>G; but not the next change in A-204C/G-308A
OR_ALLELE = (
    rf"(?:(?:[/,]|{ARROW}){NUCLEOTIDE}(?!{MINUS}?\d{{1,6}}{NUCLEOTIDE}(?![/>\w])|[\w>(+])"
    rf"|/{NUCLEOTIDE}/{NUCLEOTIDE}(?![\w>/])|\({NUCLEOTIDE}\))?"
)
ALLELES = rf"{NUCLEOTIDE}{{1,12}}{SLASH_OR_ARROW}{NUCLEOTIDE}{{1,12}}{OR_ALLELE}"

EVENT = (
    r"(?:(?:single|point|missense|nonsense|silent|splice|splicing|base|nucleotide|base-pair|sequence"
    r"|germline|homozygous|heterozygous|somatic|novel|common|promoter|functional)[\s-]){0,3}"
    r"(?:transition|transversion|substitution|change|mutation|exchange|replacement|alteration"
    r"|conversion|variation|polymorphism|dimorphism|variant|SNP)s?"
)

# --- HGVS ------------------------------------------------------------------------------

_UNKNOWN_ENDS = r"\([\d?*+_-]{1,20}\)_\([\d?*+_-]{1,20}\)"
_DNA_CHANGE = (
    rf"(?:{RANGE}\s?[ACGTUacgtu]{{1,30}}{SLASH_OR_ARROW}[ACGTUacgtu]{{1,30}}{OR_ALLELE}"
    rf"|{RANGE}(?:\s?[(\[]{ALLELES}[)\]]|[,:]\s?{ALLELES}|\s?[ACGT]{MINUS}[ACGT](?![\w-]))"
    rf"|{RANGE}(?:A[4?.][CGT]|C[4?.][AGT]|G[4?.][ACT]|T[4?.][ACG])(?!\w)"  # c.108C4A
    rf"|{NUCLEOTIDE}\s?{POSITION}(?:{ARROW}|{MINUS}|\s)?{NUCLEOTIDE}(?![A-Za-z])"  # c.G1714C
    rf"|{RANGE}\s?{INDEL_WORD}(?:\s?{INDEL_OBJECT})?(?:[\s/]?ins\s?{INDEL_OBJECT})?"
    rf"|{INDEL_WORD}\s?{RANGE}(?:{NUCLEOTIDE}{{1,30}})?"
    rf"|{RANGE}[ACGT]{{1,30}}\(\d{{1,3}}(?:[-_]\d{{1,3}})?\)|{RANGE}\[\d{{1,3}}\]"  # c.123_125[5]
    rf"|{RANGE}(?:[ACGT]{{1,30}}\[\d{{1,3}}\]){{1,2}}"  # repeats: c.52GCA[12]
    rf"|{RANGE}\([ACGT]{{1,20}}\)(?:\d{{1,3}}(?:[-_]\d{{1,3}})?|n(?!\w))"
    rf"|{RANGE}\s?[ACGT]{TO}[ACGT](?![\w-])"
    rf"|\({RANGE}\)\s?{INDEL_WORD}"
    rf"|{_UNKNOWN_ENDS}{INDEL_WORD}|\d{{1,6}}-\?_\d{{1,6}}\+\?)"  # c.(?_-30)_(12+1_13-1)del
)
_DNA_ALLELE = rf"\[{_DNA_CHANGE}(?:;\s?{_DNA_CHANGE}){{0,4}}\]"  # c.[76A>C;83G>C]
_ANY_DNA_CHANGE = rf"(?:\({_DNA_CHANGE}\)|{_DNA_ALLELE}(?:\s?[;+]\s?{_DNA_ALLELE})?|{_DNA_CHANGE})"
HGVS_CODING = rf"{BEFORE}(?:c\.\s?|C\.(?=\d)){_ANY_DNA_CHANGE}"
# The dot is forgotten: c1002G>A, c35delG
_UNDOTTED = (
    r"(?=\d)(?<![\w.].)\d{2,6}(?:[-+]\d{1,3})?(?:_\d{1,6})?"
    rf"(?:{NUCLEOTIDE}(?:>|-->|->|\u2192){NUCLEOTIDE}|(?:del|dup|ins){NUCLEOTIDE}{{1,20}})(?!\w)"
)
UNDOTTED_CODING = f"c{_UNDOTTED}"
UNDOTTED_GENOMIC = f"[gm]{_UNDOTTED}"
WITH_COMMAS = r"\d{1,3}(?:,\d{3}){1,3}"  # 140,453,136
HGVS_GENOMIC = (
    rf"{BEFORE}(?:[gmnor]|mt)\.\s?"
    rf"(?:{_ANY_DNA_CHANGE}|{WITH_COMMAS}\s?{NUCLEOTIDE}{SLASH_OR_ARROW}{NUCLEOTIDE})"
)
_PROTEIN_CHANGE = (
    rf"(?:(?:{RESIDUE3}|Ter){NUMBER}(?:{UP_TO}{RESIDUE3}?{NUMBER})?"
    rf"|{RESIDUE_OR_STOP}{NUMBER}(?:{UP_TO}{RESIDUE}?{NUMBER})?)"
)
_PROTEIN_RESULT = (
    rf"(?:\s?{INDEL_WORD}(?:\s?{RESIDUE3}{{1,10}}|\s?{RESIDUE}{{1,20}}(?![a-z])|\d{{1,4}})?"
    rf"|{FRAMESHIFT}"
    rf"|(?:{RESIDUE3_OR_STOP}|{RESIDUE_OR_STOP})(?:{FRAMESHIFT}|ext[*\w-]{{1,12}})?"
    rf"|\[\d{{1,3}}\]|=|\?)"
)
_PROTEIN_ALLELE = (
    rf"\[{_PROTEIN_CHANGE}{_PROTEIN_RESULT}(?:;\s?{_PROTEIN_CHANGE}{_PROTEIN_RESULT}){{0,4}}\]"
)
HGVS_PROTEIN = (
    rf"{BEFORE}(?:p\.\s?|P\.(?=[A-Z][a-z\d]))(?:\({_PROTEIN_CHANGE}{_PROTEIN_RESULT}\)"
    rf"|{_PROTEIN_ALLELE}(?:\s?[;+]\s?{_PROTEIN_ALLELE})?"
    rf"|{_PROTEIN_CHANGE}{_PROTEIN_RESULT}(?![A-Za-z0-9])"
    rf"|\d{{1,5}}{FRAMESHIFT}(?![A-Za-z0-9])"  # p.97fs
    rf"|\((?:=|\?)\)|=(?!\s?[\d.<]))"  # the protein is unchanged, or nobody knows
)

# --- identifiers and places --------------------------------------------------------------

# An allele may be glued to it: rs1800562G>A, rs7903146T. In capitals, RS 232 is a plug.
RSID = r"(?<![A-Za-z0-9])(?:rs\s?#?\d{3,10}|R[Ss]\d{4,10})(?!\d)(?![BD-FH-SU-Za-z]|[ACGT]\w)"
_CHROMOSOME = r"(?:[1-9]|1\d|2[0-2]|X|Y)"
_BAND = r"[1-4]\d?(?:\.\d{1,3})?"
_BEFORE_ARM = r"\b(?:chromosomes?\s|arms?\s|LOH\s(?:at|on|of)\s|loss\sof\s|gain\sof\s|del\(|[pq]/)"
CYTOBAND = (
    rf"(?<![\w.\-/]){_CHROMOSOME}(?:[pq]{_BAND}(?:\s?{MINUS}\s?(?:(?:{_CHROMOSOME}?[pq])?{_BAND}|[pq]?ter|cen))?|[pq](?:ter|cen))"
    rf"(?:(?=DS\b)|(?![\w])(?!\.\d))"
)

# A whole arm, "16q", needs a word beside it.
CHROMOSOME_ARM = (
    rf"(?<![\w.\-]){_CHROMOSOME}[pq](?![\w])(?:(?<={_BEFORE_ARM}..)|(?<={_BEFORE_ARM}...)"
    rf"|(?=/1?\d[pq]|\s(?:co-?deletion|deletion|loss|gain|arm|LOH|amplification)))"
)

# --- what looks like V600E and is none ---------------------------------------------------

# Cell lines, strains, media, histones, fatty acids and gene names that look like V600E.
_LOOKALIKES = """
T47D T-47D T98G T-98G T24T C33A C-33A H295R L5178Y S288C W303A M059K M059J A375P A375M A431D
F36P G418R G418S C127I F12K S100A S100B S100P H37R C57B F344N A549R P388D U251N M21L F11R F13A F13B
C18H C16H C12E
"""
NOT_VARIANTS = frozenset(_LOOKALIKES.split())

# A genotype (Met326Met, C677C) names no change.
UNCHANGED = regex.compile(
    rf"({RESIDUE3}|[A-Z])\W{{0,3}}\d{{1,6}}\W?\1"
    rf"|.{{0,20}}[\d\s(,]([ACGT]{{1,3}})\s?/\s?\2\)?"
    rf"|([ACGT])\s?/\s?\3.{{0,12}}"
)

# But it is a silent change where the text says so, or gives the change of DNA beside it.
SILENT = regex.compile(rf"(?:{RESIDUE3}|{RESIDUE}(?=\d\d))\d{{1,5}}(?:{RESIDUE3}|{RESIDUE})")
SILENT_BEFORE = regex.compile(
    r"(?:(?<![\w-])(?:silent|synonymous)"
    r"(?:(?:\s(?:mutation|change|substitution|variant|polymorphism|SNP)s?)?\s?[:,]?"
    r"|\b[^.;]{0,60}(?:[(\[,]|\band))"
    r"|[ACGT](?:>|-->|->|\u2192|/)\s?[ACGT]\s?[,;:/]?|(?<!\w)[ACGT]\d{2,6}[ACGT]\s?[,;:/(\[])"
    r"\s?[(\[]?$"
)
SILENT_AFTER = regex.compile(
    r"\)?,?\s(?:\w{1,12}\s)?(?:silent|synonymous)\b"
    r"|\s?[(,;/]\s?(?:c\.)?\d{1,6}\s?[ACGT](?:>|-->|->|\u2192)"
)
GENOTYPE_AFTER = regex.compile(
    r"\)?\s(?:genotyp|homozyg|carrier|allel|patients|subjects|individuals|cell|line)"
)

# C677T is a nucleotide change or the mutant Cys677Thr: the letters do not tell. G20210A can only
# be the former, for hardly a protein is that long.
EITHER_KIND = regex.compile(r"[ACGT]\d{2,4}[ACGT]")
ONLY_RESIDUES = regex.compile(rf"{RESIDUE}(\d{{2,5}})(?:{RESIDUE}|X|\*|-?(?:stop|TAG|TAA|TGA))")
PROTEIN_WORD_BEFORE = regex.compile(r"\bmutants?\s(?:(?:of|in)\s)?(?:[\w-]{1,20}\s)?\(?$")
BETWEEN_LIST_ITEMS = regex.compile(r"\s?(?:[,/;]\s?(?:and\s|or\s)?|(?:and|or|plus)\s)")
PROTEIN_WORD_AFTER = regex.compile(
    r"\)?\s(?:and\s\S{1,12}\s)?(?:double\s)?(?:mutants?|proteins?|enzymes?|amino acid|residue)\b"
)
