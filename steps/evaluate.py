"""Step 3: measure a model on held-out papers.

    mlflow run . -e evaluate -P model=models:/scientificllm-forge@challenger
    python -m steps.evaluate --model base --split test --num-processes 2

Leaves `per_paper.parquet`, `metrics.json`, `generations.parquet`, `report.html`, and tables
and figures of them in its run. The paper is the unit: any comparison can be recomputed from
`per_paper.parquet`. A model is shown beside its base, which is evaluated first if need be.
"""

from typing import TYPE_CHECKING

import click

from steps.cli import step_command
from steps.config.file import LoadedConfig, load_config
from steps.config.measurement_sections import TASK
from steps.errors import UserError
from steps.terminal import say, show_notices

if TYPE_CHECKING:
    from steps.distributed.ranks import Rank

# The longest that a rank waits for another: rank 0 also does what is not shared out.
MINUTES_OF_AN_EVALUATION = 24 * 60
SPLITS = ("train", "validation", "test")


@click.command()
@click.option(
    "--model",
    default="",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, a run id, or base; "
    "empty: the challenger, else the champion.",
)
@click.option(
    "--dataset", default="latest", show_default=True, help="latest, a run id, or runs:/ID/dataset."
)
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(SPLITS), help="Split to score."
)
@click.option(
    "--num-processes",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes to measure with on this machine; a launcher such as torchrun brings its own.",
)
@step_command()
def main(
    model: str,
    dataset: str,
    split: str,
    num_processes: int,
    config_path: str,
    overrides: str,
    verbose: bool,
) -> None:
    """Score a model on held-out papers."""
    from steps.distributed.ranks import Rank, check_process_count, rank_from_environment

    loaded = load_config(config_path, overrides)
    rank = rank_from_environment()
    if rank is None or not rank.is_launched:
        show_notices(loaded.notices)
    if rank is None and num_processes > 1:
        from steps.tracking.launch import start_ranks

        options = {"model": model, "dataset": dataset, "split": split}
        options |= {"config": config_path, "overrides": overrides}
        start_ranks("evaluate", loaded, num_processes, options, verbose=verbose)
        return
    if rank is not None:
        check_process_count(num_processes, rank)
    measure_as(rank or Rank(), loaded, model, dataset, split, verbose)


def measure_as(
    rank: "Rank", loaded: LoadedConfig, model: str, dataset: str, split: str, verbose: bool
) -> None:
    """Measure, as one of several ranks or alone; rank 0 alone reads and writes the store.

    Args:
        rank: The place of this process.
        loaded: The configuration.
        model: As on the command line, like what follows.
        dataset: As there.
        split: As there.
        verbose: Show library messages.
    """
    from contextlib import ExitStack

    from steps.distributed.collectives import process_group
    from steps.distributed.launcher import refused_before, telling_the_launcher
    from steps.distributed.ranks import check_devices
    from steps.tracking.datasets import fetch_dataset
    from steps.tracking.evaluations import evaluate_model
    from steps.tracking.measurement import follow, leading
    from steps.tracking.presentation import what_was_scored
    from steps.tracking.ranks import run_of_rank
    from steps.tracking.registry.model_reference import resolve_model
    from steps.tracking.runs import step_run

    if rank.is_launched and refused_before():
        raise SystemExit(UserError.exit_code)
    training = loaded.training
    with telling_the_launcher(rank), ExitStack() as stack:
        if rank.count > 1:
            from steps.models.devices import pick_device

            device = pick_device(training.hardware.device)
            check_devices(rank.local_count, device)
            stack.enter_context(process_group(rank, device, MINUTES_OF_AN_EVALUATION))
        several = rank.count > 1 or rank.is_launched
        run = stack.enter_context(
            run_of_rank(rank, "evaluate", training, verbose=verbose)
            if several
            else step_run("evaluate", training, verbose=verbose)
        )
        if not rank.is_first:
            follow(run)
            return
        with leading():
            reference = resolve_model(run.client, model, training)
            stored = fetch_dataset(run.client, dataset, run.scratch / "data")
            results = evaluate_model(run, training, reference, stored, split, evaluate_base=True)
        say(f"{reference.name} on {split} ({what_was_scored(results.per_paper)})")
        for line in headline(results.metrics):
            say(f"  {line}")


def headline(metrics: dict[str, float]) -> list[str]:
    """The figures to show on a terminal, with their intervals."""
    lines = []
    for name in (
        "bits_per_byte",
        "gene_bits_per_byte",
        "general_bits_per_byte",
        "mlm_loss",
        "general_mlm_loss",
        "answer_bits_per_byte",
        "exact_match",
        "token_f1",
        "format_failure_share",
        "rules_followed_share",
    ):
        if name in metrics:
            low, high = metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high")
            interval = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
            lines.append(f"{name.replace('_', ' ')}: {metrics[name]:.4f}{interval}")
    return lines + [
        f"{name}: {value:.4f} ({metrics[f'{name}_ci_low']:.4f} to {metrics[f'{name}_ci_high']:.4f})"
        for name, value in metrics.items()
        if name.startswith(TASK) and f"{name}_ci_low" in metrics and not name.endswith("_clean")
    ]


if __name__ == "__main__":
    main()
