"""Numbers, powers and units in one notation."""

import re

from steps.papers.cleaning.characters import RAISED

_MINUS = "[-−–⁻]"
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_EXPONENT = (
    rf"(?:\s?\(\s?({_MINUS}?)\s?(\d{{1,2}})\s?\)(?!\s?:)|\s?\^\s?[{{(]?({_MINUS}?)\s?(\d{{1,2}})[}})]?(?!\d)"
    rf"|(⁻?)({RAISED}{{1,2}})(?!{RAISED}))"
)
_TIMES = r"\s?(?:[×xX·∙⋅*✕]|\\times)\s?"
_MANTISSA = r"(?<![\w.,])(\d{1,6}(?:\.\d{1,6}|\. \d{1,4})?)"
_POWER_WITH_MANTISSA = re.compile(
    rf"{_MANTISSA}{_TIMES}10(?:{_EXPONENT}|\s?({_MINUS})\s?(\d{{1,2}})(?!\.?\d))"
)
_BARE_POWER = re.compile(rf"(?<![\w.,])(?<![A-Za-z][-–])10{_EXPONENT}")

# "5 × 106 cells", "1.6 × 106": the exponent lost its raising, as the noun or the decimals show.
_FLAT_POWER = re.compile(
    r"(?<![\w.,])(\d{1,6}(?:\.\d{1,6})?)\s?[×xX]\s?10([3-9]|1[0-2])(?!\d|\.\d)"
    r"(?=\s?(?:/\s?[mnμ]?[lLg]\b|(?:[a-z]{1,12}\s)?(?:cells?|clones?|cfu|CFU|pfu|PFU|cpm|dpm|copies"
    r"|molecules|reads|particles|spores|bacteria|platelets|lymphocytes|c\.p\.m|per)\b"
    r"|(?:to|and|or|–|-)\s?\d[\d.]{0,5}\s?[×x]\s?10\d))"
    r"|(?<![\w.,])(\d\.\d{1,6})\s?[×xX]\s?10([3-9]|1[0-2])(?!\d|\.\d|\s?(?:[cmnμ]?m|[km]?g|in|bp|kb)\b)"
)
_FLAT_NEGATIVE_POWER = re.compile(
    r"(?<![\w.*/-])([Pp](?:[- ]?[Vv]alues?)? ?[<=≤] ?)10[-−–](\d{1,3})(?!\.?\d|%)"
    r"|(?<![\w.,–-])()10[-−]([3-9]|1[0-2])(?=\s?(?:M|mol)\b)"
)
_E_NOTATION = re.compile(rf"([0-9])[eE]{_MINUS}0{{0,2}}(\d{{1,3}})(?!\w|\.\d)")
_E_MANTISSA = re.compile(r"(?<![\w.,-])\d{1,3}(?:\.\d{1,6})?[eE][^eE]{2,6}$")

# Cheap to search for, since it begins with letters of its own.
_MAYBE_POWER = re.compile(rf"10(?:\s?\(\s?[-−–⁻\d]|\s?\^|⁻|{RAISED}|\s?[-−–]\s?\d|[3-9]|1[0-2])")

# From the rare end: the sign of a product right before a ten.
_MAYBE_FLAT_POWER = re.compile(r"10(?:(?<=[×xX]10)|(?<=[×xX]\s10))")
_P_VALUE = re.compile(r"([<>=≤≥]=?) ?(?:([01]?) ?\. ?(\d{1,9})(?!\w)|(?=\d))")
_DECIMAL_MIDDLE_DOT = re.compile(r"(?<![\w.·])(\d{0,4})·(\d{1,6})(?![\w·])")  # 0·05, in the Lancet
_P_BEFORE = re.compile(r"(?<![\w.*/-])[Pp](?:[- ]?[Vv]alues?)?( ?)$")
_BARE_FRACTION = re.compile(r"([<>=≤≥±] ?[-−]?)\.(?=\d)")


def normalize_scientific_notation(text: str) -> str:
    """Write powers of ten as 5e-8 and P values as P = 0.03.

    "5 × 10−8", "3.2x10-5", "10(-6) M", "10^-8", "10⁻⁸" and "1.5E-05" become 5e-8, 3.2e-5,
    1e-6 M, 1e-8, 1e-8 and 1.5e-5. The mantissa keeps the authors' digits (16.5e-6 stays so).
    A bare "10-8" is a range and stays, except behind "P <" and before "M".
    """
    if _MAYBE_POWER.search(text):
        text = _POWER_WITH_MANTISSA.sub(_power, text)
        if _MAYBE_FLAT_POWER.search(text):
            text = _FLAT_POWER.sub(lambda m: f"{m[1] or m[3]}e{m[2] or m[4]}", text)
        text = _BARE_POWER.sub(_bare_power, text)
        if "10-" in text or "10−" in text or "10–" in text:
            text = _FLAT_NEGATIVE_POWER.sub(lambda m: f"{m[1] or ''}1e-{int(m[2] or m[4])}", text)
    if "·" in text:
        text = _DECIMAL_MIDDLE_DOT.sub(r"\1.\2", text)
    if "E-" in text or "e-0" in text or "E−" in text or "e−" in text or "E–" in text:
        text = _E_NOTATION.sub(_e_notation, text)
    if "=" in text or "<" in text or ">" in text or "≤" in text or "≥" in text or "±" in text:
        text = _P_VALUE.sub(_p_value, text)
        text = _BARE_FRACTION.sub(r"\g<1>0.", text)
    return text


