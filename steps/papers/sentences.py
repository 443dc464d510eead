"""Where the sentences of a paper stand."""

import re
from collections.abc import Iterator

from steps.papers.text import PaperText, Span

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(\[])")
# A fragment says too little; what has more words than this is no sentence but a table.
LEAST_WORDS, MOST_WORDS = 6, 80


def sentence_spans(paper: PaperText) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence in the text of a paper; none reaches over two sections."""
    for section in paper.sections:
        yield from sentences_of(paper.text, section)


def sentences_of(text: str, section: Span) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence of one section of a text."""
    start = section.start
    for gap in SENTENCE_END.finditer(text, section.start, section.end):
        yield start, gap.start()
        start = gap.end()
    yield start, section.end


def is_sentence(words: str) -> bool:
    """Whether a sentence has as many words as one has that says something."""
    return LEAST_WORDS <= len(words.split()) <= MOST_WORDS
