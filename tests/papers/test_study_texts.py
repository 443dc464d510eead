"""Exercises: each answer stands word for word in its paper, and the papers alone decide them."""

import random
from collections import Counter

import pytest

from steps.config.sections import STUDY_KINDS, StudyKind
from steps.papers.study_texts import (
    CANDIDATES,
    GAP,
    MOST_A_PAPER,
    WORDINGS,
    Exercise,
    as_item,
    as_paper_text,
    study_texts,
)
from steps.papers.text import PaperText, Span
from tests.support.example_papers import paper_of

ABSTRACT = (
    "We ran a genome-wide association study (GWAS) of TP53 in many tumours. "
    "Mutation of BRCA1 was seen in naive cells of five patients. "
    "The variant p.Val600Glu raises alpha catenin by 3.5 μM in all tumours. "
    "We sequenced 1,204 genomes in 12 weeks and found no change in PTEN. "
    "Loss of TP53 drives growth in 42% of all tumours."
)
PAPER = paper_of(
    "p1",
    ("title", "How tumours of mice and men grow"),
    ("abstract", ABSTRACT),
    ("keywords", "Keywords: tumour, exome. Benchmarks: none."),
)
FULL_TEXT = paper_of(
    "p2",
    ("title", "A study of EGFR"),
    ("introduction", "Little has been known of what EGFR does. More is known now."),
    ("methods", "Cells were kept at 37 °C for 3 days in the dark. Then they died."),
    ("results", "All of the cells had lost their EGFR and KRAS by then. So it is."),
    ("discussion", "What remains to be seen is whether mice do as well. We hope so."),
)


def of_kind(kind: StudyKind, *papers: PaperText) -> list[Exercise]:
    return study_texts(papers or (PAPER,), (kind,))


@pytest.mark.parametrize("kind", STUDY_KINDS)
def test_each_kind_is_made_of_a_paper_with_its_answer_word_for_word(kind: StudyKind) -> None:
    found = of_kind(kind)
    assert 1 <= len(found) <= MOST_A_PAPER
    for exercise in found:
        assert (exercise.kind, exercise.paper_id) == (kind, "p1")
        assert exercise.answer and exercise.answer in PAPER.text
        assert exercise.text.endswith(f"\nAnswer: {exercise.answer}")


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("gene_cloze", {"TP53", "BRCA1", "PTEN"}),
        ("variant_cloze", {"p.Val600Glu"}),
        ("title", {"How tumours of mice and men grow"}),
        ("gene_finding", {"TP53"}),
        ("variant_finding", {"p.Val600Glu"}),
        ("abbreviation", {"genome-wide association study"}),
        ("keywords", {"tumour, exome"}),
        ("number", {"3.5 μM", "12 weeks", "42%"}),
    ],
)
def test_the_answers_are_what_the_paper_says(kind: StudyKind, answers: set[str]) -> None:
    found = {candidate.answer for candidate in CANDIDATES[kind](PAPER)}
    assert found == answers
    assert {exercise.answer for exercise in of_kind(kind)} <= answers


@pytest.mark.parametrize("kind", ["gene_cloze", "variant_cloze", "number"])
def test_a_gap_is_shown_and_its_answer_is_not(kind: StudyKind) -> None:
    named = paper_of(
        "p3", ("title", "Loss of TP53 by p.Val600Glu in 42% of cases"), ("abstract", ABSTRACT)
    )
    for exercise in of_kind(kind, PAPER, named):
        assert GAP in exercise.question
        assert exercise.answer not in exercise.question.replace(GAP, "")


def test_parts_out_of_order_are_the_beginnings_of_sections_else_sentences() -> None:
    for paper, ends in (
        (FULL_TEXT, ("Little has been known of what EGFR does.", "What remains to be seen")),
        (PAPER, ("We ran a genome-wide", "Loss of TP53 drives")),
    ):
        (exercise,) = of_kind("section_order", paper)
        place = "first" in exercise.question.partition("\n- ")[0]
        assert exercise.answer.startswith(ends[0 if place else 1])
        shown = exercise.question.split("\n- ")[1:]
        assert len(shown) == 4 and exercise.answer in shown
    assert of_kind("section_order", paper_of("p4", ("abstract", ABSTRACT[:140]))) == []


