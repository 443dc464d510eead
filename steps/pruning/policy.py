"""Which checkpoints stay, which go, and why: a plan first, then its execution.

    journal = Journal(path)
    pending = journal.pending()
    verdicts = plan_pruning(records, config.pruning, now, protections, pending)
    actions = actions_to_take(verdicts, protections, pending)
    spared = carry_out(actions, journal, still_protected, perform)

Nothing here knows where checkpoints are stored: the caller describes them in records,
`still_protected` asks again right before each removal, and `perform` removes the bytes. The
plan is made in three stages:

1. What is protected stays as it is: checkpoints of other experiments, pinned ones, those that a
   registered version or alias points at, those being written or needed by a living run, and
   the newest resumable one of each run that has not finished.
2. What a crashed save left goes. Of the rest, run by run or over the whole experiment (`scope`),
   what a rule names stays: the last N, the best K, every M steps, the young ones. With `slim`,
   it loses its optimizer state (not the young ones).
3. Where a run, or the experiment, still holds more than `max_bytes`, the most dispensable of
   those go as well: young ones first, then every M steps, then the last N, then the best K;
   within each of these, the oldest or worst first.

Deletions are written to a journal first, so that a rerun after a crash finishes what was begun.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from itertools import groupby
from typing import Literal, Protocol

from steps.pruning.records import (
    Action,
    CheckpointKey,
    CheckpointRecord,
    Identity,
    PendingAction,
    identity_of,
)

"""(run id, step)."""
"""`unfinished`: failed, killed, or still marked as running without a heartbeat. A run that
another one has resumed from and outgrown counts as finished."""


class PruningPolicy(Protocol):
    """The section `pruning` of the configuration."""

    @property
    def scope(self) -> Literal["run", "experiment"]:
        """Whether the rules count within each run, or over all runs of the experiment."""

    @property
    def keep_last(self) -> int:
        """How many of the newest checkpoints stay: by step in a run, else by their time."""

    @property
    def keep_best(self) -> int:
        """How many of the best checkpoints stay."""

    @property
    def metric(self) -> str:
        """The metric that `keep_best` ranks by (for the reasons; the records hold its values)."""

    @property
    def greater_is_better(self) -> bool:
        """Whether a greater value of the metric is better."""

    @property
    def every_steps(self) -> int | None:
        """Checkpoints whose step is a multiple of this stay; None: no such rule."""

    @property
    def younger_than_days(self) -> float | None:
        """Checkpoints younger than this stay, whole; None: no such rule."""

    @property
    def max_bytes(self) -> int | None:
        """What the checkpoints of the scope may take up, in bytes; None: no limit."""

    @property
    def slim(self) -> bool:
        """Whether the checkpoints that the rules keep lose their optimizer state."""


@dataclass(frozen=True)
class Protections:
    """What outside the checkpoints themselves forbids to touch them.

    Attributes:
        experiment_id: The experiment that is pruned; all others' checkpoints stay.
        run_id: The one run that is pruned, so that all others' stay; None: every run.
        referenced_by: What in the registry points at a checkpoint (`version 3, @champion`).
        needed_by: The living or unfinished run that reads a checkpoint, or that resumed from
            it and has no checkpoint of its own yet.
    """

    experiment_id: str
    run_id: str | None = None
    referenced_by: Mapping[CheckpointKey, str] = field(default_factory=dict)
    needed_by: Mapping[CheckpointKey, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the plan says of one checkpoint.

    Attributes:
        record: The checkpoint.
        keep: False: it goes.
        slim: It stays, without its optimizer state.
        protected: It stays as it is whatever the policy says.
        reason: Why, in one line.
        budget_rank: n: it is the n-th of its scope that goes for the budget alone; 0: it stays,
            or goes for another reason.
    """

    record: CheckpointRecord
    keep: bool
    slim: bool
    protected: bool
    reason: str
    budget_rank: int = 0

    @property
    def freed_bytes(self) -> int:
        """Bytes that carrying it out sets free."""
        if not self.keep:
            return self.record.bytes
        return self.record.slimmable_bytes if self.slim else 0


