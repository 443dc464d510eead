"""What is protected is never touched, and a crash anywhere changes nothing about the outcome."""

import math
import tempfile
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.config.sections import Pruning
from steps.errors import UserError
from steps.pruning.journal import Journal, carry_out
from steps.pruning.policy import Protections, Verdict, actions_to_take, plan_pruning
from steps.pruning.records import Action, CheckpointKey, CheckpointRecord, PendingAction, RunState

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


# The rules, one by one.


def test_the_last_are_those_with_the_highest_steps() -> None:
    records = [record(step) for step in (1000, 9, 200)]
    verdicts = plan(records, Policy(keep_last=2, keep_best=0))
    assert verdicts[1000].reason == "among the last 2 of its run"
    assert verdicts[200].keep
    assert not verdicts[9].keep
    assert (
        verdicts[9].reason == "not among the last 2 of its run, without a validation/bits_per_byte"
    )


@pytest.mark.parametrize(("greater_is_better", "best"), [(False, [2, 4]), (True, [1, 5])])
def test_the_best_are_ranked_by_the_metric_and_its_direction(
    greater_is_better: bool, best: list[int]
) -> None:
    metrics = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: 2.5}
    policy = Policy(keep_last=0, keep_best=2, greater_is_better=greater_is_better)
    assert kept([record(step, metric) for step, metric in metrics.items()], policy) == best


def test_missing_and_not_finite_metrics_are_never_the_best() -> None:
    metrics = {1: math.nan, 2: 5.0, 3: None, 4: -math.inf, 5: math.inf, 6: 0.0, 7: math.nan}
    records = [record(step, metric) for step, metric in metrics.items()]
    assert kept(records, Policy(keep_last=0, keep_best=9)) == [2, 6]


def test_among_equally_good_ones_the_newer_stays() -> None:
    assert kept([record(step, 1.0) for step in (1, 2, 3)], Policy(keep_last=0, keep_best=1)) == [3]


def test_every_so_many_steps_one_stays() -> None:
    records = [record(step) for step in (50, 100, 150, 200)]
    verdicts = plan(records, NOTHING.model_copy(update={"every_steps": 100}))
    assert [step for step, verdict in verdicts.items() if verdict.keep] == [100, 200]
    assert verdicts[200].reason == "its step is a multiple of 100"
    assert "no multiple of 100 steps" in verdicts[150].reason


def test_the_young_stay_and_stay_whole() -> None:
    records = [
        record(step, created=NOW - timedelta(hours=hours))
        for step, hours in {1: 50, 2: 48, 3: 47, 4: -1}.items()
    ]
    policy = NOTHING.model_copy(update={"younger_than_days": 2.0, "slim": True})
    verdicts = plan(records, policy)
    assert [(step, v.slim) for step, v in verdicts.items() if v.keep] == [(3, False), (4, False)]
    assert verdicts[3].reason == "younger than 2 days"


def test_slimming_takes_the_optimizer_of_what_the_rules_keep_and_there_is_one() -> None:
    records = [record(1), record(2, slimmable_bytes=0, resumable=False), record(3)]
    verdicts = plan(records, Policy(keep_last=2, keep_best=0, slim=True))
    freed = {step: (v.keep, v.slim, v.freed_bytes) for step, v in verdicts.items()}
    assert freed == {1: (False, False, 100), 2: (True, False, 0), 3: (True, True, 60)}


def test_the_rules_count_run_by_run() -> None:
    records = [record(step, run_id=run) for run in ("a", "b") for step in (1, 2)]
    verdicts = plan_pruning(records, Policy(keep_last=1), NOW, HERE)
    assert [(v.record.run_id, v.record.step, v.keep) for v in verdicts] == [
        ("a", 1, False),
        ("a", 2, True),
        ("b", 1, False),
        ("b", 2, True),
    ]


