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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from steps.errors import UserError
from steps.papers.headings import DROPPED, NUMBERING, lookup, plain_heading, section_of_heading

"""The names of `section` in the dataset. `title` comes from the record, never from here."""
"""What `section_of_heading` answers for a heading whose text is left out."""

# Labels of a structured abstract, in the order in which they may follow each other. A label
# that steps back (Conclusions, then Background again) is the first heading of the article.
_RANK_OF_ABSTRACT_LABEL = {
    label: rank
    for rank, labels in enumerate(
        (
            "background introduction context rationale backgroud importance",
            "objective objectives aim aims purpose hypothesis question goal motivation",
            "design setting patients participants subjects population methods method materials "
            "interventions intervention measurements exposures data-sources approach",
            "results findings result observations",
            "discussion limitations availability",
            "conclusion conclusions interpretation significance relevance implications",
        )
    )
    for label in labels.split()
} | {
    "materials and methods": 2,
    "patients and methods": 2,
    "study design": 2,
    "main outcome measures": 2,
    "methods and results": 3,
    "methods and findings": 3,
    "principal findings": 3,
    "main results": 3,
    "conclusions and significance": 5,
    "conclusions and relevance": 5,
}
_LONGEST_STRUCTURED_ABSTRACT = 800  # words; beyond that, the "abstract" is the article itself
_LONGEST_WRAPPED_LINE = 120  # characters; a longer line is a paragraph of its own
_DEEPEST_NESTING = 50
_ABBREVIATIONS = "abbreviations"  # dropped too, but only as far as the list goes
_RUN_IN_HEADING = re.compile(r"([A-Z][A-Za-z'’ -]{2,45}?)\s*[:.—–]\s*(?=\S)")
_SENTENCE_END = re.compile(r"[.!?]\s+[A-Z]")
_HEADING_KEYS = ("heading", "title", "name", "section", "label", "section_title")
_TEXT_KEYS = ("text", "content", "body", "paragraphs")
_CHILD_KEYS = ("sections", "subsections", "children")
_TABLE_KEYS_WITHOUT_HEADING = frozenset((*_TEXT_KEYS, *_CHILD_KEYS, "full_text", "title"))

# A mapping with other keys than these is not one section but a table of them.
_SECTION_KEYS = frozenset(
    (*_HEADING_KEYS, *_TEXT_KEYS, *_CHILD_KEYS, "id", "level", "type", "number", "sec_num", "order")
)


@dataclass
class _Part:
    """Lines gathered under one heading."""

    section: str
    lines: list[str]


