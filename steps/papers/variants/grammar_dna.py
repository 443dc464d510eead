"""How changes of DNA are written without HGVS: -308G/A, IVS2+1G>A, 35delG, (CAG)36."""

from steps.papers.variants.grammar import (
    AFTER,
    ALLELES,
    ARROW,
    BEFORE,
    BEFORE_POSITION,
    EVENT,
    INDEL_OBJECT,
    INTRON,
    MINUS,
    NUCLEOTIDE,
    NUMBER,
    OFFSET,
    PLAIN_POSITION,
    PLAIN_RANGE,
    RESIDUE,
    RESIDUE3,
    RESIDUE3_OR_STOP,
    RESIDUE_NAME,
    SEQUENCE,
    SIGN,
    SLASH_OR_ARROW,
    TO,
    UP_TO,
    WITH_COMMAS,
)

# --- free text: nucleotides ------------------------------------------------------------

_SWAP = rf"{NUCLEOTIDE}{{1,20}}{ARROW}{NUCLEOTIDE}{{1,20}}"
_CHANGE = rf"(?:\({ALLELES}\)|{ALLELES})"
_UNIT = (
    r"(?:(?:(?:c|g|mt)?DNA|mRNA|promoter|genomic|coding|gene)\s)?"
    r"(?:(?:nucleotides?|bases?(?:\spairs?)?)\s\((?:nt|np|bp)\)"
    r"|nucleotides?|nts?\.?|np|bases?(?:\spairs?|-pairs?)?|bp|positions?|sites?|codons?|residues?)"
)
_ADJECTIVE = (
    r"(?:single|base|nucleotide|missense|nonsense|silent|point|promoter|synonymous|genetic)"
)
_CODON_BASE = (
    r"(?:first|second|third|1st|2nd|3rd|last)\s(?:position|base|nucleotide|letter)\s(?:of|in)\s(?:the\s)?"
    r"(?=codon)"
)
_PLACE = (
    rf"(?:at|in|of|on|from)\s(?:the\s)?(?:{_CODON_BASE})?"
    rf"(?:{_UNIT}(?:\s(?:positions?|numbers?|no\.|site))?"
    rf"(?:\s(?:[cgm]\.|{SIGN}\s(?=\d))?|(?=[-+\u2212]\d)|(?<=n[tp])(?=\d))"
    rf"(?:\d{{1,2}},\d{{3}}(?!,?\d)|{PLAIN_POSITION})"
    rf"|(?<=at\s)[1-9]\d{{2,5}}(?![.,]\d|\s?(?:%|\u00b0|[a-z]{{1,2}}\b|positions?|months|weeks|years|days|hours|min))"
    rf"|{PLAIN_POSITION}\s(?:position|nucleotide|base)|(?:position\s)?{INTRON}{OFFSET}"
    rf"|[cgm]\.{NUMBER}|{SIGN}{NUMBER}(?!\s?(?:\u00b0|degrees|C\b|%)))"
)

# "C-->T transition at nucleotide 3916", "(G --> C) substitution at position 1201"
SUBSTITUTION_PHRASE = rf"(?<![\w/]){_CHANGE}\s(?:{EVENT}\s)?{_PLACE}{AFTER}"
LOWER_CASE_PHRASE = (
    rf"[acgt](?=\s?[^\w\s])(?<![\w/].){ARROW}[acgt]"
    rf"(?:\s(?:{EVENT}\s)?{_PLACE}{AFTER}|(?=\s{EVENT}))"
)

# "G to A at position 1691", "GGT to GAT at codon 12"; with a word for the event it is prose.
TO_PHRASE = (
    rf"(?<![\w/-])(?:{NUCLEOTIDE}{TO}{NUCLEOTIDE}|{NUCLEOTIDE}{{3}}{TO}{NUCLEOTIDE}{{3}})"
    rf"\s{_PLACE}{AFTER}"
)