class _Rule(IntEnum):
    """What keeps a checkpoint; the budget takes the lower ones first."""

    YOUNG = 0
    EVERY_STEPS = 1
    LAST = 2
    BEST = 3


"""(run id, step, creation time) of a checkpoint."""
_Begun = Mapping[Identity, Literal["delete", "slim"]]
"""What an interrupted pruning had begun to do."""


@dataclass
class _Kept:
    """One checkpoint that rules keep.

    `order` says which goes first among those with the same strongest rule: the lower.
    """

    rule: _Rule
    order: int
    reasons: list[str]
    young: bool = False


def plan_pruning(
    records: Iterable[CheckpointRecord],
    policy: PruningPolicy,
    now: datetime,
    protections: Protections,
    pending: Iterable[PendingAction] = (),
) -> list[Verdict]:
    """Decide for each checkpoint whether it stays. Changes nothing.

    A checkpoint being written counts towards no rule, because it may never be complete; nor
    does what a crashed save left, or one whose deletion was begun. Protected ones count:
    they may be the last and best, and their bytes are part of the budget.

    Args:
        records: All checkpoints that are stored, also where only some of them may go: one
            that is not among them counts as gone.
        policy: The section `pruning` of the configuration.
        now: The present, with its time zone.
        protections: What the registry and other runs need.
        pending: What an interrupted pruning left (`Journal.pending`).

    Returns:
        One verdict a record, sorted by run and step.
    """
    begun: _Begun = {
        identity_of(entry.action): entry.action.what for entry in pending if entry.begun
    }
    ordered = sorted(records, key=_by_run_and_step)
    would_resume = {
        identity
        for _, group in groupby(ordered, key=lambda record: record.run_id)
        for identity in _resumed_from_next(list(group), begun)
    }
    verdicts: list[Verdict] = []
    if policy.scope == "experiment":
        # Steps of different runs do not compare; the time at which they were written does.
        by_time = sorted(
            records, key=lambda record: (record.experiment_id, record.created, record.key)
        )
        groups = groupby(by_time, key=lambda record: record.experiment_id)
    else:
        groups = groupby(ordered, key=lambda record: record.run_id)
    for _, group in groups:
        verdicts.extend(_plan_group(list(group), policy, now, protections, begun, would_resume))
    return sorted(verdicts, key=lambda verdict: _by_run_and_step(verdict.record))


def actions_to_take(
    verdicts: Iterable[Verdict],
    protections: Protections,
    pending: Iterable[PendingAction] = (),
) -> list[Action]:
    """List what a plan removes, and begun deletions whose checkpoint is no longer stored.

    A crash may have removed just the entry by which a checkpoint is found and left its bytes.
    They go now, unless another checkpoint has come to lie there or they are protected.

    Args:
        verdicts: The whole plan (`plan_pruning`).
        protections: What was given to the plan.
        pending: What was given to the plan.
    """
    # The budget's share comes last and in its order: were it gone after a crash and the rest not,
    # the rerun's last and best would be other checkpoints, which this plan lets go.
    verdicts = sorted(verdicts, key=lambda verdict: verdict.budget_rank)
    planned = [_action(verdict) for verdict in verdicts if verdict.slim or not verdict.keep]
    stored = {verdict.record.key for verdict in verdicts if not verdict.record.leftover}
    locations = {verdict.record.location for verdict in verdicts}
    needed = protections.referenced_by.keys() | protections.needed_by.keys()
    orphans = [
        entry.action
        for entry in pending
        if entry.begun
        and entry.action.what == "delete"
        and entry.action.experiment_id == protections.experiment_id
        and protections.run_id in (None, entry.action.run_id)
        and (entry.action.run_id, entry.action.step) not in stored | needed
        and entry.action.location not in locations
    ]
    return orphans + planned


