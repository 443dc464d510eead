"""The plan of a training run, before any weight is loaded: made, kept in the run, and enforced."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.distributed.ranks import Rank
from steps.errors import UserError
from steps.terminal import say

if TYPE_CHECKING:
    import torch

    from steps.checkpoints.trainer_state import ResumePoint
    from steps.models.sources import Base
    from steps.papers.text import PaperText
    from steps.tracking.runs import StepRun

# Papers whose tokens are counted before the training, to know about how long it takes.
SAMPLED_PAPERS = 50


def planned(
    run: "StepRun",
    training: Training,
    base: "Base",
    device: str,
    dtype: "torch.dtype",
    papers: "Sequence[PaperText]",
    tokenizer: Any,
    checkpoint_root: Path,
    point: "ResumePoint | None",
    rank: Rank,
    *,
    zero_stage: int,
    again: bool,
) -> Training:
    """Plan memory, time and disk; leave `plan.json`; refuse what cannot fit.

    Args:
        run: The run of this step.
        training: The configuration.
        base: The base model.
        device: Where it is trained.
        dtype: Number format of the computation.
        papers: What is trained on.
        tokenizer: The model's.
        checkpoint_root: Where checkpoints are written.
        point: The checkpoint that the run goes on from.
        rank: The place of this process, for how many train together.
        zero_stage: What DeepSpeed shares out between them.
        again: The run has these figures already.

    Returns:
        The configuration with `batch_size: auto` worked out; a run that is resumed keeps the
        micro-batch of its checkpoint, whatever is free now.

    Raises:
        UserError: The run does not fit into the memory or the disk that there is.
    """
    from steps.checkpoints.trainer_state import micro_batch_of
    from steps.planning.budget import available_budget, check_disk
    from steps.planning.report import plan_run
    from steps.planning.shapes import CannotPlan, shape_from_config
    from steps.planning.suggestions import check_fits, with_settled_batch

    content = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    budget = available_budget(training, device)
    if device == "cpu":
        # Memory that all processes of this machine share.
        budget = replace(budget, size=budget.size // rank.local_count)
    length = training.model.max_length
    where: Any = {"device": device, "number_format": str(dtype).removeprefix("torch.")}
    where |= {"world_size": rank.count, "zero_stage": zero_stage}
    earlier = micro_batch_of(point.folder) if point else None
    try:
        shape = shape_from_config(content, base.name)
        settled = with_settled_batch(
            shape, training, budget.size, length=length, earlier=earlier, **where
        )
        plan = plan_run(
            shape,
            settled,
            budget,
            tokens=_estimated_tokens(papers, tokenizer),
            tokens_per_second=_measured_rate(run, base, training, device, rank.count),
            **where,
        )
    except CannotPlan as error:
        if training.hyperparameters.batch_size == "auto":
            raise UserError(f"hyperparameters.batch_size is auto, but {error}") from None
        # What is wrong with it, if anything is, the loaded model will tell.
        say(f"note: no plan: {error}")
        return training
    if not again:
        _record_plan(run, plan)
    rows = settled.hyperparameters.batch_size
    assert isinstance(rows, int)
    # A shape that is only resembled gives a figure to read, not one to refuse by.
    if not shape.notes:
        check_fits(
            shape,
            settled,
            budget.size,
            micro_batch=rows,
            length=length,
            source=budget.source,
            **where,
        )
    check_disk({checkpoint_root: plan["disk"]["local"]})
    return settled


def _record_plan(run: "StepRun", plan: dict[str, Any]) -> None:
    file = run.scratch / "plan.json"
    file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    run.artifact(file)
    memory, disk = plan["memory"], plan["disk"]
    figures = {
        "plan/memory_gb": memory["total"] / 2**30,
        "plan/budget_gb": memory["budget"] / 2**30,
        "plan/disk_gb": disk["local"] / 2**30,
        "plan/micro_batch": plan["micro_batch"],
    }
    hours = plan["time"]["hours"]
    if hours is not None:
        figures["plan/hours"] = hours
    run.metrics(figures)
    say(
        f"plan: {plan['micro_batch']} x {plan['length']} tokens take "
        f"{figures['plan/memory_gb']:.2f} of {figures['plan/budget_gb']:.1f} GiB, checkpoints "
        f"{figures['plan/disk_gb']:.2f} GiB of disk"
        + (f", {hours:.1f} hours at the rate of the last such run" if hours is not None else "")
    )


def _estimated_tokens(papers: "Sequence[PaperText]", tokenizer: Any) -> int:
    """Tokens of all papers, by the tokens a character of the first ones."""
    sample = papers[:SAMPLED_PAPERS]
    tokens = sum(len(tokenizer(paper.text, verbose=False).input_ids) for paper in sample)
    characters = sum(len(paper.text) for paper in sample)
    return round(tokens / max(characters, 1) * sum(len(paper.text) for paper in papers))


def _measured_rate(
    run: "StepRun", base: "Base", training: Training, device: str, processes: int
) -> float | None:
    """Tokens per second of the last finished run of this base and method on such devices."""
    run.tag(device=device)
    found = run.client.search_runs(
        [run.experiment_id],
        "attributes.status = 'FINISHED' and tags.`forge.step` = 'finetune' "
        f"and tags.`forge.method` = '{training.qlora.resolved_method}' "
        f"and tags.`forge.device` = '{device}'",
        max_results=50,
    )
    # Compared here, because a name may hold what the store's filter takes for a quote.
    same = [
        one
        for one in found
        if one.data.tags.get("forge.base_model") == base.name
        and one.data.tags.get("forge.processes", "1") == str(processes)
    ]
    return same[0].data.metrics.get("train/mean_tokens_per_second") if same else None
