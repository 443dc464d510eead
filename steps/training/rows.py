"""Rows to train on, of either objective, and how a batch is made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from steps.config.sections import Training
from steps.distributed.collectives import broadcast
from steps.distributed.sampler import ShuffledRows
from steps.errors import UserError
from steps.models.attention import PER_DOCUMENT_SDPA, register_per_document_attention
from steps.models.chat import Chat
from steps.models.heads import output_head
from steps.models.layout import RowLayout, find_layout
from steps.models.loading import objective_of
from steps.models.losses import IGNORED, use_chunked_loss, use_masked_loss
from steps.models.sharded import share_out_use_of, whole_in_forward
from steps.models.sources import Task
from steps.papers.instructions import InstructionItem
from steps.papers.text import PaperText
from steps.training.arguments import rows_of_a_step
from steps.training.instructions import ItemWindows
from steps.training.masking import MaskedPapers, MaskedWindow, WordWindows
from steps.training.mixing import (
    PAPERS,
    REPLAY,
    SECTIONS,
    STUDY,
    MixedOrder,
    MixedRow,
    MixedRows,
    MixedSource,
    Mixture,
    Rows,
    collate_mixed,
)
from steps.training.packing import (
    PaperRows,
    Window,
    Windows,
    collate,
    longest_and_shortest,
    padding_share,
)
from steps.training.token_store import Columns
from steps.training.tokenising import Kind, Recipe, Source, columns_of

# Context that a later window of a long paper repeats: enough to pick the thread up again.
WINDOW_OVERLAP = 64


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on.

    Attributes:
        rows: The rows; `len` is their number, `tokens` those of an epoch.
        blank: A row that predicts nothing, by which ranks with fewer rows are filled up.
        collate: Makes the model's arguments of a list of rows.
        rows_at_once: Rows of one forward pass: the configured ones, or 1 where the model reads
            documents one by one.
        notes: What the reader of a run has to know about them.
    """

    rows: PaperRows | MaskedPapers | MixedRows
    blank: Any
    collate: Callable[[list[Any]], dict[str, Any]]
    rows_at_once: int
    notes: tuple[str, ...] = ()

    @property
    def paper_rows(self) -> Rows:
        """The rows of the papers alone."""
        return self.rows.papers if isinstance(self.rows, MixedRows) else self.rows

    @property
    def mixed_sources(self) -> tuple[MixedSource, ...]:
        """What is mixed in between them."""
        return self.rows.sources if isinstance(self.rows, MixedRows) else ()

    def sampler(self, rows_at_once: int, seed: int) -> ShuffledRows | MixedOrder:
        """The order of the rows.

        Args:
            rows_at_once: Rows that all ranks take at once.
            seed: Of the order; of mixed rows that of the configuration holds.
        """
        if isinstance(self.rows, MixedRows):
            return MixedOrder(self.rows, rows_at_once)
        return ShuffledRows(len(self.rows), rows_at_once, seed)


Examples = Sequence[PaperText | InstructionItem]


