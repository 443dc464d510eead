"""MLFLOW_RUN_ID is followed where `mlflow run` has just made the run, and refused elsewhere."""

from pathlib import Path

import mlflow
import pytest

from tests.support.processes import step

PRUNE = "prune_checkpoints"


def made(experiment: str, **tags: str) -> str:
    client = mlflow.MlflowClient()
    run_tags = {f"forge.{name}": value for name, value in tags.items()}
    return str(client.create_run(experiment, tags=run_tags).info.run_id)


@pytest.fixture
def experiment(store: str) -> str:
    return str(mlflow.MlflowClient().create_experiment("elsewhere"))


@pytest.mark.parametrize("state", ["FINISHED", "FAILED", "KILLED", "deleted", "begun", "gone"])
def test_a_stale_run_is_refused_and_left_as_it_is(
    experiment: str, tiny_config: Path, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient()
    run_id = "0" * 32 if state == "gone" else made(experiment)
    if state in ("FINISHED", "FAILED", "KILLED"):
        client.set_terminated(run_id, state)
    elif state == "deleted":
        client.delete_run(run_id)
    elif state == "begun":
        client.set_tag(run_id, "forge.step", PRUNE)
    before = None if state == "gone" else client.get_run(run_id).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    said = step(PRUNE, tmp_path, "--config", str(tiny_config), code=2)
    assert f"MLFLOW_RUN_ID names run {run_id}, which" in said
    assert "unset it" in said
    if before is not None:
        assert client.get_run(run_id).to_dictionary() == before


@pytest.mark.parametrize("state", ["FINISHED", "begun"])
def test_what_comes_before_the_step_leaves_a_stale_run_alone_too(
    experiment: str, tiny_config: Path, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong configuration is not written into it, and a password does not delete it."""
    client = mlflow.MlflowClient()
    run_id = made(experiment, **({"step": "finetune"} if state == "begun" else {}))
    if state == "FINISHED":
        client.set_terminated(run_id)
    before = client.get_run(run_id).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    for overrides in ("training.nonsense=1", "training.mlflow.tracking_uri=http://me:pw@host"):
        step(PRUNE, tmp_path, "--config", str(tiny_config), "--overrides", overrides, code=2)
        assert client.get_run(run_id).to_dictionary() == before


@pytest.mark.parametrize("status", ["RUNNING", "SCHEDULED"])
def test_a_run_that_waits_for_its_step_is_joined_in_whatever_experiment(
    experiment: str, tiny_config: Path, tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = made(experiment)
    mlflow.MlflowClient().update_run(run_id, status=status)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    step(PRUNE, tmp_path, "--config", str(tiny_config))
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["forge.step"] == PRUNE
