"""Exercises made of papers, without a teacher: each answer stands word for word in its paper.

    exercises = study_texts(train_papers, ("gene_cloze", "title"))
    exercises[0].question, exercises[0].answer, exercises[0].text

Reading comprehension in the sense of Cheng et al. 2023 (arXiv:2309.09530): what a paper says, asked
for in other words. What is asked, and in which wording, follows from a salted hash of the paper's
identifier, so that the same papers give the same exercises in any run and in any order.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from steps.config.sections import STUDY_KINDS, StudyKind
from steps.messages import Message
from steps.papers.abbreviations import abbreviations_in
from steps.papers.instructions import InstructionItem
from steps.papers.numbers import NUMBER_WITH_UNIT
from steps.papers.sentences import is_sentence, sentence_spans, sentences_of
from steps.papers.text import PaperText, Span

SALT = "study texts 1"
GAP = "____"
# Of each kind: a full text would give hundreds, and drown the short papers.
MOST_A_PAPER = 2
MOST_CONTEXT_WORDS = 300
PARTS_SHOWN = 4

# The wordings, by kind.
WORDINGS: dict[StudyKind, tuple[str, ...]] = {
    "gene_cloze": (
        "Which gene is missing in this sentence?",
        f"Name the gene that {GAP} stands for.",
        "One gene has been left out below. Which one?",
        "Complete the sentence with the right gene.",
    ),
    "variant_cloze": (
        "Which variant is missing in this sentence?",
        f"Name the variant that {GAP} stands for.",
        "One variant has been left out below. Which one?",
        "Complete the sentence with the right variant.",
    ),
    "title": (
        "What is the title of this study?",
        "Give the title of the paper with this abstract.",
        "Under which title was this published?",
        "Write the title that belongs to the text above.",
    ),
    "section_order": (
        "These parts of one paper are out of order. Which of them comes {place}?",
        "Which of the following parts stands {place} in the paper?",
        "The order of these passages has been mixed up. Find the {place} one.",
    ),
    "gene_finding": (
        "Which gene is this study about?",
        "Name the gene at the centre of this study.",
        "On which gene does the study report?",
    ),
    "variant_finding": (
        "Which variant does this study report?",
        "Name the variant that the study is about.",
        "On which variant does the study report?",
    ),
    "abbreviation": (
        "What does {short} stand for?",
        "Write {short} out in full.",
        "Expand the abbreviation {short}.",
        "For which words is {short} short here?",
    ),
    "keywords": (
        "List the keywords of this study.",
        "Which keywords describe this study?",
        "Give the keywords under which this study is filed.",
    ),
    "number": (
        "Which figure, with its unit, is missing?",
        f"Fill in {GAP} with the number and its unit.",
        "One measurement has been left out of this sentence. Give it with its unit.",
    ),
}


@dataclass(frozen=True)
class Exercise:
    """A question on a paper, with the answer that stands in it.

    Attributes:
        paper_id: The paper.
        kind: What is asked for.
        question: The question, with all that one needs to see of the paper.
        answer: Some words of the paper's text, as they stand there.
    """

    paper_id: str
    kind: StudyKind
    question: str
    answer: str

    @property
    def text(self) -> str:
        """Question and answer as one plain text."""
        return f"{self.question}{ANSWER_MARK}{self.answer}"


ANSWER_MARK = "\nAnswer: "


@dataclass(frozen=True)
class Candidate:
    """What an exercise can be made of.

    Attributes:
        answer: Some words of the paper.
        above: What is shown of the paper before the question; "" for nothing.
        below: What is shown after it.
        words: What its wording is filled in with.
    """

    answer: str
    above: str = ""
    below: str = ""
    words: tuple[tuple[str, str], ...] = ()


def study_texts(
    papers: Sequence[PaperText], kinds: Sequence[StudyKind] = STUDY_KINDS
) -> list[Exercise]:
    """Make exercises of papers.

    Args:
        papers: Papers with their gene and variant mentions, none of them held out.
        kinds: Which kinds.

    Returns:
        At most `MOST_A_PAPER` of each kind a paper, paper by paper.
    """
    return [exercise for paper in papers for kind in kinds for exercise in _of_kind(paper, kind)]


def as_paper_text(exercise: Exercise) -> PaperText:
    """An exercise as a text to train on; an answer that is a gene or variant is marked as one."""
    text = exercise.text
    answer = Span(len(text) - len(exercise.answer), len(text), exercise.answer)
    return PaperText(
        paper_id=f"{exercise.paper_id} {exercise.kind}",
        text=text,
        sections=(Span(0, len(text), "other"),),
        genes=(answer,) if exercise.kind.startswith("gene") else (),
        variants=(answer,) if exercise.kind.startswith("variant") else (),
    )


def as_item(exercise: Exercise) -> InstructionItem:
    """An exercise as a conversation, of which the answer is learned."""
    messages = (Message("user", exercise.question), Message("assistant", exercise.answer))
    name = _draw(exercise.paper_id, exercise.kind, exercise.question, exercise.answer)
    return InstructionItem(f"study-{name:016x}", exercise.paper_id, messages)


def _of_kind(paper: PaperText, kind: StudyKind) -> Iterator[Exercise]:
    found = {candidate.answer: candidate for candidate in CANDIDATES[kind](paper)}
    chosen = sorted(found.values(), key=lambda c: _draw(paper.paper_id, kind, c.answer))
    for candidate in chosen[:MOST_A_PAPER]:
        wordings = WORDINGS[kind]
        drawn = _draw("wording", paper.paper_id, kind, candidate.answer)
        wording = wordings[drawn % len(wordings)].format(**dict(candidate.words))
        shown = (candidate.above, wording, candidate.below)
        question = "\n".join(part for part in shown if part)
        yield Exercise(paper.paper_id, kind, question, candidate.answer)


def _draw(*names: str) -> int:
    """A number that the names alone decide."""
    digest = hashlib.sha256("\0".join((SALT, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


# --- parts of a paper ---------------------------------------------------------------------


def _section(paper: PaperText, name: str) -> Span | None:
    return next((section for section in paper.sections if section.label == name), None)


def _title(paper: PaperText) -> str:
    title = _section(paper, "title")
    return "" if title is None else paper.text[title.start : title.end]


def _abstract(paper: PaperText) -> str:
    """The abstract, or as many whole sentences from its beginning as fit into an exercise."""
    abstract = _section(paper, "abstract")
    if abstract is None:
        return ""
    end, words = abstract.start, 0
    for start, stop in sentences_of(paper.text, abstract):
        words += len(paper.text[start:stop].split())
        if words > MOST_CONTEXT_WORDS:
            break
        end = stop
    return paper.text[abstract.start : end]


# --- gaps in sentences ----------------------------------------------------------------------


def _gaps(paper: PaperText, spans: Sequence[Span]) -> Iterator[Candidate]:
    """Sentences with one of the spans left open, which stand in them once."""
    title = _section(paper, "title")
    for start, end in sentence_spans(paper):
        sentence = paper.text[start:end]
        if not is_sentence(sentence):
            continue
        for span in spans:
            if not start <= span.start < span.end <= end:
                continue
            answer = paper.text[span.start : span.end]
            if sentence.count(answer) != 1:
                continue
            below = paper.text[start : span.start] + GAP + paper.text[span.end : end]
            named = title is not None and (
                title.start == start or answer in paper.text[title.start : title.end]
            )
            # A title that names it would give it away.
            yield Candidate(answer, "" if named else _title(paper), below)


def _gene_gaps(paper: PaperText) -> Iterator[Candidate]:
    return _gaps(paper, paper.genes)


def _variant_gaps(paper: PaperText) -> Iterator[Candidate]:
    return _gaps(paper, _variants(paper))


def _variants(paper: PaperText) -> list[Span]:
    """The variants; a band of a chromosome is marked among them, and is none."""
    return [span for span in paper.variants if span.label != "cytoband"]


def _numbers(paper: PaperText) -> Iterator[Candidate]:
    named = [(span.start, span.end) for span in (*paper.genes, *paper.variants)]
    spans = [
        Span(found.start(), found.end(), "number")
        for found in NUMBER_WITH_UNIT.finditer(paper.text)
        if not any(start < found.end() and found.start() < end for start, end in named)
    ]
    return _gaps(paper, spans)


# --- what a paper is about --------------------------------------------------------------------


def _titles(paper: PaperText) -> Iterator[Candidate]:
    title, abstract = _title(paper), _abstract(paper)
    if title and abstract:
        yield Candidate(title, abstract)


def _main_genes(paper: PaperText) -> Iterator[Candidate]:
    return _main_mention(paper, paper.genes, [span.label for span in paper.genes])


def _main_variants(paper: PaperText) -> Iterator[Candidate]:
    # Their labels are kinds of variants.
    spans = _variants(paper)
    return _main_mention(paper, spans, [paper.text[span.start : span.end] for span in spans])


def _main_mention(
    paper: PaperText, spans: Sequence[Span], names: Sequence[str]
) -> Iterator[Candidate]:
    """What is named more often than anything else of its kind, as the abstract writes it."""
    abstract = _abstract(paper)
    ranked = Counter(names).most_common(2)
    if not abstract or not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return
    section = _section(paper, "abstract")
    assert section is not None
    for span, name in zip(spans, names, strict=True):
        inside = section.start <= span.start and span.end <= section.start + len(abstract)
        if name == ranked[0][0] and inside:
            yield Candidate(paper.text[span.start : span.end], abstract)
            return


_BODY = ("introduction", "methods", "results", "discussion", "conclusion")


def _orders(paper: PaperText) -> Iterator[Candidate]:
    """How the sections of a paper begin, or the sentences of its abstract, in another order."""
    openings = {}
    for section in paper.sections:
        if section.label in _BODY and section.label not in openings:
            start, end = next(sentences_of(paper.text, section))
            openings[section.label] = paper.text[start:end]
    parts = [part for part in openings.values() if is_sentence(part)]
    abstract = _section(paper, "abstract")
    if len(parts) < PARTS_SHOWN - 1 and abstract is not None:
        sentences = (paper.text[s:e] for s, e in sentences_of(paper.text, abstract))
        parts = [part for part in sentences if is_sentence(part)]
    parts = list(dict.fromkeys(parts))
    if len(parts) < PARTS_SHOWN - 1:
        return
    # The first, the last, and some between.
    count = min(PARTS_SHOWN, len(parts))
    shown = [parts[place * (len(parts) - 1) // (count - 1)] for place in range(count)]
    mixed = sorted(shown, key=lambda part: _draw("order", paper.paper_id, part))
    place = ("first", "last")[_draw("place", paper.paper_id) % 2]
    below = "\n".join(f"- {part}" for part in mixed)
    yield Candidate(shown[0 if place == "first" else -1], "", below, (("place", place),))


# --- abbreviations and keywords --------------------------------------------------------------


def _abbreviations(paper: PaperText) -> Iterator[Candidate]:
    title = _title(paper)
    for short, long in abbreviations_in(paper.text):
        above = "" if long.casefold() in title.casefold() else title
        yield Candidate(long, above, "", (("short", short),))


# As the cleaning writes them (`preparation.keywords_line`), and as they stand in texts.
_KEYWORDS = re.compile(r"\bKey ?words?: ?([^\n.;]{3,300}(?:;[^\n.]{1,300})?)", re.IGNORECASE)


def _keywords(paper: PaperText) -> Iterator[Candidate]:
    found = _KEYWORDS.search(paper.text)
    section = _section(paper, "keywords")
    if found is not None:
        yield Candidate(found[1].strip(), _title(paper) or _abstract(paper))
    elif section is not None:
        yield Candidate(paper.text[section.start : section.end].strip(), _title(paper))


CANDIDATES: dict[StudyKind, Callable[[PaperText], Iterator[Candidate]]] = {
    "gene_cloze": _gene_gaps,
    "variant_cloze": _variant_gaps,
    "title": _titles,
    "section_order": _orders,
    "gene_finding": _main_genes,
    "variant_finding": _main_variants,
    "abbreviation": _abbreviations,
    "keywords": _keywords,
    "number": _numbers,
}
