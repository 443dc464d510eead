"""Citations by number and by author."""

import re

from steps.papers.cleaning.characters import RAISED
from steps.papers.cleaning.counts import counts_in_karyotypes, is_count, is_range
from steps.papers.cleaning.gaps import GONE, LEAD_WORDS, WORDS_LEFT_ALONE, close_gaps
from steps.papers.possessive import compile_possessive


def remove_citations(text: str) -> str:
    r"""Drop citations: [12,15–18], raised ¹², (Doe et al., 2019), \cite{doe}.

    What looks like one and is not stays: [3H], (n = 12), del(5q), c.[123A>G], [Ca2+], 10⁻⁸, m²,
    repeat counts CAG[36], karyotypes 46,XX[20], ranges "median 5 [3–7]". Of "(TP53; Doe 2019)"
    the gene stays; of "Doe et al. (2019) found" the year goes.
    """
    if "\\" in text:
        text = _LATEX_CITATION.sub(GONE, text)
    if "[@" in text or "^" in text:
        text = _MARKDOWN_CITATION.sub(GONE, text)
    century = "19" in text or "20" in text or "18" in text
    if (century and _MAYBE_YEAR.search(text)) or any(mark in text for mark in _MAYBE_GROUP):
        text = _GROUP.sub(_without_author_year, text)
        text = _YEAR_AFTER_NAME.sub(_without_narrative_year, text)
    if "[" in text:
        text = _without_numbers_in_brackets(text)
    if not text.isascii():
        text = _RAISED_NUMBERS.sub(_without_raised_numbers, text)
    return close_gaps(text)


_LATEX_CITATION = re.compile(
    r"[~ ]?\\[A-Za-z]{0,12}cite[A-Za-z]{0,12}\*?(?:\[[^\]\n]{0,80}\]){0,2}\{[^{}\n]{0,400}\}"
)

# Numbers in square brackets, "[12,15–18]", "[1], [2] and [3]", "[[81]]".
_NUMBER = r"[1-9]\d{0,2}"
_DASH = r"[-–—−]"
_LIST = rf"{_NUMBER}(?:\s?(?:[,;](?: and\b)?|{_DASH}|\band\b|&)\s?{_NUMBER}){{0,60}}+"
_MARKDOWN_CITATION = re.compile(
    rf"\[-?@[A-Za-z][^\[\]\n]{{1,300}}\]|\[\^[\w-]{{1,30}}\]|\^\[?{_LIST}\]?\^"
)
_NUMBERS = rf"\[\s?(?:refs?\.?\s)?{_LIST}\s?\]"
_BRACKET = rf"(?:\[{_NUMBERS}\]|{_NUMBERS})"
_BRACKETS = rf"{_BRACKET}(?:\s?(?:[,;]|{_DASH}|and\b|)\s?{_BRACKET}){{0,60}}+"
_NUMBERS_IN_BRACKETS = re.compile(
    rf"\(\s?(?:{WORDS_LEFT_ALONE}[\s,]{{1,2}}){{0,4}}({_BRACKETS})\s?\)"
    rf"|({_BRACKETS})(?!\w|-[A-Za-z]| ?P\d?(?![A-Za-z])|\s?=)"
)


def _without_numbers_in_brackets(text: str) -> str:
    karyotypes = counts_in_karyotypes(text)

    def replacement(match: re.Match[str]) -> str:
        group = 1 if match[1] else 2
        start, brackets = match.start(group), match[group]
        first = brackets[: brackets.index("]") + 1]
        if is_count(text, start, first, karyotypes):
            return first if first == brackets else first + GONE
        return match[0] if is_range(text, start, first) else GONE

    return _NUMBERS_IN_BRACKETS.sub(replacement, text)


_RAISED_NUMBERS = compile_possessive(
    rf"{RAISED}(?<!{RAISED}.){RAISED}{{0,3}}(?:[ ]?[,;⁻⁃–-][ ]?{RAISED}{{1,4}}){{0,40}}+"
    rf"(?!{RAISED}|[⁺⁻\w])"
)
_POWER_BASE = re.compile(r"(?:(?:^|[^\w.,])|\d ?[xX])(?:10|2|e)$")
_UNIT = re.compile(
    r"(?:^|[^A-Za-z])(?:[kcdmnpµμ]?m|in|ft|Å|mol|[kmµμ]?g|s|sec|min|h|L|l|me[123]?|log)$"
)
_VARIABLE = re.compile(r"(?:^|[^\w])(?:[A-Za-zα-ωΑ-Ω]|[Cc]hi|[Ee]ta|[Oo]mega)$")


def _without_raised_numbers(match: re.Match[str]) -> str:
    raised, start = match[0], match.start()
    before = match.string[max(0, start - 24) : start].rstrip(" ")
    last = before[-1:]
    if not last or last in "([{/⁻\n":
        return match[0]  # an isotope, an exponent behind a raised minus
    if _POWER_BASE.search(before) or (raised in ("²", "³") and _is_squared(before)):
        return match[0]
    return GONE


