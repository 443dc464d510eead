"""Step 3: measure a model on held-out papers.

    mlflow run . -e evaluate -P model=models:/scientificllm-forge@challenger
    python -m steps.evaluate --model base --split test

Leaves `per_paper.parquet`, `metrics.json`, `generations.parquet`, `report.html`, and tables
and figures of them in its run. The paper is the unit: any comparison can be recomputed from
`per_paper.parquet`. A model is shown beside its base, which is evaluated first if need be.
"""

from typing import TYPE_CHECKING

import click

from steps.cli import step_command
from steps.config.file import load_config
from steps.config.measurement_sections import TASK
from steps.papers.instructions import ITEM_PREFIX
from steps.terminal import say, show_notices

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")


@click.command()
@click.option(
    "--model",
    default="",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, a run id, or base; "
    "empty: the challenger.",
)
@click.option(
    "--dataset", default="latest", show_default=True, help="latest, a run id, or runs:/ID/dataset."
)
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(SPLITS), help="Split to score."
)
@step_command()
def main(
    model: str, dataset: str, split: str, config_path: str, overrides: str, verbose: bool
) -> None:
    """Score a model on held-out papers."""
    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)

    from steps.tracking.datasets import fetch_dataset
    from steps.tracking.evaluations import evaluate_model
    from steps.tracking.registry.model_reference import resolve_model
    from steps.tracking.runs import step_run

    with step_run("evaluate", training, verbose=verbose) as run:
        reference = resolve_model(run.client, model, training)
        stored = fetch_dataset(run.client, dataset, run.scratch / "data")
        results = evaluate_model(run, training, reference, stored, split, evaluate_base=True)
        say(f"{reference.name} on {split} ({what_was_scored(results.per_paper)})")
        for line in headline(results.metrics):
            say(f"  {line}")


def what_was_scored(per_paper: "pd.DataFrame") -> str:
    """How many papers an evaluation has scored, or items and what they are about."""
    if "items" not in per_paper:
        return f"{len(per_paper)} papers"
    alone = int(per_paper["paper_id"].str.startswith(ITEM_PREFIX).sum())
    items, papers = int(per_paper["items"].sum()), len(per_paper) - alone
    without = f", {alone} of no paper" if alone else ""
    return f"{items} items of {papers} papers{without}"


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