def test_over_the_experiment_the_rules_count_all_runs_by_time() -> None:
    records = [
        record(step, metric, run_id=run, created=NOW - timedelta(hours=hours))
        for run, step, metric, hours in [("a", 90, 3.0, 4), ("a", 80, 1.0, 3), ("b", 5, 2.0, 1)]
    ]
    policy = Policy(scope="experiment", keep_last=1, keep_best=1)
    verdicts = plan_pruning(records, policy, NOW, HERE)
    assert [(v.record.run_id, v.record.step, v.keep, v.reason) for v in verdicts] == [
        ("a", 80, True, "number 1 of the experiment by validation/bits_per_byte (1)"),
        (
            "a",
            90,
            False,
            "not among the last 1 of the experiment, not among the best 1 by "
            "validation/bits_per_byte (3)",
        ),
        ("b", 5, True, "among the last 1 of the experiment"),
    ]
    budget = policy.model_copy(update={"keep_last": 3, "max_bytes": 200})
    kept_ones = [v.record.step for v in plan_pruning(records, budget, NOW, HERE) if v.keep]
    assert kept_ones == [80, 5]


def test_what_a_crashed_save_left_goes_and_counts_for_nothing() -> None:
    records = [record(1), record(2, leftover=True, resumable=False)]
    verdicts = plan(records, Policy(keep_last=1, keep_best=0))
    assert verdicts[1].keep
    assert (verdicts[2].keep, verdicts[2].reason) == (
        False,
        "left behind by a save that was cut off",
    )


def test_a_slimmed_one_says_that_it_can_no_longer_be_resumed() -> None:
    verdict = plan([record(1)], Policy(keep_last=1, slim=True))[1]
    assert verdict.slim
    assert verdict.reason.endswith("; without its optimizer state it can no longer be resumed")


def test_an_unfinished_run_keeps_its_newest_in_the_store_beside_a_newer_one_on_this_host() -> None:
    places = {1: True, 2: True, 3: False}
    records = [
        record(step, run_state="unfinished", in_store=in_store) for step, in_store in places.items()
    ]
    verdicts = plan(records, NOTHING)
    assert {step: verdict.protected for step, verdict in verdicts.items()} == {
        1: False,
        2: True,
        3: True,
    }


def test_the_budget_takes_the_most_dispensable_first() -> None:
    young = NOW - timedelta(hours=1)
    records = [
        record(1, 0.1),
        record(2, 0.2),
        record(3, created=young - timedelta(hours=1)),
        record(4, created=young),
        record(50),
        record(100),
        record(201),
        record(202),
    ]
    rules = Policy(keep_last=2, keep_best=2, every_steps=50, younger_than_days=2.0)
    order = [3, 4, 50, 100, 201, 202, 2, 1]
    for gone in range(len(order) + 1):
        max_bytes = 100 * (len(order) - gone) or 1
        policy = rules.model_copy(update={"max_bytes": max_bytes})
        verdicts = plan(records, policy)
        assert [step for step in order if not verdicts[step].keep] == order[:gone]
    assert verdicts[2].reason == (
        "over the 1 bytes of its run, though number 2 of its run by validation/bits_per_byte (0.2)"
    )


def test_the_budget_counts_what_is_left_after_slimming() -> None:
    records = [record(step) for step in (1, 2, 3)]
    policy = Policy(keep_last=3, slim=True, max_bytes=80)
    assert kept(records, policy) == [2, 3]
    assert kept(records, policy.model_copy(update={"slim": False})) == []


# What is protected.


@pytest.mark.parametrize(
    ("changes", "protections", "reason"),
    [
        ({"experiment_id": "there"}, HERE, "it belongs to experiment there"),
        ({}, replace(HERE, run_id="other"), "only run other is pruned"),
        ({"pinned": True}, HERE, "it is pinned"),
        ({"being_written": True}, HERE, "it is being written"),
        (
            {},
            replace(HERE, referenced_by={("run", 1): "version 3, @champion"}),
            "the registry points at it (version 3, @champion)",
        ),
        ({}, replace(HERE, needed_by={("run", 1): "abc"}), "run abc needs it"),
        (
            {"run_state": "unfinished"},
            HERE,
            "its run is unfinished and would resume from it",
        ),
        ({"run_state": "living"}, HERE, "its run is living and would resume from it"),
    ],
)
def test_protected_checkpoints_stay_whole_and_say_why(
    changes: dict[str, object], protections: Protections, reason: str
) -> None:
    policy = Policy(keep_last=0, keep_best=0, max_bytes=1, slim=True)
    assert not plan([record(1)], policy)[1].keep
    verdict = plan([record(1, None, **changes)], policy, protections)[1]
    assert verdict == Verdict(verdict.record, True, False, True, f"protected: {reason}")


