"""What a run says of itself in MLflow's UI: Markdown with its headline figures and its links.

    run.present("52 papers", [f"dataset of {run_link(run, 'run', dataset_run)}", ...])

The words stand in the description of a run, which the UI shows on its page and in its table.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from steps.metrics import PRIMARY
from steps.papers.instructions import ITEM_PREFIX

if TYPE_CHECKING:
    import pandas as pd

    from steps.tracking.runs import StepRun


def run_link(run: "StepRun", text: str, run_id: str) -> str:
    """A link to another run of the same experiment."""
    return f"[{text}](#/experiments/{run.experiment_id}/runs/{run_id})"


def version_link(uri: str) -> str:
    """A link to the page of `models:/NAME/VERSION`; what is no version stays as it is."""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    if not uri.startswith("models:/") or not version.isdecimal():
        return f"`{uri}`"
    return f"[{name} v{version}](#/models/{name}/versions/{version})"


def score_sentences(metrics: Mapping[str, float]) -> Iterable[str]:
    """The main score of an evaluation with its interval, and what it gained over the base.

    Args:
        metrics: By name, without the split in front.
    """
    for name in PRIMARY.values():
        if name not in metrics:
            continue
        low, high = metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high")
        interval = "" if low is None or high is None else f" (95% {low:.4f} to {high:.4f})"
        yield f"**{name.replace('_', ' ')} {metrics[name]:.4f}**{interval}, lower is better"


def report_facts(run: "StepRun", **facts: str) -> list[tuple[str, str]]:
    """What stands at the head of a report: what it is about, its run, and when it was made.

    Args:
        run: The run that the report is of.
        **facts: By name.
    """
    from datetime import UTC, datetime

    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [*facts.items(), ("run", run.id), ("made", made)]


def what_was_scored(per_paper: "pd.DataFrame") -> str:
    """How many papers an evaluation has scored, or items and what they are about."""
    if "items" not in per_paper:
        return f"{len(per_paper)} papers"
    alone = int(per_paper["paper_id"].str.startswith(ITEM_PREFIX).sum())
    items, papers = int(per_paper["items"].sum()), len(per_paper) - alone
    without = f", {alone} of no paper" if alone else ""
    return f"{items} items of {papers} papers{without}"