# "-1001C/T", "1493A>T", "IVSI-5 (G-->C)", "-924, A/G", "825 + 1 G-->C", "962 G-A", "677 (C to T)"
_COMMA = rf"\s?(?:,\s?(?<!(?<![-+\d])\d{{1,6}}\s?,\s?(?={NUCLEOTIDE}\s?/)))?"  # not "120, C/T 234"
# The space behind a change is lost: "-137 G>Cis associated"
_GLUED_WORD = (
    r"(?=(?:is|was|were|are|and|or|in|of|on|with|for|has|had|at|to|by|as|which|that|genes?|SNPs?"
    r"|polymorphisms?|variants?|mutations?|alleles?|genotypes?|carriers?|substitution|transition)\b)"
)
POSITION_FIRST = (
    rf"{BEFORE_POSITION}(?:(?<=[\s(]){SIGN}\s(?=\d{{2,5}}\s?\(?{NUCLEOTIDE}\s?[/>]))?"
    rf"{PLAIN_POSITION}(?:_{NUMBER})?"
    rf"(?:(?:{_COMMA}[-*]?{ALLELES}|\s?[,:]?\s?(?:[acgt]{ARROW}[acgt]|{_SWAP}))"
    rf"(?:(?![A-Za-z]|/[A-Za-z]|{MINUS}\d{{1,6}}{NUCLEOTIDE}(?![/>\w]))|(?<=[>\u2192]{NUCLEOTIDE}){_GLUED_WORD})"
    rf"|\s?{NUCLEOTIDE}{TO}{NUCLEOTIDE}(?![\w/-]|\scell)"
    rf"|\s?\((?:{ALLELES}|{NUCLEOTIDE}{TO}{NUCLEOTIDE}|(?<=(?:\d{{4}}|{SIGN}\d{{1,6}})\s?\()"
    rf"{NUCLEOTIDE}{MINUS}{NUCLEOTIDE})\)|\s?\[{ALLELES}\]"
    rf"|(?:\s|(?<=\d{{3}}|\d\+\d{{1,2}}|\d{{3}}{MINUS}\d{{1,2}}))"
    rf"(?!A-T){NUCLEOTIDE}{MINUS}{NUCLEOTIDE}(?![\w-]))"
)

# "3,243 A>G", "(-308)G/A"
COMMA_POSITION = rf"\d(?<![\w.,].)\d?,\d{{3}}\s?{NUCLEOTIDE}{ARROW}{NUCLEOTIDE}(?!\w)"
BRACKETED_POSITION = (
    rf"\((?<![.].){SIGN}\s?\d{{1,6}}\)\s?"
    rf"{NUCLEOTIDE}{SLASH_OR_ARROW}{NUCLEOTIDE}(?![\w/>])"
)

