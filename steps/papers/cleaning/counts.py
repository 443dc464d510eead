"""Numbers in square brackets that count or measure, and so are no citations.

Cells with a karyotype or a FISH pattern, 46,XX[20] and nuc ish(ABL1x2)[200]; repeats of a
sequence, CAG[36]; residues of a peptide, Aβ[1–42]; the range behind a value, 34 [28–41].
"""

import re
from collections.abc import Container

from steps.papers.possessive import compile_possessive

_COUNT = re.compile(r"\[(?:cp)?\d{1,3}\]")

# Karyotypes, as the International System for Human Cytogenomic Nomenclature writes them ---------

_CHROMOSOMES = r"(?<![\w.,])\d{2,3}(?:\s?[~–-]\s?\d{2,3})?(?:<\d{0,2}n[±+-]?>)?"
_SEX_OR_STEM_LINE = r"(?:,\s?(?:[-+?]?[XYU]|sl\b|idem\b|sdl\d{0,2}\b)|\s?X(?=[XYO]))"
_HEAD = _CHROMOSOMES + _SEX_OR_STEM_LINE
_PLAIN = r"[^()\[\]\n]{0,60}"
_ROUND = rf"\({_PLAIN}(?:\({_PLAIN}\){_PLAIN}){{0,4}}\)"
# What may follow a comma and a blank: prose does so as well, "47,XXY, and in three others".
_ABERRATION = (
    r"(?:[-+−–?]{1,2}\s?\w|[XY]{1,4}\b|(?:del|dup|inv|ins|i?der|idic|dic|iso|add|mar|hsr|trp|rob|fra"
    r"|tas|psu|rec|[irt])\s?\(|(?:sl|idem|sdl\d{0,2}|mar|dmin|inc)\b|\d{1,2}[pq])"
)
_REST_OF_CLONE = rf"(?:[^\s()\[\],;/]|{_ROUND}|,(?:\s{{1,2}}(?={_ABERRATION}))?){{0,600}}+"
_COUNT_OF_CLONE = rf"(?:\)?{_COUNT.pattern}|(?<=[\w)?*+~])\s{{1,2}}{_COUNT.pattern})?"
_KARYOTYPE = compile_possessive(
    rf"{_HEAD}{_REST_OF_CLONE}{_COUNT_OF_CLONE}"
    rf"(?:\s?//?\s?(?=[\d?(]){_REST_OF_CLONE}{_COUNT_OF_CLONE}){{0,40}}+"
)
_ABOUT_CELLS = re.compile(
    r"karyotyp|metaphase|cytogenetic|chromosome|clon|\bcells?\b|\bmos\b", re.I
)
_NEAR = 80  # characters


def counts_in_karyotypes(text: str) -> frozenset[int]:
    """Where the brackets stand that count the cells of a clone: 46,XX,del(5q)[4]/46,XX[8].

    With a blank between, "46,XX [20]", it counts where the karyotype has several clones or
    where the words before are about cells; else it may be a citation.
    """
    counts: set[int] = set()
    for karyotype in _KARYOTYPE.finditer(text):
        clones = "/" in karyotype[0]
        for count in _COUNT.finditer(text, karyotype.start(), karyotype.end()):
            start = count.start()
            attached = not text[start - 1].isspace()
            if attached or clones or _is_about_cells(text, karyotype.start()):
                counts.add(start)
    return frozenset(counts)


def _is_about_cells(text: str, position: int) -> bool:
    return _ABOUT_CELLS.search(text, max(0, position - _NEAR), position) is not None


# What stands right before -----------------------------------------------------------------------

_BEFORE = 60  # characters

# The repeat of "c.-128GGC", "CAG" or "(CA)", a bracket of a repeat before it.
_REPEATED = re.compile(
    r"(?:(?<![A-Za-z])[ACGTU]{3,}|[cgmnr]\.[-*\d_+?]{1,20}[ACGTN]{0,20}|\(?[ACGTN]{2,20}\)"
    r"|[ACGT]\])$"
)
# "ABL1x3)", "(ABL1,BCR)x2": the copies of a probe. A small "x" after capitals; Pax2 is a gene.
_COPIES_OF_PROBE = re.compile(r"(?:\)|[A-Z][A-Z0-9'′-]{1,20})\s?[x×]\s?\d{1,2}\)?\s{0,2}$")
_DASH = "[-–—−]"
_SINGLE_RANGE = re.compile(rf"\[\s?(\d{{1,3}})\s?{_DASH}\s?(\d{{1,3}})\s?\]")
_PAIR = re.compile(r"\[\s?(\d{1,3})\s?[,;]\s?(\d{1,3})\s?\]")
_WORD_OF_RANGES = re.compile(
    r"\b(?:CI|IQR|interval|interquartile|ranges?|ranging|median|bounds?)\b[^.]{0,30}$"
)

