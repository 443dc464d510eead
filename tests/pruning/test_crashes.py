"""What is protected is never touched, and a crash anywhere changes nothing about the outcome."""

import math
import tempfile
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from steps.pruning.journal import Journal, carry_out
from steps.pruning.policy import Protections, actions_to_take, plan_pruning
from steps.pruning.records import Action, CheckpointKey, CheckpointRecord, RunState
from tests.support.checkpoint_records import HERE, NOTHING, NOW, Policy, record


class Crash(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class Clock:
    """Counts what happens to the store and the journal, and crashes at a given moment."""

    left: int

    def tick(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1


class CrashingJournal(Journal):
    """A journal whose process may die before, in and after each line."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self.clock = clock

    def _append(
        self, event: Literal["intended", "begun", "done"], actions: Sequence[Action]
    ) -> None:
        self.clock.tick()
        try:
            self.clock.tick()
        except Crash:
            with open(self.path, "ab") as file:
                file.write(b'{"event": "' + event.encode())
            raise
        super()._append(event, actions)
        self.clock.tick()


FILES = ("entry", "weights", "optimizer")


class Store:
    """Checkpoints as sets of files; without its `entry` a checkpoint is not found any more."""

    def __init__(self, records: Iterable[CheckpointRecord], deletion_order: Sequence[str]) -> None:
        self.deletion_order = deletion_order
        self.described = {entry.location: entry for entry in records}
        self.files = {
            entry.location: set(FILES) if entry.slimmable_bytes else {"entry", "weights"}
            for entry in records
        }

    def records(self) -> list[CheckpointRecord]:
        return [
            replace(
                self.described[location],
                bytes=self.size(location),
                slimmable_bytes=self.described[location].slimmable_bytes * ("optimizer" in files),
                resumable=files == set(FILES),
            )
            for location, files in self.files.items()
            if "entry" in files
        ]

    def size(self, location: str) -> int:
        whole, files = self.described[location], self.files[location]
        weights = whole.bytes - whole.slimmable_bytes
        return weights * ("weights" in files) + whole.slimmable_bytes * ("optimizer" in files)

    def perform(self, action: Action, clock: Clock, forbidden: set[str]) -> None:
        assert action.location not in forbidden, f"{action} touches a protected checkpoint"
        for file in self.deletion_order if action.what == "delete" else ["optimizer"]:
            clock.tick()
            self.files[action.location].discard(file)
        clock.tick()

    def state(self) -> dict[str, set[str]]:
        return {location: set(files) for location, files in self.files.items() if files}


@st.composite
def registries(draw: st.DrawFn) -> list[CheckpointRecord]:
    records = []
    for run in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        experiment = draw(st.sampled_from(["here", "here", "there"]))
        state: RunState = draw(st.sampled_from(["living", "unfinished", "finished", "finished"]))
        for step in draw(st.lists(st.integers(1, 12), max_size=7, unique=True)):
            size = draw(st.integers(1, 100))
            slimmable = draw(st.integers(0, size - 1))
            records.append(
                CheckpointRecord(
                    run_id=run,
                    experiment_id=experiment,
                    step=step,
                    bytes=size,
                    metric=draw(st.sampled_from([None, math.nan, 0.5, 1.0, 1.5, 2.0, -1.0])),
                    created=NOW - timedelta(days=draw(st.integers(0, 9))),
                    location=f"{run}/checkpoint-{step}",
                    run_state=state,
                    slimmable_bytes=slimmable,
                    resumable=slimmable > 0,
                    pinned=draw(st.sampled_from([False] * 5 + [True])),
                    being_written=draw(st.sampled_from([False] * 7 + [True])),
                    in_store=draw(st.sampled_from([True] * 4 + [False])),
                )
            )
            if not records[-1].being_written and draw(st.sampled_from([False] * 7 + [True])):
                records[-1] = replace(
                    records[-1], leftover=True, resumable=False, slimmable_bytes=0
                )
    return records


policies = st.builds(
    Policy,
    scope=st.sampled_from(["run", "run", "experiment"]),
    keep_last=st.integers(0, 3),
    keep_best=st.integers(0, 3),
    greater_is_better=st.booleans(),
    every_steps=st.none() | st.integers(1, 6),
    younger_than_days=st.none() | st.sampled_from([0.0, 2.5, 5.0]),
    max_bytes=st.none() | st.integers(1, 300),
    slim=st.booleans(),
)


def draw_protections(data: st.DataObject, records: Sequence[CheckpointRecord]) -> Protections:
    if not records:
        return HERE
    keys = st.lists(st.sampled_from([entry.key for entry in records]), max_size=2)
    return Protections(
        experiment_id="here",
        run_id=data.draw(st.sampled_from([None, None, None, "a"])),
        referenced_by=dict.fromkeys(data.draw(keys), "version 1"),
        needed_by=dict.fromkeys(data.draw(keys), "another"),
    )


def protected_keys(
    records: Sequence[CheckpointRecord], protections: Protections
) -> set[CheckpointKey]:
    """Say in the plainest way what may never be touched."""
    protected = set(protections.referenced_by) | set(protections.needed_by)
    for entry in records:
        mine = [
            other
            for other in records
            if other.run_id == entry.run_id and other.resumable and not other.being_written
        ]
        here = max((other.step for other in mine), default=None)
        stored = max((other.step for other in mine if other.in_store), default=None)
        if (
            entry.pinned
            or entry.being_written
            or entry.experiment_id != "here"
            or protections.run_id not in (None, entry.run_id)
            or (entry.run_state != "finished" and entry.step in (here, stored))
        ):
            protected.add(entry.key)
    return protected


def named_by_rules(records: Sequence[CheckpointRecord], policy: Policy) -> set[CheckpointKey]:
    """Say in the plainest way what the rules keep, the budget apart."""
    named: set[CheckpointKey] = set()
    over_all = policy.scope == "experiment"

    def age(entry: CheckpointRecord) -> object:
        return (entry.created, entry.key) if over_all else entry.step

    for entry in records:
        if entry.leftover:
            continue
        others = [
            other
            for other in records
            if (over_all or other.run_id == entry.run_id)
            and other.experiment_id == entry.experiment_id
            and not other.being_written
            and not other.leftover
            and other is not entry
        ]
        newer = [other for other in others if age(other) > age(entry)]  # type: ignore[operator]
        if len(newer) < policy.keep_last:
            named.add(entry.key)
        if policy.every_steps and entry.step % policy.every_steps == 0:
            named.add(entry.key)
        days = policy.younger_than_days
        if days is not None and (NOW - entry.created) / timedelta(days=1) < days:
            named.add(entry.key)
        if entry.metric is not None and not math.isnan(entry.metric):
            sign = -1 if policy.greater_is_better else 1
            rank = sum(
                sign * other.metric < sign * entry.metric
                or (other.metric == entry.metric and other in newer)
                for other in others
                if other.metric is not None and not math.isnan(other.metric)
            )
            if rank < policy.keep_best:
                named.add(entry.key)
    return named


def prune(
    store: Store,
    policy: Policy,
    protections: Protections,
    journal: Path,
    clock: Clock,
    late: Container[CheckpointKey] = (),
) -> None:
    """One launch of the step: look, plan, do. `late` are referred to only after the plan."""
    pending = Journal(journal).pending()
    records = store.records()
    # What is half deleted is neither resumable nor whole, whatever is still listed of it.
    begun = {entry.action.location for entry in pending if entry.begun}
    sound = [entry for entry in records if entry.location not in begun]
    keys = protected_keys(sound, protections)
    forbidden = {location for location, entry in store.described.items() if entry.key in keys}
    verdicts = plan_pruning(records, policy, NOW, protections, pending)
    actions = actions_to_take(verdicts, protections, pending)
    forbidden |= {location for location, entry in store.described.items() if entry.key in late}
    spared = carry_out(
        actions,
        CrashingJournal(journal, clock),
        lambda action: "referred to" if action.key in late else None,
        lambda action: store.perform(action, clock, forbidden),
    )
    assert {action.key for action, _ in spared} == {a.key for a in actions if a.key in late}


NEVER = 10**9


@settings(max_examples=150, deadline=None)
@given(data=st.data(), records=registries(), policy=policies)
def test_no_protected_checkpoint_goes_and_everything_else_outside_the_policy_does(
    data: st.DataObject, records: list[CheckpointRecord], policy: Policy
) -> None:
    protections = draw_protections(data, records)
    verdicts = plan_pruning(records, policy, NOW, protections)
    assert [v.record for v in verdicts] == sorted(records, key=lambda entry: entry.key)
    protected = protected_keys(records, protections)
    assert {v.record.key for v in verdicts if v.protected} == protected & {
        entry.key for entry in records
    }
    assert all(v.keep and not v.slim for v in verdicts if v.protected)
    named = named_by_rules(records, policy)
    by_experiment = policy.scope == "experiment"
    for scope in {entry.experiment_id if by_experiment else entry.run_id for entry in records}:
        mine = [v for v in verdicts if scope in (v.record.experiment_id, v.record.run_id)]
        wanted = [v for v in mine if v.protected or v.record.key in named]
        taken = [v for v in wanted if not v.keep]
        assert all(not v.keep for v in mine if v not in wanted)
        left = sum(v.record.bytes - v.freed_bytes for v in mine)
        if policy.max_bytes is None:
            assert taken == []
        elif taken:
            last = max(taken, key=lambda v: v.budget_rank)
            assert left + last.record.bytes > policy.max_bytes, "more was taken than needed"
        else:
            assert left <= policy.max_bytes or not any(v.keep and not v.protected for v in mine), (
                "over the budget, and something could have gone"
            )


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    records=registries(),
    policy=policies,
    crashes=st.lists(st.integers(0, 40), max_size=4),
    deletion_order=st.permutations(FILES),
)
def test_a_rerun_after_crashes_anywhere_ends_where_an_undisturbed_run_does(
    data: st.DataObject,
    records: list[CheckpointRecord],
    policy: Policy,
    crashes: list[int],
    deletion_order: list[str],
) -> None:
    protections = draw_protections(data, records)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Store(records, deletion_order)
        prune(undisturbed, policy, protections, Path(folder, "undisturbed"), Clock(NEVER))
        disturbed, journal = Store(records, deletion_order), Path(folder, "disturbed")
        for moment in crashes:
            try:
                prune(disturbed, policy, protections, journal, Clock(moment))
            except Crash:
                continue
        prune(disturbed, policy, protections, journal, Clock(NEVER))
        assert disturbed.state() == undisturbed.state()
        assert Journal(journal).pending() == []
        # And there it rests: the same policy finds nothing more to do.
        verdicts = plan_pruning(disturbed.records(), policy, NOW, protections)
        assert actions_to_take(verdicts, protections) == []


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    records=registries(),
    launches=st.lists(st.tuples(policies, st.integers(0, 40)), min_size=1, max_size=4),
    deletion_order=st.permutations(FILES),
)
def test_no_protected_checkpoint_goes_when_policy_and_registry_change_between_crashes(
    data: st.DataObject,
    records: list[CheckpointRecord],
    launches: list[tuple[Policy, int]],
    deletion_order: list[str],
) -> None:
    store = Store(records, deletion_order)
    with tempfile.TemporaryDirectory() as folder:
        for policy, moment in launches:
            # `Store.perform` asserts that nothing protected at this launch is touched.
            protections = draw_protections(data, records)
            keys = [entry.key for entry in records]
            late = data.draw(st.lists(st.sampled_from(keys), max_size=2)) if keys else []
            try:
                prune(store, policy, protections, Path(folder, "journal"), Clock(moment), late)
            except Crash:
                continue
        prune(store, NOTHING, HERE, Path(folder, "journal"), Clock(NEVER))
        # All that is left is what HERE protects, and none of it is half there.
        listed = store.records()
        assert {entry.key for entry in listed} == protected_keys(listed, HERE)
        assert all("weights" in files for files in store.state().values())


def test_a_thousand_checkpoints_get_a_verdict_each() -> None:
    records = [
        record(step, metric=float(step % 97), run_id=f"run-{number}")
        for number in range(20)
        for step in range(50, 2_550, 50)
    ]
    verdicts = plan_pruning(records, Policy(keep_last=2, keep_best=1, slim=True), NOW, HERE)
    assert len(verdicts) == 1_000
    assert sum(verdict.keep for verdict in verdicts) == 20 * 3
