"""How documents are laid out for a forward pass, so that none changes another: found by trying.

The rule: a document gets the same scores alone, in any batch, and after any other. Three layouts
keep it, the fastest first:

    packed   several documents end to end in one row (see `steps.models.attention`)
    padded   one document a row, filled up to the longest
    single   one document a forward pass

Which of them a model bears is no matter of its name: attention may take no borders (Gemma 2 caps
its scores, MPT biases them by distance), a state space carries on past a border (Mamba, LFM2), a
convolution or a Fourier transform reads padding as text (ConvBERT, FNet), ESM scales by the masks
in a row, and long RoPE counts the longest document of a batch. So a long and a short document are
given to the model, alone and together.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steps.errors import UserError, first_line
from steps.models.attention import (
    document_borders,
    per_document_attention,
    rounding_tolerance,
    why_not_packed,
)
from steps.models.branches import Branched, branched_batch
from steps.models.loading import objective_of

LayoutKind = Literal["packed", "padded", "single"]
# Token ids of one document.
Document = Sequence[int] | npt.NDArray[np.integer]

# Short enough for a convolution's reach to show, long enough to hold several words.
_SHORT_DOCUMENT = 24
_FOUND = "_forge_layouts"
_FOUND_OF_BRANCHES = "_forge_branches"
# What a model raises that does not take the arguments of a layout.
_REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError, IndexError)


@dataclass(frozen=True)
class RowLayout:
    """A layout that a model bears.

    Attributes:
        kind: "packed", "padded" or "single".
        first_position: The position id of a packed document's first token. BERT counts from 0,
            RoBERTa from one past its padding id.
        reason: Why documents are not packed; "" where they are.
        timed: Tokens and seconds of one forward pass over a short and over a long document, where
            documents are read one by one.
    """

    kind: LayoutKind
    first_position: int = 0
    reason: str = ""
    timed: tuple[tuple[int, float], tuple[int, float]] | None = None

    def slower_one_by_one(self, lengths: Sequence[int]) -> float:
        """By which share documents take longer one by one than in rows as long as the longest.

        Between the two that were timed, the seconds of a document lie on a straight line.

        Args:
            lengths: Tokens of each document.
        """
        if self.timed is None:
            return 0.0
        (fewer, short), (more, long) = self.timed
        slope = (long - short) / max(more - fewer, 1)
        one_by_one = sum(max(short + slope * (length - fewer), 0.0) for length in lengths)
        in_rows = sum(lengths) * long / more
        return max(one_by_one / in_rows - 1, 0.0)


def find_layout(
    model: Any, documents: Sequence[Document], pad_id: int, mask_id: int | None = None
) -> RowLayout:
    """The fastest layout under which a model reads each document as if it were alone.

    The attention implementation and the training mode stay as they were. What was found for
    documents of a length holds for all shorter ones, and is remembered with the model.

    Args:
        model: A `PreTrainedModel` on any device, not wrapped by peft; under ZeRO-3 all ranks call.
        documents: Token ids of the documents to come; the longest and the shortest are tried.
        pad_id: What padded rows are filled up with.
        mask_id: The mask token of a masked model: the trial holds some.

    Raises:
        UserError: The model cannot read a document alone, or reads it in another way once it has
            read another.
    """
    longest = np.array(max(documents, key=len))
    known: dict[int, RowLayout] = vars(model).setdefault(_FOUND, {})
    for length, layout in known.items():
        if len(longest) <= length:
            return layout
    shortest = np.array(min(documents, key=len)[:_SHORT_DOCUMENT])
    if mask_id is not None:
        # Many more than the long one has.
        shortest[1:-1:2] = mask_id
    trial = _Trial(model, longest, shortest, pad_id)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            layout = trial.run()
    finally:
        model.train(was_training)
    known[len(longest)] = layout
    return layout


def bears_branches(model: Any, group: Branched, first_position: int) -> bool:
    """Whether a model reads texts that begin alike in one row as it reads each alone.

    What was found for a text of a length holds for all shorter ones, and is remembered with the
    model.

    Args:
        model: A causal `PreTrainedModel` that bears packed rows, under `per_document_attention`.
        group: What is tried: its longest branch and its shortest, beside the others.
        first_position: See `RowLayout`.
    """
    longest = len(group.prefix) + max(map(len, group.branches))
    known: dict[int, bool] = vars(model).setdefault(_FOUND_OF_BRANCHES, {})
    for length, found in known.items():
        if longest <= length:
            return found
    try:
        with torch.no_grad():
            known[longest] = _reads_branches(model, group, first_position)
    except _REFUSALS:
        known[longest] = False
    return known[longest]


def _reads_branches(model: Any, group: Branched, first_position: int) -> bool:
    device = model.get_input_embeddings().weight.device
    batch = branched_batch([group], first_position, device)
    row = model.base_model(**batch, use_cache=False)[0][0]
    ordered = sorted(range(len(group.branches)), key=lambda n: len(group.branches[n]))
    for number in (ordered[0], ordered[-1]):
        branch = group.branches[number]
        start = len(group.prefix) + sum(len(one) for one in group.branches[:number])
        together = torch.cat([row[: len(group.prefix)], row[start : start + len(branch)]])
        text = torch.tensor([[*group.prefix, *branch]], device=device)
        alone = model.base_model(input_ids=text, use_cache=False)[0][0]
        if not _alike(model, together, alone):
            return False
    return True


def padded_batch(documents: Sequence[Document], pad_id: int) -> dict[str, Tensor]:
    """Documents as rows of one length.

    Args:
        documents: Token ids.
        pad_id: What fills them up, on the right.

    Returns:
        `input_ids` and `attention_mask`, int64 `[documents, longest]`; of a single document
        the `input_ids` alone, as nothing is padded.
    """
    if len(documents) == 1:
        return {"input_ids": end_to_end(documents)}
    real = [np.ones(len(document), dtype=np.int64) for document in documents]
    return {"input_ids": filled_up(documents, pad_id), "attention_mask": filled_up(real, 0)}


def filled_up(rows: Sequence[Document], filling: int) -> Tensor:
    """Rows of numbers as int64 `[rows, longest]`, filled up on the right."""
    filled = np.full((len(rows), max(len(row) for row in rows)), filling, dtype=np.int64)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return torch.from_numpy(filled)


def end_to_end(rows: Sequence[Document]) -> Tensor:
    """Rows of numbers as one of int64, `[1, numbers]`."""
    return torch.from_numpy(np.concatenate(rows, dtype=np.int64)[None])


def packed_batch(documents: Sequence[Document], first_position: int) -> dict[str, Tensor]:
    """Documents end to end.

    Args:
        documents: Token ids.
        first_position: See `RowLayout`.

    Returns:
        `input_ids` and `position_ids`, int64 `[1, tokens]`, and the borders between them.
    """
    lengths = [len(document) for document in documents]
    return {
        "input_ids": end_to_end(documents),
        "position_ids": end_to_end([np.arange(n) + first_position for n in lengths]),
        **document_borders(lengths),
    }


@dataclass(frozen=True)
class _Trial:
    """A long and a short document, given to a model in one layout after the other."""

    model: Any
    long: npt.NDArray[np.integer]
    short: npt.NDArray[np.integer]
    pad_id: int

    def run(self) -> RowLayout:
        """Try the layouts, the fastest first."""
        try:
            long, _ = self._alone(self.long)
            short, short_seconds = self._alone(self.short)
            again, long_seconds = self._alone(self.long)
        except _REFUSALS as error:
            way_out = "choose a model that takes texts of any length, such as a BERT or a LLaMA"
            if self.model.dtype != torch.float32:
                way_out = f"compute in float32 (training.hardware.bf16=false), or {way_out}"
            raise UserError(
                f"{type(self.model).__name__} cannot read a document of {len(self.long)} or "
                f"{len(self.short)} tokens ({first_line(error)}): {way_out}"
            ) from None
        if not self._same(long, again):
            raise UserError(
                f"{type(self.model).__name__} reads a document of {len(self.long)} tokens in "
                "another way once it has read a short one, so that scores would depend on their "
                f"order: {_shorter(self.model)}"
            )
        alone = (long[0], short[0])
        reason = why_not_packed(self.model)
        if not reason:
            for first in self._first_positions():
                if self._packs(alone, first):
                    return RowLayout("packed", first)
            reason = "its documents change one another when they are packed"
        if self._pads(alone):
            return RowLayout("padded", reason=reason)
        timed = (len(self.short), short_seconds), (len(self.long), long_seconds)
        reason = "its documents change one another in any batch"
        return RowLayout("single", reason=reason, timed=timed)

    def _alone(self, document: npt.NDArray[np.integer]) -> tuple[Tensor, float]:
        """Hidden states of a document by itself, and the seconds that they took."""
        started = time.perf_counter()
        hidden = self._hidden(padded_batch([document], self.pad_id))
        if hidden.device.type == "cuda":
            torch.cuda.synchronize()
        return hidden, time.perf_counter() - started

    def _first_positions(self) -> Iterator[int]:
        config = self.model.config.get_text_config()
        padding = getattr(config, "pad_token_id", None)
        positions = getattr(config, "max_position_embeddings", None)
        yield 0
        if (
            objective_of(self.model) == "masked"
            and padding is not None
            and (positions is None or padding + 1 + len(self.long) <= positions)
        ):
            yield padding + 1

    def _packs(self, alone: tuple[Tensor, Tensor], first: int) -> bool:
        try:
            with per_document_attention(self.model):
                row = self._hidden(packed_batch([self.long, self.short], first))[0]
        except _REFUSALS:
            return False
        border = len(self.long)
        return self._same(row[:border], alone[0]) and self._same(row[border:], alone[1])

    def _pads(self, alone: tuple[Tensor, Tensor]) -> bool:
        try:
            rows = self._hidden(padded_batch([self.long, self.short], self.pad_id))
        except _REFUSALS:
            return False
        short = rows[1, : len(self.short)]
        return self._same(rows[0], alone[0]) and self._same(short, alone[1])

    def _hidden(self, batch: Mapping[str, Tensor]) -> Tensor:
        device = self.model.get_input_embeddings().weight.device
        # The borders are read on the CPU.
        placed = {k: v if k == "cu_seq_lens_q" else v.to(device) for k, v in batch.items()}
        extra = {"use_cache": False} if objective_of(self.model) == "causal" else {}
        hidden: Tensor = self.model.base_model(**placed, **extra)[0]
        return hidden

    def _same(self, one: Tensor, other: Tensor) -> bool:
        return _alike(self.model, one, other)


def _alike(model: Any, one: Tensor, other: Tensor) -> bool:
    """Whether hidden states differ by no more than rounding."""
    if one.shape != other.shape:
        return False
    tolerance = rounding_tolerance(model, other)
    return bool((one - other).float().norm() <= tolerance * other.float().norm())


def _shorter(model: Any) -> str:
    """What to set for a model whose attention changes with length."""
    config = model.config
    if getattr(config, "attention_type", None) == "block_sparse":
        # `BigBirdModel.forward`: shorter texts are read with full attention from then on.
        most = (5 + 2 * config.num_random_blocks) * config.block_size
        return f"set training.model.max_length and evaluation.context to {most} or less"
    return "lower training.model.max_length and evaluation.context, or choose another model"
