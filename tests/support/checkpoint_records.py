"""Records of checkpoints that lie nowhere, and what a policy says of them."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from steps.config.sections import Pruning
from steps.pruning.policy import Protections, Verdict, plan_pruning
from steps.pruning.records import Action, CheckpointRecord

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HERE = Protections(experiment_id="here")


class Policy(Pruning):
    """The configuration's section."""

    slim: bool = False


def record(step: int, metric: float | None = None, **changes: object) -> CheckpointRecord:
    plain = CheckpointRecord(
        run_id="run",
        experiment_id="here",
        step=step,
        bytes=100,
        metric=metric,
        created=NOW - timedelta(days=30) + timedelta(seconds=step),
        location=f"run/checkpoint-{step}",
        run_state="finished",
        slimmable_bytes=60,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def plan(
    records: Iterable[CheckpointRecord], policy: Policy, protections: Protections = HERE
) -> dict[int, Verdict]:
    verdicts = plan_pruning(records, policy, NOW, protections)
    return {verdict.record.step: verdict for verdict in verdicts}


def kept(
    records: Iterable[CheckpointRecord], policy: Policy, protections: Protections = HERE
) -> list[int]:
    return [step for step, verdict in plan(records, policy, protections).items() if verdict.keep]


NOTHING = Policy(keep_last=0, keep_best=0)


def action(step: int, what: Literal["delete", "slim"] = "delete") -> Action:
    entry = record(step)
    return Action(
        what=what,
        experiment_id=entry.experiment_id,
        run_id=entry.run_id,
        step=step,
        created=entry.created,
        location=entry.location,
        bytes=entry.bytes,
        reason="a test's",
    )
