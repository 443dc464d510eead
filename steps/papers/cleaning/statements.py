"""Statements about a paper that begin its text: "Funding: the Wellcome Trust. We asked ..."."""

import re

from steps.papers.cleaning.characters import LONGEST_WRAPPED_LINE
from steps.papers.headings import DROPPED, section_of_heading

RUN_IN_HEADING = re.compile(r"([A-Z][A-Za-z'’ -]{2,45}?)\s*[:.—–]\s*(?=\S)")
"""The heading of "Funding: the Wellcome Trust.", with the stop or dash behind it."""

_LONGEST_SENTENCE = 60  # words; what runs on longer has no stops to go by
_MOST_SENTENCES = 12
_SENTENCE_END = re.compile(
    r"(?:(?<=[^\s.][a-z0-9)\]’'\"][.!?])|(?<=[A-Z]{3}[.!?]))\s{1,9}(?=[\"“(\[]?[A-Z0-9])"
)
_ABBREVIATION = re.compile(
    r"\b(?:Inc|Ltd|Corp|Co|Univ|Dept|Natl|Inst|Found|Nos?|no|St|Dr|Drs|Mr|Mrs|Ms|Prof|Fig|Figs|vs"
    r"|cf|e\.g|i\.e|al)\.$"
)

# A sentence that goes on with the matter, and would stand in no abstract.
_GOES_ON = re.compile(
    r"\b(?:fund(?:ed|ing|ers?)|grants?|fellowships?|scholarships?|stipend|sponsor(?:s|ed)?"
    r"|acknowledge[sd]?|(?:we|authors?|to) thank|thanks to|grateful(?:ly)?"
    r"|financial(?:ly)? support(?:ed)?"
    r"|(?:competing|conflicts? of|financial) interests?|no (?:competing|conflicts?|role)"
    r"|wrote the|drafted the|read and approved|approved the final|consult(?:ant|ancy) fees?)\b",
    re.IGNORECASE,
)


# Entries of a reference list are no statement: there is no text behind them.
_FIRST_ENTRY = re.compile(r"\[?1[\].)]\s?[A-Z]")


def is_most_of(paragraph: str, text: str) -> bool:
    """Whether a paragraph holds at least half of a text, as no back matter does."""
    return 2 * len(paragraph) >= len(text.strip())


def without_statement(paragraph: str, heading_end: int) -> str:
    """Drop the statement with which a paragraph begins, and keep the text behind it.

    The first sentence goes, and those after it that go on about money, thanks or interests. A
    paragraph of a single sentence goes whole; one that has no stops to go by stays whole.

    Args:
        paragraph: It begins with the heading: "Funding: ...", "Competing interests. ...".
        heading_end: Where the statement begins, behind the heading.
    """
    start = 0
    for _ in range(_MOST_SENTENCES):
        end = _end_of_sentence(paragraph, max(start, heading_end))
        sentence = paragraph[start:end]
        if start and not _GOES_ON.search(sentence):
            break
        if len(sentence.split()) > _LONGEST_SENTENCE:
            break
        start = end
    return paragraph[start:]


def without_statement_over_text(text: str) -> str:
    """The text, of which one paragraph holds the most, without the statement that begins it.

    Headings that stand in a paragraph rule all of it. Where that would drop most of a text,
    only the statement goes.
    """
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        run_in = RUN_IN_HEADING.match(lines[position])
        if run_in is None or section_of_heading(run_in[1]) != DROPPED:
            position += 1
            continue
        end = _end_of_paragraph(lines, position)
        paragraph = "\n".join(lines[position:end])
        has_entries = _FIRST_ENTRY.match(paragraph, run_in.end()) is not None
        if is_most_of(paragraph, text) and not has_entries:
            kept = without_statement(paragraph, run_in.end())
            if kept == paragraph:  # no stops to go by: only the heading goes, which rules it all
                kept = paragraph[run_in.end() :]
            return "\n".join([*lines[:position], kept, *lines[end:]])
        position = end
    return text


def _end_of_paragraph(lines: list[str], start: int) -> int:
    """Number of the line behind the paragraph: after a blank line, or one not wrapped."""
    end = start
    while end < len(lines) and lines[end].strip():
        end += 1
        if len(lines[end - 1]) > LONGEST_WRAPPED_LINE:
            break
    return end


def _end_of_sentence(text: str, start: int) -> int:
    """Where the next sentence begins; the end of the text after the last one."""
    for end in _SENTENCE_END.finditer(text, start):
        if not _ABBREVIATION.search(text, max(start, end.start() - 12), end.start()):
            return end.end()
    return len(text)
