"""Numbers with their unit, as they stand in a text: 47 kDa, 5%, 21-bp."""

import re

_UNITS = (
    *("%", "‰", "°C", "bp", "kb", "kbp", "Mb", "Mbp", "Gb", "nt", "cM", "Da", "kDa", "MDa"),
    *("pM", "nM", "μM", "µM", "mM", "fmol", "pmol", "nmol", "μmol", "mmol", "mol"),
    *("pg", "ng", "μg", "µg", "mg", "g", "kg", "μl", "µl", "μL", "µL", "ml", "mL", "dl", "l", "L"),
    *("nm", "μm", "µm", "mm", "cm", "m", "ms", "s", "min", "h", "Hz", "kHz", "rpm"),
    *("seconds", "minutes", "hours", "days", "weeks", "months", "years", "fold"),
)
NUMBER_WITH_UNIT = re.compile(
    # Not the end of "1, 000 kb" or "1 000 kb".
    r"(?<![\w.,·/_+-])(?<!\d )(?<!\d, )\d{1,12}(?:,\d{3}){0,4}(?:\.\d{1,9})?(?:[ \u00a0-])?(?:"
    + "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
    + r")(?![\w/·-])"
)
