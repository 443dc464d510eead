"""Step 5: which checkpoints can go, and, with `apply`, delete them.

    mlflow run . -e prune_checkpoints
    python -m steps.prune_checkpoints --run all --apply true

The plan is the default and changes nothing. Leaves `plan.json` in its run.
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from steps import config
from steps.cli import say, show_notices, step_command
from steps.config import load_config

if TYPE_CHECKING:
    from steps.pruning.policy import Verdict
    from steps.tracking.runs import StepRun


@click.command()
@click.option(
    "--run", "which", default="all", show_default=True, help="all, or the id of a finetune run."
)
@click.option(
    "--apply",
    "apply",
    default=False,
    type=bool,
    show_default=True,
    help="Delete what the plan lists.",
)
@step_command()
def main(which: str, apply: bool, config_path: str, overrides: str, verbose: bool) -> None:
    """Plan which checkpoints to delete, by policy and registry; delete them with --apply true."""
    loaded = load_config(config_path, overrides)
    show_notices(loaded.notices)

    from steps.tracking.runs import step_run

    with step_run("prune_checkpoints", loaded.training, verbose=verbose) as run:
        prune(run, loaded.training, which, apply)


def prune(run: "StepRun", training: config.Training, which: str, apply: bool) -> None:
    """Plan, show, and carry out if asked to."""
    from steps.pruning.policy import Journal, actions_to_take, carry_out, plan_pruning
    from steps.tracking.reuse import cache_tags, key_parts
    from steps.tracking.stored_checkpoints import (
        find_protections,
        finetune_runs,
        list_records,
        remove,
    )
    from steps.training.models import cache_folder

    policy = training.pruning
    runs = finetune_runs(run.client, run.experiment_id, which)
    records = list_records(run.client, runs, policy.metric)
    protections = find_protections(run.client, run.experiment_id, which, runs)
    journal = Journal(cache_folder() / "pruning" / f"experiment-{run.experiment_id}.jsonl")
    pending = journal.pending()
    verdicts = plan_pruning(records, policy, datetime.now(UTC), protections, pending)
    before = sum(record.bytes for record in records)
    freed = sum(verdict.freed_bytes for verdict in verdicts)
    _show(verdicts)
    if apply:
        actions = actions_to_take(verdicts, protections, pending)
        carry_out(actions, journal, lambda action: remove(run.client, action))
        after = sum(r.bytes for r in list_records(run.client, runs, policy.metric))
        say(f"{_megabytes(before - after)} freed; {_megabytes(after)} of checkpoints remain")
    else:
        after = before
        say(f"{_megabytes(freed)} of {_megabytes(before)} would be freed; delete with apply=true")
    file = run.scratch / "plan.json"
    file.write_text(
        json.dumps(
            {
                "applied": apply,
                "bytes_before": before,
                "bytes_after": after,
                "bytes_to_free": freed,
                "checkpoints": [_as_json(verdict) for verdict in verdicts],
            },
            indent=1,
        ),
        encoding="utf-8",
    )
    run.artifact(file)
    run.metrics({"pruning/bytes_before": before, "pruning/bytes_to_free": freed})
    names = ",".join(sorted(r.info.run_id for r in runs if r.info.status == "FINISHED"))
    run.tag(**cache_tags(key_parts("prune_checkpoints", training, {"runs": names})))


def _show(verdicts: "list[Verdict]") -> None:
    from rich.console import Console
    from rich.table import Table

    if not verdicts:
        say("no checkpoints are stored")
        return
    table = Table(title="Checkpoints")
    for column in ("run", "step", "size", "metric", "verdict", "reason"):
        table.add_column(column)
    for verdict in verdicts:
        record = verdict.record
        table.add_row(
            record.run_id[:8],
            str(record.step),
            _megabytes(record.bytes),
            "" if record.metric is None else f"{record.metric:.4f}",
            _verdict_word(verdict),
            verdict.reason,
        )
    Console().print(table)


def _verdict_word(verdict: "Verdict") -> str:
    if not verdict.keep:
        return "delete"
    return "slim" if verdict.slim else "keep"


def _as_json(verdict: "Verdict") -> dict[str, object]:
    record = verdict.record
    return {
        "run": record.run_id,
        "step": record.step,
        "bytes": record.bytes,
        "metric": record.metric,
        "verdict": _verdict_word(verdict),
        "reason": verdict.reason,
        "bytes_freed": verdict.freed_bytes,
    }


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
