"""Cloze tests: does a model prefer the gene, or the variant, that the paper names?

    items = gene_cloze_items(papers, count_genes([*train_papers, *papers]), max_items=200)
    scores = score_candidates_causal(model, tokenizer, items, batch_tokens=8192)
    frame = cloze_frame(items, ranks_of(scores), "gene_cloze")

An item is a sentence of a held-out paper with one mention left open, its answer, and nine
distractors. For genes these are symbols of the same species for genes that the paper does not
name, as long as the answer and as frequent as it is outside its own paper, so that neither its
spelling nor its fame gives it away; for variants the answer with another residue, base or
position. Papers take turns, so that a long paper does not decide the result. Guessing gets one
in ten right (`TASK_chance`) and a mean reciprocal rank of 0.29 (`TASK_mrr_chance`).

A causal model ranks the candidates by the log-likelihood of the whole sentence. What stands
before the gap is common to all and cancels, but what follows must count: a symbol is only
right if the rest of the sentence fits it. The sum is not divided by tokens, as that would
favour symbols cut into many predictable pieces. A masked model ranks them by the
log-likelihood of the candidate's tokens, from left to right, each with those that follow
it within the candidate masked too (PLL-word-l2r, Kauf & Ivanova 2023): with them in view,
the rest of a rare symbol gives its beginning away.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from steps.distributed.sharing import Progress
from steps.evaluation.byte_spans import tokens_and_bytes
from steps.evaluation.candidates import candidate_nats
from steps.evaluation.distractors import GeneName, changed_variants, is_symbol, similar_symbols
from steps.evaluation.masked import MaskedRow, restore
from steps.evaluation.seeds import generator_for
from steps.models.tokenizer import start_token, with_special_tokens
from steps.papers.sentences import is_sentence, sentence_spans
from steps.papers.text import PaperText, Span

if TYPE_CHECKING:
    import pandas as pd

Offer = TypeVar("Offer")


@dataclass(frozen=True)
class ClozeItem:
    """A sentence with a gap, the answer, and what else is offered.

    Attributes:
        paper_id: The paper that the sentence is from.
        before: The sentence up to the gap.
        after: The sentence from the gap on.
        answer: What the paper says.
        distractors: Other fillings.
    """

    paper_id: str
    before: str
    after: str
    answer: str
    distractors: tuple[str, ...]

    @property
    def candidates(self) -> tuple[str, ...]:
        """The answer, then the distractors."""
        return (self.answer, *self.distractors)


def count_genes(papers: Iterable[PaperText]) -> dict[str, dict[GeneName, int]]:
    """How often each gene symbol is written in papers, by species.

    Args:
        papers: The training split and the held-out papers, whose symbols are candidates too.

    Returns:
        Species to name to number of mentions, spelt as in the text.
    """
    counts: dict[str, Counter[GeneName]] = defaultdict(Counter)
    for paper in papers:
        for gene in paper.genes:
            symbol = paper.text[gene.start : gene.end]
            if is_symbol(symbol):
                counts[gene.species][GeneName(symbol, gene.label)] += 1
    return {species: dict(found) for species, found in counts.items()}


def gene_cloze_items(
    papers: Sequence[PaperText],
    symbol_counts: Mapping[str, Mapping[GeneName, int]],
    *,
    max_items: int,
    seed: int = 0,
) -> list[ClozeItem]:
    """Make items out of sentences that name a gene once.

    Args:
        papers: Held-out papers.
        symbol_counts: Species to name to count, as `count_genes` returns it of the training
            split and these papers together. The answer's mentions in its own paper do not
            count: no distractor has any there.
        max_items: Most items in all.
        seed: Seed of the choice, together with the paper's identifier.

    Returns:
        Items, the papers taking turns. Fewer than `max_items` where the papers hold no
        more; none where a species has too few symbols to choose distractors from.
    """
    offers: dict[str, list[ClozeItem]] = {}
    for paper in papers:
        # Under whatever name: HER2 in the paper rules ERBB2 out.
        in_paper = {gene.label for gene in paper.genes}
        here = count_genes([paper])
        offers[paper.paper_id] = [
            ClozeItem(paper.paper_id, before, after, answer, distractors)
            for before, answer, after, gene in _sentences_with_one(paper, paper.genes)
            if is_symbol(answer)
            and (
                distractors := similar_symbols(
                    GeneName(answer, gene.label),
                    here[gene.species][GeneName(answer, gene.label)],
                    symbol_counts.get(gene.species, {}),
                    in_paper,
                    seed,
                )
            )
        ]
    return take_turns(offers, max_items, seed, "gene")


def variant_cloze_items(
    papers: Sequence[PaperText], *, max_items: int, seed: int = 0
) -> list[ClozeItem]:
    """Make items out of sentences that name a substitution once, such as V600E or c.76A>T.

    Distractors have another position (as many digits), another original residue or base, or
    another new one, in turn.

    Args:
        papers: Held-out papers.
        max_items: Most items in all.
        seed: Seed of the choice, together with the paper's identifier.

    Returns:
        Items, the papers taking turns; variants of other kinds make none.
    """
    offers: dict[str, list[ClozeItem]] = {}
    for paper in papers:
        offers[paper.paper_id] = [
            ClozeItem(paper.paper_id, before, after, answer, distractors)
            for before, answer, after, _ in _sentences_with_one(paper, paper.variants)
            if (distractors := changed_variants(answer, paper.text, seed))
        ]
    return take_turns(offers, max_items, seed, "variant")


def score_candidates_causal(
    model: Any,
    tokenizer: Any,
    items: Sequence[ClozeItem],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[list[float]]:
    """How unlikely a causal model finds the sentence of an item with each candidate in it.

    Args:
        model: As in `steps.evaluation.likelihood.score_papers`.
        tokenizer: As there.
        items: The items.
        batch_tokens: As there.
        progress: As there.

    Returns:
        For each item the nats (negative log-likelihood, less is likelier) of its candidates in
        their order, the answer first.
    """
    start = start_token(tokenizer)
    groups = [
        [
            [start, *tokens_and_bytes(tokenizer, item.before + candidate + item.after)[0]]
            for candidate in item.candidates
        ]
        for item in items
    ]
    return candidate_nats(model, groups, batch_tokens=batch_tokens, progress=progress)


def score_candidates_masked(
    model: Any,
    tokenizer: Any,
    items: Sequence[ClozeItem],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[list[float]]:
    """How unlikely a masked model finds the tokens of each candidate in the sentence of an item.

    Args:
        model: As in `steps.evaluation.masked.score_papers_masked`.
        tokenizer: As there.
        items: The items.
        batch_tokens: As there.
        progress: As there.

    Returns:
        As `score_candidates_causal`.
    """
    rows: list[MaskedRow] = []
    candidate_of_row: list[int] = []
    candidates = 0
    for item in items:
        for candidate in item.candidates:
            for row in _rows_of_candidate(tokenizer, item, candidate):
                rows.append(row)
                candidate_of_row.append(candidates)
            candidates += 1
    nats = np.zeros(candidates)
    answers = restore(model, tokenizer, rows, batch_tokens=batch_tokens, progress=progress)
    for candidate_number, (row_nats, _) in zip(candidate_of_row, answers, strict=True):
        nats[candidate_number] += float(row_nats[0])
    return _by_item(items, nats.tolist())


def ranks_of(scores: Iterable[Sequence[float]]) -> list[int]:
    """Rank of each answer among its candidates.

    Args:
        scores: Nats of the answer and of the distractors of each item.

    Returns:
        One rank an item, 1 for the best; a distractor that is just as likely stands before
        the answer, so that a model without opinion gets none right.
    """
    return [1 + sum(other <= answer for other in others) for answer, *others in scores]


def cloze_frame(items: Sequence[ClozeItem], ranks: Sequence[int], task: str) -> "pd.DataFrame":
    """Sums over the items of each paper, for `steps.evaluation.summary`.

    Args:
        items: The items.
        ranks: The rank of each answer.
        task: "gene_cloze" or "variant_cloze", the first part of the column names.

    Returns:
        One row a paper that has an item: `paper_id`, `TASK_items`, `TASK_hits` (rank 1),
        `TASK_reciprocal_rank`, and what is to be expected of the last two from guessing:
        `TASK_chance_sum` and `TASK_chance_reciprocal_rank`.
    """
    sizes = [len(item.candidates) for item in items]
    return sums_of_papers([item.paper_id for item in items], ranks, sizes, task)


def choices_frame(items: Sequence[ClozeItem], scores: Sequence[Sequence[float]]) -> "pd.DataFrame":
    """One row an item, from which everything else can be counted again.

    Args:
        items: The items.
        scores: Nats of the candidates of each, the answer first.

    Returns:
        `paper_id`; `candidates` as they are written, `nats` of each (negative log-likelihood),
        `truth`, the place of the right one among them, and its `rank`, 1 for the best.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "paper_id": [item.paper_id for item in items],
            "candidates": [list(item.candidates) for item in items],
            "nats": [list(nats) for nats in scores],
            "truth": 0,
            "rank": ranks_of(scores),
        }
    )


