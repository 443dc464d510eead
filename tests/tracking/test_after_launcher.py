"""A step that only looks leaves no run, and takes nobody else's away."""

import os

import mlflow
import pytest

from steps.tracking.after_launcher import wait_and_do
from steps.tracking.waiting_runs import without_a_run


def lifecycle(client: mlflow.MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.lifecycle_stage)


def test_a_run_that_its_launcher_has_ended_goes(client: mlflow.MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id, "FAILED")
    wait_and_do("delete", run_id)
    assert lifecycle(client, run_id) == "deleted"


@pytest.mark.parametrize("state", ["ended", "begun", "unknown"])
def test_a_run_that_does_not_wait_for_a_step_stays_as_it_is(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    run_id = client.create_run("0").info.run_id
    if state == "ended":
        client.set_terminated(run_id)
    elif state == "begun":
        client.set_tag(run_id, "forge.step", "finetune")
    before = client.get_run(run_id).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id if state != "unknown" else "0" * 32)
    with without_a_run("status") as own:
        assert own == ""
        # Nothing that is done meanwhile writes into it.
        assert "MLFLOW_RUN_ID" not in os.environ
    assert client.get_run(run_id).to_dictionary() == before
