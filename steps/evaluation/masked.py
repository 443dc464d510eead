"""How well a masked model restores each paper: loss, accuracy, pseudo-likelihood.

    frame = score_papers_masked(model, tokenizer, papers, context=512, batch_tokens=8192,
                                pseudo_tokens=64)
    metrics = summarise(frame)          # steps.evaluation.summary

Two things are measured. `mlm_*`: 15 % of a paper's tokens are masked at once and restored
(Devlin et al. 2019, but always with the mask token: the random and kept tokens of training
would only add noise to a measurement). `pseudo_*`: some tokens are masked one at a time, and
the rest of the window is seen (pseudo-log-likelihood, Salazar et al. 2020, equation 1); one
forward pass a token, hence the cap. Which tokens are chosen follows from the paper's
identifier and the seed alone, so two models with one tokenizer answer the same questions.

Neither is a likelihood of the text: never compare them with a causal model's bits per byte.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steps.distributed.sharing import Progress, agreed, share_out
from steps.errors import UserError
from steps.evaluation.byte_spans import tokens_and_bytes
from steps.evaluation.seeds import generator_for
from steps.evaluation.strata import byte_strata, section_bytes
from steps.metrics import STRATA
from steps.models.adapters import unwrapped
from steps.models.layout import find_layout, padded_batch
from steps.models.lengths import longest_text
from steps.models.losses import head_sees_only
from steps.models.tokenizer import special_tokens, with_special_tokens
from steps.papers.text import PaperText

if TYPE_CHECKING:
    import pandas as pd
    import torch


MASKED_FRACTION = 0.15


@dataclass(frozen=True)
class MaskedRow:
    """A row of tokens in which some are to be restored.

    Attributes:
        tokens: Token ids with special tokens and masks in place.
        positions: Where in `tokens` the masks stand that are to be restored, ascending.
        targets: The original token of each of them.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


