"""What a removed piece of text leaves behind, and how the gap is closed."""

import re

LEAD_WORDS = (
    r"(?:see|also|e\.g\.?|i\.e\.?|cf\.?|reviewed|review|reviews|in|by|from|as|described|for|an?"
    r"|examples?|adapted|modified|according|to|and|but)"
)
WORDS_LEFT_ALONE = (
    rf"(?:{LEAD_WORDS}|refs?\.?|references?|URLs?|at|available|[Ww]eb ?site|[Ee]-?mail|[Cc]ontact)"
)

_ALMOST_NOTHING = rf"(?:[\s,;:.&\x00]|{WORDS_LEFT_ALONE}\b){{0,12}}+"
_EMPTY_BRACKETS = re.compile(rf"\({_ALMOST_NOTHING}\)|\[{_ALMOST_NOTHING}\]")
GONE = "\x00"  # what a removed piece leaves, until the spaces before it are taken out too
_SPACE_AND_GONE = re.compile(" {0,3}\x00")
_GONE_BETWEEN_STOPS = re.compile(r"([.,;])(?: {0,3}\x00){1,9}(?=\1)")  # "ten minutes. [13]."


def close_gaps(text: str) -> str:
    """Take out the marks of removed pieces, the brackets left empty and the spaces before.

    Empty brackets are such as " ()", "[e.g. ]" and "(reviewed in )".
    """
    if GONE not in text:
        return text
    emptied = _EMPTY_BRACKETS.sub(lambda match: GONE if GONE in match[0] else match[0], text)
    return _SPACE_AND_GONE.sub("", _GONE_BETWEEN_STOPS.sub("", emptied))