def test_an_unfinished_run_keeps_its_newest_resumable_one_and_not_a_slim_or_half_one() -> None:
    records = [
        record(1),
        record(2),
        record(3, resumable=False, slimmable_bytes=0),
        record(4, being_written=True),
    ]
    records = [replace(entry, run_state="unfinished") for entry in records]
    verdicts = plan(records, NOTHING)
    assert {step: v.protected for step, v in verdicts.items()} == {
        1: False,
        2: True,
        3: False,
        4: True,
    }


def test_a_checkpoint_being_written_does_not_count_as_the_last() -> None:
    records = [record(1, run_state="living"), record(2, being_written=True, run_state="living")]
    verdicts = plan(records, Policy(keep_last=1, keep_best=0))
    assert verdicts[1].keep
    assert plan([record(1), record(2, being_written=True)], Policy(keep_last=1))[1].keep


# The journal.


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


def test_the_journal_tells_what_was_intended_begun_and_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "journal.jsonl")
    assert journal.pending() == []
    journal.intend([action(1), action(2), action(3, "slim")])
    journal.begin(action(1))
    journal.finish(action(1))
    journal.begin(action(2))
    pending = [(entry.action, entry.begun) for entry in Journal(journal.path).pending()]
    assert pending == [(action(2), True), (action(3, "slim"), False)]
    journal.intend([action(4)])
    pending = [(entry.action, entry.begun) for entry in journal.pending()]
    assert pending == [(action(2), True), (action(4), False)]


def test_a_line_torn_at_any_byte_counts_as_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend([action(1)])
    whole = journal.path.read_bytes()
    journal.begin(action(1))
    longer = journal.path.read_bytes()
    for length in range(len(whole), len(longer)):
        journal.path.write_bytes(longer[:length])
        assert [entry.begun for entry in journal.pending()] == [False]
    journal.finish(action(1))
    assert journal.pending() == []


def test_a_broken_line_is_one_clear_line_of_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend([action(1)])
    with open(journal.path, "ab") as file:
        file.write(b'{"event": "gone"}\n')
    with pytest.raises(UserError) as caught:
        journal.pending()
    message = str(caught.value)
    assert message.startswith(f"{journal.path}, line 2: not an entry of a pruning journal (")
    assert "\n" not in message


