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
_TO = r"(?:\sto\s|-to-)"
UP_TO = r"[-_\u2010\u2011\u2012\u2013\u2212]"  # between the ends of a range
SIGN = rf"(?:\+|{MINUS})"

# ->, -->, ---->, -- >, ----, =>, >, &gt; left over from HTML, and the arrows of Unicode
ARROW_SIGNS = "\u2192\u21d2\u27f6\u2794\u279c\u279d\u2b62"
ARROW = rf"\s?(?:{MINUS}{{1,4}}\s?(?:>|&gt;)|-{{3,4}}|=?(?:>|&gt;)|[{ARROW_SIGNS}])\s?"
SLASH_OR_ARROW = rf"(?:{ARROW}|\s?/\s?)"
NUMBER = r"\d{1,9}"  # the longest chromosome has 249 million bases
# IVS2, IVS-II, IVS 8a, IVS4DS or IVS4AS (a donor or acceptor site in the style of OMIM), and EX6-96
INTRON = r"(?:(?:IVS|ivs)[\s-]?(?:\d{1,3}|[IVX]{1,5})(?:(?!n)[a-z]|[DA]S)?|E[Xx]\d{1,2}(?=[-+]\d))"

# Exonic 1799, intronic 357-3 and 33 + 2, untranslated -13 and *12, and IVS3+1.
KILOBASES = r"\d{1,2}(?:\.\d)?\s?kb\s?"  # far inside an intron: 3849+10kbC>T
OFFSET = rf"(?:\s?(?:{SIGN}|nt?\s?{SIGN}?)\s?(?:{KILOBASES}|{NUMBER}|\?))"
POSITION = rf"(?:{INTRON}{OFFSET}?|ORF\d{{1,3}}{OFFSET}|(?:{SIGN}\s?|\*)?{NUMBER}{OFFSET}?)"

# "33 + 2" is one position, but "6 -174" in "IL-6 -174G/C" is two numbers.
PLAIN_OFFSET = rf"(?:{SIGN}\s?|\s{SIGN}\s)(?:{KILOBASES}|{NUMBER})"
PLAIN_POSITION = rf"(?:{INTRON}{OFFSET}|{SIGN}?{NUMBER}(?:{PLAIN_OFFSET})?)"
RANGE = rf"{POSITION}(?:\s?(?:[_^]|{MINUS}|\bto\b)\s?{POSITION})?"
PLAIN_RANGE = (
    rf"(?:\d{{2,6}}/\d{{2,6}}|{PLAIN_POSITION}(?:\s?(?:[_^]|{MINUS}|\bto\b)\s?{PLAIN_POSITION})?)"
)

# A word or a number must not go on across the edge of a mention.
BEFORE = r"(?<![\w.])"
AFTER = r"(?![\w])"

# A signed position may be glued to the gene (TNF-308G/A, IL-10-1082A/G), a bare number only to
# "nt" or, with a change of base after it, to a symbol in capitals (MTHFR677C>T).
BEFORE_POSITION = (
    rf"(?<!\d[,.])(?:(?<![\w.>]|\b(?:[Ff]ig\.|[Ff]igs?|[Ff]igures?|[Tt]ables?)\s)(?!(?<=[A-Z]-)\d{{1,2}}-\d)|(?<=[A-Z]\d{{0,2}}|[A-Z]-\d{{1,2}}|[\u03b1-\u03c9])(?={SIGN}\d{{2,5}}[^\d-])"
    rf"|(?<=[a-z])(?=\+\d{{2}})|(?<=\bn[tp]\.?)|(?<=(?<![\w-])[A-Z]{{3,6}})(?=\d{{2,5}}[ACGT](?:>|/|\u2192|--)))"
)

