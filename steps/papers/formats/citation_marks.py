"""Marks of citations taken out of a text, by their places, with the brackets that hold no more.

The places are those that GROBID's models give, of its TEI and of S2ORC; they may be wrong.
"""

import re
from collections.abc import Iterable

from steps.papers.possessive import compile_possessive

# Stand-ins: for a mark that goes and its own brackets, and for the ends of a citation by name.
_MARK, _OPENED, _CLOSED = "\x04", "\x07", "\x08"
_NAME, _NAME_END = "\x05", "\x06"
_STAND_INS = dict.fromkeys(map(ord, (_MARK, _OPENED, _CLOSED, _NAME, _NAME_END)))
_LONGEST_CITATION = 300  # characters; a longer one is a sentence that was taken for one
_CONTROLS = dict.fromkeys(range(9), " ")
_NUMBERS = re.compile(r"\d{1,4}[a-z]?(?:\s?[,;–—−-]\s?\d{1,4}[a-z]?)*|[,;\s–-]*")
_MARKER = re.compile(r"\{\{[^{}]*\}\}|REF")  # of unarXive, "{{cite:1f3a}}"
# Without one of these it may be a gene in brackets that GROBID took for a citation.
_BY_NAME = re.compile(
    r"(?<!\d)(?:18|19|20)\d\d(?!\d)|\bet\.? al|\bin press|submitted|unpublished|personal comm", re.I
)
_NAME_WITH_YEAR = re.compile(
    r"(?<=\w|\.)\s*[(\[]\s*(?:\d{1,3}|(?:18|19|20)\d\d[a-z]?(?:\s?,\s?\d{4}[a-z]?|\s?,\s?[a-z])*)\s*[)\]]?$"
)
_POWER = re.compile(r"(?:[×x*·]\s?|(?<![\w.]))10\s?$")
_BETWEEN = (
    r"(?:[\s,;:&.–—−-]|(?:and|but|see|also|e\.g\.|i\.e\.|cf\.|in|for|by|as|such|an?|example|refs?"
    r"|reviews?|reviewed|references?|therein)(?!\w))"
)
_BEGIN, _END = rf"[(\[{_OPENED}]", rf"[)\]{_CLOSED}]"
_CITED = rf"(?:{_MARK}|{_BEGIN}{_MARK}{_END}|{_NAME}[^{_NAME_END}]{{0,300}}+{_NAME_END})"
_IN_BRACKETS = (
    rf"{_BEGIN}{_BETWEEN}{{0,8}}+{_CITED}(?:{_BETWEEN}{{0,12}}+{_CITED}){{0,80}}+"
    rf"{_BETWEEN}{{0,4}}+{_END}"
)
_GROUP = rf"(?:{_IN_BRACKETS}|{_OPENED}?{_MARK}{_CLOSED}?)"
_GROUPS = compile_possessive(
    rf"\s?{_GROUP}(?:\s?(?:[,;–—−-]|and\b)?\s?{_GROUP}){{0,80}}+(?:\s+(?=[.,;:)\]]))?"
)


def without_citations(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Take the marks of citations out of a text.

    "[1, 2]", "(12)", a bare "12" and "(Smith et al., 2001; Lee, 2003)" go with the brackets
    that hold nothing else. A name that is part of the sentence stays: of "Smith et al. (2001)
    showed" the year goes.

    Args:
        text: Of a paragraph.
        spans: First character, and the one past the last, of each mark as GROBID found it; its
            brackets and those of its neighbours may stand within or outside.

    Returns:
        The text on one line.
    """
    text = text.translate(_CONTROLS)
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start < end or stop <= start or stop > len(text):
            continue
        pieces += [text[end:start], _stand_in(text[start:stop], text[max(0, start - 8) : start])]
        end = stop
    marked = "".join([*pieces, text[end:]])
    if _MARK in marked or _NAME in marked:
        marked = _GROUPS.sub(_closed, " ".join(marked.split()))
        marked = marked.translate(_STAND_INS)
    return " ".join(marked.split())


def _closed(group: re.Match[str]) -> str:
    """Nothing, or the blank that keeps two words apart."""
    following = group.string[group.end() : group.end() + 1]
    return " " if following.isalnum() or following in ("(", "<") else ""


def _stand_in(citation: str, before: str) -> str:
    """What stands for a citation until the brackets around it are known."""
    if len(citation) > _LONGEST_CITATION:
        return citation
    lead, core, trail = _unbracketed(citation)
    if _MARKER.fullmatch(core) or _NUMBERS.fullmatch(core):
        if not lead and not trail and core.isdigit() and _POWER.search(before):
            return citation  # 10 and its exponent
        lead = re.sub(r"[(\[]", _OPENED, lead)
        return f"{lead}{_MARK}{re.sub(r'[])]', _CLOSED, trail)}"
    if _BY_NAME.search(core):
        return f"{lead}{_NAME}{_NAME_WITH_YEAR.sub('', core)}{_NAME_END}{trail}"
    return citation


def _unbracketed(citation: str) -> tuple[str, str, str]:
    """A citation apart from the brackets that open before it and close behind it."""
    first, last = 0, len(citation)
    while first < last:
        inner = citation[first:last]
        if inner[0].isspace():
            first += 1
        elif inner[-1].isspace() or inner[-1] in ",;":
            last -= 1
        elif inner[0] in "([" and (inner[-1] in ")]" or _depth(inner) > 0):
            first += 1
        elif inner[-1] in ")]" and _depth(inner) < 0:
            last -= 1
        else:
            break
    return citation[:first], citation[first:last], citation[last:]


def _depth(text: str) -> int:
    """How many brackets a text opens and does not close."""
    return sum(text.count(mark) for mark in "([") - sum(text.count(mark) for mark in ")]")
