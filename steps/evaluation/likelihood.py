"""How likely a causal model finds each paper: nats and bytes, one row a paper.

    frame = score_papers(model, tokenizer, papers, context=2048, stride=1024, batch_tokens=8192)
    metrics = summarise(frame)          # steps.evaluation.summary

Every token is scored once, given BOS and what stands before it in the paper. A paper longer
than `context` is read in windows that advance by `stride`; what a window repeats from the
one before is context only, and the last window is moved back until it is full, so that with
`stride` = `context` the figures are those of lm-evaluation-harness' rolling log-likelihood.
Papers share a row of tokens where the model keeps them apart (see `steps.models.layout`), and
logits exist for a tile of positions by vocabulary at a time: all of them over a whole row
would need gigabytes, and writing them to memory takes longer than computing them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steps.distributed.sharing import Progress, share_out
from steps.errors import UserError
from steps.evaluation.byte_spans import tokens_and_bytes
from steps.evaluation.scorer import Scorer, open_scorer
from steps.evaluation.strata import byte_strata, section_bytes, spread_over_bytes
from steps.metrics import STRATA
from steps.models.layout import RowLayout
from steps.models.lengths import longest_text
from steps.models.tokenizer import start_token
from steps.papers.text import PaperText

if TYPE_CHECKING:
    import pandas as pd


def score_papers(
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText],
    *,
    context: int,
    stride: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Score papers with a causal language model.

    Args:
        model: A causal `PreTrainedModel`, or one wrapped by peft, on any device.
        tokenizer: Its fast tokenizer.
        papers: What to score.
        context: Tokens that a window holds, at most the model's own maximum.
        stride: Tokens by which the window advances in a longer paper, 1 to `context`.
        batch_tokens: Tokens of one forward pass. Changes speed and memory, no figure.
        progress: Called with tokens done and tokens in all, overlap included.

    Returns:
        One row a paper, in the order given: `paper_id`; `nats`, the negative log-likelihood
        of the text after BOS, without the closing EOS; `bytes` (UTF-8), `tokens`, `words`;
        `nats_S` and `bytes_S` for each S of gene, variant, number, rest, which sum to the
        whole; `nats_section_X` and `bytes_section_X` for each section X that occurs (the
        blank lines between sections belong to none); `score`, the paper's quality.

    Raises:
        UserError: If there is no paper, the tokenizer is unfit, or `context` or `stride`
            are out of range.
    """
    import pandas as pd

    if not papers:
        raise UserError(
            "there is no paper to score: expected at least 1; look at the split's manifest"
        )
    encoded = [tokens_and_bytes(tokenizer, paper.text) for paper in papers]
    start = start_token(tokenizer)
    token_nats = sequence_nats(
        model,
        [[start, *ids] for ids, _ in encoded],
        context=context,
        stride=stride,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    rows = [
        _paper_row(paper, lengths, nats)
        for paper, (_, lengths), nats in zip(papers, encoded, token_nats, strict=True)
    ]
    frame = pd.DataFrame(rows)
    sections = [column for column in frame.columns if "_section_" in column]
    frame[sections] = frame[sections].fillna(0)
    return frame.astype({column: "int64" for column in sections if column.startswith("bytes")})


@dataclass(frozen=True)
class TokenScore:
    """A token as a report shows it.

    Attributes:
        text: The characters it stands for ("" where it ends within a character).
        nats: Its negative log-likelihood.
        in_gene: Whether it holds a byte of a gene mention.
    """

    text: str
    nats: float
    in_gene: bool


def score_tokens(
    model: Any, tokenizer: Any, paper: PaperText, *, context: int, stride: int
) -> list[TokenScore]:
    """The surprise of each token of one paper, for a picture of what a model has learned.

    Args:
        model: As in `score_papers`.
        tokenizer: As in `score_papers`.
        paper: What to show.
        context: As in `score_papers`.
        stride: As in `score_papers`.

    Returns:
        The tokens in order; their texts joined are the paper's text.

    Raises:
        UserError: As `score_papers`.
    """
    ids, lengths = tokens_and_bytes(tokenizer, paper.text)
    sequence = [start_token(tokenizer), *ids]
    (nats,) = sequence_nats(model, [sequence], context=context, stride=stride, batch_tokens=context)
    in_gene = byte_strata(paper) == STRATA.index("gene")
    text = paper.text.encode()
    scores = []
    start, shown = 0, 0
    for end, token_nats in zip(np.cumsum(lengths).tolist(), nats.tolist(), strict=True):
        # Cut only where a character ends: 0b10xxxxxx bytes continue one.
        visible = start if end < len(text) and text[end] & 0xC0 == 0x80 else end
        visible = max(visible, shown) if visible == end else shown
        scores.append(
            TokenScore(text[shown:visible].decode(), token_nats, bool(in_gene[start:end].any()))
        )
        start, shown = end, visible
    return scores


def sequence_nats(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    context: int,
    stride: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> "list[npt.NDArray[np.float64]]":
    """Negative log-likelihood of every token but the first, given those before it.

    Args:
        model: As in `score_papers`.
        sequences: Token ids, each opening with the token that is given.
        context: As in `score_papers`.
        stride: As in `score_papers`.
        batch_tokens: As in `score_papers`.
        progress: As in `score_papers`.

    Returns:
        float64 `[len(sequence) - 1]` for each sequence, computed in float32.

    Raises:
        UserError: If `context` or `stride` are out of range.
    """
    import torch

    _check_window(model, context, stride)
    nats = [np.zeros(len(sequence) - 1) for sequence in sequences]
    windows = [
        window
        for place, sequence in enumerate(sequences)
        for window in scoring_windows(place, len(sequence), context, stride)
    ]
    # Not inference_mode: buffers made in it could not take part in training afterwards.
    documents = [sequences[w.sequence][w.begin : w.end] for w in windows]
    with torch.no_grad(), open_scorer(model, documents) as scorer:
        batches = list(_batches(windows, batch_tokens, scorer.layout))
        scored = share_out(
            batches,
            lambda batch: _score(scorer, batch, sequences),
            size=lambda batch: sum(window.end - window.begin for window in batch),
            progress=progress,
        )
    for batch, of_batch in zip(batches, scored, strict=True):
        position = 0
        for window in batch:
            count = window.end + 1 - window.first_target
            target = nats[window.sequence]
            target[window.first_target - 1 : window.end] = of_batch[position : position + count]
            position += count
    return nats


@dataclass(frozen=True)
class Window:
    """Tokens `begin:end` of a sequence are read; targets `first_target..end` are scored."""

    sequence: int
    begin: int
    end: int
    first_target: int


def scoring_windows(place: int, length: int, context: int, stride: int) -> Iterator[Window]:
    """The windows in which a sequence is read, so that each target is scored once.

    Args:
        place: Which of the sequences it is.
        length: Its tokens, the given first one included.
        context: Tokens that a window holds.
        stride: Tokens by which it advances.
    """
    # The last token is a target only, never an input.
    inputs = length - 1
    begin, first_target = 0, 1
    while first_target <= inputs:
        end = min(begin + context, inputs)
        # The last window may look back as far as the others do.
        yield Window(place, max(0, end - context), end, first_target)
        begin, first_target = begin + stride, end + 1


def _batches(
    windows: Sequence[Window], batch_tokens: int, layout: RowLayout
) -> Iterator[list[Window]]:
    """Fill batches in order; a window longer than a batch has one to itself."""
    batch: list[Window] = []
    tokens = longest = 0
    for window in windows:
        length = window.end - window.begin
        tokens, longest = tokens + length, max(longest, length)
        computed = tokens if layout.kind == "packed" else longest * (len(batch) + 1)
        if batch and (layout.kind == "single" or computed > batch_tokens):
            yield batch
            batch, tokens, longest = [], length, length
        batch.append(window)
    if batch:
        yield batch


def _score(
    scorer: Scorer, batch: Sequence[Window], sequences: Sequence[Sequence[int]]
) -> "npt.NDArray[np.float32]":
    """Nats of all targets of a batch of windows, one after the other."""
    documents = [sequences[w.sequence][w.begin : w.end] for w in batch]
    hidden, starts = scorer.read(documents)
    scored: list[int] = []
    targets: list[int] = []
    for window, start in zip(batch, starts, strict=True):
        offset = start - window.begin
        scored.extend(range(offset + window.first_target - 1, offset + window.end))
        targets.extend(sequences[window.sequence][window.first_target : window.end + 1])
    return scorer.nats(hidden, scored, targets)


def _check_window(model: Any, context: int, stride: int) -> None:
    longest = longest_text(model.config)
    if context < 1 or (longest is not None and context > longest):
        raise UserError(
            f"evaluation context of {context} tokens: expected 1 to {longest}, what the model "
            "was built for; lower evaluation.context"
        )
    if not 1 <= stride <= context:
        raise UserError(
            f"evaluation stride of {stride} tokens: expected 1 to the context of {context}, "
            "or tokens would go unscored; lower evaluation.stride"
        )


def _paper_row(
    paper: PaperText, lengths: "npt.NDArray[np.int64]", nats: "npt.NDArray[np.float64]"
) -> dict[str, Any]:
    """The row of one paper from the bytes and nats of its tokens."""
    strata = byte_strata(paper)
    byte_nats = spread_over_bytes(nats, lengths) if len(nats) else np.zeros(len(strata))
    row: dict[str, Any] = {
        "paper_id": paper.paper_id,
        "nats": float(nats.sum()),
        "bytes": len(strata),
        "tokens": len(lengths),
        "words": len(paper.text.split()),
        "score": paper.score,
    }
    for stratum, name in enumerate(STRATA):
        row[f"nats_{name}"] = float(byte_nats[strata == stratum].sum())
        row[f"bytes_{name}"] = int((strata == stratum).sum())
    for name, place in section_bytes(paper):
        key = f"section_{name}"
        row[f"nats_{key}"] = row.get(f"nats_{key}", 0.0) + float(byte_nats[place].sum())
        row[f"bytes_{key}"] = row.get(f"bytes_{key}", 0) + place.stop - place.start
    return row