def test_what_is_named_no_more_than_another_is_not_what_a_study_is_about() -> None:
    tied = paper_of("p5", ("title", "Of both"), ("abstract", "Loss of MYC and of CDK4 is bad."))
    assert of_kind("gene_finding", tied) == []


def test_what_a_sentence_names_twice_would_only_have_to_be_copied() -> None:
    twice = "Loss of MYC and of targets of MYC was seen in all of the cells."
    assert of_kind("gene_cloze", paper_of("p9", ("abstract", twice))) == []


def test_a_band_of_a_chromosome_is_no_variant() -> None:
    text = "Loss of 5q31.1 was seen in most of the cells of mice."
    band = Span(text.index("5q"), text.index(" was"), "cytoband")
    paper = PaperText("p8", text, (Span(0, len(text), "abstract"),), variants=(band,))
    assert of_kind("variant_cloze", paper) == of_kind("variant_finding", paper) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "The locus chr7:140453136 and IL-6 rose in c.76 of all those cells.",
        "There were 12 of them in groups of 300 each on that day.",
        "All of it lay within some 1, 000 kb or 1 000 kb of that locus.",
    ],
)
def test_a_number_without_a_unit_is_not_asked_for(sentence: str) -> None:
    assert of_kind("number", paper_of("p6", ("abstract", sentence))) == []


def many() -> list[PaperText]:
    rng = random.Random(0)
    sentences = ABSTRACT.split(". ")
    made = []
    for number in range(60):
        rng.shuffle(sentences)
        title = f"How {number} tumours of mice and men grow"
        made.append(paper_of(f"q{number}", ("title", title), ("abstract", ". ".join(sentences))))
    return made


def test_the_exercises_of_a_paper_depend_on_nothing_else() -> None:
    papers = many()
    whole = study_texts(papers)
    assert whole == study_texts(papers)
    alone = [exercise for paper in reversed(papers) for exercise in study_texts([paper])]
    assert Counter(alone) == Counter(whole)


def test_only_the_given_papers_are_asked_about() -> None:
    papers = many()
    train, held_out = papers[:40], papers[40:]
    made = study_texts(train)
    assert {exercise.paper_id for exercise in made} == {paper.paper_id for paper in train}
    titles = [paper.text.partition("\n")[0] for paper in held_out]
    assert not any(title in exercise.text for title in titles for exercise in made)


def test_the_wordings_take_turns() -> None:
    made = study_texts(many(), ("gene_cloze",))
    used = Counter(next(w for w in WORDINGS["gene_cloze"] if w in e.question) for e in made)
    assert len(used) == len(WORDINGS["gene_cloze"])
    assert max(used.values()) < len(made) / 2


def test_an_exercise_is_a_text_whose_gene_or_variant_is_marked() -> None:
    for kind in STUDY_KINDS:
        for exercise in of_kind(kind):
            paper = as_paper_text(exercise)
            assert paper.text == exercise.text
            marked = [paper.text[s.start : s.end] for s in (*paper.genes, *paper.variants)]
            entity = kind.startswith(("gene", "variant"))
            assert marked == ([exercise.answer] if entity else [])


def test_an_exercise_is_a_conversation_of_its_paper() -> None:
    exercises = study_texts([PAPER])
    items = [as_item(exercise) for exercise in exercises]
    for exercise, item in zip(exercises, items, strict=True):
        assert [(turn.role, turn.content) for turn in item.messages] == [
            ("user", exercise.question),
            ("assistant", exercise.answer),
        ]
        assert item.paper_id == exercise.paper_id
    assert len({item.item_id for item in items}) == len(items)


def test_a_paper_with_nothing_to_ask_for_makes_none() -> None:
    assert study_texts([paper_of("p7", ("abstract", "Nothing."))]) == []