def split_sections(full_text: str | Sequence[Any] | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Split the full text of a paper into canonical sections.

    Args:
        full_text: One string with headings on lines of their own; or a list of strings and
            sections, a section being a mapping with a heading ("heading", "title", "name",
            "section"), a text ("text", "content", "body", "paragraphs": string or list) and
            perhaps nested "sections"; or a mapping from heading to text.

    Returns:
        Pairs of name and text in reading order. Names are those of `SECTION_NAMES` except
        "title"; neighbours of the same name are merged; empty and dropped sections are absent.

    Raises:
        UserError: If the value, or something inside it, is neither text nor sections.
    """
    return _merge(_parts(full_text, around=None, where="full_text", depth=0))


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
    for position, (name, text) in enumerate(sections):
        if position == 0 and title:
            first_line, _, rest = text.partition("\n")
            if _words(first_line) == _words(title):
                text = rest.strip()
        in_front = in_front and name in ("abstract", "keywords", "other")
        if abstract and name == "abstract" and _same_words(text, abstract):
            text = ""
        elif abstract and name == "other" and in_front:
            paragraphs = [p for p in text.split("\n\n") if not _same_words(p, abstract)]
            text = "\n\n".join(paragraphs)
        if text:
            kept.append((name, text))
    return kept


# One string ---------------------------------------------------------------------------------


def _parts_of_string(text: str) -> list[_Part]:
    parts = _LineWalk(text, structured_abstract=True).parts
    abstract_words = sum(
        len(line.split()) for part in parts if part.section == "abstract" for line in part.lines
    )
    if abstract_words > _LONGEST_STRUCTURED_ABSTRACT:
        # "Abstract" over nothing, and the article right behind it: its headings are real ones.
        parts = _LineWalk(text, structured_abstract=False).parts
    return parts


class _LineWalk:
    """One walk down the lines of a text, opening a part at each heading of a section."""

    def __init__(self, text: str, structured_abstract: bool) -> None:
        self.parts = [_Part("other", [])]
        self.structured_abstract = structured_abstract
        # Rank of the last label of a structured abstract; -1 right under "Abstract".
        self.abstract_rank: int | None = None
        # Number of the last numbered section, to know its subsections and its successor.
        self.last_number = 0
        # Section to open when the paragraph ends, for headings that rule one paragraph only.
        self.after_paragraph: str | None = None

        lines = [line.strip() for line in text.splitlines()]
        for position, line in enumerate(lines):
            if not line:
                self._end_paragraph()
                self._part.lines.append("")
                continue
            if position and len(lines[position - 1]) > _LONGEST_WRAPPED_LINE:
                self._end_paragraph()
            heading = None if _inside_sentence(lines, position) else plain_heading(line)
            if heading is not None and self._take_heading(line, heading):
                continue
            if self._take_run_in_heading(line):
                continue
            if self._part.section == _ABBREVIATIONS and _is_prose(line):
                self._open("other")  # a review that goes on under no heading we know
            if self.abstract_rank == -1:
                self.abstract_rank = None  # text right under "Abstract": no labels follow
            is_subsection = heading is not None and _number_of(line)[0] == self.last_number > 0
            self._part.lines.append(_without_numbering(line) if is_subsection else line)

    @property
    def _part(self) -> _Part:
        return self.parts[-1]

    def _open(self, section: str) -> None:
        self.parts.append(_Part(section, []))
        self.after_paragraph = None

    def _end_paragraph(self) -> None:
        if self.after_paragraph is not None and any(self._part.lines):
            self._open(self.after_paragraph)

    def _take_heading(self, line: str, heading: str) -> bool:
        """Open what the heading opens; False where the line is text after all."""
        if self._take_abstract_label(heading):
            return True
        number, depth = _number_of(line)
        section = lookup(heading)
        if heading == "summary" and any(part.section == "introduction" for part in self.parts):
            section = "conclusion"
        if section is None:
            follows = depth == 1 and self.last_number and number == self.last_number + 1
            if not follows or line.endswith((".", ",", ";")):
                return False
            self._open("other")  # a numbered section under a name we do not know
            self._part.lines.append(line[_numbering_length(line) :])
        elif depth > 1 and number == self.last_number and section != DROPPED:
            return False  # "2.3 Results" within "2. Methods"
        else:
            listing = heading in ("abbreviations", "list of abbreviations")
            self._open(_ABBREVIATIONS if listing else section)
            if section == "keywords":
                self.after_paragraph = "other"
        in_abstract = section == "abstract" and self.structured_abstract
        self.abstract_rank = -1 if in_abstract else None
        self.last_number = number or self.last_number
        return True

    def _take_abstract_label(self, heading: str) -> bool:
        """Whether the heading is the next label of the structured abstract we are in."""
        rank = _RANK_OF_ABSTRACT_LABEL.get(heading)
        if self.abstract_rank is None or rank is None or rank < self.abstract_rank:
            return False
        if rank == self.abstract_rank and lookup(heading) is not None:
            return False
        self.abstract_rank = rank
        self._part.lines.append("")
        return True

    def _take_run_in_heading(self, line: str) -> bool:
        """Open a section of one paragraph for a line such as "Keywords: BRCA1, repair"."""
        run_in = _RUN_IN_HEADING.match(line)
        section = section_of_heading(run_in[1]) if run_in else None
        if run_in is None or section not in ("keywords", "abstract", DROPPED):
            return False
        current = self._part.section
        front = section == "abstract" or (current == "abstract" and section == "keywords")
        back_to = self.after_paragraph or ("other" if front else current)
        self._open(section)
        self._part.lines.append(line[run_in.end() :])
        self.after_paragraph = back_to
        self.abstract_rank = None
        return True


def _number_of(line: str) -> tuple[int, int]:
    """First number and depth of a heading's numbering: (2, 2) for "2.1 Patients", else (0, 0)."""
    numbering = NUMBERING.match(line.strip("#*_ "))
    if not numbering or not numbering[1][0].isdigit():
        return 0, 0
    return int(numbering[1].split(".")[0]), numbering[1].count(".") + 1


def _numbering_length(line: str) -> int:
    numbering = NUMBERING.match(line)
    return numbering.end() if numbering else 0


def _without_numbering(line: str) -> str:
    """The heading of a subsection without its "2.1"; a sentence "2.1 Mb were lost." as it is."""
    numbering = NUMBERING.match(line)
    if not numbering or "." not in numbering[1] or line.endswith("."):
        return line
    return line[numbering.end() :]


def _inside_sentence(lines: list[str], position: int) -> bool:
    """Whether the line is a wrapped sentence's piece that happens to read like a heading."""
    before = lines[position - 1] if position else ""
    after = lines[position + 1] if position + 1 < len(lines) else ""
    return before[-1:].isalnum() and after[:1].islower()


def _is_prose(line: str) -> bool:
    """Whether a paragraph is running text rather than a list of abbreviations."""
    sentences = len(_SENTENCE_END.findall(line))
    marks = sum(line.count(mark) for mark in (";", ":", "=", "(", " - "))
    return len(line.split()) > 40 and sentences >= 2 and marks < 3 * sentences


# Lists and mappings -------------------------------------------------------------------------


def _parts(value: Any, around: str | None, where: str, depth: int) -> Iterator[_Part]:
    """Parts of any accepted shape; `around` is the section that a nested value stands in."""
    if depth > _DEEPEST_NESTING:
        raise UserError(
            f"{where[:60]}...: sections nested deeper than {_DEEPEST_NESTING}, expected text, a "
            "list of sections or a mapping from heading to text: flatten this paper's sections"
        )
    if isinstance(value, str):
        yield from _parts_of_string(value) if around is None else [_Part(around, [value])]
    elif isinstance(value, Mapping) and _is_section(value):
        yield from _parts_of_section(value, around, where, depth)
    elif isinstance(value, Mapping):
        yield from _parts_of_table(value, around, where, depth)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        yield from _parts_of_list(value, around, where, depth)
    else:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:40] + "..."
        raise UserError(
            f"{where}: found {shown} ({type(value).__name__}), expected text, a list of sections "
            "or a mapping from heading to text: correct or remove this part of the paper"
        )