def test_a_later_checkpoint_of_the_same_step_is_not_the_one_that_was_being_deleted(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend([action(1)])
    journal.begin(action(1))
    saved_again = record(1, created=NOW)
    verdicts = plan_pruning([saved_again], Policy(keep_last=1), NOW, HERE, journal.pending())
    assert [verdict.keep for verdict in verdicts] == [True]
    assert actions_to_take(verdicts, HERE, journal.pending()) == []
    half_deleted = record(1)
    verdicts = plan_pruning([half_deleted], Policy(keep_last=1), NOW, HERE, journal.pending())
    assert [verdict.keep for verdict in verdicts] == [False]


def interrupted(
    tmp_path: Path, what: Literal["delete", "slim"], begun: Sequence[int], intended: Sequence[int]
) -> list[PendingAction]:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend([action(step, what) for step in [*begun, *intended]])
    for step in begun:
        journal.begin(action(step, what))
    return journal.pending()


def test_a_half_deleted_checkpoint_is_neither_the_last_nor_the_best(tmp_path: Path) -> None:
    pending = interrupted(tmp_path, "delete", begun=[2], intended=[])
    records = [record(1, 2.0), record(2, 1.0)]
    verdicts = plan_pruning(records, Policy(keep_last=1, keep_best=1), NOW, HERE, pending)
    assert [verdict.keep for verdict in verdicts] == [True, False]
    assert verdicts[1].reason == "an interrupted pruning had begun to delete it"


def test_a_half_slimmed_checkpoint_is_not_what_a_run_would_resume_from(tmp_path: Path) -> None:
    pending = interrupted(tmp_path, "slim", begun=[2], intended=[])
    records = [record(step, run_state="unfinished") for step in (1, 2)]
    verdicts = plan_pruning(records, Policy(keep_last=1, keep_best=0), NOW, HERE, pending)
    assert [(v.protected, v.keep, v.slim) for v in verdicts] == [
        (True, True, False),
        (False, True, True),
    ]


def test_an_intention_that_was_not_begun_binds_nobody(tmp_path: Path) -> None:
    pending = interrupted(tmp_path, "delete", begun=[], intended=[1])
    verdicts = plan_pruning([record(1)], Policy(keep_last=1), NOW, HERE, pending)
    assert [verdict.keep for verdict in verdicts] == [True]
    assert actions_to_take(verdicts, HERE, pending) == []


def test_a_protected_half_deleted_checkpoint_stays_and_says_so(tmp_path: Path) -> None:
    pending = interrupted(tmp_path, "delete", begun=[1], intended=[])
    verdicts = plan_pruning([record(1, pinned=True)], NOTHING, NOW, HERE, pending)
    assert [(verdict.keep, verdict.reason) for verdict in verdicts] == [
        (
            True,
            "protected: it is pinned; an interrupted pruning may have taken some of its files",
        )
    ]
    assert actions_to_take(verdicts, HERE, pending) == []


def test_where_another_checkpoint_has_come_to_lie_nothing_is_finished(tmp_path: Path) -> None:
    pending = interrupted(tmp_path, "delete", begun=[1], intended=[])
    newcomer = record(5, location=record(1).location)
    verdicts = plan_pruning([newcomer], Policy(keep_last=1), NOW, HERE, pending)
    assert actions_to_take(verdicts, HERE, pending) == []


def test_what_only_the_budget_takes_goes_last_and_in_its_order() -> None:
    # Were step 10 gone after a crash and 20 not, 20 would be the best of a rerun and stay.
    records = [record(10, 1.0), record(20, 2.0), record(30, 3.0, bytes=300), record(40)]
    policy = Policy(keep_last=2, keep_best=1, max_bytes=10)
    actions = actions_to_take(plan_pruning(records, policy, NOW, HERE), HERE)
    assert [action.step for action in actions] == [20, 30, 40, 10]


@pytest.mark.parametrize(
    ("protections", "expected"),
    [
        (HERE, 1),
        (replace(HERE, referenced_by={("run", 1): "version 1"}), 0),
        (replace(HERE, needed_by={("run", 1): "abc"}), 0),
        (replace(HERE, run_id="other"), 0),
        (replace(HERE, experiment_id="there"), 0),
    ],
)
def test_a_begun_deletion_is_finished_though_no_longer_listed_unless_protected(
    tmp_path: Path, protections: Protections, expected: int
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.intend([action(1), action(2)])
    journal.begin(action(1))
    actions = actions_to_take([], protections, journal.pending())
    assert actions == [action(1)][:expected]


def test_what_the_registry_has_come_to_point_at_is_spared_and_its_removal_never_begun(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    gone: list[int] = []
    spared = carry_out(
        [action(1), action(2), action(3)],
        journal,
        lambda action: "the registry points at it now" if action.step == 2 else None,
        lambda action: gone.append(action.step),
    )
    assert gone == [1, 3]
    assert spared == [(action(2), "the registry points at it now")]
    assert [(entry.action, entry.begun) for entry in journal.pending()] == [(action(2), False)]


# All together: random registries, policies and crashes.


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
