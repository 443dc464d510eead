"""Abbreviations that a text defines, as in "genome-wide association study (GWAS)".

The long form is found as by Schwartz & Hearst (2003), "A simple algorithm for identifying
abbreviation definitions in biomedical text": from the end, each letter of the short form is looked
for in the words before the bracket, and the first one has to begin a word.
"""

import re
from collections.abc import Iterator

_SHORT = re.compile(r" \(([A-Za-z][A-Za-z0-9-]{1,9})\)")
# A long form stays within its clause.
_BORDER = re.compile(r"[.;:()\[\]\n]")
MOST_WORD_CHARACTERS = 40


def abbreviations_in(text: str) -> Iterator[tuple[str, str]]:
    """Short and long forms in the order of the text, the first definition of each short form."""
    seen = set()
    for found in _SHORT.finditer(text):
        short = found[1]
        capitals = sum(letter.isupper() for letter in short)
        if short in seen or capitals < 2:
            continue
        long = _long_form(short, text, found.start())
        if long is not None:
            seen.add(short)
            yield short, long


def _long_form(short: str, text: str, end: int) -> str | None:
    """The words before `end` that a short form stands for; None where they do not fit."""
    most_words = min(len(short) + 5, 2 * len(short))
    clause = text[max(0, end - most_words * MOST_WORD_CHARACTERS) : end]
    border = [mark.end() for mark in _BORDER.finditer(clause)]
    words = clause[border[-1] if border else 0 :].split(" ")
    candidate = " ".join(words[-most_words:])
    place = len(candidate)
    letters = [letter for letter in short.lower() if letter.isalnum()]
    for number in range(len(letters) - 1, -1, -1):
        place = candidate.lower().rfind(letters[number], 0, place)
        while number == 0 and place > 0 and candidate[place - 1].isalnum():
            place = candidate.lower().rfind(letters[0], 0, place)
        if place < 0:
            return None
    long = candidate[place:].strip()
    fits = len(long) > len(short) and short not in long and len(long.split()) <= most_words
    return long if fits else None