# A value and perhaps its unit: "34", "1.8", "34 years". The number of a name ("exon 12",
# "caspase 3", "IL-2") is none.
_UNIT = (
    r"(?:%|°C|[μµmnpk]?g|[μµmnd]?[lL]|[cmkμµn]?m|[μµmnp]?M|kg/m[2²]|[mM][mM][hH]g|years?|yrs?|y"
    r"|months?|weeks?|days?|hours?|hrs?|h|min(?:utes?)?|s|kb|[kM]?bp|Mb|cM|points?)"
)
_VALUE = re.compile(
    rf"(?<![\w.,:;/*–−+-])(?<![–−-] )(\d{{1,4}}(?:[.,·]\d{{1,3}})?)(?:\s?({_UNIT}))?\s{{1,2}}$"
)
_LONGEST_VALUE = 24  # characters, with its unit
_LONGEST_NAME = 16
_UNIT_BEHIND = re.compile(rf"\s?{_UNIT}(?![\w-])")
_NAME_BEFORE_NUMBER = re.compile(
    r"\b(?:chr(?:omosomes?)?|exons?|introns?|codons?|positions?|residues?|types?|subtypes?|grades?"
    r"|stages?|class(?:es)?|groups?|phases?|fig(?:ure)?s?\.?|tables?|steps?|days?|weeks?|cases?"
    r"|patients?|famil(?:y|ies)|domains?|clades?|clusters?|interleukins?|caspases?|factors?|receptors?"
    r"|proteins?|kinases?|sections?|chapters?|versions?|release|build|helix|loops?|no\.?|numbers?"
    r"|loc(?:us|i)|lines?|samples?|batch|model|complex|isoforms?|variants?|alleles?|haplotypes?"
    r"|in|since)\s{1,2}$",
    re.IGNORECASE,
)


def is_count(text: str, start: int, bracket: str, karyotypes: Container[int]) -> bool:
    """Whether the first bracket at `start` counts cells or repeats, or names residues.

    Args:
        text: The text around it.
        start: Where the bracket stands.
        bracket: The bracket, "[20]".
        karyotypes: What `counts_in_karyotypes` says of the text.
    """
    if start in karyotypes:
        return True
    before = text[max(0, start - _BEFORE) : start]
    if _COUNT.fullmatch(bracket) and _COPIES_OF_PROBE.search(before):
        return True
    if not before[-1:].strip():
        return False
    span = _SINGLE_RANGE.fullmatch(bracket)
    residues = span is not None and int(span[1]) == 1 and int(span[2]) > 10
    return residues or ("," not in bracket and _REPEATED.search(before) is not None)


def is_range(text: str, start: int, bracket: str) -> bool:
    """Whether the bracket is the range of the value before it: "median 5 [3–7]", "34 [28–41]".

    A value shows it by lying within the range, unless its number belongs to a name.
    """
    span = _SINGLE_RANGE.fullmatch(bracket)
    pair = span or _PAIR.fullmatch(bracket)
    if pair is not None and _holds_the_value_before(text, start, pair):
        return True
    before = text[max(0, start - _BEFORE) : start]
    return (span is not None or "," in bracket) and _WORD_OF_RANGES.search(before) is not None


def _holds_the_value_before(text: str, start: int, pair: re.Match[str]) -> bool:
    value = _VALUE.search(text, max(0, start - _LONGEST_VALUE), start)
    if value is None:
        return False
    if not int(pair[1]) <= float(re.sub("[,·]", ".", value[1])) <= int(pair[2]):
        return False
    is_measured = not value[1].isdigit() or value[2] is not None
    if is_measured or _UNIT_BEHIND.match(text, start + len(pair[0])):
        return True
    name = text[max(0, value.start() - _LONGEST_NAME) : value.start()]
    is_a_range = pair.re is _SINGLE_RANGE
    return is_a_range and _NAME_BEFORE_NUMBER.search(name) is None