def score_papers_masked(
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText],
    *,
    context: int,
    batch_tokens: int,
    pseudo_tokens: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Score papers with a masked language model.

    Args:
        model: A masked `PreTrainedModel`, or one wrapped by peft, on any device.
        tokenizer: Its fast tokenizer.
        papers: What to score.
        context: Tokens of a row with its special tokens, at most the model's own maximum;
            a longer paper is cut into rows that do not overlap.
        batch_tokens: Tokens of one forward pass, padding included. Changes no figure.
        pseudo_tokens: Most tokens of a paper to mask one at a time; 0 leaves the
            `pseudo_*` columns out.
        seed: Seed of the choice of tokens, together with the paper's identifier.
        progress: Called with tokens done and tokens in all.

    Returns:
        One row a paper, in the order given: `paper_id`; `mlm_nats`, `mlm_targets`,
        `mlm_hits`, summed over its masked tokens; `pseudo_nats` and `pseudo_bytes`, summed
        over the tokens masked one at a time; each also with `_S` behind for each S of gene,
        variant, number, rest, and with `_section_X` for each section X that occurs (a token
        across an edge is shared out by bytes); `tokens`, `words`, `score`.

    Raises:
        UserError: If there is no paper, the tokenizer has no mask, or `context` is out of
            range.
    """
    import pandas as pd

    if not papers:
        raise UserError(
            "there is no paper to score: expected at least 1; look at the split's manifest"
        )
    _check_context(model, tokenizer, context)
    prepared = [_prepare(paper, tokenizer, context, pseudo_tokens, seed) for paper in papers]
    answers = restore(
        model,
        tokenizer,
        [row for paper in prepared for row in paper.rows],
        batch_tokens=batch_tokens,
        progress=progress,
    )
    rows, position = [], 0
    for paper in prepared:
        count = len(paper.rows)
        rows.append(_paper_row(paper, answers[position : position + count], pseudo_tokens > 0))
        position += count
    frame = pd.DataFrame(rows)
    sections = [column for column in frame.columns if "_section_" in column]
    frame[sections] = frame[sections].fillna(0)
    return frame


def restore(
    model: Any,
    tokenizer: Any,
    rows: Sequence[MaskedRow],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> "list[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]":
    """Let a masked model fill the masks of each row.

    Args:
        model: As in `score_papers_masked`.
        tokenizer: Gives the padding.
        rows: Rows in any order and of any length within the model's maximum.
        batch_tokens: As in `score_papers_masked`.
        progress: As in `score_papers_masked`.

    Returns:
        For each row, one element a position to restore: the negative log-likelihood of the
        original token, computed in float32, and whether it was the most probable one.
    """
    import torch

    answers: list[Any] = [None] * len(rows)
    with torch.no_grad(), _evaluated(model) as inner:
        layout = agreed(
            find_layout(
                inner, [row.tokens for row in rows], _padding(tokenizer), tokenizer.mask_token_id
            )
        )
        batches = list(_batches(rows, 1 if layout.kind == "single" else batch_tokens))
        restored = share_out(
            batches,
            lambda batch: _restore_batch(model, tokenizer, [rows[place] for place in batch]),
            size=lambda batch: sum(len(rows[place].tokens) for place in batch),
            progress=progress,
        )
    for batch, of_batch in zip(batches, restored, strict=True):
        for place, answer in zip(batch, of_batch, strict=True):
            answers[place] = answer
    return answers


def _restore_batch(
    model: Any, tokenizer: Any, rows: Sequence[MaskedRow]
) -> "list[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]":
    import torch
    from torch.nn.functional import cross_entropy

    logits = _logits_at(model, tokenizer, rows).float()
    targets = torch.tensor([t for row in rows for t in row.targets], device=logits.device)
    nats = cross_entropy(logits, targets, reduction="none").cpu().numpy().astype(np.float64)
    hits = (logits.argmax(-1) == targets).cpu().numpy()
    ends = np.cumsum([len(row.targets) for row in rows])[:-1]
    return list(zip(np.split(nats, ends), np.split(hits, ends), strict=True))


@dataclass(frozen=True)
class _PreparedPaper:
    """A paper as rows: first those of the mask, then those of single tokens."""

    paper: PaperText
    rows: list[MaskedRow]
    chosen: list[list[int]]
    mlm_rows: int
    lengths: "npt.NDArray[np.int64]"


def _prepare(
    paper: PaperText, tokenizer: Any, context: int, pseudo_tokens: int, seed: int
) -> _PreparedPaper:
    ids, lengths = tokens_and_bytes(tokenizer, paper.text)
    mask = tokenizer.mask_token_id
    before, after = special_tokens(tokenizer)
    chunk = context - len(before) - len(after)

    def row_of(start: int, masked: Sequence[int]) -> MaskedRow:
        tokens, offset = with_special_tokens(tokenizer, ids[start : start + chunk])
        positions = tuple(place - start + offset for place in masked)
        for position in positions:
            tokens[position] = mask
        return MaskedRow(tuple(tokens), positions, tuple(ids[place] for place in masked))

    # A token without bytes would be a question about nothing in the text.
    askable = np.flatnonzero(lengths)
    generator = generator_for(seed, "mlm", paper.paper_id)
    count = max(1, round(MASKED_FRACTION * len(askable)))
    masked = np.sort(generator.permutation(askable)[:count])
    rows, chosen = [], []
    for start in range(0, len(ids), chunk):
        here = [int(place) for place in masked if start <= place < start + chunk]
        if here:
            rows.append(row_of(start, here))
            chosen.append(here)
    mlm_rows = len(rows)

    generator = generator_for(seed, "pseudo", paper.paper_id)
    for place in np.sort(generator.permutation(askable)[:pseudo_tokens]).tolist():
        rows.append(row_of(place - place % chunk, [place]))
        chosen.append([place])
    return _PreparedPaper(paper, rows, chosen, mlm_rows, lengths)


def _paper_row(
    prepared: _PreparedPaper,
    answers: "Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]",
    pseudo: bool,
) -> dict[str, Any]:
    """The row of one paper from the answers to its rows."""
    paper, lengths = prepared.paper, prepared.lengths
    places = np.array([place for chosen in prepared.chosen for place in chosen], dtype=np.int64)
    nats = np.array([value for row_nats, _ in answers for value in row_nats])
    hits = np.array([value for _, row_hits in answers for value in row_hits], dtype=np.float64)
    masked_together = sum(len(chosen) for chosen in prepared.chosen[: prepared.mlm_rows])
    together = (np.arange(len(places)) < masked_together).astype(np.float64)

    row: dict[str, Any] = {
        "paper_id": paper.paper_id,
        "tokens": len(lengths),
        "words": len(paper.text.split()),
        "score": paper.score,
    }
    for suffix, inside in _parts(paper):
        share = _share_of_bytes(inside, lengths)[places]
        row[f"mlm_nats{suffix}"] = float(nats @ (share * together))
        row[f"mlm_targets{suffix}"] = float(np.sum(share * together))
        row[f"mlm_hits{suffix}"] = float(hits @ (share * together))
        if pseudo:
            row[f"pseudo_nats{suffix}"] = float(nats @ (share * (1 - together)))
            row[f"pseudo_bytes{suffix}"] = float(lengths[places] @ (share * (1 - together)))
    return row


def _parts(paper: PaperText) -> "Iterator[tuple[str, npt.NDArray[np.bool_]]]":
    """Suffix of the columns, and the bytes that belong: all, each stratum, each section."""
    strata = byte_strata(paper)
    yield "", np.ones(len(strata), dtype=np.bool_)
    for number, name in enumerate(STRATA):
        yield f"_{name}", strata == number
    sections: dict[str, npt.NDArray[np.bool_]] = {}
    for name, place in section_bytes(paper):
        # A paper may have two sections of one name.
        sections.setdefault(name, np.zeros(len(strata), dtype=np.bool_))[place] = True
    for name, inside in sections.items():
        yield f"_section_{name}", inside


def _share_of_bytes(
    inside: "npt.NDArray[np.bool_]", lengths: "npt.NDArray[np.int64]"
) -> "npt.NDArray[np.float64]":
    """For each token, the share of its bytes that lie inside; 0 for a token without bytes."""
    before = np.concatenate([np.zeros(1), np.cumsum(inside)])
    ends = np.cumsum(lengths)
    counts = before[ends] - before[ends - lengths]
    shares = np.zeros(len(lengths))
    np.divide(counts, lengths, out=shares, where=lengths > 0)
    return shares


def _batches(rows: Sequence[MaskedRow], batch_tokens: int) -> Iterator[list[int]]:
    """Places of rows, those of like length together, so that little is padded."""
    batch: list[int] = []
    longest = 0
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place].tokens)):
        longest = max(longest, len(rows[place].tokens))
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch, longest = [], len(rows[place].tokens)
        batch.append(place)
    if batch:
        yield batch


def _logits_at(model: Any, tokenizer: Any, rows: Sequence[MaskedRow]) -> "torch.Tensor":
    """Logits of the positions that rows ask for, one after the other: `[positions, words]`."""
    import torch

    inner = unwrapped(model)
    device = inner.get_input_embeddings().weight.device
    batch = padded_batch([row.tokens for row in rows], _padding(tokenizer))
    wanted = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        wanted[number, list(row.positions)] = True
    with head_sees_only(inner, wanted.flatten().to(device)):
        logits: torch.Tensor = model(**{key: x.to(device) for key, x in batch.items()}).logits
    return logits[0]


@contextmanager
def _evaluated(model: Any) -> Iterator[Any]:
    """The model inside any adapter, in evaluation mode for the time of a block."""
    was_training = model.training
    model.eval()
    try:
        yield unwrapped(model)
    finally:
        model.train(was_training)


def _padding(tokenizer: Any) -> int:
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _check_context(model: Any, tokenizer: Any, context: int) -> None:
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no mask token: expected that of a masked "
            "model; set training.model.objective to causal, or name a masked model"
        )
    longest = min(longest_text(model.config) or math.inf, tokenizer.model_max_length)
    shortest = 1 + sum(len(side) for side in special_tokens(tokenizer))
    if not shortest <= context <= longest:
        raise UserError(
            f"evaluation context of {context} tokens: expected {shortest} to {longest}, what the "
            "model was built for; change evaluation.context"
        )