def _by_run_and_step(record: CheckpointRecord) -> tuple[CheckpointKey, datetime]:
    return record.key, record.created


def _resumed_from_next(records: list[CheckpointRecord], begun: _Begun) -> set[Identity]:
    """Name the checkpoints that one run, given by ascending step, would resume from.

    That is the newest on this host, and the newest in the store for a launch on another host.
    """
    resumable = [
        record
        for record in records
        if record.resumable
        and not record.being_written
        and not record.leftover
        and identity_of(record) not in begun
    ]
    stored = [record for record in resumable if record.in_store]
    return {identity_of(record) for record in resumable[-1:] + stored[-1:]}


def _plan_group(
    records: list[CheckpointRecord],
    policy: PruningPolicy,
    now: datetime,
    protections: Protections,
    begun: _Begun,
    would_resume: set[Identity],
) -> list[Verdict]:
    """Decide over the checkpoints among which the rules count, the oldest first."""
    interrupted = [begun.get(identity_of(record)) for record in records]
    whole = [
        index
        for index, record in enumerate(records)
        if not record.being_written and not record.leftover and interrupted[index] != "delete"
    ]
    kept = _kept_by_rules(records, whole, policy, now)

    verdicts = []
    for index, record in enumerate(records):
        protection = _protection(record, protections, identity_of(record) in would_resume)
        if protection is not None:
            if interrupted[index] is not None:
                protection += "; an interrupted pruning may have taken some of its files"
            verdict = Verdict(record, keep=True, slim=False, protected=True, reason=protection)
        elif interrupted[index] == "delete":
            reason = "an interrupted pruning had begun to delete it"
            verdict = Verdict(record, keep=False, slim=False, protected=False, reason=reason)
        elif record.leftover:
            reason = "left behind by a save that was cut off"
            verdict = Verdict(record, keep=False, slim=False, protected=False, reason=reason)
        elif index not in kept:
            reason = _why_no_rule(record, policy)
            verdict = Verdict(record, keep=False, slim=False, protected=False, reason=reason)
        else:
            # A begun slimming is finished whatever the policy says now: a part of an optimizer
            # state is of no use to anyone.
            slim = interrupted[index] == "slim" or (
                policy.slim and record.slimmable_bytes > 0 and not kept[index].young
            )
            reason = ", ".join(kept[index].reasons)
            if slim:
                reason += "; without its optimizer state it can no longer be resumed"
            verdict = Verdict(record, keep=True, slim=slim, protected=False, reason=reason)
        verdicts.append(verdict)
    return verdicts if policy.max_bytes is None else _fit(verdicts, kept, policy)


def _protection(
    record: CheckpointRecord, protections: Protections, is_newest_resumable: bool
) -> str | None:
    """Say why a checkpoint may not be touched; None: it may."""
    if record.experiment_id != protections.experiment_id:
        return f"protected: it belongs to experiment {record.experiment_id}"
    if protections.run_id not in (None, record.run_id):
        return f"protected: only run {protections.run_id} is pruned"
    if record.pinned:
        return "protected: it is pinned"
    if record.key in protections.referenced_by:
        return f"protected: the registry points at it ({protections.referenced_by[record.key]})"
    if record.being_written:
        return "protected: it is being written"
    if record.key in protections.needed_by:
        return f"protected: run {protections.needed_by[record.key]} needs it"
    if is_newest_resumable and record.run_state != "finished":
        return f"protected: its run is {record.run_state} and would resume from it"
    return None