def _is_squared(before: str) -> bool:
    """Whether ² or ³ behind this belongs to a unit, a variable or a small number."""
    number = re.search(r"(?:^|[^\w.,])\d{1,2}$", before)
    return bool(number or _UNIT.search(before) or _VARIABLE.search(before))


# Author and year. A name has small letters and no digits, which no symbol of a human gene has.
_YEAR = r"(?:1[89]|20)\d\d(?!\d)"
_YEARS = rf"{_YEAR}[a-z]?(?:\s?(?:,|and|&)\s?(?:{_YEAR}[a-z]?|[a-z]\b)){{0,8}}"
_NO_NAME = (
    r"(?!(?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December|Spring|Summer|Autumn|Winter|Fall|Figures?|Figs?|Tables?|Box|Version|Release|Build"
    r"|Since|Until|Before|After|During|In|From|By|Between|The|Chapter|Supplementary|Chr|Chromosome"
    r"|Exons?|Introns?|Codons?|Residues?|Positions?|Days?|Weeks?|Years?|Patients?|Cases?|Day|Homo"
    r"|Mus|Arg|Ala|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val)\b)"
)
_SMALL = r"[^\W\d_A-Z]"
_CAPITAL = "[A-ZÀ-ÖØ-ÞĀ-Ž]"
_NAME = (
    rf"(?:[A-Z]['’])?{_CAPITAL}{_SMALL}{{1,30}}(?:[A-Z]{_SMALL}{{1,30}})?"
    r"(?:[-'’][^\W\d_]{1,30}){0,2}(?!\w)"
)
_INITIALS = r"[A-Z]\.?(?:[ -]?[A-Z]\.?){0,2}(?!\w)"
_PARTICLES = (
    r"(?:(?:[Vv]an|[Vv]on|der|den|[Dd]e|[Dd]el|della|[Dd]i|[Dd]a|dos|[Dd]u|[Ll]a|[Ll]e|[Ee]l|[Aa]l|ten|ter"
    r"|bin|zu)[ -]){0,3}"
)

# Atomic: an initial belongs to the name before it, unless a name follows. With the choice left
# open, a list of forty authors has more readings than there is time for.
_AUTHOR = (
    rf"(?>{_NO_NAME}(?:{_INITIALS} ?){{0,2}}{_PARTICLES}{_NAME}(?: {_NAME})?"
    rf"(?:,? {_INITIALS}(?! ?{_CAPITAL}{_SMALL}))?(?:,? Jr\.?)?)"
)
_ET_AL = r"(?:,? ?et\.? ?al\b\.?,?|,? and (?:colleagues|co-?workers))"
_AUTHORS = rf"{_AUTHOR}(?:(?:,? (?:and|&) |, ?){_AUTHOR}){{0,10}}{_ET_AL}?"
_STATUS = (
    r"(?:in press|submitted(?: for publication)?|unpublished(?: (?:data|results|observations?))?"
    r"|personal communication|in preparation|manuscript(?: in preparation)?|this issue|preprint)"
)
_AUTHOR_YEAR = re.compile(
    rf"{_AUTHORS},?[.:]? ?(?:(?:bioR|medR|arX)[Xx]?iv,? )?\(?(?:{_YEARS}|{_STATUS})\)?"
    r"(?:[,:]? ?pp?\.? ?\d{1,5}(?:[–-]\d{1,5})?)?"
    rf"(?:,? (?:for (?:an? )?reviews?|and references therein|and {_STATUS}|{_STATUS}))?"
    rf"|{_AUTHOR}(?:, ?{_AUTHOR}){{0,10}}{_ET_AL}(?:, {_STATUS})?"
    rf"|[A-Z][A-Z'’-]{{1,24}}(?:,? {_INITIALS})?{_ET_AL} ?\(?{_YEARS}\)?"
    rf"|(?:[Tt]he )?(?:(?:[A-Z][\w'’-]{{0,30}}|\d{{1,4}}|of|for|the|and|on|in) ){{0,8}}"
    r"(?:Consortium|Organi[sz]ation|Group|Collaboration|Committee|Network|Initiative|Association"
    rf"|Society|Agency|Institute),? \(?{_YEARS}\)?"
)
_IDENTIFIER = re.compile(
    r"PMIDs?:? ?\d{5,9}(?:[,;] ?(?:PMID:? ?)?\d{5,9}){0,20}"
    rf"|[Rr]ef(?:s|erences?)?\.? ?{_LIST}"
)
_LEAD = re.compile(
    rf"(?:\s?{LEAD_WORDS}\b[\s,:.]{{0,3}}){{0,6}}(?=[A-Z(\d]|(?:van|von|de|di|da|le|la)\b|refs?\b)"
)
_PAGES = re.compile(
    r"\d \((?:19|20)\d\d\),? \d|\d(?:\(\d{1,4}\))?\s?[:,;]\s?[A-Z]?\d|\d[–-]\d"
    r"|\d\s{1,3}\d{1,5}[–-]\d"
)
_REFERENCE_TOKEN = re.compile(r"[^\W_]+")
_SMALL_WORDS = (
    "and et al in press of the de van der von den la le du di da for on pp p vol no eds ed suppl "
    "part sect ser e a"
)
_SMALL_WORDS_IN_REFERENCE = frozenset(_SMALL_WORDS.split())
_STARTS_LIKE_REFERENCE = re.compile(
    rf"\({_YEAR}\)|(?:[A-Z]\.[ -]?){{1,3}}|{_NO_NAME}{_NAME}(?=[\s,.:;&])"
)
_NOT_IN_REFERENCE = re.compile(r"[*<>=+_%~|]")
_ANY_YEAR = re.compile(rf"(?<!\d){_YEAR}")
_MAYBE_YEAR = re.compile("(?:1[89]|20)[0-9][0-9]")  # no look-behind: five times as fast

