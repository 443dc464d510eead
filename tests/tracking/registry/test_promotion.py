"""Aliases move whole or not at all, whoever dies or interferes in between."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlflow
import pytest

from steps.comparison.decision import Decision
from steps.errors import UserError
from steps.tracking.names import ALIAS_MOVE_TAG
from steps.tracking.registry.model_reference import ModelReference
from steps.tracking.registry.promotion import (
    alias_state,
    finish_interrupted_move,
    promote_version,
    roll_back,
)
from steps.tracking.runs import StepRun
from steps.tracking.spool import Spool

NAME = "genomics"
DECISION = cast(Decision, SimpleNamespace(outcome="promote", reason="It gains 0.0500."))
MOVING_CALLS = (
    "set_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "update_model_version",
    "delete_registered_model_tag",
)


class Died(BaseException):
    """The process ends here."""


class DyingClient:
    """A client whose process dies before its n-th change of the registry."""

    def __init__(self, client: mlflow.MlflowClient, changes: int) -> None:
        self.client = client
        self.changes = changes

    def __getattr__(self, name: str) -> Any:
        if name in MOVING_CALLS:
            if self.changes == 0:
                raise Died
            self.changes -= 1
        return getattr(self.client, name)


def uri(number: int) -> str:
    return f"models:/{NAME}/{number}"


@pytest.fixture
def run(store: str, tmp_path: Path) -> StepRun:
    """A run of ab_compare over three registered versions; 1 is champion, 2 challenger."""
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("promotions")
    created = client.create_run(experiment)
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, source=f"runs:/{created.info.run_id}/adapter")
    client.set_registered_model_alias(NAME, "champion", "1")
    client.set_registered_model_alias(NAME, "challenger", "2")
    spool = Spool(tmp_path / "spool", created.info.run_id)
    return StepRun(created.info.run_id, experiment, client, tmp_path, spool, 1.0)


def promote(run: StepRun, number: int) -> str:
    version = run.client.get_model_version(NAME, str(number))
    before = alias_state(mlflow.MlflowClient(), NAME)
    return promote_version(run, NAME, ModelReference(uri(number), version, None), DECISION, before)


def audits(run: StepRun, number: int) -> list[str]:
    tags = run.client.get_model_version(NAME, str(number)).tags
    return [tags[key] for key in sorted(tags) if key.startswith("forge.audit.")]


def test_a_promotion_keeps_the_old_champion_and_says_so_on_both_versions(run: StepRun) -> None:
    assert promote(run, 2) == f"promoted: @champion is now {uri(2)} (before: {uri(1)})"
    assert alias_state(run.client, NAME) == {"champion": uri(2), "previous_champion": uri(1)}
    assert audits(run, 2) == [f"promoted to @champion (before: {uri(1)})"]
    assert audits(run, 1) == [f"replaced as @champion by {uri(2)}"]
    winner = run.client.get_model_version(NAME, "2")
    assert winner.tags["forge.decision_run"] == run.id
    assert "It gains 0.0500." in winner.description
    assert ALIAS_MOVE_TAG not in run.client.get_registered_model(NAME).tags


def test_a_rollback_brings_the_previous_one_back_and_no_audit_is_lost(run: StepRun) -> None:
    promote(run, 2)
    assert roll_back(run, NAME) == f"rolled back: @champion is now {uri(1)} (before: {uri(2)})"
    assert alias_state(run.client, NAME) == {"champion": uri(1)}
    assert len(audits(run, 1)) == len(audits(run, 2)) == 2
    with pytest.raises(UserError, match="nothing to roll back to"):
        roll_back(run, NAME)


@pytest.mark.parametrize("changes", range(15))
def test_a_promotion_that_died_anywhere_is_finished_by_the_next_run(
    run: StepRun, changes: int
) -> None:
    dying = replace(run, client=cast(Any, DyingClient(run.client, changes)))
    with pytest.raises(Died):
        promote(dying, 2)
    said = finish_interrupted_move(run.client, NAME)
    if changes == 0:  # nothing had been written down, so nothing was begun
        assert said is None
        assert alias_state(run.client, NAME) == {"champion": uri(1), "challenger": uri(2)}
        return
    assert said is not None
    assert run.id in said
    assert alias_state(run.client, NAME) == {"champion": uri(2), "previous_champion": uri(1)}
    assert audits(run, 2) == [f"promoted to @champion (before: {uri(1)})"]
    assert audits(run, 1) == [f"replaced as @champion by {uri(2)}"]
    assert finish_interrupted_move(run.client, NAME) is None


def test_an_interrupted_move_is_dropped_where_somebody_moved_the_aliases_since(
    run: StepRun,
) -> None:
    dying = replace(run, client=cast(Any, DyingClient(run.client, 1)))
    with pytest.raises(Died):
        promote(dying, 2)
    run.client.set_registered_model_alias(NAME, "champion", "3")
    said = finish_interrupted_move(run.client, NAME)
    assert said is not None
    assert "left as they are" in said
    assert alias_state(run.client, NAME) == {"champion": uri(3), "challenger": uri(2)}


def test_an_alias_that_moved_since_the_decision_stops_the_promotion(run: StepRun) -> None:
    before = alias_state(run.client, NAME)
    run.client.set_registered_model_alias(NAME, "champion", "3")
    version = run.client.get_model_version(NAME, "2")
    with pytest.raises(UserError, match="moved meanwhile"):
        promote_version(run, NAME, ModelReference(uri(2), version, None), DECISION, before)
    assert alias_state(run.client, NAME)["champion"] == uri(3)


def test_a_change_at_the_same_time_is_reported(run: StepRun) -> None:
    class Interfering(DyingClient):
        def __getattr__(self, name: str) -> Any:
            if name == "delete_registered_model_alias":
                self.client.set_registered_model_alias(NAME, "champion", "3")
            return getattr(self.client, name)

    beside = replace(run, client=cast(Any, Interfering(run.client, 0)))
    with pytest.raises(UserError, match="by somebody else at the same time"):
        promote(beside, 2)
    # Who lost the race is not said to be promoted, and nothing is left to finish.
    assert audits(run, 2) == []
    assert "forge.decision" not in run.client.get_model_version(NAME, "2").tags
    assert finish_interrupted_move(run.client, NAME) is None


@pytest.mark.parametrize("journal", ["{", "[]", "null", '{"run": 1}', "no JSON at all"])
def test_a_journal_that_cannot_be_read_is_set_aside_with_a_line(run: StepRun, journal: str) -> None:
    before = alias_state(run.client, NAME)
    run.client.set_registered_model_tag(NAME, ALIAS_MOVE_TAG, journal)
    said = finish_interrupted_move(run.client, NAME)
    assert said is not None and "cannot be read: it is set aside" in said and "\n" not in said
    assert alias_state(run.client, NAME) == before
    assert finish_interrupted_move(run.client, NAME) is None


@pytest.mark.parametrize("changes", range(1, 15))
def test_a_move_to_a_version_that_was_deleted_is_set_aside_with_a_line(
    run: StepRun, changes: int
) -> None:
    dying = replace(run, client=cast(Any, DyingClient(run.client, changes)))
    with pytest.raises(Died):
        promote(dying, 2)
    run.client.delete_model_version(NAME, "2")
    said = finish_interrupted_move(run.client, NAME)
    assert said is not None and f"{uri(2)} was deleted" in said
    # The next promotion is not held up.
    assert finish_interrupted_move(run.client, NAME) is None
    promote(run, 3)
    assert alias_state(run.client, NAME)["champion"] == uri(3)


@pytest.mark.parametrize("changes", range(1, 15))
def test_retries_do_not_overwrite_the_previous_champion(run: StepRun, changes: int) -> None:
    for _ in range(2):
        dying = replace(run, client=cast(Any, DyingClient(run.client, changes)))
        with pytest.raises(Died):
            promote(dying, 2)
        finish_interrupted_move(run.client, NAME)
        if alias_state(run.client, NAME)["champion"] == uri(2):
            break
    assert alias_state(run.client, NAME)["previous_champion"] == uri(1)


def test_nothing_is_finished_where_no_model_is_registered(store: str) -> None:
    assert finish_interrupted_move(mlflow.MlflowClient(), "unheard-of") is None