# What is deleted, inserted or duplicated: delTT, del28, ins(GCG), del 8 bp, delexon3
LENGTH = r"\d{1,3}\.\d{1,2}\s?kb|\d{1,5}(?:\s?(?:bp|kb|nts?|base pairs?))?"
SEQUENCE = rf"{NUCLEOTIDE}{{1,60}}(?!(?!ins)[A-Za-z])"
INDEL_WORD = r"(?:delins|deletion|insertion|duplication|indel|del|ins|dup|inv|con)"
INDEL_OBJECT = rf"(?:{SEQUENCE}|\({NUCLEOTIDE}{{1,60}}\)|\((?:{LENGTH})\)|{LENGTH})"
_FRAMESHIFT_END = r"(?:\*|X|Ter|ter|stop)\s?(?:\d{1,4}|\?)?"
FRAMESHIFT = (
    rf"(?:fs|FS)(?:[\s-]?(?:\({_FRAMESHIFT_END}\)|{_FRAMESHIFT_END})|/\d{{1,4}}|\d{{1,4}})?"
)

_OR = rf"(?:/{NUCLEOTIDE}(?![\w>]))?"  # G2677T/A
_ALLELES = rf"{NUCLEOTIDE}{{1,12}}{SLASH_OR_ARROW}{NUCLEOTIDE}{{1,12}}{_OR}"

# --- HGVS ------------------------------------------------------------------------------

