"""The table that ends the pipeline: what was trained, what it gained, what was decided."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from steps.config.sections import Training
from steps.metrics import PAPERS_FOR_RELIABLE_INTERVALS, PRIMARY


class FinishedRun(Protocol):
    """A run of the tracking store: `info.run_id`, `data.metrics` and `data.tags` are read."""

    info: Any
    data: Any


COLUMNS = (
    "variant",
    "trained\nweights",
    "time\n(s)",
    "tokens\nper s",
    "before",
    "after\n(95%)",
    "of genes",
    "decision",
)


def summary_rows(
    trained: Mapping[str, FinishedRun],
    measured: Mapping[str, FinishedRun],
    decisions: Mapping[str, Any],
) -> list[tuple[str, ...]]:
    """One row a variant, in the order of `COLUMNS`; narrow enough for 80 columns.

    Args:
        trained: Finetune runs by variant.
        measured: Evaluation runs by variant, and "base".
        decisions: Decisions by the URI of the challenger.
    """
    base = measured["base"].data.metrics
    rows: list[tuple[str, ...]] = []
    for variant, run in trained.items():
        metrics = run.data.metrics
        test = measured[variant].data.metrics
        decision = decisions.get(run.data.tags.get("forge.model_version", ""), {})
        rows.append(
            (
                variant,
                f"{metrics['train/trainable_parameters'] / 1e6:.2f}M",
                f"{metrics['train/seconds']:.0f}",
                f"{metrics['train/mean_tokens_per_second']:.0f}",
                _figure(base),
                f"{_figure(test)}\n{_figure(test, '_ci_low')}–{_figure(test, '_ci_high')}",
                f"{_figure(base, '', 'gene_')}\n→ {_figure(test, '', 'gene_')}",
                _outcome(decision),
            )
        )
    return rows


def _outcome(decision: Mapping[str, Any]) -> str:
    """What was decided; a version that no decision is about is the champion that was to beat."""
    if not decision:
        return "champion"
    papers = decision["papers"]
    few = f"\n({papers} papers)" if papers < PAPERS_FOR_RELIABLE_INTERVALS else ""
    return f"{decision['outcome']}{few}"


def _figure(metrics: Mapping[str, float], end: str = "", front: str = "") -> str:
    for name in PRIMARY.values():
        value = metrics.get(f"test/{front}{name}{end}")
        if value is not None:
            return f"{value:.3f}"
    return "–"


def show_summary(
    run: Any,
    training: Training,
    trained: Mapping[str, FinishedRun],
    measured: Mapping[str, FinishedRun],
    decision: Mapping[str, Any],
    tracking_uri: str,
    decided_earlier: str = "",
) -> None:
    """Print the table, the reasons, and the line that opens the MLflow UI.

    Args:
        run: The pipeline's run, which gets the table as `summary.json`.
        training: The configuration.
        trained: Finetune runs by variant.
        measured: Evaluation runs by variant, and "base".
        decision: The content of `decision.json`.
        tracking_uri: Of the store.
        decided_earlier: The run that decided, where its decision was only used again.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    decisions: dict[str, Any] = {d["challenger_uri"]: d for d in decision["decisions"]}
    papers = next(iter(decisions.values()))["papers"]
    note = measured["base"].data.tags.get("forge.base_note", "")
    objective = measured["base"].data.tags.get("forge.objective", "causal")
    unit = PRIMARY[objective].replace("_", " ")
    # Narrow, so that it fits a terminal of 80 columns.
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=f"{training.model.name}: {unit} on {papers} held-out papers",
    )
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for row in summary_rows(trained, measured, decisions):
        table.add_row(*row)
    console = Console()
    console.print(table)
    if note:
        console.print(f"base: {note}")
    for one in decisions.values():
        console.print(f"{one['challenger']}: [bold]{one['outcome']}[/bold]. {one['reason']}")
    if decided_earlier:
        aliases = decision.get("aliases_after", {})
        now = f"@champion is {aliases['champion']}" if "champion" in aliases else "no champion"
        console.print(f"decided earlier, by run {decided_earlier}: {now}")
    else:
        console.print(decision.get("aliases", ""))
    console.print(
        f"reports and charts: mlflow ui --backend-store-uri {tracking_uri}", soft_wrap=True
    )
    rows = summary_rows(trained, measured, decisions)
    named = [dict(zip((c.replace("\n", " ") for c in COLUMNS), row, strict=True)) for row in rows]
    file = run.scratch / "summary.json"
    file.write_text(json.dumps(named, indent=1, ensure_ascii=False), encoding="utf-8")
    run.artifact(file)