# "C677T", "G-395A", "C(-260)T", "T-1131C", "CAC(3543)TAC", "A3243-->G", "C-677-T"
_OR_SLASH = (
    rf"(?:[/,]{NUCLEOTIDE}(?!{MINUS}?\d|[\w>(+])"
    rf"|/{NUCLEOTIDE}/{NUCLEOTIDE}(?![\w>/])|\({NUCLEOTIDE}\))?"
)
FLANKED_POSITION = (
    rf"(?<![\w.]){NUCLEOTIDE}(?:{SIGN}?\d{{2,6}}|\s?\(\s?{SIGN}?{NUMBER}\s?\)\s?"
    rf"|\s?\(\s?{SIGN}?{NUMBER}\s?\)(?:{ARROW}|\sto\s)"
    rf"|{NUMBER}{SIGN}{NUMBER}|(?:{SIGN}?\d{{2,6}}|{SIGN}\d){ARROW}|(?:\d{{2,6}}|(?:\+\d|{SIGN}\d{{2,6}})(?=\sto\s.(?![\w-])))\sto\s"
    rf"|{MINUS}\d{{2,5}}{MINUS})"
    rf"{NUCLEOTIDE}{_OR_SLASH}(?![\w])"
    rf"|(?<![\w.]){NUCLEOTIDE}{SIGN}[1-9]{NUCLEOTIDE}(?![\w-])"
    rf"|(?<![\w.]){NUCLEOTIDE}{{3}}(?:\({NUMBER}\)|\d{{2,4}}){NUCLEOTIDE}{{3}}(?![\w])"
    rf"|(?<![\w-]){NUCLEOTIDE}(?:\s?\d{{3,5}}\s?|\d{{3,5}}[-/]){NUCLEOTIDE}"
    rf"(?=\s(?:gene\s)?(?:mutation|variant|polymorphi|genotyp|allel|transition|substitution|SNP))"
    # G98 T (rs1805193), "G98 T, Ser128Arg", A1166/C
    rf"|(?<![\w/-]){NUCLEOTIDE}\d{{2,5}}\s{NUCLEOTIDE}"
    rf"(?=\s\((?:rs|c\.)\d|[,;]?\s(?:and\s)?(?:{RESIDUE3}\d|{NUCLEOTIDE}\d{{2,5}}\s?{NUCLEOTIDE}\b))"
    rf"|(?<![\w/.-]){NUCLEOTIDE}\d{{3,5}}/{NUCLEOTIDE}(?![\w/-])"
    # C -344T, G - 308 A
    rf"|(?<![\w/.-]){NUCLEOTIDE}\s{SIGN}(?:\d{{3,5}}\s?{NUCLEOTIDE}(?![\w/>-]|\scell)"
    rf"|\s?\d{{3,5}}\s?{NUCLEOTIDE}(?=\s(?:gene\s)?(?:mutation|variant|polymorphi|SNP)))"
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
    rf"(?:{SIGN}?[1-9]\d{{2,5}}|\([1-9]\d{{2,5}}\)|\s?\((?:nt|np|bp|nucleotide|position|codon)\s{SIGN}?\d{{1,6}}\)|{SIGN}\d\d|\s?\(\s?{SIGN}\s?\d{{1,6}}\s?\)|\s{SIGN}\d{{2,6}}"
    rf"|\s[1-9]\d{{1,5}}(?=\s(?:\w{{1,12}}\s)?{_SITE_WORD}))"
    rf"(?![\w%/-])(?!\.\d|,\d|\s?%|\s?\(\d|\s?(?:to|and)\s-?\d|\s?(?:\u00b0|degrees))"
)

# "chr7:140453136A>T", "chr7:140,453,136 A/T"
CHROMOSOME_POSITION = (
    rf"(?<![\w.,])(?:[Cc]hr\s?(?:\d{{1,2}}|[XYM]|MT)\s?:\s?(?:{WITH_COMMAS}|\d{{3,9}})"
    rf"|\d{{1,3}},\d{{3}},\d{{3}})\s?{ALLELES}(?![A-Za-z/])"
)

# "IVS2, +1G>A", "IVS4(-2) A>G", "IVS I-5 (G-C)", "IVS3 G(-1)-->C", "IVS4DS,G-A,+1"
_INTRON_OFFSET = (
    rf"(?:{OFFSET}|\s?,\s?(?:nt?\s?)?{SIGN}\s?{NUMBER}|,\d{{1,3}}|\s?\(\s?{SIGN}\s?{NUMBER}\s?\)"
    rf"|,?\s(?:nt|np|nucleotide|position)\s{SIGN}?\s?{NUMBER}|[:./]\d{{1,4}}|\s\d{{1,4}})"
)
_INTRON_SWAP = rf"(?:{ALLELES}|[acgt]{ARROW}[acgt]|{NUCLEOTIDE}(?:{TO}|{MINUS}){NUCLEOTIDE})"
INTRON_CHANGE = (
    rf"{BEFORE}g?{INTRON}(?:\s?{NUCLEOTIDE}{SLASH_OR_ARROW}{NUCLEOTIDE}"
    rf"|{_INTRON_OFFSET}\s?[,:]?\s?(?:{_INTRON_SWAP}|\({_INTRON_SWAP}\))"
    rf"|,?\s{NUCLEOTIDE}\s?\(\s?{SIGN}?\s?{NUMBER}\s?\){ARROW}{NUCLEOTIDE}"
    rf"|,?\s{NUCLEOTIDE}{SIGN}?\d{{1,4}}(?:{ARROW})?{NUCLEOTIDE}(?!\w)"
    rf"|,\s?{_INTRON_SWAP},\s?{SIGN}\d{{1,4}})(?![A-Za-z/])"
)

