"""Short patterns by which places are found where a variant may stand, cheaply."""

import re

from steps.papers.variants.grammar import ARROW_SIGNS, LOST_ARROW

# The notations are costly, and most of a text names no variant. Every notation holds one of the
# anchors below, so only the text around an anchor is read with the notations. The anchors are
# searched with `re`, which skips to their first character faster than `regex`.
_HYPHENS = r"\-\u2010\u2011\u2012\u2013\u2212"
_CODE3 = (
    "(?:A(?:la|LA|rg|RG|sn|SN|sp|SP)|C[yY][sS]|G[lL][nNuUyY]|H[iI][sS]|I[lL][eE]|L[eEyY][uUsS]"
    "|M[eE][tT]|P[hHrR][eEoO]|S[eE][rR]|T[hHrRyY][rRpP]|V[aA][lL])"
)
_NAME_START = (
    "(?:alan|argin|aspar|cystei|glutam|glyci|histid|isoleu|leuci|lysin|methio|phenyl|proli|serin"
    "|threon|trypto|tyros|valin)"
)
_STOP = "(?:[sS]top|STOP|[tT]er(?!m)|TER)"
# "G98 T", "C -344 T"
_FLANKED = "|".join(rf"(?<=[ACGT+{_HYPHENS}][0-9]{{{digits}}}\s.)" for digits in range(2, 6))
_EVENT_START = r"(?:mut|sub|var|poly|gen|allel)"
_INDEL_START = (
    r"(?:(?:indel|in/del|delins|del|ins|dup|inv)(?![a-z])|DEL|INS|DUP|(?:Del|Ins|Dup)(?=[ACGT])"
    r"|(?:deletion|insertion|duplication)\s?(?:/|of\s[ACGT]|[ACGT]))"
)

