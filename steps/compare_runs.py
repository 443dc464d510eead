"""Many finetune runs beside one another: what differs, who is ahead, and how sure that is.

    mlflow run . -e compare_runs
    python -m steps.compare_runs --runs "3f2a9c…,other-experiment"

Leaves `comparison.html`, `comparison.json` and `comparison.csv` in its run. It measures nothing:
what was evaluated on a test split is ranked and tested, the rest is shown by its validation.
"""

from typing import TYPE_CHECKING

import click

from steps.cli import step_command
from steps.config.file import load_config
from steps.terminal import say, show_notices

if TYPE_CHECKING:
    from steps.config.sections import Training
    from steps.tracking.runs import StepRun


@click.command()
@click.option(
    "--runs",
    default="",
    help="Run ids, and names or ids of experiments, comma-separated; empty: the finished finetune "
    "runs of the experiment.",
)
@step_command()
def main(runs: str, config_path: str, overrides: str, verbose: bool) -> None:
    """Compare many finetune runs by what the store holds of them."""
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)

    from steps.tracking.runs import step_run

    with step_run("compare_runs", loaded.training, verbose=verbose) as run:
        compare(run, loaded.training, runs)


def compare(run: "StepRun", training: "Training", named: str) -> None:
    """Find the runs, leave the page, and print the ranking."""
    from steps.reports.runs_table import show_ranking
    from steps.tracking.artifacts import place_of
    from steps.tracking.compared_runs import MOST_RUNS, find_finetune_runs, newest
    from steps.tracking.comparison_page import COMPARISON_PAGE, write_comparison

    found = find_finetune_runs(run.client, named, run.experiment_id)
    if not found:
        where = f"{named}: none" if named else "the experiment has none"
        say(f"nothing to compare: {where} of finetune that has finished; `-e finetune` makes one")
        return
    if len(found) > MOST_RUNS:
        say(f"{len(found)} runs: the newest {MOST_RUNS} are compared; name runs to choose others")
        found = newest(found, MOST_RUNS)
    comparison = write_comparison(run, found, training)
    run.tag(compared_runs=",".join(one.run_id for one in comparison.runs))
    show_ranking(comparison)
    folder = place_of(run.client, run.id)
    say(f"page: {folder.removeprefix('file://')}/{COMPARISON_PAGE} (run {run.id})")


if __name__ == "__main__":
    main()
