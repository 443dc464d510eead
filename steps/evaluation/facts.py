"""Fact cloze: does a model know what two papers state, however it is told?

    asked = fact_items(papers, train_papers, training.evaluation.facts, seed=0)
    scores = score_candidates_causal(model, tokenizer, [each.item for each in asked], ...)
    frame = facts_frame(asked, scores)
    per_paper = facts_per_paper(frame)

A fact is what `steps.evaluation.fact_mining` finds in at least two papers. An item is a sentence of
a held-out paper with one side of the fact left open. Distractors are of the same type, like the
answer in length and in frequency outside its own paper, and none stands in the paper or is put
together with the subject in any paper at hand. A model that has learned the register of papers
alone gains nothing here: all candidates are in it.

Facts are told apart: **seen** ones, which a paper of the training split states as well, so that
a gain shows what training has left; and **unseen** ones, which only held-out papers state, so that
a gain shows better guessing. Either may be of a paper published **after** a date, which the base
model cannot have read. Papers take turns, no fact has more than a few items, and seen and unseen
facts get half of the places each, as far as there are enough.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from steps.config.facts_section import FactKind, Facts
from steps.evaluation.cloze import (
    ClozeItem,
    choices_frame,
    count_genes,
    ranks_of,
    sums_of_papers,
    take_turns,
)
from steps.evaluation.distractors import (
    GeneName,
    changed_variants,
    is_symbol,
    nearest,
    similar_symbols,
)
from steps.evaluation.fact_mining import Fact, Statement, facts_of_two, same_variant, statements
from steps.evaluation.seeds import generator_for
from steps.papers.text import PaperText

if TYPE_CHECKING:
    import pandas as pd

TASK = "fact_cloze"
Stratum = Literal["seen", "unseen"]

# One fact of everybody would otherwise be the result.
MOST_ITEMS_OF_A_FACT = 4


@dataclass(frozen=True)
class FactItem:
    """A fact that is asked for.

    Attributes:
        item: The sentence with its gap and candidates.
        stated: What it states.
        stratum: "seen" if a paper of the training split states it too, else "unseen".
        after: Whether the paper is known to be published after `evaluation.facts.after`.
    """

    item: ClozeItem
    stated: Statement
    stratum: Stratum
    after: bool


def fact_items(
    papers: Sequence[PaperText], train_papers: Sequence[PaperText], settings: Facts, *, seed: int
) -> list[FactItem]:
    """Ask held-out papers for what another paper states too.

    Args:
        papers: Held-out papers.
        train_papers: The training split beside them.
        settings: Kinds, most items, and the date.
        seed: Seed of the choice, together with the papers' identifiers.
    """
    held_out = {paper.paper_id: list(statements(paper, settings.kinds)) for paper in papers}
    stated = [s for paper in train_papers for s in statements(paper, settings.kinds)]
    everywhere = [*stated, *(s for found in held_out.values() for s in found)]
    facts = facts_of_two(everywhere)
    learned = {statement.fact for statement in stated}
    offered = _Distractors([*train_papers, *papers], everywhere, seed)
    offers: dict[str, list[FactItem]] = {}
    for paper in papers:
        after = is_after(paper.published, settings.after)
        made: dict[Fact, FactItem] = {}
        for statement in held_out[paper.paper_id]:
            if statement.fact not in facts or statement.fact in made:
                continue
            if distractors := offered.of(statement, paper):
                made[statement.fact] = FactItem(
                    ClozeItem(
                        paper.paper_id,
                        statement.before,
                        statement.after,
                        statement.surface,
                        distractors,
                    ),
                    statement,
                    "seen" if statement.fact in learned else "unseen",
                    after,
                )
        offers[paper.paper_id] = list(made.values())
    return _chosen(take_turns(offers, None, seed, TASK), settings.items)


def _chosen(in_turn: Iterable[FactItem], most: int) -> list[FactItem]:
    """Few of each fact, and half of each stratum; what one lacks the other gets."""
    times: Counter[Fact] = Counter()
    by_stratum: dict[Stratum, list[FactItem]] = {"seen": [], "unseen": []}
    for each in in_turn:
        times[each.stated.fact] += 1
        if times[each.stated.fact] <= MOST_ITEMS_OF_A_FACT:
            by_stratum[each.stratum].append(each)
    seen, unseen = by_stratum["seen"], by_stratum["unseen"]
    of_seen = max(most - most // 2, most - len(unseen))
    return [*seen[:of_seen], *unseen[: most - min(of_seen, len(seen))]]


def is_after(published: str | None, date: str | None) -> bool:
    """Whether a paper is known to be later than a date.

    Args:
        published: YYYY, YYYY-MM or YYYY-MM-DD, or None. Of a paper of which only the year is
            known the first of January counts, so that none is taken for later than it may be.
        date: As `evaluation.facts.after`, inclusive: nothing in 2023 is after 2023.
    """
    if published is None or date is None:
        return False
    return published + "-01" * (2 - published.count("-")) > date + "-99" * (2 - date.count("-"))


# --- distractors ----------------------------------------------------------------------------


class _Distractors:
    """What may be offered beside an answer, from all papers at hand."""

    def __init__(
        self, papers: Sequence[PaperText], everywhere: Sequence[Statement], seed: int
    ) -> None:
        self.seed = seed
        self.genes = count_genes(papers)
        self.partners: dict[tuple[FactKind, str], set[str]] = defaultdict(set)
        # How a thing is written most often stands for it.
        writings: dict[tuple[FactKind, str], Counter[str]] = defaultdict(Counter)
        for statement in everywhere:
            self.partners[statement.kind, statement.subject].add(statement.object)
            writings[statement.kind, statement.object][statement.surface] += 1
        self.pool: dict[FactKind, dict[str, tuple[str, int]]] = defaultdict(dict)
        for (kind, thing), surfaces in writings.items():
            # What stands somewhere once is often no disease at all.
            for surface in surfaces if surfaces.total() > 1 else ():
                self.pool[kind][surface] = (thing, surfaces.total())

    def of(self, statement: Statement, paper: PaperText) -> tuple[str, ...]:
        """Nine for the answer of a statement, without what is right too; () where too few are."""
        if statement.kind == "gene_variant":
            right = self.partners["gene_variant", statement.subject] | {
                same_variant(paper.text[span.start : span.end]) for span in paper.variants
            }
            others = changed_variants(statement.surface, paper.text, self.seed)
            return tuple(other for other in others if same_variant(other) not in right)
        if statement.kind == "gene_gene":
            return self._genes(statement, paper)
        return self._words(statement, paper)

    def _genes(self, statement: Statement, paper: PaperText) -> tuple[str, ...]:
        if not is_symbol(statement.surface):
            return ()
        name = GeneName(statement.surface, statement.object)
        named = {gene.label for gene in paper.genes} | self.partners["gene_gene", statement.subject]
        here = count_genes([paper])[statement.species][name]
        return similar_symbols(name, here, self.genes[statement.species], named, self.seed)

    def _words(self, statement: Statement, paper: PaperText) -> tuple[str, ...]:
        """Other diseases, or other numbers with the same unit."""
        kind, answer = statement.kind, statement.surface
        right = self.partners[kind, statement.subject]
        text = paper.text.casefold()
        pool = self.pool[kind]
        chosen: dict[str, str] = {}
        for surface, (thing, _) in pool.items():
            if thing in right or surface.casefold() in text or not _may_stand(surface, statement):
                continue
            # One writing of each thing, the one that is most like the answer.
            if thing not in chosen or _unlike(answer, surface) < _unlike(answer, chosen[thing]):
                chosen[thing] = surface
        mentions = {surface: pool[surface][1] for surface in chosen.values()}
        frequency = math.log1p(max(0, pool[answer][1] - paper.text.count(answer)))
        generator = generator_for(self.seed, "distractors", kind, answer)
        return nearest(answer, frequency, mentions, generator, lambda word: _unlike(answer, word))


_UNIT = re.compile(r"[^\d.,].*")
_ARTICLE = re.compile(r"\b(an?) $")


def _may_stand(surface: str, statement: Statement) -> bool:
    """Whether nothing but knowledge rules a word out.

    A number needs the answer's unit, a disease the answer's article, and it must not be a wider or
    narrower name for the answer, which is right as well.
    """
    if statement.kind == "number":
        found, wanted = _UNIT.search(surface), _UNIT.search(statement.surface)
        return found is not None and wanted is not None and found[0] == wanted[0]
    words, answer = surface.casefold(), statement.surface.casefold()
    if words.rstrip("s") in answer or answer.rstrip("s") in words:
        return False
    article = _ARTICLE.search(statement.before)
    return article is None or _with_vowel(surface) == _with_vowel(statement.surface)


def _with_vowel(word: str) -> bool:
    return word[0].casefold() in "aeiou"


def _unlike(answer: str, word: str) -> int:
    """In how many respects words are of another make: count, first letter's case, ending."""
    return (
        (len(answer.split()) != len(word.split()))
        + (answer[0].isupper() != word[0].isupper())
        + (answer[-3:] != word[-3:])
    )