# "IVS9 + 217T", "IVS2-2A", "IVS12nt1"
INTRON_ALLELE = (
    rf"{BEFORE}(?=IVS){INTRON}(?:{OFFSET}\s?{NUCLEOTIDE}|\s?nt?\s?{SIGN}?{NUMBER})(?![\w])"
)

# "862+5A", "862 + 5A": the base that a splice site has now
OFFSET_ALLELE = (
    rf"[1-9](?<![\w.,+-].)\d{{2,4}}(?:\+|\s\+\s)[1-9]\d?{NUCLEOTIDE}"
    rf"(?![\w/>+-]|\s?(?:{ARROW}|to\s))"
)

# "G-->A", "C>T", "GAG-->GAA"
BARE_CHANGE = (
    rf"(?:(?<![\w/>.-])|(?<=\brs\d{{3,10}}[-/_]?))"
    rf"{NUCLEOTIDE}{{1,12}}{ARROW}{NUCLEOTIDE}{{1,12}}(?![\w/>])"
)

# "C/T": alleles only beside a word that says so, for A/T is also an antigen, a ratio, a column.
_SECOND = rf"\s?/\s?{NUCLEOTIDE}(?![\w/-])"
_SNP_WORD = (
    rf"(?:{_ADJECTIVE}[\s-]){{0,3}}"
    r"(?:SNPs?\b|(?:di|poly)morphism|transition|transversion|substitution)"
)
SNP_ALLELES = (
    rf"{NUCLEOTIDE}(?:(?<=\brs\d{{3,10}}(?:\s(?:SNP|polymorphism|variant))?\s?[,;:/_(\[-]{{0,2}}\s?.)"
    rf"(?:{_SECOND}|(?:{TO}|{MINUS}){NUCLEOTIDE}(?![\w/-]))"
    rf"|(?<=\b(?:(?:UC)?SNPs?|(?:UC)?SNP-?\d{{1,3}}|(?:poly|di)morphisms?|transitions?"
    rf"|transversions?|substitutions?)\s[(\[].){_SECOND}"
    rf"|(?<=\bSNP-?\d{{1,3}}\s.){_SECOND}"
    rf"|(?<![\w/-].){_SECOND}(?=\)?\s(?:single|{_SNP_WORD}"
    rf"|(?:{_ADJECTIVE}[\s-]){{0,2}}(?:variant|variation|mutation|change)|in\s(?:exon|intron|the\s))"
    rf"|[,;]?\s[(\[]?rs\s?\d{{3}}))"
)

# "G-A transition at nucleotide 1138"
_DASHED = r"(?:A-[CGT]|C-[AGT]|G-[ACT]|T-[ACG])"
DASH_PHRASE = rf"(?<![\w/>.:-]|\bto\s|\d\s){_DASHED}\s(?:{EVENT}\s)?{_PLACE}{AFTER}"

# "C-G" beside a word; but A-T is ataxia, and a pair of bases in "G-C to A-T transitions"
DASH_ALLELES = (
    rf"(?<![\w/>.:-]|\bto\s|\d\s){_DASHED}"
    rf"(?=\)?\s{_SNP_WORD})(?!A-T\)?\s(?:poly|nonsense|missense|{_ADJECTIVE}\s(?!sub|tra|SNP)))"
    r"(?!.{4,24}\bto\s[ACGT]-[ACGT])"
)