def sums_of_papers(
    paper_ids: Sequence[str], ranks: Sequence[int], sizes: Sequence[int], task: str
) -> "pd.DataFrame":
    """What `cloze_frame` returns, for items of which only the results are known.

    Args:
        paper_ids: The paper of each item.
        ranks: The rank of its answer.
        sizes: Its number of candidates.
        task: The first part of the column names.
    """
    import pandas as pd

    rows = pd.DataFrame(
        {
            "paper_id": paper_ids,
            f"{task}_items": 1,
            f"{task}_hits": [int(rank == 1) for rank in ranks],
            f"{task}_reciprocal_rank": [1 / rank for rank in ranks],
            f"{task}_chance_sum": [1 / size for size in sizes],
            f"{task}_chance_reciprocal_rank": [
                sum(1 / rank for rank in range(1, size + 1)) / size for size in sizes
            ],
        }
    )
    return rows.groupby("paper_id", sort=False, as_index=False).sum()


# --- choosing sentences -------------------------------------------------------------------


def _sentences_with_one(
    paper: PaperText, mentions: Sequence[Span]
) -> Iterator[tuple[str, str, str, Span]]:
    """Text before a mention, the mention, text after it: for mentions alone in a sentence.

    A symbol that comes twice would only have to be copied.
    """
    for start, end in sentence_spans(paper):
        sentence = paper.text[start:end]
        if not is_sentence(sentence):
            continue
        for mention in mentions:
            if not start <= mention.start < mention.end <= end:
                continue
            answer = paper.text[mention.start : mention.end]
            if sentence.count(answer) == 1:
                before, after = paper.text[start : mention.start], paper.text[mention.end : end]
                yield before, answer, after, mention