# --- results --------------------------------------------------------------------------------


def facts_frame(asked: Sequence[FactItem], scores: Sequence[Sequence[float]]) -> "pd.DataFrame":
    """One row an item, from which everything else can be counted again.

    Args:
        asked: The items.
        scores: Nats of the candidates of each, the answer first.

    Returns:
        As `steps.evaluation.cloze.choices_frame`, with `kind`, `stratum`, `after`, `subject` and
        `object` of the fact.
    """
    return choices_frame([each.item for each in asked], scores).assign(
        kind=[each.stated.kind for each in asked],
        stratum=[each.stratum for each in asked],
        after=[each.after for each in asked],
        subject=[each.stated.subject for each in asked],
        object=[each.stated.object for each in asked],
    )


def with_truths(frame: "pd.DataFrame", truths: Sequence[int]) -> "pd.DataFrame":
    """The same items with other candidates taken for the right ones.

    Args:
        frame: From `facts_frame`.
        truths: Place of the right candidate of each item.
    """
    turned = [
        [nats[truth], *(other for place, other in enumerate(nats) if place != truth)]
        for nats, truth in zip(frame["nats"], truths, strict=True)
    ]
    return frame.assign(truth=list(truths), rank=ranks_of(turned))


def facts_per_paper(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Sums over the items of each paper, of all and of each stratum.

    Args:
        frame: From `facts_frame`.

    Returns:
        As `steps.evaluation.cloze.cloze_frame`, for the tasks fact_cloze, fact_cloze_seen,
        fact_cloze_unseen and, where there are such papers, fact_cloze_after.
    """
    per_paper = _sums(frame, TASK)
    for name, inside in strata_of(frame):
        per_paper = per_paper.merge(_sums(frame[inside], f"{TASK}_{name}"), "left", on="paper_id")
    return per_paper.fillna(0)


def strata_of(frame: "pd.DataFrame") -> "Iterator[tuple[str, pd.Series]]":
    """Name of each stratum that has items, and which these are."""
    masks: Mapping[str, pd.Series] = {
        "seen": frame["stratum"] == "seen",
        "unseen": frame["stratum"] == "unseen",
        "after": frame["after"],
    }
    yield from ((name, inside) for name, inside in masks.items() if inside.any())


def _sums(frame: "pd.DataFrame", task: str) -> "pd.DataFrame":
    sizes = [len(candidates) for candidates in frame["candidates"]]
    return sums_of_papers(frame["paper_id"].tolist(), frame["rank"].tolist(), sizes, task)


def random_truths(frame: "pd.DataFrame", seed: int) -> list[int]:
    """For each item any of its candidates, the right one included: what a sealed check takes.

    Each candidate is as likely as another, so that whatever a model prefers is right by chance.
    """
    sizes = [len(candidates) for candidates in frame["candidates"]]
    return [int(place) for place in np.random.default_rng(seed).integers(sizes)]
