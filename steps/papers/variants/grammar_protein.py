"""How changes of proteins are written without HGVS: V600E, Arg506 to Gln, delF508, R97fs."""

from steps.papers.variants.grammar import (
    ANY_RESIDUE,
    ARROW,
    EVENT,
    FRAMESHIFT,
    FRAMESHIFT_END,
    MINUS,
    NUMBER,
    RESIDUE,
    RESIDUE3,
    RESIDUE3_OR_STOP,
    RESIDUE_NAME,
    RESIDUE_OR_STOP,
    TO,
    UP_TO,
)

# --- free text: proteins ---------------------------------------------------------------

_RESIDUE_PLACE = (
    rf"\s(?:{EVENT}\s)?(?:at|in|of)\s(?:the\s)?"
    rf"(?:amino\sacid\s|codons?\s|residues?\s|positions?\s){{1,2}}\d{{1,5}}(?![\w])"
)

# "Val600Glu", "Arg 1306 Trp", "Glu 272 to stop", "Arg(506)Gln", "Ser-326-Cys", "Gly12-->Asp"
THREE_LETTER_SUBSTITUTION = (
    rf"(?<![A-Za-z0-9.])(?:{RESIDUE3}(?:\s|{MINUS}|\({MINUS}?)?\d{{1,5}}\)?"
    rf"(?:{ARROW}|\s?/\s?|\sto\s|-to-)?{RESIDUE3_OR_STOP}(?![A-Za-z0-9])"
    # but not the neighbours Lys 116-Pro 117
    rf"|{RESIDUE3}(?:\s|{MINUS}|\()?\d{{1,5}}\)?(?:\s|{MINUS}){RESIDUE3_OR_STOP}(?![A-Za-z0-9]|[\s-]\d)"
    rf"|(?:Ter|X|\*|[Ss]top)[1-9]\d{{1,4}}{RESIDUE3}(?![A-Za-z0-9])"
    rf"|(?i:{RESIDUE3})[\s-]?\d{{1,5}}{ARROW}(?i:{RESIDUE3}|ter|stop)(?![A-Za-z0-9]))"
)

# "arginine 150 proline", "arginine 124-to-cysteine", "arginine-to-cysteine at codon 124"
RESIDUE_NAME_SUBSTITUTION = (
    rf"(?<![A-Za-z]){RESIDUE_NAME}"
    rf"(?:[\s-]?\d{{1,5}}(?:{TO}|{ARROW}|[\s-])?{RESIDUE_NAME}(?![A-Za-z])"
    rf"|-to-{RESIDUE_NAME}{_RESIDUE_PLACE})"
)

# "Arg-->Leu", "6 Glu-->Val", "104(G11)Cys-->Tyr", "histidine --> tyrosine"; but "Val > Ala" ranks.
BARE_RESIDUE_CHANGE = (
    rf"(?:(?<![\w.,-])\d{{1,4}}(?:\([A-H]{{1,2}}\d{{1,2}}\))?[\s-]?)?(?<![A-Za-z])"
    rf"(?:(?:{RESIDUE3}(?!\s>){ARROW}{RESIDUE3_OR_STOP}"
    rf"|(?i:{RESIDUE3})(?!\s?>){ARROW}(?i:{RESIDUE3}|ter|stop)"
    rf"|{RESIDUE_NAME}(?!\s?>){ARROW}{RESIDUE_NAME})(?![A-Za-z0-9]))"
)

# "Arg (CGG) to Gln (CAG)", "Cys(TGC)-->Arg(CGC)"
_CODED = rf"{RESIDUE3_OR_STOP}(?:[\s-]?\d{{1,4}})?\s?\([ACGTU]{{3}}\)"
CODED_RESIDUES = rf"(?<![A-Za-z]){_CODED}(?:{ARROW}|{TO}){_CODED}"

# "192 Gln/Arg", and "192Q/R polymorphism"
RESIDUE_PAIR = (
    rf"(?<![\w.,/])\d{{1,4}}[\s-]?{RESIDUE3}/{RESIDUE3}(?![\w/-])"
    rf"|(?<![\w.,/])\d{{2,4}}{RESIDUE}/{RESIDUE}(?=\)?\s(?:polymorphi|variant|genotyp|allel|mutation|SNP))"
    # glued to the gene, as in FcgammaRIIA-131R/H, but not two bases, IL10-592C/A
    rf"|(?<=[A-Z]-)\d{{3,4}}(?![ACGT]/[ACGT]){RESIDUE}/{RESIDUE}(?![\w/-])"
)

# "Asn --> Ser substitution at codon 127", "Arg to Trp at position 64", "Cys for Arg at codon 3"
RESIDUE_CHANGE_PHRASE = (
    rf"(?<![A-Za-z0-9]){RESIDUE3}(?:{ARROW}|{TO}|\sfor\s|-for-|/){RESIDUE3_OR_STOP}"
    rf"{_RESIDUE_PLACE}"
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
    # the stop is lost: X400Q; but not the phage phi X174
    rf"|(?<![\w.*)-])(?:X(?!174)|\*)[1-9]\d{{2,3}}{RESIDUE}(?![\w-])"
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

# --- deletions and frameshifts


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
    rf"(?<![\w.,-])(?:\d{{2,5}}(?:fs|FS){FRAMESHIFT_END}|fs\d{{2,5}}(?:X|\*|Ter)\d{{0,4}}"
    rf"|\d{{2,5}}fs(?=[,;)]|\s(?:mut|var|allel|frame|and\s[A-Z])))(?!\w)"
)
