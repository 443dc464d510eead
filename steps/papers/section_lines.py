"""One text into parts, by the headings that stand on lines of their own."""

import re
from dataclasses import dataclass

from steps.papers.cleaning.statements import RUN_IN_HEADING, without_statement_over_text
from steps.papers.headings import (
    DROPPED,
    NUMBERING,
    lookup,
    plain_heading,
    section_of_heading,
    without_heading_marks,
)

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
ABBREVIATIONS = "abbreviations"  # dropped too, but only as far as the list goes
_SENTENCE_END = re.compile(r"[.!?]\s+[A-Z]")


@dataclass
class Part:
    """Lines gathered under one heading."""

    section: str
    lines: list[str]


def parts_of_string(text: str) -> list[Part]:
    """The parts of a text, in their order; what stands before any heading is "other"."""
    text = without_heading_marks("\n".join(text.splitlines()))
    text = without_statement_over_text(text)
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
        self.parts = [Part("other", [])]
        self.structured_abstract = structured_abstract
        # Rank of the last label of a structured abstract; -1 right under "Abstract".
        self.abstract_rank: int | None = None
        # Number of the last numbered section, to know its subsections and its successor.
        self.last_number = 0
        self.has_introduction = False
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
            if self._part.section == ABBREVIATIONS and _is_prose(line):
                self._open("other")  # a review that goes on under no heading we know
            if self.abstract_rank == -1:
                self.abstract_rank = None  # text right under "Abstract": no labels follow
            is_subsection = heading is not None and _number_of(line)[0] == self.last_number > 0
            self._part.lines.append(without_numbering(line) if is_subsection else line)

    @property
    def _part(self) -> Part:
        return self.parts[-1]

    def _open(self, section: str) -> None:
        self.parts.append(Part(section, []))
        self.has_introduction = self.has_introduction or section == "introduction"
        self.after_paragraph = None

    def _end_paragraph(self) -> None:
        # The last line tells: a part that waits for its paragraph's end is left at the first blank.
        if self.after_paragraph is not None and any(self._part.lines[-1:]):
            self._open(self.after_paragraph)

    def _take_heading(self, line: str, heading: str) -> bool:
        """Open what the heading opens; False where the line is text after all."""
        if self._take_abstract_label(heading):
            return True
        number, depth = _number_of(line)
        section = lookup(heading)
        if heading == "summary" and self.has_introduction:
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
            self._open(ABBREVIATIONS if listing else section)
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
        run_in = RUN_IN_HEADING.match(line)
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


def without_numbering(line: str) -> str:
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
