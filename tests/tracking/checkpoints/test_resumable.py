"""Which trainings can go on, and how they were started."""

import socket
from pathlib import Path

import mlflow
import pytest

from tests.support.seen_store import SeenStore
from tests.support.stored_runs import write_checkpoint


@pytest.fixture
def seen(client: mlflow.MlflowClient, tmp_path: Path) -> SeenStore:
    return SeenStore(client, tmp_path)


def test_a_training_can_go_on_from_its_newest_whole_checkpoint_until_another_run_did(
    seen: SeenStore,
) -> None:
    first = seen.training_run(2, 4)
    (found,) = seen.overview().resumable
    assert (found.run_id, found.checkpoint) == (first, 4)
    # It went on, and was killed before a checkpoint of its own.
    heir = seen.training_run(resumed_from=f"{first}:4")
    (found,) = seen.overview().resumable
    assert (found.run_id, found.checkpoint) == (heir, 4)
    seen.training_run(8, status="FINISHED", resumed_from=f"{heir}:4")
    assert seen.overview().resumable == []


def test_a_checkpoint_on_this_disk_will_do_and_one_of_another_machine_will_not(
    seen: SeenStore,
) -> None:
    here, there = seen.training_run(), seen.training_run()
    write_checkpoint(seen.folder / "output" / here, 6)
    for run_id, host in ((here, socket.gethostname()), (there, "elsewhere")):
        tag = f"{host}:{seen.folder / 'output' / here}"
        seen.client.set_tag(run_id, "forge.local_checkpoints", tag)
    (found,) = seen.overview().resumable
    assert (found.run_id, found.checkpoint) == (here, 6)


def test_how_a_training_was_started_is_told_from_its_parameters(seen: SeenStore) -> None:
    run_id = seen.training_run(2)
    seen.client.log_param(run_id, "qlora.r", "4")
    seen.client.log_param(run_id, "qlora.lora_alpha", "32.0")
    seen.client.set_tag(run_id, "forge.dataset_run", "d0")
    seen.run("preprocess", dataset_digest="sha256:b")
    (found,) = seen.overview().resumable
    assert found.differences == "training.qlora.r=4"
    assert found.parameters == {"dataset": "d0"}
    # `mlflow run` logs what it was given, quoted for the shell.
    seen.client.log_param(run_id, "config", "'my own.yaml'")
    seen.client.log_param(run_id, "overrides", "''")
    (found,) = seen.overview().resumable
    assert found.differences == ""
    assert found.parameters == {"config": "my own.yaml", "dataset": "d0"}