def _e_notation(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 10) : match.end()]
    number = _E_MANTISSA.search(before)
    return match[0] if number is None else f"{match[1]}e-{int(match[2])}"


def _power(match: re.Match[str]) -> str:
    mantissa = match[1]
    groups = match.groups()[1:]
    sign, digits = next((groups[i], groups[i + 1]) for i in range(0, 8, 2) if groups[i + 1])
    if (
        match[9] is not None
        and match[8] in ("-", "–")
        and _FOLLOWED_BY_SPAN.match(match.string, match.end())
    ):
        return match[0]  # "2 x 10-15 min" are two spells of 10 to 15 minutes
    if ". " in mantissa:
        # "P = 5. 22 x 10(-4)" is 5.22; in "group 1. 5 x 10(-6) M" the stop ends a sentence.
        before = match.string[max(0, match.start() - 4) : match.start()]
        joint = "" if _NUMBER_EXPECTED.search(before) else " "
        mantissa = mantissa.replace(". ", "." + joint)
    return f"{mantissa}e{'-' if sign else ''}{_exponent(digits)}"


_FOLLOWED_BY_SPAN = re.compile(
    r"\s?(?:min|s|sec|h|hours?|days?|weeks?|years?|minutes?|times|cycles|mg|m?l|[cm]m|bp|kb)\b"
)
_NUMBER_EXPECTED = re.compile(r"(?:[=<>≤≥~(]|\b(?:be|of|is|to))\s?$")


def _bare_power(match: re.Match[str]) -> str:
    groups = match.groups()
    sign, digits = next((groups[i], groups[i + 1]) for i in range(0, 6, 2) if groups[i + 1])
    before = match.string[max(0, match.start() - 2) : match.start()]
    spaced = match[0].startswith("10 ")
    if re.search(r"\d ?$", before) or (spaced and not sign):
        return match[0]  # "0.4 10(-18)" lacks its sign; "10 (6)" is a number and a count
    return f"1e{'-' if sign else ''}{_exponent(digits)}"


def _exponent(digits: str) -> int:
    return int(digits.translate(_RAISED_DIGITS))


def _p_value(match: re.Match[str]) -> str:
    p_before = _P_BEFORE.search(match.string, max(0, match.start() - 10), match.start())
    if p_before is None:
        return match[0]
    fraction = "" if match[3] is None else f"{match[2] or 0}.{match[3]}"
    return f"{'' if p_before[1] else ' '}{match[1]} {fraction}"


_MICRO = re.compile(r"micro(?<![A-Za-z-]micro)(M|g|l|L|m|Ci|mol)(?![A-Za-z])")
_ASCII_MICRO = re.compile(r" u(?<=[0-9] u)([MgLlm]|Ci|mol)(?![\w-])")
_MAYBE_ASCII_MICRO = (" uM", " ug", " uL", " ul", " um", " uCi", " umol")
_DEGREES = re.compile(r"(?<=\d)\s?(?:[°º˚]\s?|degrees?\s)([CF])\b")
_PERCENT = re.compile(r"(?<=\d)\s%")
_AMOUNT = re.compile(
    r"[0-9](?=[mμnpckMH])(?=([mμnp]M|[mμnpk]g|[mμ][lL]|[mμnp]mol|[nμmc]m|kDa|[kM]?Hz)"
    r"(?!\w|[-–]|/(?!(?:kg|g|[mdμ]?[lL]|day|d|h|min|cm|mm)\b)))"
)
_NUMBER_OF_AMOUNT = re.compile(r"(?<![\w.,:+*/–−-])\d{1,6}(?:\.\d{1,4})?$")


def normalize_units(text: str) -> str:
    """Write 5 microM as 5 μM, 10mM as 10 mM, 37 degrees C as 37 °C, 50 % as 50%.

    One μ (Greek) for the two in Unicode. Lengths of sequence (24bp, 3kb) stay as they are,
    since they stand in names of variants.
    """
    if "µ" in text:
        text = text.replace("µ", "μ")
    if "micro" in text:
        text = _MICRO.sub(r"μ\1", text)
    if any(amount in text for amount in _MAYBE_ASCII_MICRO):
        text = _ASCII_MICRO.sub(r" μ\1", text)
    if "°" in text or "degree" in text or "º" in text or "˚" in text:
        text = _DEGREES.sub(r" °\1", text)
    if " %" in text:
        text = _PERCENT.sub("%", text)
    return _AMOUNT.sub(_spaced, text)


def _spaced(match: re.Match[str]) -> str:
    number = _NUMBER_OF_AMOUNT.search(match.string, max(0, match.start() - 14), match.end())
    return match[0] if number is None else match[0] + " "
