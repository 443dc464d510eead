"""What a training is given before any weight is loaded, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.checkpoints.trainer_state import Progress, ResumePoint
from steps.config.sections import Training
from steps.distributed.collectives import all_gather, raise_on_all_ranks
from steps.distributed.ranks import Rank
from steps.models.devices import Placement
from steps.models.new_tokens import NewTokens
from steps.models.sources import Base
from steps.papers.instructions import InstructionItem
from steps.papers.replay import ReplayTexts
from steps.papers.text import PaperText
from steps.terminal import say
from steps.training.mixing import MixedSource, Mixture


@dataclass(frozen=True)
class Job:
    """All that a training needs, settled and checked, on every rank the same.

    Attributes:
        training: The configuration, with `batch_size: auto` worked out.
        base: The base model, whose files lie on this disk.
        tokenizer: The base's, with what `tokenizer.new_tokens` adds.
        new_tokens: What that is, or None.
        placement: Where it is trained.
        train_papers: What is learned from; instruction items for the objective `instruction`.
        validation_papers: What checkpoints are ranked by; may be empty.
        replay: Texts of another domain that are mixed in; None: none.
        studied: The papers that study texts are made of, where they are not `train_papers`.
        checkpoint_root: Where checkpoints are written.
        resume: The checkpoint that it goes on from, or None.
        deepspeed: DeepSpeed's settings, or None without DeepSpeed.
        instruct: The instruct model that the adapter is put onto in the end, or None.
    """

    training: Training
    base: Base
    tokenizer: Any
    new_tokens: NewTokens | None
    placement: Placement
    train_papers: Sequence[PaperText | InstructionItem]
    validation_papers: Sequence[PaperText | InstructionItem]
    replay: ReplayTexts | None
    studied: Sequence[PaperText]
    checkpoint_root: Path
    resume: ResumePoint | None
    deepspeed: Mapping[str, Any] | None
    instruct: Base | None = None


def tokenise(job: Job, rank: Rank) -> None:
    """Make the rows that are kept, where they are not there yet; all ranks call it.

    It is done before any weight is loaded: a full disk is met early, and the processes that
    tokenise find the memory free.

    Args:
        job: What is to be trained.
        rank: The place of this process.

    Raises:
        UserError: The texts cannot be learned from, or the cache folder cannot be written; on
            every rank.
    """
    from steps.training.rows import columns_to_mix, sources_of
    from steps.training.tokenising import kept_rows_note

    objective = job.base.objective
    with raise_on_all_ranks():
        mixture = Mixture(job.replay.texts if job.replay else (), job.studied)
        sources = sources_of(job.training, objective, job.tokenizer, job.train_papers, mixture)
        kept = {number: one for number, one in sources.items() if one.folder is not None}
        missing = [one for one in kept.values() if not one.folder.is_dir()]  # type: ignore[union-attr]
        columns_to_mix(job.training, kept)
    if any(all_gather(bool(missing))) and rank.is_first:
        for source in missing or kept.values():
            say(kept_rows_note(source))


@dataclass(frozen=True)
class TrainingResult:
    """What a training has made.

    Attributes:
        adapter: The folder of the adapter (or of the whole model, for `full`).
        figures: What was measured, for the card and the version, by the store's names.
        history: All that was reported, as transformers' `TrainerState.log_history`.
        tokens_of_an_epoch: Tokens of the papers' rows.
        mixed_sources: What was mixed in between them.
        wrapper: What held the model: none, DDP, or DeepSpeed with its stage; "" without a step.
    """

    adapter: Path
    figures: Mapping[str, float]
    history: Sequence[Mapping[str, Any]]
    tokens_of_an_epoch: int
    mixed_sources: Sequence[MixedSource]
    wrapper: str


def figures_of(state: Any, progress: Progress) -> dict[str, float]:
    """What a training measured, by the store's names.

    Args:
        state: Its `transformers.TrainerState`.
        progress: What it remembers besides.
    """
    history = state.log_history
    figures = {
        "train/steps": float(state.global_step),
        "train/tokens_seen": float(progress.tokens_seen),
    }
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if losses:
        figures |= {"train/loss, first": losses[0], "train/loss, last": losses[-1]}
    for key in ("bits_per_byte", "mlm_loss", "answer_bits_per_byte"):
        values = {e["step"]: e[f"eval_{key}"] for e in history if f"eval_{key}" in e}
        # Before the first step it is the base that is validated.
        trained = [value for step, value in values.items() if step > 0]
        if trained:
            figures |= {
                f"validation/{key}, first": next(iter(values.values())),
                f"validation/{key}, best": min(trained),
            }
    return figures