# "codon 12 GGT-->GAT", "codon 72 Arg/Pro", "CD17 (A>T)"
_CODON_SWAP = (
    rf"(?:{NUCLEOTIDE}{{1,3}}{SLASH_OR_ARROW}{NUCLEOTIDE}{{1,3}}"
    rf"|{NUCLEOTIDE}{{3}}{TO}{NUCLEOTIDE}{{3}}|{RESIDUE3}{SLASH_OR_ARROW}{RESIDUE3_OR_STOP})"
)
CODON_CHANGE = (
    rf"{BEFORE}(?:[Cc]od(?:on)?\s(?:\(CD\)\s?)?\d{{1,5}},?\s?(?:{_CODON_SWAP}|\({_CODON_SWAP}\))(?![A-Za-z])"
    rf"|C[Dd]\s?\d{{1,5}}(?:\s?\({NUCLEOTIDE}{{1,3}}(?:{ARROW}|{MINUS}){NUCLEOTIDE}{{1,3}}\)"
    rf"|\s{NUCLEOTIDE}{{3}}{ARROW}{NUCLEOTIDE}{{3}}(?!\w)))"
)

# "CGA to TGA": two codons that differ in one base; the signal AATAAA to AATGAA
CODON_TO_CODON = (
    rf"(?<![\w/-])(?:(?P<a>[ACGT])(?P<b>[ACGT])(?P<c>[ACGT]){TO}"
    rf"(?:(?P=a)(?P=b)(?!(?P=c))[ACGT]|(?P=a)(?!(?P=b))[ACGT](?P=c)|(?!(?P=a))[ACGT](?P=b)(?P=c))"
    rf"|AATAAA{TO}{NUCLEOTIDE}{{6}})(?![\w/-])"
)

# "CGA(Arg)-->TGA(stop)", "GAG (Glu) to AAG (Lys)"
_TRANSLATED = (
    rf"{NUCLEOTIDE}{{3}}\s?[(\[](?:{RESIDUE3}|{RESIDUE_NAME}|{RESIDUE}|[Ss]top|STOP|[Tt]erm?|TER"
    rf"|termination|stop\scodon)[)\]]"
)
TRANSLATED_CODONS = rf"(?<![\w/-]){_TRANSLATED}(?:{ARROW}|{TO}){_TRANSLATED}"

# "codons 41/42 (-TTCT)", "CD 8/9 (+G)", as of the thalassaemias
CODON_INDEL = (
    rf"{BEFORE}(?:[Cc]odons?\s\d{{1,3}}(?:(?:/|{MINUS})\d{{1,3}})?|C[Dd]s?\s?\d{{1,3}}(?:/|{MINUS})\d{{1,3}}"
    rf"|FSC[\s-]?\d{{1,3}}(?:(?:/|{MINUS})\d{{1,3}})?|C[Dd]\s(?!4\b|8\b)\d{{1,3}})"
    rf"(?:\s?\((?:\+|{MINUS}){{1,2}}\s?{NUCLEOTIDE}{{1,12}}\)|(?<=/\d{{1,3}})\s{MINUS}{NUCLEOTIDE}{{2,12}}(?!\w))"
)

# --- free text: deletions, insertions, duplications, frameshifts ------------------------

