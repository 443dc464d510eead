"""The rules of pruning, one by one."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest

from steps.pruning.policy import Protections, Verdict, plan_pruning
from tests.support.checkpoint_records import HERE, NOTHING, NOW, Policy, kept, plan, record


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