def training_rows(
    training: Training,
    model: Any,
    tokenizer: Any,
    papers: Examples,
    mixture: Mixture | None = None,
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
        mixture: What may have a share of the tokens besides; None: at most study texts.
        zero_stage: DeepSpeed's ZeRO stage; under 3 the output head is shared out too.

    Raises:
        UserError: The tokenizer does not fit, the model reads documents in no steady way, or
            there are too few texts for the share that they are to have.
    """
    length = training.model.max_length
    sources = sources_of(training, objective_of(model), tokenizer, papers, mixture or Mixture())
    columns = columns_to_mix(training, sources)
    blank: Window | MaskedWindow
    made: dict[int, PaperRows] | dict[int, MaskedPapers]
    notes: tuple[str, ...] = ()
    if objective_of(model) == "causal":
        windows = {
            s: ItemWindows.of(one) if sources[s].recipe.kind == "items" else Windows.of(one)
            for s, one in columns.items()
        }
        learned_from = windows[PAPERS]
        notes = learned_from.notes if isinstance(learned_from, ItemWindows) else ()
        tried = longest_and_shortest(*windows.values())
        with whole_in_forward(model):
            layout = _agreed(find_layout(model, tried, tokenizer.pad_token_id))
            chunked = use_chunked_loss(model)
        packed = layout.kind == "packed"
        made = {s: PaperRows(one, length, packed=packed) for s, one in windows.items()}
        blank = Window(np.array([tokenizer.eos_token_id], dtype=np.int32), 1)
        if zero_stage == 3 and chunked:
            share_out_use_of(output_head(model), model)
    else:
        hideable = {s: WordWindows.of(one, tokenizer) for s, one in columns.items()}
        tried = longest_and_shortest(*hideable.values())
        mask_id = tokenizer.mask_token_id
        with whole_in_forward(model):
            layout = _agreed(find_layout(model, tried, tokenizer.pad_token_id, mask_id))
        packed, seed = layout.kind == "packed", training.hyperparameters.seed
        made = {
            s: MaskedPapers(one, tokenizer, length, training.masking, seed, packed=packed)
            for s, one in hideable.items()
        }
        nothing = (np.array([i], dtype=np.int32) for i in (tokenizer.pad_token_id, IGNORED))
        blank = MaskedWindow(*nothing)
        use_masked_loss(model)
        chunked = True
    if layout.kind == "packed":
        register_per_document_attention()
        model.set_attn_implementation(PER_DOCUMENT_SDPA)
    model.config.use_cache = False
    rows_at_once, _ = rows_of_a_step(training, 1 if layout.kind == "single" else None)
    notes = (*notes, *_notes(model, layout, made[PAPERS], rows_at_once, chunked))
    return _laid_out(training, made, blank, layout, tokenizer.pad_token_id, rows_at_once, notes)


def _laid_out(
    training: Training,
    made: dict[int, PaperRows] | dict[int, MaskedPapers],
    blank: Window | MaskedWindow,
    layout: RowLayout,
    pad_id: int,
    rows_at_once: int,
    notes: tuple[str, ...],
) -> TrainingRows:
    """Rows of one source as they are, rows of several mixed."""
    papers = made.pop(PAPERS)
    if not made:
        alone = partial(collate, layout=layout, pad_id=pad_id)
        return TrainingRows(papers, [blank], alone, rows_at_once, notes)
    rows = MixedRows(papers, made, shares_of(training), training.hyperparameters.seed)
    mixed = partial(collate_mixed, layout=layout, pad_id=pad_id)
    notes = (*notes, *map(str, rows.sources))
    return TrainingRows(rows, MixedRow([blank], PAPERS), mixed, rows_at_once, notes)


def sources_of(
    training: Training, objective: Task, tokenizer: Any, papers: Examples, mixture: Mixture
) -> dict[int, Source]:
    """What becomes rows, and how, of each source that has a share of the tokens.

    Args:
        training: The configuration.
        objective: "causal" or "masked", of the model's class.
        tokenizer: From `load_tokenizer`.
        papers: What is learned from.
        mixture: What may have a share of the tokens besides.

    Raises:
        UserError: There is no chat template, where conversations are learned from.
    """
    length = training.model.max_length
    asks = training.model.objective == "instruction"
    if asks:
        Chat.of(tokenizer, training.instructions.chat_template)
    kind: Kind = "words" if objective == "masked" else "papers"
    texts = Recipe(kind, tokenizer, length, min(WINDOW_OVERLAP, length // 4))
    own = Recipe("items", tokenizer, length, 0) if asks else texts
    sources = {PAPERS: Source(papers, own)}
    if training.replay.share:
        sources[REPLAY] = Source(mixture.replay, texts)
    if training.study_texts.share:
        studied = mixture.studied if asks else papers
        sources[STUDY] = Source(studied, replace(own, study=training.study_texts.kinds))
    return sources


def columns_to_mix(training: Training, sources: Mapping[int, Source]) -> dict[int, Columns]:
    """The tokens and windows of each source.

    Raises:
        UserError: There is nothing of a source that is to have a share, or it cannot be learned
            from, or the cache folder cannot be written.
    """
    made = {}
    for number, source in sources.items():
        made[number] = columns_of(source)
        if number in SECTIONS and not len(made[number].windows["lengths"]):
            section = SECTIONS[number]
            raise UserError(
                f"{section}.share is {shares_of(training)[number]:g}, and there is no text of "
                f"{section}: set it to 0, or see what its other keys say"
            )
    return made


def shares_of(training: Training) -> dict[int, float]:
    """The share of the tokens of each source that is mixed in."""
    shares = {REPLAY: training.replay.share, STUDY: training.study_texts.share}
    return {source: share for source, share in shares.items() if share}


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


def tokens_of_batch(task: Task, inputs: Mapping[str, torch.Tensor]) -> int:
    """Targets of a causal model's batch; of a masked one's the tokens read, without padding."""
    if task != "masked":
        return int((inputs["labels"] != IGNORED).sum())
    seen = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if seen is None else int(seen.sum())
