"""The whole plan of a run, as `plan.json` holds it."""

import math
from typing import Any

from steps.config.sections import Hyperparameters, Training
from steps.planning.budget import Budget
from steps.planning.plan import (
    NumberFormat,
    disk_plan,
    largest_micro_batch,
    longest_context,
    plan_memory,
    time_plan,
)
from steps.planning.shapes import Shape
from steps.planning.suggestions import remedies, with_settled_batch
from steps.planning.tape import Device

# Numbers of processes that a plan looks at.
PROCESSES = (1, 2, 4, 8)


def plan_run(
    shape: Shape,
    training: Training,
    budget: Budget,
    *,
    device: Device,
    number_format: NumberFormat | None = None,
    world_size: int = 1,
    zero_stage: int = 0,
    tokens: int | None = None,
    tokens_per_second: float | None = None,
) -> dict[str, Any]:
    """Plan memory, time and disk of a run.

    Args:
        shape: The model.
        training: The configuration; `batch_size: auto` is worked out.
        budget: Memory that there is.
        device: Where the run is.
        number_format: What is computed in; None takes what the configuration asks for.
        world_size: Processes that train together.
        zero_stage: 0 (DDP) to 3, DeepSpeed's partitioning.
        tokens: Tokens of one epoch, if known.
        tokens_per_second: Measured or stated rate, if there is one.

    Returns:
        What `plan.json` holds; sizes in bytes.
    """
    length = training.model.max_length
    where: dict[str, Any] = {
        "device": device,
        "number_format": number_format,
        "world_size": world_size,
        "zero_stage": zero_stage,
    }
    settled = with_settled_batch(shape, training, budget.size, length=length, **where)
    values = settled.hyperparameters
    rows = values.batch_size
    assert isinstance(rows, int)
    memory = plan_memory(shape, settled, micro_batch=rows, length=length, **where)
    fits = memory.total <= budget.size
    per_step = rows * length * values.gradient_accumulation_steps * world_size
    steps = _optimizer_steps(values, per_step, tokens)
    disk = disk_plan(shape, settled, optimizer_steps=steps)
    hours = None
    if tokens is not None and tokens_per_second is not None:
        trained = values.max_steps * per_step
        if values.max_steps <= 0:
            trained = round(tokens * values.num_epochs)
        hours = time_plan(trained, tokens_per_second).hours
    return {
        "model": shape.name,
        "method": memory.method,
        "device": device,
        "processes": world_size,
        "zero_stage": zero_stage,
        "parameters": shape.parameters,
        "trained_parameters": memory.trained_parameters,
        "micro_batch": rows,
        "length": length,
        "gradient_accumulation_steps": values.gradient_accumulation_steps,
        "gradient_checkpointing": settled.memory_optimization.gradient_checkpointing,
        "memory": {
            "parts": memory.parts,
            "total": memory.total,
            "host": memory.host_bytes,
            "budget": budget.size,
            "budget_source": budget.source,
            "fits": fits,
            "peak_in": memory.moment,
            "per_process": _by_processes(shape, settled, rows, length, device, number_format),
            "largest_micro_batch": largest_micro_batch(
                shape, settled, budget.size, length=length, **where
            ),
            "longest_context": longest_context(
                shape, settled, budget.size, micro_batch=rows, **where
            ),
            "remedies": []
            if fits
            else [
                {"overrides": remedy.overrides, "price": remedy.price, "total": remedy.total}
                for remedy in remedies(
                    shape, settled, budget.size, micro_batch=rows, length=length, **where
                )
            ],
        },
        "time": {
            "tokens_of_an_epoch": tokens,
            "tokens_per_second": tokens_per_second,
            "optimizer_steps": steps,
            "hours": hours,
        },
        "disk": {
            "base_model": disk.base_model,
            "checkpoint": disk.checkpoint,
            "local": disk.local,
            "tracked": disk.tracked,
        },
        "notes": list(memory.notes),
    }


def _by_processes(
    shape: Shape,
    training: Training,
    rows: int,
    length: int,
    device: Device,
    number_format: NumberFormat | None,
) -> dict[str, dict[str, int]]:
    """Peak of each of 1, 2, 4 and 8 processes, under DDP and each ZeRO stage."""
    return {
        str(processes): {
            f"ZeRO-{stage}" if stage else "DDP": plan_memory(
                shape,
                training,
                micro_batch=rows,
                length=length,
                device=device,
                number_format=number_format,
                world_size=processes,
                zero_stage=stage,
            ).total
            for stage in range(4)
        }
        for processes in PROCESSES
    }


def _optimizer_steps(
    values: Hyperparameters, tokens_per_step: int, tokens: int | None
) -> int | None:
    """Optimiser steps of a run; None if neither tokens nor `max_steps` say it."""
    if values.max_steps > 0:
        return values.max_steps
    if tokens is None:
        return None
    return math.ceil(math.ceil(tokens / tokens_per_step) * values.num_epochs)