# What follows a number, by groups.
AFTER_NUMBER = re.compile(
    rf"""[0-9](?:
    (?=[A-Z])(?:
        (?P<stop>{_STOP}|X(?!\w))
      | (?P<frameshift>[A-Z](?:[A-Za-z]{{2}})?(?:del|ins|dup|fs|FS)|FS)
      | (?P<base_indel>[ACGTU]{{1,10}}[\s/-](?:[dD]el|[iI]ns|dup)(?![a-z]))
      | (?P<bases>[ACGTU](?:\sto\s|-to-|[{_HYPHENS}])[ACGTU](?!\w)
        |(?:D[Ee][Ll]|I[Nn][Ss]|D[Uu][Pp])[ACGT])
      | (?P<codon>[ACGTU]{{3}}(?!\w))
      | (?P<letter>  # V600E, M1V, R-4Q; E2F only beside a word that says so
            .(?!\w)(?:(?<=[0-9][0-9].)|(?<=M1.)|(?<=[A-Z0-9][+{_HYPHENS}][0-9].)(?<![A-Za-z][A-Z].[0-9].)
            |(?=\s{_EVENT_START}))
        )
      | (?P<code>{_CODE3})  # 600Glu
    )
  | (?=[a-z])(?:
        (?P<indel>(?:kb|bp?-?)?\s?{_INDEL_START}|fs)
      | (?P<stop_word>{_STOP})
      | (?P<arm>[pq](?:[0-9]|ter|cen|(?!\w)))
    )
  | (?P<star>\*)
  | >(?P<run_arrow>[0-9](?:(?<=\([0-9]>.)|(?<=\([0-9][0-9]>.)))
  | \+(?P<offset>(?=[0-9]{{1,2}}[ACGTU](?!\w)))
  | \s(?:
        (?P<code_apart>\(?{_CODE3}|(?:to\s)?(?:{_NAME_START}|{_STOP})|to\s{_CODE3})
      | (?=[ACGTU(+{_HYPHENS}])(?:
            (?P<offset_apart>\+\s(?=[0-9]{{1,2}}[ACGTU](?!\w)))
          | (?P<base_indel_apart>[ACGTU]{{1,10}}[\s/-](?:[dD]el|[iI]ns|dup)(?![a-z]))
          | (?P<bracket_indel_apart>\((?:del|ins|dup)[ACGTU])
          | (?P<bases_apart>\(?[ACGTU](?:\sto\s|-to-|[{_HYPHENS}])[ACGTU](?!\w))
          | (?P<signed_apart>\(?(?:\+|[{_HYPHENS}])[+{_HYPHENS}]?\s?[ACGTU]{{1,12}}(?!\w))
        )
      | (?=[tA-Z])(?P<letter_apart>
            to\s[A-Z](?!\w)|[A-Z]\s{_EVENT_START}|[ACGT](?![\w/>'-])(?:{_FLANKED})
        )
      | (?P<indel_apart>{_INDEL_START}|{_CODE3}?fs(?!\w))
    )
  | \((?:
        (?P<signed>[+{_HYPHENS}]{{1,2}}\s?[ACGTU])
      | (?P<bracket_indel>(?:del|ins|dup)[ACGTU])
      | (?P<bases_in_brackets>[ACGTU](?:\sto\s|-to-|[{_HYPHENS}])[ACGTU]\))
    )
  | [/,){_HYPHENS}](?:
        (?P<code_behind_mark>\s?(?:to[\s-])?(?:{_NAME_START}|{_CODE3}|{_STOP})|X(?!\w)|\*)
      | (?P<letter_behind_mark>\s?(?:to\s)?[ACGTU]{{1,3}}(?!\w)|T[AG]{{2}}(?!\w))
      | (?P<indel_behind_mark>\s?{_INDEL_START})
    )
  | (?P<number>(?=[0-9](?:  # not read on: "mutations 185delAG" is no rs 185
        [0-9](?:(?<=[rR][sS]...)|(?<=s[\s\#]...)|(?<=s\s\#...))
      | (?<=del..)|(?<=ins..)|(?<=dup..)
    )))
  )""",
    re.VERBOSE,
)
SEQUENCE_TYPE = re.compile(
    r"(?P<prefix>\.(?<=[cCgmnoprtP]\.)(?:(?<=\b.\.)|(?<=\bmt\.))\s?[(\[]{0,2}"
    r"(?:[-+*?\u2010-\u2212]?\s?\d|[A-Z*][A-Za-z]{0,2}\d|IVS|ivs|ORF|\(?\?|=|del|ins|dup|inv|con))"
)
BETWEEN_ALLELES = re.compile(
    rf"/(?:(?P<slash>(?:(?<=[ACGTU{_HYPHENS}]/)|(?<=[ACGTU{_HYPHENS}]\s/))\s?[ACGTU{_HYPHENS}]"
    rf"|(?<=[A-Z][A-Za-z][A-Za-z]/){_CODE3}\s)"
    r"|(?P<runs>(?<=[0-9][ACGT]/)[1-9][0-9]?[ACGT](?!\w)|(?<=ns/)[dD]el|(?<=el/)[iI]ns))"
)
TO_RESIDUE = re.compile(
    rf"to[ -](?:(?<=[A-Z][A-Za-z]{{2}}.to.)(?P<to>{_CODE3})"
    rf"|(?<=[a-z]-to-)(?P<to_name>{_NAME_START})"
    r"|(?<=[ACGTU].to.)(?P<to_base>[ACGTU]{1,3}\s(?:at|in|of|on|from)\s)"
    r"|(?P<to_codon>(?<=[ACGTU]{3}.to.)[ACGTU]{3}(?:[ACGTU]{3})?(?!\w)|(?<=\).to.)[A-Z])"
    r"|(?P<to_allele>(?<=[ACGTU].to.)(?<!\w.....)[ACGTU](?!\w)))"
)
FOR_RESIDUE = re.compile(rf"for[ -](?=[A-Z])(?<=[A-Z][A-Za-z]{{2}}.for.)(?P<for>{_CODE3})")
# "C-G polymorphism"
BETWEEN_BASES = re.compile(r"-(?P<dash>(?<=[ACGT]-)(?<![\w-].-)[ACGT](?=[\s)]))")
# Two patterns, for a search for one character is faster than one for either.
REPEATED = tuple(
    re.compile(rf"{mark}(?<=[ACGTUN].)(?P<repeat>[(\d]|\s?[mn](?![a-z])|\s\d)")
    for mark in (r"\)", r"\]")
)
PATTERN_ANCHORS = (
    AFTER_NUMBER,
    SEQUENCE_TYPE,
    BETWEEN_ALLELES,
    TO_RESIDUE,
    FOR_RESIDUE,
    BETWEEN_BASES,
    *REPEATED,
)
_BEFORE_INDEL_OBJECT = re.compile(
    r"(?:(?<![\w.])|(?<=CFTR))...(?:[\s-]?[\d(A-Z]|\s?e(?:x|xon)?\s?\d)"
)
_ARROW_INTO_CHANGE = re.compile(
    rf"(?:&gt;|.)\s?(?:[A-Z*]|[acgtu]{{1,30}}(?![a-z])|[a-z]{{3}}(?![a-z])|stop|{_NAME_START})"
)

# Literals are faster to find than any pattern: their group, and what must match at them.
WORD_ANCHORS: tuple[tuple[str, str, re.Pattern[str] | None], ...] = (
    *((word, "event", _BEFORE_INDEL_OBJECT) for word in ("del", "ins", "dup", "Del")),
    *((sign, "arrow", _ARROW_INTO_CHANGE) for sign in (">", "&gt;", *ARROW_SIGNS, LOST_ARROW)),
    ("---", "arrow", None),
    ("IVS", "intron", None),
    *((word, "delta", None) for word in ("elta", "\u0394", "\u2206")),
    *((word, "arm", None) for word in ("Xp", "Xq", "Yp", "Yq")),
)
