"""What checkpoints take up."""

import socket
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest

from steps.config.sections import Training
from steps.pruning.policy import plan_pruning
from steps.tracking.checkpoints.inventory import finetune_runs, take_inventory
from steps.tracking.checkpoints.references import find_protections
from tests.support.seen_store import SeenStore
from tests.support.stored_runs import write_checkpoint


@pytest.fixture
def seen(client: mlflow.MlflowClient, tmp_path: Path) -> SeenStore:
    return SeenStore(client, tmp_path)


def test_bytes_are_those_of_the_plan_of_prune_checkpoints(seen: SeenStore) -> None:
    run_id = seen.training_run(1, 2, 3, 4, 5, 6, 7, 8, status="FINISHED")
    room = seen.overview().room
    stored = sum(
        int(file.file_size)
        for folder in seen.client.list_artifacts(run_id, "checkpoints")
        for file in seen.client.list_artifacts(run_id, folder.path)
    )
    assert (room.checkpoints, room.in_store) == (8, stored)
    assert room.prunable == freed_by_the_plan(seen, run_id) and 0 < room.prunable < stored


def freed_by_the_plan(seen: SeenStore, run_id: str) -> int:
    """What prune_checkpoints would free, by its own functions and with nothing at hand."""
    policy, experiment_id = Training().pruning, seen.experiment
    runs = finetune_runs(seen.client, experiment_id, "all")
    assert [run.info.run_id for run in runs] == [run_id]
    inventory = take_inventory(seen.client, experiment_id, runs, policy.metric, None, list_all=True)
    protections = find_protections(seen.client, experiment_id, "all", inventory)
    verdicts = plan_pruning(inventory.records, policy, datetime.now(UTC), protections, ())
    return sum(verdict.freed_bytes for verdict in verdicts)


def test_where_not_all_was_looked_at_no_plan_is_made(
    seen: SeenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen.training_run(1, 2, 3, status="FINISHED")
    monkeypatch.setattr("steps.tracking.overview.MOST_MODELS", 3)
    room = seen.overview().room
    assert (room.checkpoints, room.is_whole) == (3, True) and room.prunable is not None
    monkeypatch.setattr("steps.tracking.overview.MOST_MODELS", 2)
    room = seen.overview().room
    assert (room.checkpoints, room.is_whole, room.prunable) == (2, False, None)


def test_folders_of_this_machine_are_added_up_and_those_of_others_are_not(
    seen: SeenStore,
) -> None:
    here, there = seen.training_run(), seen.training_run()
    for run_id, host in ((here, socket.gethostname()), (there, "elsewhere")):
        folder = write_checkpoint(seen.folder / "output" / run_id, 6).parent
        seen.client.set_tag(run_id, "forge.local_checkpoints", f"{host}:{folder}")
    mine = [file for file in (seen.folder / "output" / here).rglob("*") if file.is_file()]
    assert seen.overview().room.on_disk == sum(file.stat().st_size for file in mine)


def test_of_many_trainings_the_plan_is_left_to_its_own_step(
    seen: SeenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.tracking.checkpoints.room.MOST_RUNS_PLANNED", 1)
    seen.training_run(2, status="FINISHED")
    assert seen.overview().room.prunable is not None
    seen.training_run(2, status="FINISHED")
    room = seen.overview().room
    assert room.prunable is None
    assert room.checkpoints == 2
