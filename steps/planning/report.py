"""The whole plan of a run, as `plan.json` holds it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from steps.config.sections import Hyperparameters, Training
from steps.models.devices import Placement
from steps.planning.budget import Budget
from steps.planning.models import ModelToPlan
from steps.planning.plan import (
    DiskPlan,
    MemoryPlan,
    disk_plan,
    largest_micro_batch,
    longest_context,
    plan_memory,
    time_plan,
)
from steps.planning.suggestions import Suggestion, suggestions, with_auto_batch_size

# Numbers of processes that a plan looks at.
PROCESSES = (1, 2, 4, 8)


@dataclass(frozen=True)
class MemoryReport:
    """Memory of one process, in bytes.

    Attributes:
        parts: By what holds it.
        total: The peak, all parts together.
        host: On the host, where activations are offloaded.
        budget: What there is.
        budget_source: Where that figure is from.
        fits: Whether the peak stays within it.
        peak_in: The moment of the peak.
        per_process: Peak of each of 1, 2, 4 and 8 processes, under DDP and each ZeRO stage.
        largest_micro_batch: Most rows of this length that fit; 0 if none.
        longest_context: Most tokens of so many rows that fit; 0 if none.
        remedies: What would make it fit, cheapest first; empty where it does.
    """

    parts: dict[str, int]
    total: int
    host: int
    budget: int
    budget_source: str
    fits: bool
    peak_in: str
    per_process: dict[str, dict[str, int]]
    largest_micro_batch: int
    longest_context: int
    remedies: list[Suggestion]


@dataclass(frozen=True)
class TimeReport:
    """How long it takes; None is what nobody knows.

    Attributes:
        tokens_of_an_epoch: Tokens of one epoch.
        tokens_per_second: Measured or stated rate.
        optimizer_steps: Of the whole run.
        hours: Of the whole run.
    """

    tokens_of_an_epoch: int | None
    tokens_per_second: float | None
    optimizer_steps: int | None
    hours: float | None


@dataclass(frozen=True)
class RunPlan:
    """Memory, time and disk of a training run.

    Attributes:
        model: Name of the model.
        method: lora, qlora, full, ...
        device: "cpu" or "cuda".
        processes: How many train together.
        zero_stage: 0 (DDP) to 3.
        parameters: Of the base.
        trained_parameters: Of these and the adapter, those that are trained.
        micro_batch: Rows of one forward pass, with `batch_size: auto` worked out.
        length: Tokens of a row.
        gradient_accumulation_steps: Micro-batches of an optimiser step.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        memory: In bytes.
        time: In hours.
        disk: In bytes.
        notes: What the figures leave out.
    """

    model: str
    method: str
    device: str
    processes: int
    zero_stage: int
    parameters: int
    trained_parameters: int
    micro_batch: int
    length: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    memory: MemoryReport
    time: TimeReport
    disk: DiskPlan
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """What `plan.json` holds."""
        return asdict(self)


def plan_run(
    model: ModelToPlan,
    training: Training,
    budget: Budget,
    placement: Placement,
    *,
    tokens: int | None = None,
    tokens_per_second: float | None = None,
) -> RunPlan:
    """Plan memory, time and disk of a run.

    Args:
        model: The model.
        training: The configuration; `batch_size: auto` is worked out.
        budget: Memory that there is.
        placement: Where the run is.
        tokens: Tokens of one epoch, if known.
        tokens_per_second: Measured or stated rate, if there is one.
    """
    length = training.model.max_length
    settled = with_auto_batch_size(model, training, budget.size, length=length, placement=placement)
    values = settled.hyperparameters
    rows = values.batch_size
    assert isinstance(rows, int)
    memory = plan_memory(model, settled, micro_batch=rows, length=length, placement=placement)
    per_step = rows * length * values.gradient_accumulation_steps * placement.processes
    time = _time_report(values, per_step, tokens, tokens_per_second)
    return RunPlan(
        model=model.name,
        method=memory.method,
        device=placement.device,
        processes=placement.processes,
        zero_stage=placement.zero_stage,
        parameters=model.parameters,
        trained_parameters=memory.trained_parameters,
        micro_batch=rows,
        length=length,
        gradient_accumulation_steps=values.gradient_accumulation_steps,
        gradient_checkpointing=settled.memory_optimization.gradient_checkpointing,
        memory=_memory_report(model, settled, budget, placement, memory),
        time=time,
        disk=disk_plan(model, settled, optimizer_steps=time.optimizer_steps, memory=memory),
        notes=list(memory.notes),
    )


def _memory_report(
    model: ModelToPlan, training: Training, budget: Budget, placement: Placement, plan: MemoryPlan
) -> MemoryReport:
    rows, length, size = plan.micro_batch, plan.length, budget.size
    fits = plan.total <= size
    return MemoryReport(
        parts=plan.parts,
        total=plan.total,
        host=plan.host_bytes,
        budget=size,
        budget_source=budget.source,
        fits=fits,
        peak_in=plan.moment,
        per_process={
            str(processes): {
                f"ZeRO-{stage}" if stage else "DDP": plan_memory(
                    model,
                    training,
                    micro_batch=rows,
                    length=length,
                    placement=Placement(placement.device, placement.dtype, processes, stage),
                ).total
                for stage in range(4)
            }
            for processes in PROCESSES
        },
        largest_micro_batch=largest_micro_batch(
            model, training, size, length=length, placement=placement
        ),
        longest_context=longest_context(
            model, training, size, micro_batch=rows, placement=placement
        ),
        remedies=[]
        if fits
        else suggestions(
            model, training, size, micro_batch=rows, length=length, placement=placement
        ),
    )


def _time_report(
    values: Hyperparameters,
    tokens_per_step: int,
    tokens: int | None,
    tokens_per_second: float | None,
) -> TimeReport:
    hours = None
    if tokens is not None and tokens_per_second is not None:
        trained = values.max_steps * tokens_per_step
        if values.max_steps <= 0:
            trained = round(tokens * values.num_epochs)
        hours = time_plan(trained, tokens_per_second).hours
    steps = _optimizer_steps(values, tokens_per_step, tokens)
    return TimeReport(tokens, tokens_per_second, steps, hours)


def _optimizer_steps(
    values: Hyperparameters, tokens_per_step: int, tokens: int | None
) -> int | None:
    """Optimiser steps of a run; None if neither tokens nor `max_steps` say it."""
    if values.max_steps > 0:
        return values.max_steps
    if tokens is None:
        return None
    return math.ceil(math.ceil(tokens / tokens_per_step) * values.num_epochs)
