"""The text of an XML element of a paper, with its inline markup resolved.

Names of genes stand in italics, so inline elements keep their text; `<sup>` and `<sub>` stay as
tags, which the cleaning turns into the form that it knows. Marks of citations go, with the
brackets that hold nothing else; the name of an author that is part of the sentence stays.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from lxml import etree

from steps.papers.formats.xml_source import entity_character, is_markup_only, local_name

# Stand-ins from the private use area: a mark that goes, and the ends of a citation by name.
_MARK, _NAME, _NAME_END = "\ue000", "\ue001", "\ue002"
_UNDERLINED = {"<": "≤", ">": "≥", "+": "±"}  # how older records write these signs
_BREAKS = frozenset({"break", "br", "p", "list-item", "list", "title", "label", "def", "term"})
_SEPARATORS = r"[\s,;:&.–—−-]|and|see|e\.g\.|also|reviewed in|cf\.|in|refs?\.?"
_CITED = rf"(?:{_MARK}|{_NAME}[^{_NAME_END}\n]{{0,200}}{_NAME_END})"
_BRACKETS = re.compile(
    rf"(\s?)[(\[](?:{_SEPARATORS}){{0,8}}{_CITED}(?:(?:{_SEPARATORS}){{0,12}}{_CITED}){{0,80}}"
    rf"(?:{_SEPARATORS}){{0,4}}[)\]]"
)
_RAISED_MARKS = re.compile(
    rf"\s?<sup>[\s\[(]{{0,3}}{_CITED}(?:[\s,;–—−-]{{0,3}}{_CITED}){{0,80}}[\s,;\])]{{0,3}}</sup>"
)
_LIST_OF_MARKS = re.compile(rf"(?:\s?\b[Rr]efs?\.)?\s?{_MARK}(?:\s?[,;–—−-]?\s?{_MARK}){{0,80}}")
_LEADING_COMMA = re.compile(r"(?<=[(\[])\s?[,;]\s?")  # "(3, Table 1)" without its mark
_LETTERS = re.compile(r"[A-Za-z]{2}")
_SPACE = re.compile(r"[ \t\r\n\f\v]+")
# A file that was indented by a program has line breaks before what belongs to the word.
_INDENTED = re.compile(r"\s*\n\s*(?=<su[bp]>)")
_EMPTY_RAISED = re.compile(r"<(su[bp])>[\s,;–—−-]*</\1>")

TextOf = Callable[[Any], str | None]


def text_of(element: Any, special: TextOf | None = None) -> str:
    """The text of an element on one line.

    Args:
        element: An lxml element; its tail is not part of it.
        special: Says for an element within it what to take in place of its text; None: its
            text as usual. What `citation` gives is a mark that goes.

    Returns:
        The text without citations; "" where there is none.
    """
    if not len(element):  # most are plain
        return _SPACE.sub(" ", element.text or "").strip()
    text = "".join(_pieces(element, special))
    if _MARK in text or _NAME in text:
        text = _RAISED_MARKS.sub("", text)
        text = _BRACKETS.sub("", text)
        text = _LEADING_COMMA.sub("", _LIST_OF_MARKS.sub("", text))
        text = text.replace(_NAME, "").replace(_NAME_END, "")
    if "<su" in text:
        text = _EMPTY_RAISED.sub("", text)
        text = _INDENTED.sub("", text)
    return _SPACE.sub(" ", text).strip()


def citation(element: Any) -> str:
    """What stands for a citation until its brackets are known: a mark, or a name."""
    text = "".join(element.itertext(tag=None))
    text = text.replace(_MARK, "").strip()
    return f"{_NAME}{text}{_NAME_END}" if _LETTERS.search(text) else _MARK


def _pieces(element: Any, special: TextOf | None) -> Iterator[str]:
    if element.text:
        yield element.text
    for inner in element:
        if inner.tag is etree.Entity:
            yield entity_character(inner.name)
        elif not is_markup_only(inner):
            replaced = special(inner) if special else None
            yield from [replaced] if replaced is not None else _marked_up(inner, special)
        if inner.tail:
            yield inner.tail


def _marked_up(element: Any, special: TextOf | None) -> Iterator[str]:
    name = local_name(element)
    if name in ("sup", "sub"):
        yield f"<{name}>"
        yield from _pieces(element, special)
        yield f"</{name}>"
    elif name in ("u", "underline") and (element.text or "").strip() in _UNDERLINED:
        yield _UNDERLINED[element.text.strip()]
    elif name in ("msup", "msub", "msubsup", "munder", "mover", "munderover"):
        yield from _raised_formula(element, name, special)
    elif name in ("annotation", "annotation-xml"):
        return  # the formula once more, as TeX
    elif name == "mfrac":
        parts = ["".join(_marked_up(part, special)) for part in element if local_name(part)]
        yield "/".join(part.strip() for part in parts)
    elif name in _BREAKS:
        yield " "
        yield from _pieces(element, special)
        yield " "
    else:
        yield from _pieces(element, special)


def _raised_formula(element: Any, name: str, special: TextOf | None) -> Iterator[str]:
    """MathML scripts: the base, then what is below and above it."""
    tags = {"msup": ("sup",), "mover": ("sup",), "msub": ("sub",), "munder": ("sub",)}
    parts = ["".join(_marked_up(part, special)).strip() for part in element if local_name(part)]
    yield parts[0] if parts else ""
    for tag, part in zip(tags.get(name, ("sub", "sup")), parts[1:], strict=False):
        yield f"<{tag}>{part}</{tag}>"