# "899dupC", "1067 del A", "904-906delGAG", "IVS4+2delT", "167-delT", "2183delAA>G", "6bINS",
# but not exon 3 del
POSITION_INDEL = (
    rf"{BEFORE_POSITION}(?<!\b(?:[Ee]xons?|[Ii]ntrons?|[Cc]hromosomes?)\s){PLAIN_RANGE}"
    rf"(?:\s?(?:ins(?:ertion)?\s?/\s?del(?:etion)?|del(?:etion)?\s?/\s?ins(?:ertion)?)"
    rf"\s?(?:{SEQUENCE}|\d{{1,3}}(?:\s?bp)?)"
    rf"|\s?(?:DEL|INS|DUP|Del|Ins|Dup)[ACGT]{{1,30}}|\s?\((?:del|ins|dup){NUCLEOTIDE}{{1,30}}\)"
    rf"|(?<=\d\d)-(?:del|ins|dup){NUCLEOTIDE}{{1,30}}|(?:bp?-?(?:del|ins|dup)|b?INS|bp?DEL)"
    rf"|{NUCLEOTIDE}{{1,10}}(?:del|ins|dup)"
    rf"|\s?{NUCLEOTIDE}{{1,10}}(?:/|\s|-)(?:del|ins|dup|Del|Ins){NUCLEOTIDE}{{0,10}}(?![\w/])"
    rf"|\s?del{NUCLEOTIDE}{{1,30}}(?:>|&gt;){NUCLEOTIDE}{{1,30}}"
    rf"|\s?(?:delins|indel|in/del|del|ins|dup|inv)(?:\s?/?\s?{INDEL_OBJECT})?(?:[\s/]?ins\s?{INDEL_OBJECT})?"
    rf"|,?\s?(?:deletion|insertion|duplication)\s?/\s?{INDEL_OBJECT}"
    rf"|\s(?:deletion|insertion|duplication)\s(?:of\s)?[ACGT]{{1,30}}(?!\w))(?![A-Za-z])"
)
# "-675 4G/5G", "-141C Ins/Del", "-652 6N ins/del"
# "-118T(9>10)"
RUN_CHANGE = rf"{BEFORE_POSITION}{SIGN}?\d{{2,6}}{NUCLEOTIDE}{{1,6}}\(\d{{1,2}}>\d{{1,2}}\)"

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
    rf"(?:{NUCLEOTIDE}{{1,40}}(?![\w]){_INDEL_PLACE}|\({NUCLEOTIDE}{{1,40}}\)(?:\d{{2,5}}(?!\w))?|\(\d{{1,5}}{MINUS}\d{{1,5}}\)"
    rf"|\d{{1,5}}(?:\.\d{{1,2}})?\s?(?:bp|kb)\b{_INDEL_PLACE}|\d{{3,6}}{UP_TO}\d{{3,6}}(?!\w)"
    rf"|\(\d{{1,5}}\s?bp\)|\(\d{{2,6}}{NUCLEOTIDE}{{1,10}}\)|{NUCLEOTIDE}{{1,20}}\d{{2,5}}(?![\w])"
    rf"|\d{{1,6}}(?:{UP_TO}\d{{1,6}})?{NUCLEOTIDE}{{1,20}}(?![\w]))"
    rf"|(?<![\w.-])[ACGT]{{1,6}}(?:del|ins|dup)\d{{2,6}}(?!\w)"
    rf"|(?<=CCR5[\s-])del[\s-]?32(?!\w)"
    # exons: delexon18, dele2,3(21kb), del14b_17b
    rf"|(?:(?<=\bCFTR)|(?<![\w.]))del(?:\s?(?:exon|ex|e)\s?\d{{1,2}}(?:[-,_]\d{{1,2}}){{0,2}}"
    rf"(?:\s?\(\d{{1,3}}\s?kb\))?|\d{{1,2}}[a-c]?_\d{{1,2}}[a-c]?)(?!\w)"
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
    rf"(?<![\w)\]'\u2019])(?!{_NO_REPEAT})(?:(?:in|ex|IVS)\d{{1,2}}|{SIGN}\d{{2,5}})?(?:"
    rf"{_REPEAT_UNIT}(?:[1-9]\d{{1,2}}(?:{MINUS}\d{{1,4}})?|[4-9]|\([1-9]\d{{0,2}}\)|[mn](?![a-z]))"
    rf"(?:[>/]\d{{1,2}}(?!\w))?{_MORE_REPEATS}{NUCLEOTIDE}{{0,6}}"
    rf"|{_REPEAT_UNIT}(?:\sn|\s?\d{{1,4}})"
    rf"(?=[\s-](?:tri|di|tetra)?(?:nucleotide)?\s?{_REPEAT_WORD}|/[\[(]{NUCLEOTIDE})"
    rf"|{NUCLEOTIDE}{_REPEAT_UNIT}[1-9]\d?{NUCLEOTIDE}{{2,4}})(?![\w'\u2019]|\s?=)"
)
