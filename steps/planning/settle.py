"""The plan of a training run that is about to begin: made of what is here, and enforced."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.devices import Placement
from steps.models.sources import Base, read_model_config
from steps.papers.instructions import InstructionItem
from steps.papers.stored_papers import StoredPapers
from steps.papers.text import PaperText
from steps.planning.budget import Budget, check_disk
from steps.planning.models import CannotPlan, ModelToPlan, model_from_config
from steps.planning.report import RunPlan, plan_run
from steps.planning.suggestions import check_fits, with_auto_batch_size

# Papers whose tokens are counted before the training, to know about how long it takes.
SAMPLED_PAPERS = 50


@dataclass(frozen=True)
class PlannedTraining:
    """A configuration that a run can follow, and what it will take.

    Attributes:
        training: The configuration with `batch_size: auto` worked out.
        plan: Memory, time and disk.
        model: The model that was planned.
        budget: The memory that there is.
        placement: Where it is trained.
    """

    training: Training
    plan: RunPlan
    model: ModelToPlan
    budget: Budget
    placement: Placement

    def check(self, checkpoint_root: Path) -> None:
        """Refuse what cannot fit.

        Args:
            checkpoint_root: Where checkpoints are written.

        Raises:
            UserError: The run does not fit into the memory or the disk that there is.
        """
        check_fits(
            self.model,
            self.training,
            self.budget.size,
            micro_batch=self.plan.micro_batch,
            length=self.plan.length,
            source=self.budget.source,
            placement=self.placement,
        )
        check_disk({checkpoint_root: self.plan.disk.local})


def plan_training(
    training: Training,
    base: Base,
    budget: Budget,
    placement: Placement,
    *,
    tokens: int,
    tokens_per_second: float | None = None,
    earlier: int | None = None,
) -> PlannedTraining:
    """Plan memory, time and disk of a run, and work `batch_size: auto` out.

    Args:
        training: The configuration.
        base: The base model, whose `config.json` lies on this disk.
        budget: The memory of one process.
        placement: Where it is trained.
        tokens: Tokens of one epoch.
        tokens_per_second: A measured rate, if there is one.
        earlier: The micro-batch of the run that is resumed, which is kept, whatever is free now.

    Raises:
        CannotPlan: The class of this model cannot be planned.
        UserError: The same, and the micro-batch was to come out of the plan.
    """
    content = read_model_config(base.folder, base.name)
    length = training.model.max_length
    try:
        model = model_from_config(content, base.name, base.objective)
        settled = with_auto_batch_size(
            model, training, budget.size, length=length, earlier=earlier, placement=placement
        )
        plan = plan_run(
            model,
            settled,
            budget,
            placement,
            tokens=tokens,
            tokens_per_second=tokens_per_second,
        )
    except CannotPlan as error:
        if training.hyperparameters.batch_size == "auto":
            raise UserError(f"hyperparameters.batch_size is auto, but {error}") from None
        raise
    return PlannedTraining(settled, plan, model, budget, placement)


def estimate_tokens(papers: Sequence[PaperText | InstructionItem], tokenizer: Any) -> int:
    """Tokens of all papers or items, by the tokens a character of the first ones."""
    sample = papers[:SAMPLED_PAPERS]
    tokens = sum(len(tokenizer(paper.text, verbose=False).input_ids) for paper in sample)
    characters = sum(len(paper.text) for paper in sample)
    every = (
        papers.characters
        if isinstance(papers, StoredPapers)
        else sum(len(paper.text) for paper in papers)
    )
    return round(tokens / max(characters, 1) * every)