def _kept_by_rules(
    records: Sequence[CheckpointRecord], whole: Sequence[int], policy: PruningPolicy, now: datetime
) -> dict[int, _Kept]:
    """Apply the rules to one scope's complete checkpoints, the weakest rule first.

    Returns:
        What is kept, by its index among the records.
    """
    kept: dict[int, _Kept] = {}

    def keep(index: int, rule: _Rule, order: int, reason: str) -> None:
        before = kept.get(index, _Kept(rule, order, []))
        young = before.young or rule is _Rule.YOUNG
        kept[index] = _Kept(rule, order, [reason, *before.reasons], young)

    if policy.younger_than_days is not None:
        limit = timedelta(days=policy.younger_than_days)
        for index in whole:
            if now - records[index].created < limit:
                reason = f"younger than {policy.younger_than_days:g} days"
                keep(index, _Rule.YOUNG, index, reason)
    if policy.every_steps is not None:
        for index in whole:
            if records[index].step % policy.every_steps == 0:
                reason = f"its step is a multiple of {policy.every_steps}"
                keep(index, _Rule.EVERY_STEPS, index, reason)
    for index in whole[max(0, len(whole) - policy.keep_last) :]:
        keep(index, _Rule.LAST, index, f"among the last {policy.keep_last} {_of(policy)}")
    for rank, index in enumerate(_ranked(records, whole, policy)[: policy.keep_best], start=1):
        value = records[index].metric
        keep(
            index,
            _Rule.BEST,
            -rank,
            f"number {rank} {_of(policy)} by {policy.metric} ({value:.6g})",
        )
    return kept


def _ranked(
    records: Sequence[CheckpointRecord], whole: Sequence[int], policy: PruningPolicy
) -> list[int]:
    """Sort the measured ones, the best first and the newer first among equals."""

    def badness(index: int) -> tuple[float, int]:
        value = records[index].metric or 0.0
        return (-value if policy.greater_is_better else value), -index

    # A NaN compares with nothing, so that a single one would leave the rest unsorted.
    measured = [
        index
        for index in whole
        if (value := records[index].metric) is not None and math.isfinite(value)
    ]
    return sorted(measured, key=badness)


def _of(policy: PruningPolicy) -> str:
    return "of the experiment" if policy.scope == "experiment" else "of its run"


def _fit(
    verdicts: list[Verdict], kept: Mapping[int, _Kept], policy: PruningPolicy
) -> list[Verdict]:
    """Let more go until one scope's checkpoints fit, the most dispensable first."""
    max_bytes = policy.max_bytes or 0
    verdicts = list(verdicts)
    excess = -max_bytes + sum(verdict.record.bytes - verdict.freed_bytes for verdict in verdicts)
    dispensable = sorted(
        (index for index, verdict in enumerate(verdicts) if verdict.keep and not verdict.protected),
        key=lambda index: (kept[index].rule, kept[index].order),
    )
    for rank, index in enumerate(dispensable, start=1):
        if excess <= 0:
            break
        verdict = verdicts[index]
        excess -= verdict.record.bytes - verdict.freed_bytes
        reason = f"over the {max_bytes:,} bytes {_of(policy)}, though {verdict.reason}"
        verdicts[index] = Verdict(
            verdict.record, False, slim=False, protected=False, reason=reason, budget_rank=rank
        )
    return verdicts


def _why_no_rule(record: CheckpointRecord, policy: PruningPolicy) -> str:
    reasons = [f"not among the last {policy.keep_last} {_of(policy)}"]
    if record.metric is None or not math.isfinite(record.metric):
        reasons.append(f"without a {policy.metric}")
    else:
        reasons.append(
            f"not among the best {policy.keep_best} by {policy.metric} ({record.metric:.6g})"
        )
    if policy.every_steps is not None:
        reasons.append(f"no multiple of {policy.every_steps} steps")
    if policy.younger_than_days is not None:
        reasons.append(f"not younger than {policy.younger_than_days:g} days")
    return ", ".join(reasons)


def _action(verdict: Verdict) -> Action:
    record = verdict.record
    return Action(
        what="slim" if verdict.keep else "delete",
        experiment_id=record.experiment_id,
        run_id=record.run_id,
        step=record.step,
        created=record.created,
        location=record.location,
        bytes=verdict.freed_bytes,
        reason=verdict.reason,
        folder=record.folder,
    )
