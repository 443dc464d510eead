"""Trials in the store: found again, stopped from outside, and free to be cleaned away."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from steps.tracking.checkpoints.layout import run_state
from steps.tracking.names import FAILED, STOPPED, TRIAL_STATE_TAG
from steps.tracking.runs import StepRun
from steps.tracking.spool import Spool
from steps.tracking.trials import (
    TrialWatch,
    fails_again,
    find_ended,
    mark_ended,
    validation_history,
)
from tests.support.project import ROOT

METRIC = "validation/bits_per_byte"
# A process that beats as a step does, and says when it was told to end.
LIVING = """
import signal, sys, time
import mlflow
from steps.tracking.heartbeat import heartbeat
client = mlflow.MlflowClient()
with heartbeat(client, sys.argv[1]):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def sweep(client: mlflow.MlflowClient, experiment: str, tmp_path: Path) -> StepRun:
    """The run of a sweep."""
    run = client.create_run(experiment)
    return StepRun(
        run.info.run_id, experiment, client, tmp_path, Spool(tmp_path / "s", run.info.run_id), 0.0
    )


def nested(sweep: StepRun, name: str) -> str:
    """A finetune run below a sweep's."""
    tags = {"forge.step": "finetune", "mlflow.parentRunId": sweep.id}
    run = sweep.client.create_run(sweep.experiment_id, tags=tags, run_name=name)
    return str(run.info.run_id)


@pytest.fixture
def process(sweep: StepRun) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A living trial, and its process."""
    run_id = nested(sweep, "trial 3")
    started = subprocess.Popen(
        [sys.executable, "-c", LIVING, run_id],
        # The store's fixture works elsewhere.
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    yield run_id, started
    started.kill()
    started.wait()


def test_a_trial_that_is_judged_bad_is_told_to_end_and_says_so(
    sweep: StepRun, process: tuple[str, "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.tracking.trials.POLL_SECONDS", 0.05)
    run_id, started = process
    judged: list[float] = []

    def judge(value: float) -> bool:
        judged.append(value)
        return value > 8

    with TrialWatch(sweep, "trial 3", {"forge.trial": "3"}, METRIC, "key", judge):
        for step, value in enumerate((7.0, 6.0, 9.0), 1):
            assert started.poll() is None
            sweep.client.log_metric(run_id, METRIC, value, step=step)
        assert started.wait(timeout=60) == 143
    assert judged == [7.0, 6.0, 9.0]
    tags = sweep.client.get_run(run_id).data.tags
    assert tags["forge.trial"] == "3"
    assert tags[TRIAL_STATE_TAG] == STOPPED


def test_a_trial_whose_steps_are_done_is_left_to_finish(
    sweep: StepRun, process: tuple[str, "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.tracking.trials.POLL_SECONDS", 0.05)
    run_id, started = process
    sweep.client.log_metric(run_id, "train/steps", 30)
    judged: list[float] = []

    def judge(value: float) -> bool:
        judged.append(value)
        return True

    with TrialWatch(sweep, "trial 3", {}, METRIC, "key", judge):
        sweep.client.log_metric(run_id, METRIC, 9.0, step=30)
        deadline = time.monotonic() + 60
        while not judged and time.monotonic() < deadline:
            time.sleep(0.05)
        assert judged == [9.0]
        time.sleep(0.5)
    assert started.poll() is None
    assert TRIAL_STATE_TAG not in sweep.client.get_run(run_id).data.tags


def test_a_trial_that_was_over_before_the_first_look_is_tagged_all_the_same(
    sweep: StepRun,
) -> None:
    with TrialWatch(sweep, "trial 0", {"forge.trial": "0"}, METRIC, "key", lambda _: True) as watch:
        run_id = nested(sweep, "trial 0")
        sweep.client.set_terminated(run_id, "FAILED")
    assert watch.run_id == run_id
    assert sweep.client.get_run(run_id).data.tags["forge.trial"] == "0"


def test_trials_that_did_not_reach_their_end_are_found_by_key_unless_deleted(
    sweep: StepRun,
) -> None:
    client, experiment = sweep.client, sweep.experiment_id
    assert find_ended(client, experiment, "key") is None
    run_id = nested(sweep, "trial 1")
    mark_ended(client, run_id, "key", FAILED)
    # Another sweep may still be at it.
    assert find_ended(client, experiment, "key") is None
    client.set_terminated(run_id, "FAILED")
    found = find_ended(client, experiment, "key")
    assert found is not None
    assert found.info.run_id == run_id
    assert find_ended(client, experiment, "another") is None
    client.delete_run(run_id)
    assert find_ended(client, experiment, "key") is None


def test_only_what_would_come_again_is_not_tried_again(sweep: StepRun) -> None:
    run_id = nested(sweep, "trial 1")
    assert not fails_again(sweep.client.get_run(run_id))
    for kind, again in (("TrainingDiverged", True), ("OutOfMemory", True), ("StoreAway", False)):
        sweep.client.set_tag(run_id, "forge.error_type", kind)
        assert fails_again(sweep.client.get_run(run_id)) == again


def test_checkpoints_of_a_stopped_trial_are_nobodys_to_resume(sweep: StepRun) -> None:
    run_id = nested(sweep, "trial 1")
    sweep.client.set_terminated(run_id, "KILLED")
    assert run_state(sweep.client.get_run(run_id)) == "unfinished"
    mark_ended(sweep.client, run_id, "key", STOPPED)
    assert run_state(sweep.client.get_run(run_id)) == "finished"


def test_a_validation_that_was_reported_twice_counts_once(sweep: StepRun) -> None:
    run_id = nested(sweep, "trial 1")
    for step, value in ((10, 3.0), (20, 2.0), (20, 2.0), (5, 4.0), (0, 1.0)):
        sweep.client.log_metric(run_id, METRIC, value, step=step)
    # Not that of the base, before the first step.
    assert validation_history(sweep.client, run_id, METRIC) == [4.0, 3.0, 2.0]