def take_turns(
    offers: Mapping[str, list[Offer]], max_items: int | None, seed: int, task: str
) -> list[Offer]:
    """One item of each paper, then a second one of each, until there are enough.

    Args:
        offers: The items of each paper.
        max_items: How many are enough; None takes all.
        seed: Seed of the order, together with the task and the papers' identifiers.
        task: What the items are for.
    """
    shuffled = []
    for paper_id, items in offers.items():
        generator = generator_for(seed, task, paper_id)
        order = generator.permutation(len(items))
        # The draw also settles which papers go first, whatever their order was.
        shuffled.append((generator.random(), paper_id, [items[place] for place in order]))
    shuffled.sort(key=lambda offer: offer[:2])
    rounds = max((len(items) for _, _, items in shuffled), default=0)
    in_turn = [
        items[number] for number in range(rounds) for _, _, items in shuffled if number < len(items)
    ]
    return in_turn[:max_items]


# --- scoring ------------------------------------------------------------------------------


def _rows_of_candidate(tokenizer: Any, item: ClozeItem, candidate: str) -> Iterator[MaskedRow]:
    """One row for each token of the candidate: it and those after it masked."""
    ids, lengths = tokens_and_bytes(tokenizer, item.before + candidate + item.after)
    ends = np.cumsum(lengths)
    start = len(item.before.encode())
    end = start + len(candidate.encode())
    own = np.flatnonzero((ends > start) & (ends - lengths < end)).tolist()
    tokens, offset = with_special_tokens(tokenizer, ids)
    for place in own:
        masked = list(tokens)
        for hidden in own:
            if hidden >= place:
                masked[hidden + offset] = tokenizer.mask_token_id
        yield MaskedRow(tuple(masked), (place + offset,), (ids[place],))


def _by_item(items: Sequence[ClozeItem], nats: Sequence[float]) -> list[list[float]]:
    """Nats of candidates one after the other, divided among their items."""
    rest = iter(nats)
    return [list(itertools.islice(rest, len(item.candidates))) for item in items]
