"""The comparison of many finetune runs, left in a run as page and as data.

    comparison = write_comparison(run, client.search_runs(...), training)

`compare_runs`, `main` and whatever else has trained several runs call it.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.comparison.many_runs import RunComparison, compare_many
from steps.config.sections import Training
from steps.reports.runs_table import place_of
from steps.terminal import say
from steps.tracking.compared_runs import gather_runs
from steps.tracking.presentation import report_facts

if TYPE_CHECKING:
    from mlflow.entities import Run

    from steps.tracking.runs import StepRun

COMPARISON_PAGE = "comparison.html"
COMPARISON_DATA = "comparison.json"
COMPARISON_TABLE = "comparison.csv"


def write_comparison(
    run: "StepRun",
    finetune_runs: "Sequence[Run]",
    training: Training,
    *,
    title: str = "Comparison of runs",
) -> RunComparison:
    """Compare finetune runs by what the store holds of them, and leave the page in a run.

    Nothing is measured here: a run whose version was never evaluated on a test split is shown
    by its validation alone.

    Args:
        run: Gets `comparison.html`, `comparison.json` and `comparison.csv`.
        finetune_runs: One or more runs of `finetune`, of any experiments of the store.
        training: The configuration; its section `comparison` says how pairs are tested.
        title: Heading of the page.

    Returns:
        What the page says, the best run first.

    Raises:
        StoreUnusable: The artifact store cannot be written.
    """
    from steps.reports.runs_report import runs_page

    if training.comparison.cluster_by is not None:
        say(
            f"comparison.cluster_by={training.comparison.cluster_by} is for ab_compare: this page "
            "counts each paper by itself"
        )
    once = {one.info.run_id: one for one in finetune_runs}
    runs, bases = gather_runs(run, list(once.values()))
    comparison = compare_many(runs, bases, training.comparison)
    digests = list(dict.fromkeys(one.dataset for one in comparison.runs))
    facts = report_facts(run, dataset=digests[0] if len(digests) == 1 else f"{len(digests)}, below")
    files = {
        COMPARISON_PAGE: runs_page(title, comparison, training.comparison, facts),
        COMPARISON_DATA: json.dumps(as_data(comparison), indent=1, ensure_ascii=False),
    }
    for name, content in files.items():
        (run.scratch / name).write_text(content, encoding="utf-8")
    _write_table(run.scratch / COMPARISON_TABLE, comparison)
    run.artifacts([(run.scratch / name, None) for name in (*files, COMPARISON_TABLE)])
    return comparison


def as_data(comparison: RunComparison) -> dict[str, Any]:
    """What a program may want to read of a comparison."""
    return {
        "runs": [
            {
                "run": run.run_id,
                "name": run.name,
                "experiment": run.experiment,
                "status": run.status,
                "objective": run.objective,
                "base": run.base,
                "dataset_digest": run.dataset,
                "version": run.version,
                "aliases": list(run.aliases),
                "settings": {key: run.settings.get(key) for key in comparison.settings},
                "validation": run.validation,
                "validation_metric": run.validation_metric,
                "evaluation_run": run.evaluation_run,
                "test": dict(run.evaluation.metrics) if run.evaluation else None,
                "cost": dict(run.cost),
                "notes": list(run.notes),
            }
            for run in comparison.runs
        ],
        "groups": [
            {
                "objective": group.objective,
                "metric": group.metric,
                "higher_is_better": group.higher_is_better,
                "dataset_digest": group.dataset_digest,
                "bases": list(group.bases),
                "models": [dataclasses.asdict(model) for model in group.models],
                "pairs": [
                    dataclasses.asdict(pair)
                    for pair in (group.ranking.pairs if group.ranking else ())
                ],
            }
            for group in comparison.groups
        ],
        "not_compared": dict(comparison.not_compared),
        "effects": [dataclasses.asdict(effect) for effect in comparison.effects],
        "settings_that_change_together": [list(keys) for keys in comparison.bound],
    }


def _write_table(file: Path, comparison: RunComparison) -> None:
    """One row a run, for a spreadsheet."""
    costs = list(dict.fromkeys(name for run in comparison.runs for name in run.cost))
    head = ["place", "run", "name", "version", "aliases", *comparison.settings]
    head += ["metric", "value", "ci_low", "ci_high", "validation_metric", "validation", *costs]
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(head)
        for run in comparison.runs:
            group, model = comparison.group_of(run.name), place_of(comparison, run)
            figures = [model.value, model.low, model.high] if model else [None] * 3
            writer.writerow(
                [
                    model.rank if model else None,
                    *(run.run_id, run.name, run.version, " ".join(run.aliases)),
                    *(run.settings.get(key) for key in comparison.settings),
                    group.metric if group else None,
                    *figures,
                    *(run.validation_metric, run.validation),
                    *(run.cost.get(name) for name in costs),
                ]
            )
