"""Will it fit, how long will it take, how much disk: before anything is loaded.

    mlflow run . -e plan
    python -m steps.plan --overrides "training.model.max_length=4096"
    python -m steps.plan --tokens 20000000 --tokens-per-second 2400

Prints the table and leaves `plan.json` in its run. It needs neither weights nor a GPU: the
sizes follow from the model's shape (see `steps.training.memory`).
"""

import json
import math
from typing import Any

import click

from steps.cli import say, show_notices, step_command
from steps.config import Training, load_config


@click.command()
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens of one epoch; for the hours.")
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Measured or stated rate; for the hours (`train/tokens_per_second` of an earlier run).",
)
@step_command()
def main(
    tokens: int | None,
    tokens_per_second: float | None,
    config_path: str,
    overrides: str,
    verbose: bool,
) -> None:
    """Plan the memory, time and disk of a training run."""
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)

    from steps.tracking.runs import step_run

    with step_run("plan", loaded.training, verbose=verbose) as run:
        plan = run_plan(loaded.training, tokens=tokens, tokens_per_second=tokens_per_second)
        show(plan)
        file = run.scratch / "plan.json"
        file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
        run.artifact(file)
        say(f"plan.json is in run {run.id}")


def run_plan(
    training: Training, *, tokens: int | None = None, tokens_per_second: float | None = None
) -> dict[str, Any]:
    """Plan a run from its configuration alone.

    Args:
        training: The configuration. `hardware.device: auto` is planned for a GPU.
        tokens: Tokens of one epoch, if known.
        tokens_per_second: Measured or stated rate, if there is one.

    Returns:
        What `plan.json` holds; sizes in bytes.

    Raises:
        UserError: The model's shape is not to be had, or nobody can plan it.
    """
    from steps.training.memory import (
        Device,
        choose_rows,
        disk_plan,
        largest_micro_batch,
        longest_context,
        memory_budget,
        plan_memory,
        remedies,
        shape_of_model,
        time_plan,
    )

    shape = shape_of_model(training.model)
    device: Device = "cpu" if training.hardware.device == "cpu" else "cuda"
    budget = memory_budget(training)
    length = training.model.max_length
    rows = choose_rows(shape, training, budget, length=length, device=device)
    memory = plan_memory(shape, training, micro_batch=rows, length=length, device=device)
    fits = memory.total <= budget
    steps = optimizer_steps(training, rows, tokens)
    disk = disk_plan(shape, training, optimizer_steps=steps)
    hours = None
    if tokens is not None and tokens_per_second is not None:
        per_step = rows * length * training.hyperparameters.gradient_accumulation_steps
        trained = tokens * training.hyperparameters.num_epochs
        if training.hyperparameters.max_steps > 0:
            trained = training.hyperparameters.max_steps * per_step
        hours = time_plan(round(trained), tokens_per_second).hours
    return {
        "model": shape.name,
        "method": memory.method,
        "device": device,
        "parameters": shape.parameters,
        "trained_parameters": memory.trained_parameters,
        "micro_batch": rows,
        "length": length,
        "gradient_accumulation_steps": training.hyperparameters.gradient_accumulation_steps,
        "gradient_checkpointing": training.memory_optimization.gradient_checkpointing,
        "memory": {
            "parts": memory.parts,
            "total": memory.total,
            "budget": budget,
            "fits": fits,
            "peak_in": memory.moment,
            "largest_micro_batch": largest_micro_batch(
                shape, training, budget, length=length, device=device
            ),
            "longest_context": longest_context(
                shape, training, budget, micro_batch=rows, device=device
            ),
            "remedies": []
            if fits
            else [
                {"overrides": remedy.overrides, "price": remedy.price, "total": remedy.total}
                for remedy in remedies(
                    shape, training, budget, micro_batch=rows, length=length, device=device
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


def optimizer_steps(training: Training, micro_batch: int, tokens: int | None) -> int | None:
    """Optimiser steps of a run; None if neither tokens nor `max_steps` say it."""
    values = training.hyperparameters
    if values.max_steps > 0:
        return values.max_steps
    if tokens is None:
        return None
    per_step = micro_batch * training.model.max_length * values.gradient_accumulation_steps
    return math.ceil(math.ceil(tokens / per_step) * values.num_epochs)


def show(plan: dict[str, Any]) -> None:
    """Print a plan as tables."""
    from rich.console import Console
    from rich.table import Table

    memory, disk, time = plan["memory"], plan["disk"], plan["time"]
    console = Console()
    table = Table(
        title=f"{plan['model']}, {plan['method']}, {plan['micro_batch']} x {plan['length']} tokens"
    )
    table.add_column("memory")
    table.add_column("GiB", justify="right")
    for part, size in memory["parts"].items():
        table.add_row(part, _gib(size))
    table.add_section()
    table.add_row("peak", _gib(memory["total"]))
    table.add_row("there are", _gib(memory["budget"]))
    console.print(table)

    facts = Table(show_header=False)
    facts.add_row("peak in the", memory["peak_in"])
    facts.add_row("largest micro-batch", f"{memory['largest_micro_batch']:,}")
    facts.add_row("longest context", f"{memory['longest_context']:,} tokens")
    hours = "give --tokens and --tokens-per-second"
    if time["hours"] is not None:
        hours = f"{time['hours']:.1f} hours at {time['tokens_per_second']:,.0f} tokens a second"
    facts.add_row("time", hours)
    facts.add_row("disk: base model", f"{_gib(disk['base_model'])} GiB")
    facts.add_row("disk: a checkpoint", f"{_gib(disk['checkpoint'])} GiB")
    facts.add_row("disk: while running", f"{_gib(disk['local'])} GiB")
    if disk["tracked"] is not None:
        facts.add_row("disk: tracking store", f"{_gib(disk['tracked'])} GiB")
    console.print(facts)
    for note in plan["notes"]:
        say(f"note: {note}")
    if memory["fits"]:
        say("it fits")
        return
    say("it does not fit; the cheapest ways to make it fit:")
    for remedy in memory["remedies"]:
        say(f"  {remedy['overrides']}  ({_gib(remedy['total'])} GiB; {remedy['price']})")
    if not memory["remedies"]:
        say("  none of the settings: take a smaller model or a larger GPU")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


if __name__ == "__main__":
    main()
