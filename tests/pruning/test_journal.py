"""What is noted before it is done, and how an interrupted removal is finished."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from steps.errors import UserError
from steps.pruning.journal import Journal, carry_out
from steps.pruning.policy import Protections, actions_to_take, plan_pruning
from steps.pruning.records import PendingAction
from tests.support.checkpoint_records import HERE, NOTHING, NOW, Policy, action, record


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
