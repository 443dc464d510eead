"""Step 5: which checkpoints can go, and, with `apply`, delete them.

    mlflow run . -e prune_checkpoints
    python -m steps.prune_checkpoints --run all --apply true

The plan is the default and changes nothing. Leaves `plan.json` in its run. Tag a run with
`forge.pin.checkpoint-N` (or `forge.pin`: all of them) to keep a checkpoint whatever the policy
says.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps import outcome, terminal
from steps.cli import step_command
from steps.config.file import load_config
from steps.config.sections import Training
from steps.errors import UserError
from steps.terminal import in_bytes, say, show_notices
from steps.tracking.names import PLAN_FILE

if TYPE_CHECKING:
    from rich.table import Table

    from steps.pruning.policy import Verdict
    from steps.pruning.records import Action, CheckpointRecord, PendingAction
    from steps.tracking.checkpoints.inventory import Inventory
    from steps.tracking.runs import StepRun

# Longer plans are shown as one row a run; plan.json has each checkpoint.
MAX_ROWS = 30


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

    from steps.tracking.checkpoints.removal import explain_store_errors
    from steps.tracking.runs import step_run

    with (
        step_run("prune_checkpoints", loaded.training, verbose=verbose) as run,
        explain_store_errors(),
    ):
        prune(run, loaded.training, which, apply)


def prune(run: "StepRun", training: Training, which: str, apply: bool) -> None:
    """Plan, show, and carry out if asked to.

    Raises:
        UserError: Something that should have gone is still there.
    """
    from contextlib import nullcontext

    from steps.pruning.journal import Journal, carry_out
    from steps.tracking.checkpoints.inventory import finetune_runs, take_inventory
    from steps.tracking.checkpoints.references import still_protected
    from steps.tracking.checkpoints.removal import journal_file, pruning_lock, remove

    policy = training.pruning
    output = training.output.output_dir
    folder = Path(output) if output else None
    wanted = finetune_runs(run.client, run.experiment_id, which)
    # Over the experiment, the others count although only one run is pruned.
    runs = (
        finetune_runs(run.client, run.experiment_id, "all")
        if policy.scope == "experiment"
        else wanted
    )
    file = journal_file(run.client, run.experiment_id)
    journal = Journal(file)
    spared: list[tuple[Action, str]] = []
    with pruning_lock(file) if apply else nullcontext():
        pending = journal.pending()
        inventory = take_inventory(
            run.client,
            run.experiment_id,
            runs,
            policy.metric,
            folder,
            pending,
            list_all=apply,
        )
        inventory, verdicts, actions = _plan(run, training, which, inventory, pending, apply)
        shown = [verdict for verdict in verdicts if which in ("all", verdict.record.run_id)]
        before = _total([verdict.record for verdict in shown])
        to_free = sum(verdict.freed_bytes for verdict in shown)
        _show(shown, policy.metric)
        left = [verdict.record for verdict in shown]
        if apply:
            spared = carry_out(
                actions,
                journal,
                lambda action: still_protected(run.client, inventory, action),
                lambda action: remove(run.client, inventory, action),
            )
            after = take_inventory(
                run.client,
                run.experiment_id,
                wanted,
                policy.metric,
                folder,
                journal.pending(),
                list_all=True,
            )
            # A living run may have stored more meanwhile: that is not part of the account.
            planned = {verdict.record.location for verdict in shown}
            left = [record for record in after.records if record.location in planned]
    with run.together():
        _write_plan(run, shown, spared, applied=apply, before=before, to_free=to_free, left=left)
        _tag(run, training, [r.info.run_id for r in wanted if r.info.status == "FINISHED"])
        _present(run, to_free, before, apply)
    outcome.add(bytes_before=before, bytes_to_free=to_free, applied=apply)
    _show_unregistered(run)
    _show_retracted(run, training)
    for action, reason in spared:
        say(f"kept after all: {action.run_id[:8]} step {action.step}: {reason}")
    if apply and (shown or actions):
        _refuse_remains(actions, spared, left)
        what = f"freed {in_bytes(before - _total(left))}: {in_bytes(before)} before"
        say(f"{what}, {in_bytes(_total(left))} now, as the store says")
    elif shown and not apply:
        hint = "delete with apply=true" if to_free else "the policy keeps all of them"
        say(f"{in_bytes(to_free)} of {in_bytes(before)} would be freed; {hint}")


def _present(run: "StepRun", to_free: int, before: int, apply: bool) -> None:
    """Name the run by the bytes that go, or could."""
    run.present(
        f"{in_bytes(to_free)} {'freed' if apply else 'could go'}",
        [
            f"**{in_bytes(to_free)} of {in_bytes(before)}** "
            f"{'freed' if apply else 'would be freed'}; "
            "`plan.json` has the reason for each checkpoint",
        ],
    )


def _show_unregistered(run: "StepRun") -> None:
    """Name the stored models that no version is made of; deleting them is the user's."""
    from steps.tracking.registry.versions import models_without_version

    for model in models_without_version(run.client, run.experiment_id):
        say(
            f"model {model.model_id} of run {model.source_run_id} ({model.status}) has no "
            "registered version: delete it in the MLflow UI if nobody needs it"
        )


def _show_retracted(run: "StepRun", training: Training) -> None:
    """Name the versions that were trained on papers retracted since, the champion first."""
    from steps.tracking.provenance import configured_retractions
    from steps.tracking.registry.affected import affected_versions, say_affected

    retractions = configured_retractions(training, run.scratch)
    if retractions is None:
        return
    name = training.mlflow.registered_model_name
    say_affected(affected_versions(run.client, name, retractions, run.scratch), retractions)