# A pair of brackets, with others at most two deep inside, on one line. Possessive, so that a
# bracket that never closes is read once.
_PLAIN = r"[^()\[\]\n]{0,80}"
_INNERMOST = rf"(?:(?:\({_PLAIN}\)|\[{_PLAIN}\]){_PLAIN}){{0,6}}"
_INNER_ROUND = rf"\({_PLAIN}{_INNERMOST}\)"
_INNER_SQUARE = rf"\[{_PLAIN}{_INNERMOST}\]"
_GROUP = compile_possessive(
    rf"\(((?:[^()\[\]\n]++|{_INNER_ROUND}|{_INNER_SQUARE})*+)\)"
    rf"|\[((?:[^()\[\]\n]++|{_INNER_ROUND}|{_INNER_SQUARE})*+)\]"
)
_LONGEST_CITATION = 1500  # characters
_MAYBE_GROUP = ("et al", "PMID", "(ref", "ref. ", "refs")


def _without_author_year(match: re.Match[str]) -> str:
    """The brackets without their citations; nothing where they held nothing else."""
    content = match[1] if match[1] is not None else match[2]
    if len(content) > _LONGEST_CITATION or not _may_cite(content):
        return match[0]
    if _is_citation(content):
        return GONE
    segments = content.split(";")
    kept = [kept for segment in segments if (kept := _without_last_citation(segment))]
    if kept == segments:
        return match[0]
    if not kept:
        return GONE
    return match[0][0] + ";".join(kept).strip() + match[0][-1]


def _may_cite(content: str) -> bool:
    return (
        _ANY_YEAR.search(content) is not None
        or "et al" in content
        or "PMID" in content
        or "ref" in content
        or "Ref" in content
    )


def _without_last_citation(segment: str) -> str:
    """Cut "rs7903146, Doe et al. 2019" to "rs7903146"; a segment without citation stays."""
    if not _may_cite(segment):
        return segment
    if _is_citation(segment):
        return ""
    comma = segment.find(", ")
    for _ in range(12):
        if comma < 0:
            break
        if _is_citation(segment[comma + 2 :]):
            return segment[:comma]
        comma = segment.find(", ", comma + 2)
    return segment


def _is_citation(content: str) -> bool:
    """Whether this is authors and year, a reference in full, or an identifier of a paper."""
    content = content.strip(" ,.;")
    if _IDENTIFIER.fullmatch(content):
        return True
    lead = _LEAD.match(content)
    content = content[lead.end() :] if lead else content
    if _AUTHOR_YEAR.fullmatch(content) or _IDENTIFIER.fullmatch(content):
        return True
    return _is_full_reference(content)


def _is_full_reference(content: str) -> bool:
    """Whether this reads like "E. Verdin, J. Virol. 65:6790-6799, 1991".

    A year, a volume with pages, and no word that is small or mixes letters and digits, as
    words of the text and names of variants do.
    """
    if not (_ANY_YEAR.search(content) and _PAGES.search(content)):
        return False
    if not _STARTS_LIKE_REFERENCE.match(content) or _NOT_IN_REFERENCE.search(content):
        return False
    return all(
        token.isdigit()
        or (token.isalpha() and (token[0].isupper() or token in _SMALL_WORDS_IN_REFERENCE))
        for token in _REFERENCE_TOKEN.findall(content)
    )


_YEAR_AFTER_NAME = re.compile(rf"[(\[](?<= .){_YEARS}[)\]]")
_NAME_BEFORE = re.compile(rf"(?:\bal\.?,?|\bcolleagues|\bco-?workers|(?<!\w){_NO_NAME}{_NAME})$")


def _without_narrative_year(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 60) : match.start()].rstrip(" ")
    return GONE if _NAME_BEFORE.search(before) else match[0]
