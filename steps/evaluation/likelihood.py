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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steps.errors import UserError
from steps.evaluation.byte_spans import tokens_and_bytes
from steps.evaluation.strata import byte_strata, section_bytes, spread_over_bytes
from steps.metrics import STRATA
from steps.models.adapters import is_wrapped_by_peft, unwrapped
from steps.models.attention import per_document_attention
from steps.models.heads import LogitHead, find_logit_head, output_head, scale_and_cap
from steps.models.layout import RowLayout, find_layout, packed_batch, padded_batch
from steps.models.lengths import longest_text
from steps.models.sharded import is_partitioned
from steps.models.tokenizer import start_token
from steps.papers.text import PaperText

if TYPE_CHECKING:
    import pandas as pd
    import torch


# Logits that exist at one time: positions by entries of the vocabulary. On a CPU a tile should
# stay in its caches; a GPU has to be kept busy. 512 by 65,536 in float32 are 134 MB.
_POSITIONS_AT_A_TIME = 512
_VOCABULARY_AT_A_TIME = {"cpu": 4_096}
_VOCABULARY_AT_A_TIME_ELSEWHERE = 65_536
Progress = Callable[[int, int], None]


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
    all_tokens = sum(window.end - window.begin for window in windows)
    done = 0
    # Not inference_mode: buffers made in it could not take part in training afterwards.
    with torch.no_grad(), _scorer(model, windows, sequences) as scorer:
        for batch in _batches(windows, batch_tokens, scorer.layout):
            scored = scorer.score(batch, sequences)
            position = 0
            for window in batch:
                count = window.end + 1 - window.first_target
                target = nats[window.sequence]
                target[window.first_target - 1 : window.end] = scored[position : position + count]
                position += count
                done += window.end - window.begin
            if progress is not None:
                progress(done, all_tokens)
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


@dataclass(frozen=True)
class _Scorer:
    """A model taken apart into what makes hidden states and what makes logits of them.

    Attributes:
        hidden_states: From a batch to `[rows, tokens, width]`; of a model that cannot be taken
            apart, the logits.
        head: Makes logits of them; None where they are logits.
        layout: How the model bears windows.
        pad_id: What rows are filled up with.
        device: Where the model is.
    """

    hidden_states: Callable[..., "torch.Tensor"]
    head: LogitHead | None
    layout: RowLayout
    pad_id: int
    device: "torch.device"

    def score(
        self, batch: Sequence[Window], sequences: Sequence[Sequence[int]]
    ) -> "npt.NDArray[np.float32]":
        """Nats of all targets of a batch of windows, one after the other."""
        import torch

        documents = [sequences[w.sequence][w.begin : w.end] for w in batch]
        longest = max(len(document) for document in documents)
        packed = self.layout.kind == "packed"
        scored: list[int] = []
        targets: list[int] = []
        before = 0
        for place, (window, document) in enumerate(zip(batch, documents, strict=True)):
            offset = (before if packed else place * longest) - window.begin
            scored.extend(range(offset + window.first_target - 1, offset + window.end))
            targets.extend(sequences[window.sequence][window.first_target : window.end + 1])
            before += len(document)
        rows = (
            packed_batch(documents, self.layout.first_position)
            if packed
            else padded_batch(documents, self.pad_id)
        )
        # The borders are read on the CPU.
        placed = {k: v if k == "cu_seq_lens_q" else v.to(self.device) for k, v in rows.items()}
        hidden = self.hidden_states(**placed).flatten(0, 1)
        hidden = hidden[torch.tensor(scored, device=hidden.device)]
        target = torch.tensor(targets, device=hidden.device)
        nats = [
            _nats_of_targets(
                self.head,
                hidden[start : start + _POSITIONS_AT_A_TIME],
                target[start : start + _POSITIONS_AT_A_TIME],
            )
            for start in range(0, len(targets), _POSITIONS_AT_A_TIME)
        ]
        return torch.cat(nats).cpu().numpy()


def _nats_of_targets(
    head: LogitHead | None, hidden: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """Negative log-likelihood of each target, in float32.

    The head is applied to one part of the vocabulary after the other; of each part only the log
    of the sum of its exponentials stays, and the logit of the targets within it.

    Args:
        head: Makes logits of hidden states; None where `hidden` is logits.
        hidden: `[positions, width]`.
        targets: int64 `[positions]`.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear

    if head is None:
        return cross_entropy(hidden.float(), targets, reduction="none")
    module = output_head(head.model)
    if is_partitioned(module):
        # Its weight comes together only while it is called.
        made = scale_and_cap(module(hidden).float(), head.scale, head.soft_cap)
        return cross_entropy(made, targets, reduction="none")
    weight, whole_bias = head.weight, head.bias
    size = _VOCABULARY_AT_A_TIME.get(hidden.device.type, _VOCABULARY_AT_A_TIME_ELSEWHERE)
    sums = []
    logit = torch.zeros(len(targets), device=hidden.device)
    for start in range(0, weight.shape[0], size):
        bias = None if whole_bias is None else whole_bias[start : start + size]
        part = linear(hidden, weight[start : start + size], bias).float()
        part = scale_and_cap(part, head.scale, head.soft_cap)
        sums.append(torch.logsumexp(part, dim=-1))
        inside = (targets >= start) & (targets < start + part.shape[1])
        place = (targets - start).clamp(0, part.shape[1] - 1)
        logit += part.gather(1, place[:, None])[:, 0].where(inside, 0.0)
    return torch.logsumexp(torch.stack(sums), dim=0) - logit


@contextmanager
def _scorer(
    model: Any, windows: Sequence[Window], sequences: Sequence[Sequence[int]]
) -> Iterator[_Scorer]:
    """Take a model apart for the time of a block, in evaluation mode."""
    wrapped = is_wrapped_by_peft(model)
    virtual_tokens = wrapped and model.active_peft_config.is_prompt_learning
    # LoRA and its like live inside the base model; virtual tokens live in the wrapper alone.
    inner = unwrapped(model)
    device = inner.get_input_embeddings().weight.device
    was_training = model.training
    model.eval()
    try:
        if virtual_tokens:
            yield _Scorer(_whole_logits(model), None, RowLayout("single"), 0, device)
            return
        # Any token will do: what is filled up is masked, and never scored.
        pad_id = sequences[0][0] if sequences else 0
        documents = [sequences[w.sequence][w.begin : w.end] for w in windows]
        layout = find_layout(inner, documents, pad_id) if documents else RowLayout("single")
        head = find_logit_head(inner)
        states = _whole_logits(model) if head is None else _head_input(inner, head)
        attention = per_document_attention(inner) if layout.kind == "packed" else nullcontext()
        with attention:
            yield _Scorer(states, head, layout, pad_id, device)
    finally:
        model.train(was_training)


def _head_input(model: Any, head: LogitHead) -> Callable[..., "torch.Tensor"]:
    def forward(**arguments: "torch.Tensor") -> "torch.Tensor":
        return head.hidden_states(model, use_cache=False, **arguments)

    return forward


def _whole_logits(model: Any) -> Callable[..., "torch.Tensor"]:
    def forward(input_ids: "torch.Tensor", **arguments: "torch.Tensor") -> "torch.Tensor":
        logits: torch.Tensor = model(input_ids=input_ids, use_cache=False, **arguments).logits
        # Virtual tokens in front have logits too.
        return logits[:, -input_ids.shape[1] :]

    return forward


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
