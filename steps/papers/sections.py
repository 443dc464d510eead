"""Full text into sections with canonical names.

    split_sections({"Abstract": "We ...", "2. Materials and methods": "Mice ..."})
    # [("abstract", "We ..."), ("methods", "Mice ...")]

Full text arrives in many shapes: one string with heading lines, a list of sections,
nested sections, or a mapping from heading to text. All of them come out as pairs of
canonical name and text, in reading order. What is no prose to learn from (references,
acknowledgements, funding, contributions, competing interests, supplements,
abbreviations, figure lists) is left out.

Headings that are not known ("Patients", "Western blotting") stay as a line of text in
the section around them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steps.papers.headings import DROPPED
from steps.papers.section_lines import ABBREVIATIONS, Part
from steps.papers.section_shapes import parts_of


def split_sections(
    full_text: str | Sequence[Any] | Mapping[str, Any], notes: list[str] | None = None
) -> list[tuple[str, str]]:
    """Split the full text of a paper into canonical sections.

    Args:
        full_text: One string with headings on lines of their own; or a list of strings and
            sections, a section being a mapping with a heading ("heading", "title", "name",
            "section"), a text ("text", "content", "body", "paragraphs": string or list) and
            perhaps nested "sections"; or a mapping from heading to text.
        notes: Takes a line for each key of a section that is not known and holds text.

    Returns:
        Pairs of name and text in reading order. Names are those of `SECTION_NAMES` except
        "title"; neighbours of the same name are merged; empty and dropped sections are absent.

    Raises:
        UserError: If the value, or something inside it, is neither text nor sections.
    """
    notes = [] if notes is None else notes
    return _merge(parts_of(full_text, around=None, where="full_text", depth=0, notes=notes))


def drop_repeated_front(
    sections: Iterable[tuple[str, str]], title: str | None, abstract: str | None
) -> list[tuple[str, str]]:
    """Take out the title and abstract that a full text repeats from its own record.

    The title is looked for in the first line of the first section, the abstract among the
    sections named abstract and the paragraphs before the first real section. An abstract
    counts as repeated when nine tenths of its words are the same, since the labels of a
    structured abstract come and go between two copies.

    Args:
        sections: As `split_sections` returns them.
        title: The record's title, or None.
        abstract: The record's abstract, or None.

    Returns:
        The sections without the repeats; sections that held nothing else are gone.
    """
    kept: list[tuple[str, str]] = []
    in_front = True
    abstract_words = _words(abstract or "")
    known = Counter(abstract_words)
    for position, (name, text) in enumerate(sections):
        if position == 0 and title:
            first_line, _, rest = text.partition("\n")
            if _words(first_line) == _words(title):
                text = rest.strip()
        in_front = in_front and name in ("abstract", "keywords", "other")
        if abstract and name == "abstract" and _same_words(text, known, len(abstract_words)):
            text = ""
        elif abstract and name == "other" and in_front:
            paragraphs = [
                paragraph
                for paragraph in text.split("\n\n")
                if not _same_words(paragraph, known, len(abstract_words))
            ]
            text = "\n\n".join(paragraphs)
        if text:
            kept.append((name, text))
    return kept


def _merge(parts: Iterable[Part]) -> list[tuple[str, str]]:
    """Join neighbours of the same name, and leave out what is empty or dropped."""
    merged: list[Part] = []
    for part in parts:
        if part.section in (DROPPED, ABBREVIATIONS) or not any(map(str.strip, part.lines)):
            continue
        if merged and merged[-1].section == part.section:
            merged[-1].lines += ["", *part.lines]
        else:
            merged.append(Part(part.section, list(part.lines)))
    return [(part.section, _joined(part.lines)) for part in merged]


def _joined(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip())


# Comparing ----------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _same_words(text: str, known: Counter[str], num_known: int) -> bool:
    """Whether nine tenths of the words of the longer text are in both.

    Args:
        text: One of the texts.
        known: How often each word stands in the other one, counted once for many texts.
        num_known: Number of the words of the other one.
    """
    words = _words(text)
    longer = max(len(words), num_known)
    return longer > 0 and (Counter(words) & known).total() >= 0.9 * longer
