"""Rows to train on, of either objective, and how a batch is made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.attention import (
    PER_DOCUMENT_SDPA,
    register_per_document_attention,
    supports_packing,
)
from steps.models.loading import objective_of
from steps.models.losses import IGNORED, has_plain_head, use_chunked_loss
from steps.models.sharded import share_out_head_use
from steps.models.sources import Objective
from steps.papers.text import PaperText
from steps.training.masking import (
    MaskedPapers,
    MaskedWindow,
    collate_masked,
    prepare_for_masked_training,
)
from steps.training.packing import PackedPapers, Window, collate_packed

# Context that a later window of a long paper repeats: enough to pick the thread up again.
WINDOW_OVERLAP = 64


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on.

    Attributes:
        rows: The rows; `len` is their number, `tokens` those of all rows together.
        blank: A row that predicts nothing, by which ranks with fewer rows are filled up.
        collate: Makes the model's arguments of a list of rows.
    """

    rows: PackedPapers | MaskedPapers
    blank: Any
    collate: Callable[[list[Any]], dict[str, Any]]


def training_rows(
    training: Training,
    model: Any,
    tokenizer: Any,
    papers: Sequence[PaperText],
    *,
    zero_stage: int = 0,
) -> TrainingRows:
    """Cut papers into rows of `model.max_length` tokens, and get the model ready for them.

    Args:
        training: The configuration.
        model: A `PreTrainedModel`, the one inside any adapter; its attention and loss change.
        tokenizer: From `load_tokenizer`.
        papers: What is learned from.
        zero_stage: DeepSpeed's ZeRO stage; under 3 the output head is shared out too.

    Raises:
        UserError: Packed documents would see each other, or the head or tokenizer does not fit.
    """
    length = training.model.max_length
    overlap = min(WINDOW_OVERLAP, length // 4)
    if objective_of(model) == "causal":
        prepare_for_packed_training(model)
        if zero_stage == 3:
            share_out_head_use(model)
        rows = PackedPapers(papers, tokenizer, length, overlap)
        return TrainingRows(rows, [Window("", (tokenizer.eos_token_id,), 1)], collate_packed)
    first_position = prepare_for_masked_training(model)
    packed = first_position is not None
    masked = MaskedPapers(
        papers,
        tokenizer,
        length,
        overlap,
        training.masking,
        training.hyperparameters.seed,
        packed=packed,
    )
    collate = partial(
        collate_masked,
        pad_id=tokenizer.pad_token_id,
        first_position=first_position or 0,
        packed=packed,
    )
    return TrainingRows(masked, [MaskedWindow((tokenizer.pad_token_id,), (IGNORED,))], collate)


def prepare_for_packed_training(model: Any) -> None:
    """Give a causal model per-document attention and the chunked loss.

    Args:
        model: A `PreTrainedModel`, the one inside any adapter.

    Raises:
        UserError: Packed documents would see each other, or the chunked loss lacks this head.
    """
    if not supports_packing(model):
        raise UserError(
            f"{type(model).__name__} lets packed papers attend to each other (its attention takes "
            "no document borders): choose another model"
        )
    if not has_plain_head(model):
        raise UserError(
            f"{type(model).__name__} has an output head that the chunked loss does not cover "
            "(a bias, soft-capped or scaled logits, or an adapter on it): choose another model, or "
            "leave the head out of qlora.target_modules (qlora.modules_to_save trains it whole)"
        )
    register_per_document_attention()
    model.set_attn_implementation(PER_DOCUMENT_SDPA)
    model.config.use_cache = False
    use_chunked_loss(model)


def tokens_of_batch(objective: Objective, inputs: Mapping[str, torch.Tensor]) -> int:
    """Targets of a causal model's batch; of a masked one's the tokens read, without padding."""
    if objective == "causal":
        return int((inputs["labels"] != IGNORED).sum())
    seen = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if seen is None else int(seen.sum())
