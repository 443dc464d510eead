"""Reference lists, acknowledgements, notes of the publisher."""

import re

from steps.papers.headings import section_of_heading

_REFERENCES = re.compile(
    r"[\W\d]{0,6}(?:references?(?: cited| and notes)?|bibliography|(?:literature|works) cited"
    r"|cited literature)\W{0,3}",
    re.IGNORECASE,
)
_REFERENCE_ENTRY = re.compile(
    r"\s{0,8}(?:\[\d{1,3}\]|\d{1,3}[.)]?)\s{1,4}(?:[A-Z]\.[ ]?){0,3}[^\W\d_][\w'’-]{1,30},?\s"
    r"(?:[A-Z]{1,3}\b|[A-Z]\.)[^\n]{10,600}\b(?:19|20)\d\d\b"
)
_REFERENCES_RUN_IN = re.compile(
    r"(?:(?<=[.!?\])] )|(?<=\n)|\A)(?:References|REFERENCES|Bibliography|Literature Cited)"
    r"[:.]? {1,3}(?:\[1\]|1[.)])\s?[A-Z][^\n]*"
)


def remove_reference_list(text: str) -> str:
    """Drop the list of references: under its heading, run in, or three entries in a row.

    Under a heading it ends at the next heading of an article, else at the end of the text.
    """
    if "eferences" in text or "EFERENCES" in text or "ibliography" in text or "Cited" in text:
        text = _REFERENCES_RUN_IN.sub("", text)
    if "\n" not in text:
        return text
    text = _without_section(text, _REFERENCES)
    lines = text.split("\n")
    entries = [bool(_REFERENCE_ENTRY.match(line)) for line in lines]
    if sum(entries) < 3:
        return text
    return "\n".join(
        line
        for line, entry, run in zip(lines, entries, _in_run_of_three(lines, entries), strict=True)
        if not (entry and run)
    )


def _in_run_of_three(lines: list[str], entries: list[bool]) -> list[bool]:
    """For each line, whether it belongs to three or more entries with only blanks between."""
    in_run = [False] * len(lines)
    run: list[int] = []
    for position, (line, entry) in enumerate(zip(lines, entries, strict=True)):
        if entry:
            run.append(position)
        elif line.strip():
            run = []
        if len(run) >= 3:
            for member in run[-3:]:
                in_run[member] = True
    return in_run


def _without_section(text: str, heading: re.Pattern[str]) -> str:
    """The text without the lines from a matching heading line to the next known heading."""
    lines = text.split("\n")
    kept: list[str] = []
    dropping = False
    for line in lines:
        if len(line) < 100 and section_of_heading(line) is not None:
            dropping = heading.fullmatch(line.strip()) is not None
        if not dropping:
            kept.append(line)
    return text if len(kept) == len(lines) else "\n".join(kept)


_ACKNOWLEDGEMENTS = re.compile(
    r"[\W\d]{0,6}(?:acknowle?d?ge?ments?(?: and funding)?"
    r"|funding(?: information| sources?| statement)?|financial support|grant support)\W{0,3}",
    re.IGNORECASE,
)
_ACKNOWLEDGEMENTS_RUN_IN = re.compile(
    r"^[ \t]{0,8}(?:Acknowledge?ments?|ACKNOWLEDGE?MENTS?|Funding|FUNDING"
    r"|Grant [Ss]upport|Financial [Ss]upport)(?:\s?[:.—–]\s{1,3}|\s(?=We (?:thank|are grateful)))"
    r"\S[^\n]*",
    re.MULTILINE,
)


def remove_acknowledgements(text: str) -> str:
    """Drop acknowledgements and funding: under a heading, or a paragraph that begins so."""
    if "\n" in text:
        text = _without_section(_ACKNOWLEDGEMENTS_RUN_IN.sub("", text), _ACKNOWLEDGEMENTS)
    elif text.startswith(("Ackno", "ACKNO", "Fund", "FUND", "Grant", "Finan")):
        text = _ACKNOWLEDGEMENTS_RUN_IN.sub("", text)
    return text


_EDITORIAL_NOTE = re.compile(
    r" {0,3}(?:\(ABSTRACT TRUNCATED(?: AT \d{2,4} WORDS)?\)|ABSTRACT TRUNCATED AT \d{2,4} WORDS"
    r"|\[(?:corrected|(?:formula|figure|table|equation|image|text|structure)s?:? see text)\])",
    re.IGNORECASE,
)

# The mark begins a sentence or a line, and only names and a few small words follow to the end.
_COPYRIGHT = re.compile(
    "|".join(
        rf"{mark}(?:(?<=[.!?)] {mark})|(?<=[.!?)\n]{mark})|(?<=\A{mark}))"
        for mark in ("Copyright", "©", r"\([Cc]\)(?= ?(?:19|20)\d\d)")
    ).join(("(?:", ")"))
    + r"(?:\s?(?:[A-Z][\w.&,'’/-]*|©|\([Cc]\)|(?:19|20)\d\d[,.;]?|by|the|of|and|for|on|behalf|in|&"
    r"|rights|reserved\.?)(?=\s|$)){1,30}+ ?(?=\n|\Z)"
)
_RIGHTS = re.compile(r"All [Rr]ights [Rr]eserved\.?")


def remove_publisher_notes(text: str) -> str:
    """Drop what the database or the publisher added: truncation marks, copyright lines."""
    if "TRUNCATED" in text or "see text" in text or "[corrected]" in text:
        text = _EDITORIAL_NOTE.sub("", text)
    if "Copyright" in text or "©" in text or "(c) " in text or "(C) " in text:
        text = _COPYRIGHT.sub("", text)
    return _RIGHTS.sub("", text) if "All " in text else text
