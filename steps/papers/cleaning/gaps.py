"""What a removed piece of text leaves behind, and how the gap is closed."""

import re
from collections.abc import Callable

from steps.papers.possessive import compile_possessive

LEAD_WORDS = (
    r"(?:see|also|e\.g\.?|i\.e\.?|cf\.?|reviewed|review|reviews|in|by|from|as|described|for|an?"
    r"|examples?|adapted|modified|according|to|and|but)"
)
WORDS_LEFT_ALONE = (
    rf"(?:{LEAD_WORDS}|refs?\.?|references?|URLs?|at|available|[Ww]eb ?site|[Ee]-?mail|[Cc]ontact)"
)

GONE = "\x00"  # what a removed piece leaves, until the gap around it is closed

# Words that say nothing once the piece is gone: "(see [12] for further details)".
_WORDS_OF_POINTERS = (
    r"(?:[Pp]lease|See|For|From|At|Available|accessible|or|via|on|under|further|more|full|online"
    r"|details?|information|therein)"
)
_ALMOST_NOTHING = rf"(?:[\s,;:.&\x00]|(?:{WORDS_LEFT_ALONE}|{_WORDS_OF_POINTERS})\b){{0,16}}+"
_EMPTY_BRACKETS = compile_possessive(rf"\({_ALMOST_NOTHING}\)|\[{_ALMOST_NOTHING}\]")

_SPACES_BEFORE_GONE = re.compile(r" {2,9}(?=\x00)")
_SEVERAL_GONE = compile_possessive(r"\x00(?:\s?(?:[,;&]|,?\s?\b(?:and|or)\b)?\s?\x00){1,60}+")

# Words that point to the piece, where nothing of the sentence follows it.
_ENDS = r"(?=\s?(?:[.;)\]]|,\s|\n\n|\Z))"
_POINTS_TO_GONE = re.compile(
    r"(?:\b[Pp]lease )?\b[Ss]ee (?:also )?\x00 for (?:further |more |full )?"
    r"(?:details?|information)\b"
    rf"|,? (?:according to|as (?:in|per)) \x00{_ENDS}"
    rf"|[,;] (?:see|cf\.?)(?: also|,? e\.g\.,?|,? for (?:example|instance),?)? \x00{_ENDS}"
    r"|(?:[,;] (?:(?:freely |publicly )?(?:available|accessible)(?: online)?(?: at| from| via)?"
    r"|(?:reviewed|described|discussed) (?:in|by)|at|from|via|URLs?)|(?<=\S) (?:see|at|from|via))"
    r":?\s?\x00(?=\s?[)\]])"
    rf"|,? (?:and|or) \x00(?=\s?(?:[.;)\]]|\n\n|\Z))"
)
_DONE_IN_GONE = re.compile(
    r"\b(described|reviewed|reported|shown|verified|published|discussed|summari[sz]ed|given|detailed"
    r"|outlined|presented|proposed|introduced|defined|listed|provided|demonstrated|documented)"
    rf"(?: previously| earlier| elsewhere| also)? (?:in|by|from) \x00{_ENDS}"
)
_GONE_AFTER_OPENING = re.compile(
    r"(?<=[(\[])\s?(?:(?:[Ss]ee|at|from|via|URLs?):?\s)?\x00"
    r"\s?(?:[,;:]\s?)?(?:(?:and|or) )?(?=[^\s.])"
)
_OPENED_FOR_GONE = re.compile(r" {0,3}[(\[]\s?\x00(?=\.(?:\s|$))")  # "as before ([2]. We"
_GONE_BEFORE_CLOSING = re.compile(r"(?:\s?[,;:])?\s?\x00\s?(?=[)\]])")
_STOP_BEFORE_GONE = re.compile(r"(?<=[\w)\].])\s?[,;:]\s?\x00(?=\s?(?:[.;]|\n\n|\Z))")
_STOP_BEHIND_FIRST_GONE = re.compile(r"(?:^|(?<=\n))\x00[ ,;:.]{1,6}")
_SPACE_AND_GONE = re.compile(r" {0,3}\x00(?: (?=[,;:.](?:\s|\Z)))?")
_GONE_BETWEEN_STOPS = re.compile(r"([.,;])(?: {0,3}\x00){1,9}(?=\1)")  # "ten minutes. [13]."
# "It is free. http://x.org."; the end of c.1544-?_2916+? is none of a sentence.
_GONE_SENTENCE = re.compile(r"(?<=[\w)\]%'\"”’][.!?])(?: {0,3}\x00){1,9}\.")


_REACH = 160  # characters beside a mark that are looked at; no rule needs more


def close_gaps(text: str, tidy: Callable[[str], str] | None = None) -> str:
    """Take out the marks of removed pieces, with what they leave empty or dangling.

    Brackets go that hold nothing more, such as " ()", "[e.g. ]" and "(reviewed in )"; so do
    the comma of "(EGFP, )", that of "(; and unpublished data)" and the second stop of "it. .".
    Only the places of the marks are touched.

    Args:
        text: A text with `GONE` wherever a piece was removed.
        tidy: Runs before on each place, for what only one kind of piece leaves.
    """
    pieces: list[str] = []
    done = 0
    mark = text.find(GONE)
    while mark >= 0:
        end = mark + 1
        following = text.find(GONE, end)
        while 0 <= following <= end + 2 * _REACH:
            end = following + 1
            following = text.find(GONE, end)
        start, end = max(done, mark - _REACH), min(len(text), end + _REACH)
        place = text[start:end]
        pieces += (text[done:start], _closed(place if tidy is None else tidy(place)))
        done, mark = end, following
    return text if not pieces else "".join((*pieces, text[done:]))


def _closed(text: str) -> str:
    text = _SEVERAL_GONE.sub(GONE, _SPACES_BEFORE_GONE.sub(" ", text))
    text = _EMPTY_BRACKETS.sub(lambda match: GONE if GONE in match[0] else match[0], text)
    text = _DONE_IN_GONE.sub(rf"\1{GONE}", _POINTS_TO_GONE.sub(GONE, text))
    text = _OPENED_FOR_GONE.sub(GONE, text)
    text = _GONE_AFTER_OPENING.sub("", text)
    text = _GONE_BEFORE_CLOSING.sub("", text)
    text = _STOP_BEFORE_GONE.sub(GONE, text)
    text = _STOP_BEHIND_FIRST_GONE.sub("", text)
    text = _GONE_SENTENCE.sub("", _GONE_BETWEEN_STOPS.sub("", text))
    return _SPACE_AND_GONE.sub("", text)