_UNKNOWN_ENDS = r"\([\d?*+_-]{1,20}\)_\([\d?*+_-]{1,20}\)"
_DNA_CHANGE = (
    rf"(?:{RANGE}\s?[ACGTUacgtu]{{1,30}}{SLASH_OR_ARROW}[ACGTUacgtu]{{1,30}}{_OR}"  # c.1799T>A
    rf"|{RANGE}(?:\s?\({_ALLELES}\)|,\s?{_ALLELES}|[ACGT]{MINUS}[ACGT](?![\w-]))"
    rf"|{NUCLEOTIDE}{POSITION}{NUCLEOTIDE}(?![A-Za-z])"  # c.G1714C
    rf"|{RANGE}\s?{INDEL_WORD}(?:\s?{INDEL_OBJECT})?(?:\s?ins\s?{INDEL_OBJECT})?"
    rf"|{INDEL_WORD}\s?{RANGE}(?:{NUCLEOTIDE}{{1,30}})?"
    rf"|{RANGE}[ACGT]{{1,30}}\(\d{{1,3}}\)|{RANGE}\[\d{{1,3}}\]"  # c.123_125[5]
    rf"|{RANGE}(?:[ACGT]{{1,30}}\[\d{{1,3}}\]){{1,2}}"  # repeats: c.52GCA[12]
    rf"|{RANGE}\s?[ACGT]{_TO}[ACGT](?![\w-])"
    rf"|\({RANGE}\)\s?{INDEL_WORD}"
    rf"|{_UNKNOWN_ENDS}{INDEL_WORD}|\d{{1,6}}-\?_\d{{1,6}}\+\?)"  # c.(?_-30)_(12+1_13-1)del
)
_DNA_ALLELE = rf"\[{_DNA_CHANGE}(?:;\s?{_DNA_CHANGE}){{0,4}}\]"  # c.[76A>C;83G>C]
_ANY_DNA_CHANGE = rf"(?:\({_DNA_CHANGE}\)|{_DNA_ALLELE}(?:\s?[;+]\s?{_DNA_ALLELE})?|{_DNA_CHANGE})"
HGVS_CODING = rf"{BEFORE}(?:c\.\s?|C\.(?=\d)){_ANY_DNA_CHANGE}"
_WITH_COMMAS = r"\d{1,3}(?:,\d{3}){1,3}"  # 140,453,136
HGVS_GENOMIC = (
    rf"{BEFORE}(?:[gmnor]|mt)\.\s?"
    rf"(?:{_ANY_DNA_CHANGE}|{_WITH_COMMAS}\s?{NUCLEOTIDE}{SLASH_OR_ARROW}{NUCLEOTIDE})"
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

# --- free text: nucleotides ------------------------------------------------------------

_SWAP = rf"{NUCLEOTIDE}{{1,20}}{ARROW}{NUCLEOTIDE}{{1,20}}"
_CHANGE = rf"(?:\({_ALLELES}\)|{_ALLELES})"
_EVENT = (
    r"(?:point\s)?(?:transition|transversion|substitution|change|mutation|exchange|replacement"
    r"|polymorphism|variant|SNP)"
)
_UNIT = (
    r"(?:c?DNA\s|mRNA\s)?(?:nucleotides?|nt|np|bases?(?:\spair)?|bp|positions?|codons?|residues?)"
)
_PLACE = (
    rf"(?:at|in|of|on|from)\s(?:the\s)?"
    rf"(?:{_UNIT}(?:\s(?:positions?|number|no\.))?\s(?:[cgm]\.)?{PLAIN_POSITION}"
    rf"|{PLAIN_POSITION}\s(?:position|nucleotide|base)|(?:position\s)?{INTRON}{OFFSET}"
    rf"|[cgm]\.{NUMBER}|{SIGN}{NUMBER}(?!\s?(?:\u00b0|degrees|C\b|%)))"
)

# "C-->T transition at nucleotide 3916", "(G --> C) substitution at position 1201"
SUBSTITUTION_PHRASE = rf"(?<![\w/]){_CHANGE}\s(?:{_EVENT}\s)?{_PLACE}{AFTER}"

# "G to A at position 1691", "GGT to GAT at codon 12"; with a word for the event it is prose.
TO_PHRASE = (
    rf"(?<![\w/-])(?:{NUCLEOTIDE}{_TO}{NUCLEOTIDE}|{NUCLEOTIDE}{{3}}{_TO}{NUCLEOTIDE}{{3}})"
    rf"\s{_PLACE}{AFTER}"
)

# "-1001C/T", "1493A>T", "IVSI-5 (G-->C)", "-924, A/G", "825 + 1 G-->C", "962 G-A", "677 (C to T)"
_COMMA = rf"\s?(?:,\s?(?<!(?<![-+\d])\d{{1,6}}\s?,\s?(?={NUCLEOTIDE}\s?/)))?"  # not "120, C/T 234"
POSITION_FIRST = (
    rf"{BEFORE_POSITION}{PLAIN_POSITION}(?:_{NUMBER})?"
    rf"(?:(?:{_COMMA}[-*]?{_ALLELES}|\s?[,:]?\s?(?:[acgt]{ARROW}[acgt]|{_SWAP}))"
    rf"(?![A-Za-z]|/[A-Za-z])"
    rf"|\s?{NUCLEOTIDE}{_TO}{NUCLEOTIDE}(?![\w/-]|\scell)"
    rf"|\s?\((?:{_ALLELES}|{NUCLEOTIDE}{_TO}{NUCLEOTIDE})\)"
    rf"|(?:\s|(?<=\d{{3}}))(?!A-T){NUCLEOTIDE}{MINUS}{NUCLEOTIDE}(?![\w-]))"
)

# "C677T", "G-395A", "C(-260)T", "T-1131C", "CAC(3543)TAC", "A3243-->G", "C-677-T"
FLANKED_POSITION = (
    rf"(?<![\w.]){NUCLEOTIDE}(?:{SIGN}?\d{{2,6}}|\s?\(\s?{SIGN}?{NUMBER}\s?\)\s?"
    rf"|{NUMBER}{SIGN}{NUMBER}|{SIGN}?\d{{2,6}}{ARROW}|\d{{2,6}}\sto\s|{MINUS}\d{{2,5}}{MINUS})"
    rf"{NUCLEOTIDE}{_OR}(?![\w])"
    rf"|(?<![\w.]){NUCLEOTIDE}{MINUS}[1-9]{NUCLEOTIDE}(?![\w-])"
    rf"|(?<![\w.]){NUCLEOTIDE}{{3}}(?:\({NUMBER}\)|\d{{2,4}}){NUCLEOTIDE}{{3}}(?![\w])"
    rf"|(?<![\w-]){NUCLEOTIDE}\s?\d{{3,5}}\s?{NUCLEOTIDE}"
    rf"(?=\s(?:mutation|variant|polymorphi|genotyp|allel))"
)

# "A/C1166", "C/T-13910", "G/A(-308)", "G>C (-174)"; a plain number apart may count people, so it
# needs a word: "T/C 677 variant".
_SITE_WORD = (
    r"(?:polymorphi|variant|variation|SNPs?\b|mutation|substitution|transition|transversion|locus"
    r"|insertion|deletion)"
)
ALLELES_FIRST = (
    rf"(?<![\w/>-])(?:{NUCLEOTIDE}{{1,6}}{SLASH_OR_ARROW}{NUCLEOTIDE}{{1,6}}"
    rf"|{MINUS}\s?/\s?{NUCLEOTIDE}{{1,20}})"
    rf"(?:{SIGN}?[1-9]\d{{2,5}}|{SIGN}\d\d|\s?\(\s?{SIGN}\s?\d{{1,6}}\s?\)|\s{SIGN}\d{{2,6}}"
    rf"|\s[1-9]\d{{1,5}}(?=\s(?:\w{{1,12}}\s)?{_SITE_WORD}))"
    rf"(?![\w%/-])(?!\.\d|,\d|\s?%|\s?\(\d|\s?(?:to|and)\s-?\d|\s?(?:\u00b0|degrees))"
)

# "chr7:140453136A>T", "chr7:140,453,136 A/T"
CHROMOSOME_POSITION = (
    rf"(?<![\w.,])(?:[Cc]hr\s?(?:\d{{1,2}}|[XYM]|MT)\s?:\s?(?:{_WITH_COMMAS}|\d{{3,9}})"
    rf"|\d{{1,3}},\d{{3}},\d{{3}})\s?{_ALLELES}(?![A-Za-z/])"
)

# "IVS2, +1G>A", "IVS4(-2) A>G", "IVS I-5 (G-C)", "IVS3 G(-1)-->C", "IVS4DS,G-A,+1"
_INTRON_OFFSET = (
    rf"(?:{OFFSET}|\s?,\s?(?:nt?\s?)?{SIGN}\s?{NUMBER}|,\d{{1,3}}|\s?\(\s?{SIGN}\s?{NUMBER}\s?\))"
)
_INTRON_SWAP = rf"(?:{_ALLELES}|[acgt]{ARROW}[acgt]|{NUCLEOTIDE}(?:{_TO}|{MINUS}){NUCLEOTIDE})"
INTRON_CHANGE = (
    rf"{BEFORE}{INTRON}(?:\s?{NUCLEOTIDE}{SLASH_OR_ARROW}{NUCLEOTIDE}"
    rf"|{_INTRON_OFFSET}\s?[,:]?\s?(?:{_INTRON_SWAP}|\({_INTRON_SWAP}\))"
    rf"|,?\s{NUCLEOTIDE}\s?\(\s?{SIGN}?\s?{NUMBER}\s?\){ARROW}{NUCLEOTIDE}"
    rf"|,\s?{_INTRON_SWAP},\s?{SIGN}\d{{1,4}})(?![A-Za-z/])"
)

# "IVS9 + 217T", "IVS2-2A", "IVS12nt1"
INTRON_ALLELE = (
    rf"{BEFORE}(?=IVS){INTRON}(?:{OFFSET}\s?{NUCLEOTIDE}|\s?nt?\s?{SIGN}?{NUMBER})(?![\w])"
)

# "G-->A", "C>T", "GAG-->GAA"
BARE_CHANGE = (
    rf"(?:(?<![\w/>.-])|(?<=\brs\d{{3,10}}))"
    rf"{NUCLEOTIDE}{{1,12}}{ARROW}{NUCLEOTIDE}{{1,12}}(?![\w/>])"
)

# "C/T": alleles only beside a word that says so, for A/T is also an antigen, a ratio, a column.
_ALLELE_PAIR = rf"{NUCLEOTIDE}\s?/\s?{NUCLEOTIDE}(?![\w/-])"
SNP_ALLELES = (
    rf"(?<=\brs\d{{3,10}}\s?[,;:(\[-]{{0,2}}\s?){_ALLELE_PAIR}"
    rf"|(?<![\w/-]){_ALLELE_PAIR}(?=\)?\s(?:single|SNPs?|polymorphi|transition|transversion|substitution"
    rf"|variant|mutation|in\s(?:exon|intron|the\s)))"
)

# --- free text: proteins ---------------------------------------------------------------

_RESIDUE_PLACE = (
    rf"\s(?:{_EVENT}\s)?(?:at|in|of)\s(?:the\s)?"
    rf"(?:amino\sacid\s|codons?\s|residues?\s|positions?\s){{1,2}}\d{{1,5}}(?![\w])"
)

# "Val600Glu", "Arg 1306 Trp", "Glu 272 to stop", "Arg(506)Gln", "Ser-326-Cys", "Gly12-->Asp"
THREE_LETTER_SUBSTITUTION = (
    rf"(?<![A-Za-z0-9.])(?:{RESIDUE3}(?:\s|{MINUS}|\({MINUS}?)?\d{{1,5}}\)?"
    rf"(?:{ARROW}|\s?/\s?|\sto\s|-to-)?{RESIDUE3_OR_STOP}(?![A-Za-z0-9])"
    # but not the neighbours Lys 116-Pro 117
    rf"|{RESIDUE3}(?:\s|{MINUS}|\()?\d{{1,5}}\)?(?:\s|{MINUS}){RESIDUE3_OR_STOP}(?![A-Za-z0-9]|[\s-]\d)"
    rf"|(?i:{RESIDUE3})[\s-]?\d{{1,5}}{ARROW}(?i:{RESIDUE3}|ter|stop)(?![A-Za-z0-9]))"
)

# "arginine 150 proline", "arginine 124-to-cysteine", "arginine-to-cysteine at codon 124"
RESIDUE_NAME_SUBSTITUTION = (
    rf"(?<![A-Za-z]){RESIDUE_NAME}"
    rf"(?:[\s-]?\d{{1,5}}(?:{_TO}|{ARROW}|[\s-])?{RESIDUE_NAME}(?![A-Za-z])"
    rf"|-to-{RESIDUE_NAME}{_RESIDUE_PLACE})"
)

# "Arg-->Leu", "6 Glu-->Val", "104(G11)Cys-->Tyr", "histidine --> tyrosine"; but "Val > Ala" ranks.
BARE_RESIDUE_CHANGE = (
    rf"(?:(?<![\w.,-])\d{{1,4}}(?:\([A-H]{{1,2}}\d{{1,2}}\))?[\s-]?)?(?<![A-Za-z])"
    rf"(?:(?:{RESIDUE3}(?!\s>){ARROW}{RESIDUE3_OR_STOP}"
    rf"|(?i:{RESIDUE3})(?!\s?>){ARROW}(?i:{RESIDUE3}|ter|stop)"
    rf"|{RESIDUE_NAME}(?!\s?>){ARROW}{RESIDUE_NAME})(?![A-Za-z0-9]))"
)

# "192 Gln/Arg", and "192Q/R polymorphism"
RESIDUE_PAIR = (
    rf"(?<![\w.,/])\d{{1,4}}[\s-]?{RESIDUE3}/{RESIDUE3}(?![\w/-])"
    rf"|(?<![\w.,/])\d{{2,4}}{RESIDUE}/{RESIDUE}(?=\)?\s(?:polymorphi|variant|genotyp|allel|mutation))"
)

# "Asn --> Ser substitution at codon 127", "Arg to Trp at position 64", "Cys for Arg at codon 3"
RESIDUE_CHANGE_PHRASE = (
    rf"(?<![A-Za-z0-9]){RESIDUE3}(?:{ARROW}|{_TO}|\sfor\s|-for-|/){RESIDUE3_OR_STOP}"
    rf"{_RESIDUE_PLACE}"
)

# "codon 12 GGT-->GAT", "codon 72 Arg/Pro", "CD17 (A>T)"
_CODON_SWAP = (
    rf"(?:{NUCLEOTIDE}{{1,3}}{SLASH_OR_ARROW}{NUCLEOTIDE}{{1,3}}"
    rf"|{RESIDUE3}{SLASH_OR_ARROW}{RESIDUE3_OR_STOP})"
)
CODON_CHANGE = (
    rf"{BEFORE}(?:[Cc]odon\s(?:\(CD\)\s?)?\d{{1,5}}\s?(?:{_CODON_SWAP}|\({_CODON_SWAP}\))(?![A-Za-z])"
    rf"|C[Dd]\s?\d{{1,5}}(?:\s?\({NUCLEOTIDE}{{1,3}}{ARROW}{NUCLEOTIDE}{{1,3}}\)"
    rf"|\s{NUCLEOTIDE}{{3}}{ARROW}{NUCLEOTIDE}{{3}}(?!\w)))"
)

# "codons 41/42 (-TTCT)", "CD 8/9 (+G)", as of the thalassaemias
CODON_INDEL = (
    rf"{BEFORE}(?:[Cc]odons?\s\d{{1,3}}(?:(?:/|{MINUS})\d{{1,3}})?|C[Dd]s?\s?\d{{1,3}}(?:/|{MINUS})\d{{1,3}})"
    rf"\s\((?:\+|{MINUS}){{1,2}}\s?{NUCLEOTIDE}{{1,12}}\)"
)

# "V600E", "R238X", and glued to the gene: "BRAFV600E", "JAK2V617F", "KrasG12D", "H3K27M"; but
# not the marker D11S287E, nor R677C in "MTHFR677C>T"
# What stands before the residue is looked at after it: capitals are rarer than places.
ONE_LETTER_SUBSTITUTION = (
    rf"{RESIDUE}(?=[1-9]\d)"
    rf"(?:(?<![\w.*].)|(?<=[a-z].)(?=\d{{3}})|(?<=(?<!\w)[A-Z][a-z]{{2,3}}.)(?=\d{{2}}[A-Z])|(?<=\bp53.)"
    rf"|(?<=(?<!\w)H3.)(?=27[MI]|34[RVWL]|36M|9M)"
    rf"|(?<=(?<![\w-])(?!D[\dXY]{{1,2}}S\d)[A-Z][A-Z0-9]{{2,7}}.)(?!\d{{2,5}}[ACGT](?:>|/[ACGT]\b|\u2192|--)))"
    rf"\d{{2,5}}(?:{RESIDUE}|X|\*|[Ss]top|STOP|Ter|ter|TER)(?![\w])"
)

# "P10-->R", "R506 to Q", "E873-TAG", "V600 E mutation", and "R-4Q" in a signal peptide
ONE_LETTER_ARROW = (
    rf"(?<![\w.*]){RESIDUE}\s?[1-9]\d{{0,4}}\s?{ARROW}(?:{RESIDUE}|X|stop)(?![\w])"
    rf"|(?<![\w.*-]){RESIDUE}[1-9]\d{{1,3}}(?:\sto\s{RESIDUE}(?![\w-])|-(?:TAG|TAA|TGA)(?!\w)"
    rf"|\s{RESIDUE}(?=\s(?:mutation|mutant|substitution|variant|polymorphism)))"
)
SIGNAL_PEPTIDE_SUBSTITUTION = rf"(?<![\w.-])(?!H-2){RESIDUE}-[1-9]\d?{RESIDUE}(?![\w-])"

# A position of one digit looks like many other things, so it needs a word beside it, unless
# it is the start codon.
START_SUBSTITUTION = (
    rf"(?<![\w.-])M1[VTKILR](?![\w-])|(?<![\w.-]){RESIDUE}[1-9]{RESIDUE_OR_STOP}(?![\w-])"
    rf"(?=\s(?:mutations?|mutants?|substitutions?|variants?|polymorphisms?)\b)"
)

# --- free text: deletions, insertions, duplications, frameshifts ------------------------

# "899dupC", "1067 del A", "904-906delGAG", "IVS4+2delT", "167-delT", "2183delAA>G", "6bINS",
# but not exon 3 del
POSITION_INDEL = (
    rf"{BEFORE_POSITION}(?<!\b(?:[Ee]xons?|[Ii]ntrons?|[Cc]hromosomes?)\s){PLAIN_RANGE}"
    rf"(?:\s?(?:ins(?:ertion)?\s?/\s?del(?:etion)?|del(?:etion)?\s?/\s?ins(?:ertion)?)"
    rf"\s?(?:{SEQUENCE}|\d{{1,3}})"
    rf"|\s?(?:DEL|INS|DUP)[ACGT]{{1,30}}"
    rf"|(?<=\d\d)-(?:del|ins|dup){NUCLEOTIDE}{{1,30}}|(?:bp?-?(?:del|ins|dup)|b?INS|bp?DEL)"
    rf"|{NUCLEOTIDE}{{1,10}}(?:del|ins|dup)"
    rf"|\s?del{NUCLEOTIDE}{{1,30}}(?:>|&gt;){NUCLEOTIDE}{{1,30}}"
    rf"|\s?(?:delins|indel|del|ins|dup|inv)(?:\s?/?\s?{INDEL_OBJECT})?(?:\s?ins\s?{INDEL_OBJECT})?"
    rf"|,?\s?(?:deletion|insertion|duplication)\s?/\s?{INDEL_OBJECT}"
    rf"|\s(?:deletion|insertion|duplication)\s(?:of\s)?[ACGT]{{1,30}}(?!\w))(?![A-Za-z])"
)
# "-675 4G/5G", "-141C Ins/Del", "-652 6N ins/del"
RUN_LENGTHS = (
    rf"(?<![\w.]){SIGN}\d{{2,5}}\s?(?:[1-9]\d?[ACGT]/[1-9]\d?[ACGT](?!\w)"
    rf"|(?:{NUCLEOTIDE}{{1,10}}|\dN)\s?(?:[Ii]ns/[Dd]el|[Dd]el/[Ii]ns)(?![\w]))"
)

DELTA_INDEL = (
    rf"(?<![\w.]){PLAIN_RANGE}\s(?:Delta|delta|\u0394)-?"
    rf"(?:\d{{1,4}}\sbp(?:\sindel\s{SEQUENCE})?|[ACGT]{{1,30}}(?!\w))"
)

# "delTTCA", "del642T", "dup24bp", "del-(439-443)", "Tdel219", "delAG185", "del 40 bp at 1294"
_INDEL_PLACE = rf"(?:\sat\s(?:{_UNIT}\s)?\d{{2,6}}(?:{UP_TO}\d{{2,6}})?(?![\w%]))?"
INDEL_FIRST = (
    rf"(?<![\w.])(?:del|ins|dup|Del)[\s-]?"
    rf"(?:{NUCLEOTIDE}{{1,40}}(?![\w]){_INDEL_PLACE}|\({NUCLEOTIDE}{{1,40}}\)|\(\d{{1,5}}{MINUS}\d{{1,5}}\)"
    rf"|\d{{1,5}}\s?bp\b{_INDEL_PLACE}|\d{{3,6}}{UP_TO}\d{{3,6}}(?!\w)"
    rf"|\(\d{{1,5}}\s?bp\)|\(\d{{2,6}}{NUCLEOTIDE}{{1,10}}\)|{NUCLEOTIDE}{{1,20}}\d{{2,5}}(?![\w])"
    rf"|\d{{1,6}}(?:{UP_TO}\d{{1,6}})?{NUCLEOTIDE}{{1,20}}(?![\w]))"
    rf"|(?<![\w.-])[ACGT]{{1,6}}(?:del|ins|dup)\d{{2,6}}(?!\w)"
)

# "delF508", "delE746-A750", "DeltaF508", "Delta F304/305"
RESIDUE_DELETION = (
    rf"(?<![\w.])(?:del|ins|dup|Del)[\s-]?{ANY_RESIDUE}\d{{2,5}}(?:{UP_TO}{ANY_RESIDUE}\d{{2,5}})?(?![\w])"
    rf"|(?<![A-Za-z]|[a-z]-)(?:Delta|delta|\u0394|\u2206)\s?-?{ANY_RESIDUE}\d{{2,5}}(?:/\d{{2,5}})?(?![\w])"
    rf"|(?<=[A-Z]\d{{0,2}}-?)(?:Delta|\u0394|\u2206){RESIDUE}\d{{2,4}}(?![\w])"
)

# "F471del", "Ile262fs", "R58fsX12", "Leu747_Pro753delinsSer", "E746-A750del"
RESIDUE_INDEL = (
    rf"(?<![A-Za-z0-9.]){ANY_RESIDUE}{NUMBER}(?:{UP_TO}{ANY_RESIDUE}?{NUMBER})?"
    rf"(?:\s?{ANY_RESIDUE}?{FRAMESHIFT}"
    rf"|\s?(?:delins|del|ins|dup)(?:{RESIDUE3}{{1,8}}|{RESIDUE}{{1,20}})?)(?![A-Za-z0-9])"
)

# "97fsX12", "fs97X", "97fs"; but not pulses of 97fs
BARE_FRAMESHIFT = (
    rf"(?<![\w.,-])(?:\d{{2,5}}(?:fs|FS){_FRAMESHIFT_END}|fs\d{{2,5}}(?:X|\*|Ter)\d{{0,4}}"
    rf"|\d{{2,5}}fs(?=[,;)]|\s(?:mut|var|allel|frame|and\s[A-Z])))(?!\w)"
)

# "Delta32", "CCR5Delta32", "deltaAGAA"
DELTA = (
    r"(?<![A-Za-z]|[a-z]-)(?:Delta|delta|\u0394|\u2206)\s?-?"
    r"(?:\d{2,4}(?:\s?bp)?|[ACGT]{3,12})(?![\w])"
    r"(?!\s?desaturase)"
    r"|(?<=[A-Z]\d{0,2}-?)(?:Delta|\u0394|\u2206)\d{2,4}(?![\w])"
)

# "AGCTCC/-": an allele that is missing
MISSING_ALLELE = (
    rf"(?<![\w/-])(?:{NUCLEOTIDE}{{1,40}}\s?/\s?{MINUS}(?![\w-])"
    rf"|{MINUS}/{NUCLEOTIDE}{{1,40}}(?![\w/]))"
)

# --- free text: repeats ------------------------------------------------------------------

# "(CAG)36", "(CA)n", "(GT)(17)", "(TG)12(T)5", "A(TA)7TAA". In brackets letters may also be a short
# name, (CA) or (GAG), with a reference behind it, so few copies need a word beside them; telomeres
# are no variant, nor are the consensus CC[AT]6GG and a hexamer put together for an experiment.
_REPEAT_UNIT = rf"(?:\((?:{NUCLEOTIDE}{{2,6}}|GGN)\)|\[{NUCLEOTIDE}{{2,6}}\])"
_COPIES = rf"(?:[1-9]\d{{0,3}}(?:{MINUS}\d{{1,4}})?|\([1-9]\d{{0,3}}\)|[mn](?![a-z]))"
_MORE_REPEATS = (
    rf"(?:-?(?:{NUCLEOTIDE}{{1,6}}-?)?"
    rf"(?:{_REPEAT_UNIT}|\({NUCLEOTIDE}\)|\[{NUCLEOTIDE}\]){_COPIES}){{0,4}}"
)
_NO_REPEAT = rf"(?:[\[(](?:TTAGGG?|CCCTAA|AT[\])]6GG|{NUCLEOTIDE}{{5,6}}.\d(?!\d))|C.AT.6GG)"
_REPEAT_WORD = r"(?:repeat|expansion|polymorphi|allel|genotyp|tract)"
REPEAT = (
    rf"(?<![\w)\]'\u2019])(?!{_NO_REPEAT})(?:"
    rf"{_REPEAT_UNIT}(?:[1-9]\d{{1,2}}(?:{MINUS}\d{{1,4}})?|[4-9]|\([1-9]\d{{0,2}}\)|[mn](?![a-z]))"
    rf"{_MORE_REPEATS}{NUCLEOTIDE}{{0,6}}"
    rf"|{_REPEAT_UNIT}(?:\sn|\s?\d{{1,4}})"
    rf"(?=[\s-](?:tri|di|tetra)?(?:nucleotide)?\s?{_REPEAT_WORD}|/[\[(]{NUCLEOTIDE})"
    rf"|{NUCLEOTIDE}{_REPEAT_UNIT}[1-9]\d?{NUCLEOTIDE}{{2,4}})(?![\w'\u2019]|\s?=)"
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
UNCHANGED = regex.compile(rf"({RESIDUE3}|[A-Z])\W?\d{{1,6}}\W?\1")

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