def _parts_of_list(
    items: Sequence[Any], around: str | None, where: str, depth: int
) -> Iterator[_Part]:
    last = around
    for texts, group in groupby(enumerate(items), key=lambda item: isinstance(item[1], str)):
        if texts:  # neighbouring strings are the paragraphs, or the heading lines, of one text
            yield from _parts("\n\n".join(text for _, text in group), around, where, depth + 1)
            continue
        for position, item in group:
            # Below methods or results an unknown heading ("Patients") is a subsection. Behind
            # an abstract or an introduction it opens the body of a review: "other".
            inherits = last in ("methods", "results", "discussion", "conclusion", DROPPED)
            within = around or (last if inherits else None)
            for part in _parts(item, within, f"{where}[{position}]", depth + 1):
                last = part.section
                yield part


def _is_section(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is one section rather than a table from heading to text."""
    keys = {str(key).lower() for key in value}
    return keys <= _SECTION_KEYS and bool(keys & {*_TEXT_KEYS, *_CHILD_KEYS})


def _parts_of_section(
    value: Mapping[str, Any], around: str | None, where: str, depth: int
) -> Iterator[_Part]:
    fields = {str(key).lower(): item for key, item in value.items() if item is not None}
    heading = next((fields[key] for key in _HEADING_KEYS if fields.get(key)), "")
    if not isinstance(heading, str):
        raise UserError(
            f"{where}: the heading is {heading!r} ({type(heading).__name__}), expected text: "
            "correct the heading of this section"
        )
    heading = heading.strip()
    known = section_of_heading(heading[:1].upper() + heading[1:])
    # Within an abstract, and within what is dropped, every part stays what the whole is.
    section = around if around in ("abstract", DROPPED) else known or around
    if heading and known is None:
        section = section or "other"
        yield _Part(section, [_without_numbering(heading)])
    for key in (*_TEXT_KEYS, *_CHILD_KEYS):
        if key in fields:
            yield from _parts(fields[key], section, f"{where}.{key}", depth + 1)


def _parts_of_table(
    value: Mapping[str, Any], around: str | None, where: str, depth: int
) -> Iterator[_Part]:
    for key, item in value.items():
        heading = str(key).replace("_", " ").strip()
        place = f"{where}[{str(key)!r}]"
        if item is None:
            continue
        if str(key).lower() in _TABLE_KEYS_WITHOUT_HEADING:
            yield from _parts(item, around, place, depth + 1)
        else:
            section = {"heading": heading, "text": item}
            yield from _parts_of_section(section, around, place, depth + 1)


def _merge(parts: Iterable[_Part]) -> list[tuple[str, str]]:
    """Join neighbours of the same name, and leave out what is empty or dropped."""
    merged: list[_Part] = []
    for part in parts:
        if part.section in (DROPPED, _ABBREVIATIONS) or not any(map(str.strip, part.lines)):
            continue
        if merged and merged[-1].section == part.section:
            merged[-1].lines += ["", *part.lines]
        else:
            merged.append(_Part(part.section, list(part.lines)))
    return [(part.section, _joined(part.lines)) for part in merged]


def _joined(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip())


# Comparing ----------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _same_words(text: str, other: str) -> bool:
    """Whether nine tenths of the words of the longer text are in both."""
    words, other_words = Counter(_words(text)), Counter(_words(other))
    longer = max(words.total(), other_words.total())
    return longer > 0 and (words & other_words).total() >= 0.9 * longer
