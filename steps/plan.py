"""Will it fit, how long will it take, how much disk: before anything is loaded.

    mlflow run . -e plan
    python -m steps.plan --overrides "training.model.max_length=4096"
    python -m steps.plan --tokens 20000000 --tokens-per-second 2400

Prints the table and leaves `plan.json` in its run. It needs neither weights nor a GPU: a step of
the model's class is traced on tensors without content (see `steps.planning`).
"""

import json
from typing import TYPE_CHECKING

import click

from steps import outcome, terminal
from steps.cli import step_command
from steps.config.file import load_config
from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import say, show_notices
from steps.tracking.names import PLAN_FILE

if TYPE_CHECKING:
    from steps.planning.report import RunPlan


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
        try:
            plan = run_plan(loaded.training, tokens=tokens, tokens_per_second=tokens_per_second)
        except UserError as error:
            raise UserError(f"no plan: {error}") from None
        show(plan)
        outcome.add(plan=plan.as_json())
        file = run.scratch / PLAN_FILE
        file.write_text(json.dumps(plan.as_json(), indent=2) + "\n", encoding="utf-8")
        run.artifact(file)
        say(f"plan.json is in run {run.id}")


def run_plan(
    training: Training, *, tokens: int | None = None, tokens_per_second: float | None = None
) -> "RunPlan":
    """Plan a run from its configuration alone.

    Args:
        training: The configuration. `hardware.device: auto` is planned for a GPU of
            `gpu_memory_gb`, `cpu` for the memory that is free here.
        tokens: Tokens of one epoch, if known.
        tokens_per_second: Measured or stated rate, if there is one.

    Raises:
        UserError: The model's shape is not to be had, or nobody can plan it.
    """
    from steps.planning.budget import available_budget, configured_budget, device_of
    from steps.planning.models import model_to_plan
    from steps.planning.plan import placement_of
    from steps.planning.report import plan_run

    device = device_of(training)
    on_cpu = device == "cpu"
    budget = available_budget(training, device) if on_cpu else configured_budget(training)
    return plan_run(
        model_to_plan(training.model),
        training,
        budget,
        placement_of(training, device),
        tokens=tokens,
        tokens_per_second=tokens_per_second,
    )


def show(plan: "RunPlan") -> None:
    """Print a plan as tables."""
    from rich.table import Table

    memory, disk, time = plan.memory, plan.disk, plan.time
    table = Table(title=f"{plan.model}, {plan.method}, {plan.micro_batch} x {plan.length} tokens")
    table.add_column("memory")
    table.add_column("GiB", justify="right")
    for part, size in memory.parts.items():
        table.add_row(part, _gib(size))
    table.add_section()
    table.add_row("peak", _gib(memory.total))
    table.add_row(f"there are ({memory.budget_source})", _gib(memory.budget))
    terminal.show(table)

    facts = Table(show_header=False)
    facts.add_row("peak in the", memory.peak_in)
    facts.add_row("rows of a step", f"{plan.micro_batch} x {plan.gradient_accumulation_steps}")
    facts.add_row("largest micro-batch", f"{memory.largest_micro_batch:,}")
    facts.add_row("longest context", f"{memory.longest_context:,} tokens")
    hours = "unknown without tokens and rate: python -m steps.plan --tokens N --tokens-per-second R"
    if time.hours is not None:
        hours = f"{time.hours:.1f} hours at {time.tokens_per_second:,.0f} tokens a second"
    facts.add_row("time", hours)
    facts.add_row("disk: base model", f"{_gib(disk.base_model)} GiB")
    facts.add_row("disk: a checkpoint", f"{_gib(disk.checkpoint)} GiB")
    facts.add_row("disk: while running", f"{_gib(disk.local)} GiB")
    if disk.tracked is not None:
        facts.add_row("disk: tracking store", f"{_gib(disk.tracked)} GiB")
    terminal.show(facts)
    several = Table(title="GiB per process")
    several.add_column("processes", justify="right")
    by_processes = memory.per_process
    for kind in next(iter(by_processes.values())):
        several.add_column(kind, justify="right")
    for processes, totals in by_processes.items():
        several.add_row(processes, *(_gib(total) for total in totals.values()))
    terminal.show(several)
    for note in plan.notes:
        say(f"note: {note}")
    if memory.fits:
        say("it fits")
        return
    say("it does not fit; the cheapest ways to make it fit:")
    for suggestion in memory.remedies:
        say(f"  {suggestion.overrides}  ({_gib(suggestion.total)} GiB; {suggestion.price})")
    if not memory.remedies:
        say("  none of the settings: take a smaller model or a larger GPU")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


if __name__ == "__main__":
    main()