def _plan(
    run: "StepRun",
    training: Training,
    which: str,
    inventory: "Inventory",
    pending: "Sequence[PendingAction]",
    apply: bool,
) -> "tuple[Inventory, list[Verdict], list[Action]]":
    """Decide what goes; before anything does, what stays in its place is read whole.

    Where that is broken, the plan becomes another one, and is checked again.

    Args:
        run: The run of this step.
        training: The configuration, with the policy.
        which: `all`, or the run to prune.
        inventory: The checkpoints that there are.
        pending: What an interrupted pruning has left to do.
        apply: Whether it will be carried out.

    Returns:
        The inventory without broken checkpoints, a verdict a checkpoint, and what to do.
    """
    from steps.pruning.policy import actions_to_take, plan_pruning
    from steps.tracking.checkpoints.references import find_protections
    from steps.tracking.checkpoints.verification import runs_at_stake, with_intact_resume_points

    now, read = datetime.now(UTC), set[str]()
    while True:
        protections = find_protections(run.client, run.experiment_id, which, inventory)
        verdicts = plan_pruning(inventory.records, training.pruning, now, protections, pending)
        actions = actions_to_take(verdicts, protections, pending)
        unread = runs_at_stake(inventory, actions) - read if apply else set()
        if not unread:
            return inventory, verdicts, actions
        inventory = with_intact_resume_points(inventory, unread, pending, say)
        read |= unread


def _refuse_remains(
    actions: "Sequence[Action]",
    spared: "Sequence[tuple[Action, str]]",
    left: "Sequence[CheckpointRecord]",
) -> None:
    """Check by the store's own listing that what was removed is gone."""
    kept = {(action.location, action.created) for action, _ in spared}
    sizes = {(record.location, record.created): record for record in left}
    for action in actions:
        record = sizes.get((action.location, action.created))
        if record is None or (action.location, action.created) in kept:
            continue
        if action.what == "delete" or record.slimmable_bytes:
            raise UserError(
                f"{action.location}: {in_bytes(record.bytes)} are still stored after its removal: "
                "look at that folder's permissions, then run prune_checkpoints again"
            )


def _write_plan(
    run: "StepRun",
    verdicts: "Sequence[Verdict]",
    spared: "Sequence[tuple[Action, str]]",
    *,
    applied: bool,
    before: int,
    to_free: int,
    left: "Sequence[CheckpointRecord]",
) -> None:
    after = _total(left)
    reasons = {(action.key, action.created): reason for action, reason in spared}
    plan = {
        "applied": applied,
        "bytes_before": before,
        "bytes_after": after,
        "bytes_to_free": to_free,
        "checkpoints": [
            {
                **_as_json(verdict),
                "kept_after_all": reasons.get((verdict.record.key, verdict.record.created)),
            }
            for verdict in verdicts
        ],
    }
    file = run.scratch / PLAN_FILE
    file.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    run.artifact(file)
    run.metrics(
        {
            "pruning/bytes_before": before,
            "pruning/bytes_to_free": to_free,
            "pruning/bytes_after": after,
        }
    )


def _tag(run: "StepRun", training: Training, finished: Sequence[str]) -> None:
    from steps.tracking.cache import cache_tags, key_parts

    inputs = {"runs": ",".join(sorted(finished))}
    run.tag(**cache_tags(key_parts("prune_checkpoints", training, inputs)))


def _show(verdicts: "Sequence[Verdict]", metric: str) -> None:
    if not verdicts:
        say("nothing to prune: no checkpoints are stored")
        return

    if len(verdicts) <= MAX_ROWS:
        terminal.show(_by_checkpoint(verdicts, metric))
    else:
        terminal.show(_by_run(verdicts))


def _by_checkpoint(verdicts: "Sequence[Verdict]", metric: str) -> "Table":
    """One row a checkpoint; the reasons are shortened to what the other columns do not say."""
    table = _table(f"Checkpoints (metric: {metric})", "step", "size", "metric", "frees")
    table.add_column("verdict", no_wrap=True)
    table.add_column("reason", ratio=1)
    named = re.compile(rf" by {re.escape(metric)} \([^)]*\)")
    for verdict in verdicts:
        record = verdict.record
        word = _verdict_word(verdict)
        table.add_row(
            record.run_id[:8],
            str(record.step),
            in_bytes(record.bytes),
            "" if record.metric is None else f"{record.metric:.4f}",
            in_bytes(verdict.freed_bytes) if verdict.freed_bytes else "",
            {"delete": f"[red]{word}[/red]", "slim": f"[yellow]{word}[/yellow]"}.get(word, word),
            _escaped(named.sub(" by metric", verdict.reason)),
        )
    return table


def _by_run(verdicts: "Sequence[Verdict]") -> "Table":
    """One row a run."""
    title = f"{len(verdicts)} checkpoints (plan.json has the verdict on each)"
    table = _table(title, "checkpoints", "size", "keep", "slim", "delete", "frees")
    for run_id, group in groupby(verdicts, key=lambda verdict: verdict.record.run_id):
        mine = list(group)
        words = [_verdict_word(verdict) for verdict in mine]
        table.add_row(
            run_id[:8],
            str(len(mine)),
            in_bytes(_total([verdict.record for verdict in mine])),
            *(str(words.count(word)) for word in ("keep", "slim", "delete")),
            in_bytes(sum(verdict.freed_bytes for verdict in mine)),
        )
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _table(title: str, *numbers: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


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


def _total(records: "Sequence[CheckpointRecord]") -> int:
    return sum(record.bytes for record in records)


if __name__ == "__main__":
    main()
