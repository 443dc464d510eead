"""The table that ends the pipeline: what was trained, what it gained, what was decided."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from steps import terminal
from steps.config.dotted import flatten, short_names
from steps.config.sections import Training
from steps.metrics import PAPERS_FOR_RELIABLE_INTERVALS, PRIMARY


class FinishedRun(Protocol):
    """A run of the tracking store: `info.run_id`, `data.metrics` and `data.tags` are read."""

    info: Any
    data: Any


# More of a variant does not fit beside the figures.
SETTINGS_SHOWN, WIDEST_SETTING = 3, 20
COLUMNS = (
    "rank",
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
    overlays: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, ...]]:
    """One row a variant, the best first, as `COLUMNS` has it; narrow enough for 80 columns.

    Args:
        trained: Finetune runs by variant.
        measured: Evaluation runs by variant, and "base".
        decisions: Decisions by the URI of the challenger.
        overlays: What each variant sets.
    """
    settings = _settings(overlays)
    base = measured["base"].data.metrics
    rows: list[tuple[str, ...]] = []
    figures = {variant: _value(measured[variant].data.metrics) for variant in trained}
    ranked = sorted(trained, key=lambda variant: (figures[variant] is None, figures[variant]))
    for rank, variant in enumerate(ranked, start=1):
        run = trained[variant]
        metrics = run.data.metrics
        test = measured[variant].data.metrics
        decision = decisions.get(run.data.tags.get("forge.model_version", ""), {})
        rows.append(
            (
                str(rank),
                "\n".join([variant, *settings[variant]]),
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


def _settings(overlays: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """What each variant sets, one line a key, as short as it is clear."""
    values = {variant: dict(flatten("", overlay)) for variant, overlay in overlays.items()}
    names = short_names({key for one in values.values() for key in one})
    lines: dict[str, list[str]] = {}
    for variant, one in values.items():
        said = [f"{names[key]}={value}" for key, value in one.items()]
        more = [f"and {len(said) - SETTINGS_SHOWN} more"] if len(said) > SETTINGS_SHOWN else []
        lines[variant] = [line[:WIDEST_SETTING] for line in [*said[:SETTINGS_SHOWN], *more]]
    return lines


def _outcome(decision: Mapping[str, Any]) -> str:
    """What was decided; a version that no decision is about is the champion that was to beat."""
    if not decision:
        return "champion"
    papers = decision["papers"]
    few = f"\n({papers} papers)" if papers < PAPERS_FOR_RELIABLE_INTERVALS else ""
    return f"{decision['outcome']}{few}"


def _figure(metrics: Mapping[str, float], end: str = "", front: str = "") -> str:
    value = _value(metrics, end, front)
    return "–" if value is None else f"{value:.3f}"


def _value(metrics: Mapping[str, float], end: str = "", front: str = "") -> float | None:
    """The figure that decides for the objective at hand (lower is better), or one beside it."""
    found = (metrics.get(f"test/{front}{name}{end}") for name in PRIMARY.values())
    return next((value for value in found if value is not None), None)


def show_summary(
    run: Any,
    training: Training,
    trained: Mapping[str, FinishedRun],
    measured: Mapping[str, FinishedRun],
    decision: Mapping[str, Any],
    tracking_uri: str,
    page: str,
    decided_earlier: str = "",
) -> None:
    """Print the table, what was decided earlier, and the line that opens the MLflow UI.

    Args:
        run: The pipeline's run, which gets the table as `summary.json`.
        training: The configuration.
        trained: Finetune runs by variant.
        measured: Evaluation runs by variant, and "base".
        decision: The content of `decision.json`.
        tracking_uri: Of the store.
        page: Where the UI shows the trainings; the address without the server's.
        decided_earlier: The run that decided, where its decision was only used again.
    """
    from rich.box import SIMPLE_HEAD
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
        title=f"{training.model.name}: {unit} on {papers} held-out papers (lower is better)",
    )
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    rows = summary_rows(trained, measured, decisions, training.variants)
    for row in rows:
        table.add_row(*row)
    terminal.show(table)
    if note:
        terminal.show(f"base: {note}")
    if decided_earlier:
        for one in decisions.values():
            terminal.show(f"{one['challenger']}: [bold]{one['outcome']}[/bold]. {one['reason']}")
        aliases = decision.get("aliases_after", {})
        now = f"@champion is {aliases['champion']}" if "champion" in aliases else "no champion"
        terminal.show(f"decided earlier, by run {decided_earlier}: {now}")
    terminal.show(
        f"reports and charts: mlflow ui --backend-store-uri {tracking_uri}", soft_wrap=True
    )
    # The UI opens on a page for agents, where there is nothing to see.
    terminal.show(f"then: http://127.0.0.1:5000/{page}", soft_wrap=True)
    named = [dict(zip((c.replace("\n", " ") for c in COLUMNS), row, strict=True)) for row in rows]
    file = run.scratch / "summary.json"
    file.write_text(json.dumps(named, indent=1, ensure_ascii=False), encoding="utf-8")
    run.artifact(file)
