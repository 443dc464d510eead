"""Sections as they nest, from levels, numbers or the headings above each paragraph."""

from collections.abc import Iterable, Iterator
from typing import Any

from steps.papers.headings import DROPPED, section_of_heading

DEEPEST = 6  # levels of numbers, "1.1.1.1.1.1"


def nest(parts: Iterable[tuple[int, str, list[str]]]) -> list[dict[str, Any]]:
    """Sections as they nest.

    Args:
        parts: Level, from 1 on, heading and paragraphs of each, in their order.

    Returns:
        Sections without text or sections of their own are left out.
    """
    root: dict[str, Any] = {"sections": []}
    above: list[tuple[int, dict[str, Any]]] = [(0, root)]
    for level, heading, paragraphs in parts:
        while above[-1][0] >= max(1, level):
            above.pop()
        section: dict[str, Any] = {"heading": heading}
        if paragraphs:
            section["paragraphs"] = paragraphs
        above[-1][1].setdefault("sections", []).append(section)
        above.append((level, section))
    return _with_text(root["sections"])


def under_paths(
    texts: Iterable[tuple[list[str], str]],
) -> list[tuple[int, str, list[str]]]:
    """Sections for `nest` from paragraphs that each come with all headings above them.

    Args:
        texts: The headings from the outermost on, and the paragraph, in their order.
    """
    parts: list[tuple[int, str, list[str]]] = []
    around: list[str] = []
    for path, text in texts:
        path = path or [""]
        if path != around:
            shared = 0
            while path[: shared + 1] == around[: shared + 1] and shared < len(path) - 1:
                shared += 1
            for level in range(shared, len(path)):
                parts.append((level + 1, path[level], []))
            around = path
        if text:
            parts[-1][2].append(text)
    return parts


def leveled(
    parts: Iterable[tuple[str, str, list[str]]],
) -> Iterator[tuple[int, str, list[str]]]:
    """The level of each section, for `nest`, by its number: 2.1 stands below 2.

    GROBID misses numbers, and has no levels but these. So a section without one stands below the
    one before it that has a number, or is a heading alone ("Results"), or begins the methods,
    unless its own heading is one that opens a section of a paper ("Discussion"). A statement on
    ethics among the methods then ends nothing.

    Args:
        parts: Number or "", heading and paragraphs of each, in their order.
    """
    around: list[str] = []  # numbers of the sections that are open; "" where one has none
    for number, heading, paragraphs in parts:
        steps = number.split(".")[:DEEPEST] if number.replace(".", "").isdigit() else []
        section = _section_of(heading)
        if steps:
            above = [".".join(steps[:depth]) for depth in range(1, len(steps))]
            around = [name for name in above if name in around]
            level = len(around) + 1
            around.append(".".join(steps))
        elif around and heading and not number and section in (None, DROPPED):
            level = 2
            around = around[:1]
        else:
            level = 1
            around = [""] if section == "methods" or not paragraphs else []
        yield level, heading, paragraphs


def _section_of(heading: str) -> str | None:
    """The section that a heading begins; small capitals come out as "dIscussIon"."""
    return section_of_heading(heading[:1].upper() + heading[1:])


def _with_text(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for section in sections:
        if "sections" in section:
            section["sections"] = _with_text(section["sections"])
            if not section["sections"]:
                del section["sections"]
    return [section for section in sections if section.keys() - {"heading"}]
