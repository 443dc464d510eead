"""Try several configurations, and measure the best of them on held-out papers.

    mlflow run . -e sweep -P config=configs/sweep.yaml
    python -m steps.sweep --config configs/sweep.yaml --dataset latest

Each trial is a finetune run, nested under this one, with values that `training.sweep` allows. They
are ranked by their validation; the winner alone becomes `@challenger`, and is evaluated on the test
split, once. Started again, a sweep uses the trials that it has finished. Leaves `sweep.json`.
"""

import time

import click

from steps.cli import prepare_environment_of_steps, step_command
from steps.config.file import load_config
from steps.terminal import say, show_notices


@click.command()
@click.option(
    "--dataset", default="latest", show_default=True, help="latest, a run id, or runs:/ID/dataset."
)
@step_command()
def main(dataset: str, config_path: str, overrides: str, verbose: bool) -> None:
    """Train several configurations, and evaluate the best of them on held-out papers."""
    from steps.sweeping.space import checked_space
    from steps.tracking.cache import SECTIONS

    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)
    space = checked_space(loaded, SECTIONS["finetune"])
    prepare_environment_of_steps(verbose)

    from steps.reports.sweep_table import show_trials
    from steps.sweeping.search import Search
    from steps.sweeping.trials import winner_of
    from steps.tracking.datasets import fetch_dataset
    from steps.tracking.runs import step_run
    from steps.tracking.sweeps import (
        SweepUnderWay,
        challenge_with,
        describe_sweep,
        evaluate_winner,
        refuse_without_winner,
        run_trials,
        sweep_objective,
        write_comparison_page,
        write_results,
    )

    started = time.monotonic()
    with step_run("sweep", training, verbose=verbose) as run:
        stored = fetch_dataset(run.client, dataset, run.scratch / "data")
        objective = sweep_objective(training, stored)
        search = Search(training.sweep, space, higher_is_better=objective.higher_is_better)
        sweep = SweepUnderWay(run, loaded, stored, search, objective)
        describe_sweep(sweep)
        run_trials(sweep)

        importance = search.importance()
        write_results(sweep, importance)
        show_trials(sweep.trials, objective, importance)
        winner = winner_of(sweep.trials, objective)
        if winner is None:
            refuse_without_winner(sweep)
            return
        reference = challenge_with(sweep, winner)
        for line in evaluate_winner(sweep, winner, reference):
            say(line)
        write_comparison_page(sweep)
        run.metrics({"sweep/seconds": time.monotonic() - started})


if __name__ == "__main__":
    main()
