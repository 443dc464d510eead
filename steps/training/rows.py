"""Rows to train on, of either objective, and how a batch is made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from steps.config.sections import Training
from steps.distributed.collectives import broadcast
from steps.models.attention import PER_DOCUMENT_SDPA, register_per_document_attention
from steps.models.chat import Chat
from steps.models.heads import output_head
from steps.models.layout import RowLayout, find_layout
from steps.models.loading import objective_of
from steps.models.losses import IGNORED, use_chunked_loss, use_masked_loss
from steps.models.sharded import share_out_use_of
from steps.models.sources import Task
from steps.papers.instructions import InstructionItem
from steps.papers.text import PaperText
from steps.training.arguments import rows_of_a_step
from steps.training.instructions import ItemWindows, item_windows
from steps.training.masking import MaskedPapers, MaskedWindow, masked_windows
from steps.training.packing import (
    PaperRows,
    Window,
    Windows,
    causal_windows,
    collate,
    longest_and_shortest,
    padding_share,
)

# Context that a later window of a long paper repeats: enough to pick the thread up again.
WINDOW_OVERLAP = 64


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on.

    Attributes:
        rows: The rows; `len` is their number, `tokens` those of all rows together.
        blank: A row that predicts nothing, by which ranks with fewer rows are filled up.
        collate: Makes the model's arguments of a list of rows.
        rows_at_once: Rows of one forward pass: the configured ones, or 1 where the model reads
            documents one by one.
        notes: What the reader of a run has to know about them.
    """

    rows: PaperRows | MaskedPapers
    blank: Any
    collate: Callable[[list[Any]], dict[str, Any]]
    rows_at_once: int
    notes: tuple[str, ...] = ()


def training_rows(
    training: Training,
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText | InstructionItem],
    *,
    zero_stage: int = 0,
) -> TrainingRows:
    """Cut papers into rows of `model.max_length` tokens, and get the model ready for them.

    With the objective `instruction` it is items that are laid into rows, of which the answers are
    learned.

    Args:
        training: The configuration.
        model: A `PreTrainedModel`, the one inside any adapter; its attention and loss change.
        tokenizer: From `load_tokenizer`.
        papers: What is learned from.
        zero_stage: DeepSpeed's ZeRO stage; under 3 the output head is shared out too.

    Raises:
        UserError: The tokenizer does not fit, or the model reads documents in no steady way.
    """
    length = training.model.max_length
    overlap = min(WINDOW_OVERLAP, length // 4)
    blank: Window | MaskedWindow
    rows: PaperRows | MaskedPapers
    notes: tuple[str, ...] = ()
    if objective_of(model) == "causal":
        windows: Windows | ItemWindows
        if training.model.objective == "instruction":
            chat = Chat.of(tokenizer, training.instructions.chat_template)
            windows = item_windows(cast(Sequence[InstructionItem], papers), chat, length)
            notes = windows.notes
        else:
            windows = causal_windows(cast(Sequence[PaperText], papers), tokenizer, length, overlap)
        tried = longest_and_shortest(windows)
        layout = _agreed(find_layout(model, tried, tokenizer.pad_token_id))
        rows = PaperRows(windows, length, packed=layout.kind == "packed")
        blank = Window(np.array([tokenizer.eos_token_id], dtype=np.int32), 1)
        chunked = use_chunked_loss(model)
        if zero_stage == 3 and chunked:
            share_out_use_of(output_head(model), model)
    else:
        texts = cast(Sequence[PaperText], papers)
        hideable = masked_windows(texts, tokenizer, length, overlap)
        tried = longest_and_shortest(hideable)
        mask_id = tokenizer.mask_token_id
        layout = _agreed(find_layout(model, tried, tokenizer.pad_token_id, mask_id))
        rows = MaskedPapers(
            hideable,
            tokenizer,
            length,
            training.masking,
            training.hyperparameters.seed,
            packed=layout.kind == "packed",
        )
        nothing = (np.array([i], dtype=np.int32) for i in (tokenizer.pad_token_id, IGNORED))
        blank = MaskedWindow(*nothing)
        use_masked_loss(model)
        chunked = True
    if layout.kind == "packed":
        register_per_document_attention()
        model.set_attn_implementation(PER_DOCUMENT_SDPA)
    model.config.use_cache = False
    rows_at_once, _ = rows_of_a_step(training, 1 if layout.kind == "single" else None)
    return TrainingRows(
        rows,
        [blank],
        partial(collate, layout=layout, pad_id=tokenizer.pad_token_id),
        rows_at_once,
        (*notes, *_notes(model, layout, rows, rows_at_once, chunked)),
    )


def _agreed(layout: RowLayout) -> RowLayout:
    """What rank 0 has found: a trial at the edge of rounding must not part the ranks' rows."""
    agreed: RowLayout = broadcast(layout)
    return agreed


def _notes(
    model: Any,
    layout: RowLayout,
    rows: PaperRows | MaskedPapers,
    rows_at_once: int,
    chunked: bool,
) -> tuple[str, ...]:
    notes = []
    if layout.kind != "packed":
        notes.append(_cost_of_no_packing(layout, rows, rows_at_once))
    if not chunked:
        notes.append(
            f"the output head of {type(model).__name__} cannot be taken apart (an adapter on it, "
            "or logits that are more than scaled and capped): all logits are made at once, which "
            "takes more memory; the loss is the same"
        )
    return tuple(notes)


def _cost_of_no_packing(
    layout: RowLayout, rows: PaperRows | MaskedPapers, rows_at_once: int
) -> str:
    lengths = rows.windows.lengths
    why = f"documents are not packed, because {layout.reason}"
    if layout.kind == "padded":
        share = padding_share(lengths, rows_at_once)
        return f"{why}: about {share:.0%} slower, by the padding"
    share = layout.slower_one_by_one(lengths.tolist())
    return f"{why}: about {share:.0%} slower, one document a forward pass"


def task_of(training: Training, model: Any) -> Task:
    """What a model is trained for: the objective of its class, or to answer."""
    return "instruction" if training.model.objective == "instruction" else objective_of(model)


def tokens_of_batch(task: Task, inputs: Mapping[str, torch.Tensor]) -> int:
    """Targets of a causal model's batch; of a masked one's the tokens read, without padding."""
    if task != "masked":
        return int((inputs["labels"] != IGNORED).sum())
    seen = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if seen is None else int(seen.sum())
