"""Reference lists, acknowledgements, notes of the publisher."""

import re

from steps.papers.cleaning.statements import is_most_of, without_statement
from steps.papers.headings import lookup, plain_heading
from steps.papers.possessive import compile_possessive

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
        plain = plain_heading(line)
        if plain is not None and lookup(plain) is not None:
            dropping = heading.fullmatch(plain) is not None
        if not dropping:
            kept.append(line)
    return text if len(kept) == len(lines) else "\n".join(kept)


_ACKNOWLEDGEMENTS = re.compile(
    r"[\W\d]{0,6}(?:acknowle?d?ge?ments?(?: and funding)?"
    r"|funding(?: information| sources?| statement)?|financial support|grant support)\W{0,3}",
    re.IGNORECASE,
)
_ACKNOWLEDGEMENTS_RUN_IN = re.compile(
    r"^([ \t]{0,8}(?:Acknowledge?ments?|ACKNOWLEDGE?MENTS?|Funding|FUNDING"
    r"|Grant [Ss]upport|Financial [Ss]upport)(?:\s?[:.—–]\s{1,3}|\s(?=We (?:thank|are grateful))))"
    r"\S[^\n]*",
    re.MULTILINE,
)


def remove_acknowledgements(text: str) -> str:
    """Drop acknowledgements and funding: under a heading, or a paragraph that begins so.

    Where that paragraph is most of the text, as in an abstract on one line, only its first
    sentences go: those of the statement.
    """
    if "\n" in text:
        return _without_section(_without_run_in_paragraphs(text), _ACKNOWLEDGEMENTS)
    if text.startswith(("Ackno", "ACKNO", "Fund", "FUND", "Grant", "Finan")):
        return _without_run_in_paragraphs(text)
    return text


def _without_run_in_paragraphs(text: str) -> str:
    pieces: list[str] = []
    position = 0
    for found in _ACKNOWLEDGEMENTS_RUN_IN.finditer(text):
        start, end = found.span()
        if start < position:
            continue
        pieces.append(text[position:start])
        is_wrapped = text[end - 1] not in ".!?)" and text[end : end + 2] not in ("", "\n", "\n\n")
        if is_wrapped:
            blank_line = text.find("\n\n", end)
            end = len(text) if blank_line < 0 else blank_line
        if is_wrapped or is_most_of(found[0], text):
            pieces.append(without_statement(text[start:end], found.end(1) - start))
        position = end
    return "".join((*pieces, text[position:]))


_TRUNCATED = r"ABSTRACT\s{1,3}TRUNCATED(?:\s{1,3}AT\s{1,3}\d{1,5}\s{1,3}WORDS)?"
_TRUNCATION_MARK = (
    rf"(?:\(\s?{_TRUNCATED}\.?\s?\)|\[\s?{_TRUNCATED}\.?\s?\]"
    r"|\bABSTRACT\s{1,3}TRUNCATED\s{1,3}AT\s{1,3}\d{1,5}\s{1,3}WORDS\b)"
)
_EDITORIAL_NOTE = re.compile(
    rf"(?<=[.!?]) {{0,3}}{_TRUNCATION_MARK}\.?| {{0,3}}{_TRUNCATION_MARK}"
    r"| {0,3}\[(?:corrected|(?:formula|figure|table|equation|image|text|structure)s?:? see text)\]",
    re.IGNORECASE,
)

# The mark begins a sentence or a line, and only names and a few small words follow to the end.
# The first group is then the end; without it, the word behind the mark is read in vain, and is
# passed over, since a mark within that word would be tried in vain too.
_COPYRIGHT = compile_possessive(
    "|".join(
        rf"{mark}(?:(?<=[.!?)] {mark})|(?<=[.!?)\n]{mark})|(?<=\A{mark}))"
        for mark in ("Copyright", "©", r"\([Cc]\)(?= ?(?:19|20)\d\d)")
    ).join(("(?:", ")"))
    + r"(?:((?:\s?(?:[A-Z][\w.&,'’/-]*+|©|\([Cc]\)|(?:19|20)\d\d[,.;]?|by|the|of|and|for|on|behalf"
    r"|in|&|rights|reserved\.?)(?=\s|$)){1,30}+ ?(?=\n|\Z))|(?=[A-Z])[\w.&,'’/-]*+)"
)
_RIGHTS = re.compile(r"All [Rr]ights [Rr]eserved\.?")


def remove_publisher_notes(text: str) -> str:
    """Drop what the database or the publisher added: truncation marks, copyright lines."""
    truncated = "TRUNCATED" in text or "bstract trunc" in text or "bstract Trunc" in text
    if truncated or "see text" in text or "[corrected]" in text:
        text = _EDITORIAL_NOTE.sub("", text)
    if "Copyright" in text or "©" in text or "(c) " in text or "(C) " in text:
        text = _COPYRIGHT.sub(lambda line: line[0] if line[1] is None else "", text)
    return _RIGHTS.sub("", text) if "All " in text else text
