"""However a step ends, no process stays behind and no run stays RUNNING."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from tests.support.processes import processes_of, wait_for
from tests.support.project import ROOT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ending_main_ends_its_step_and_closes_every_run(
    store: str, tiny_config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    marker = f"FORGE_TEST_MARKER={tmp_path.name}-{number}"
    name, _, value = marker.partition("=")
    # Long enough that the signal comes in the middle of the training.
    overrides = "training.hyperparameters.max_steps=100000 training.logging.save_strategy=no"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "steps.main",
            "--config",
            str(tiny_config),
            "--overrides",
            overrides,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), name: value},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = mlflow.MlflowClient()

    def training_is_under_way() -> bool:
        experiment = client.get_experiment_by_name("tiny")
        if experiment is None:
            return False
        runs = client.search_runs([experiment.experiment_id], "tags.`forge.step` = 'finetune'")
        return bool(runs) and "train/loss" in runs[0].data.metrics

    try:
        wait_for(training_is_under_way)
        os.kill(process.pid, number)
        process.wait(timeout=60)
        wait_for(lambda: not processes_of(marker), 30)
    finally:
        for left in processes_of(marker):  # where the assertion above fails
            os.kill(left, signal.SIGKILL)

    experiment = client.get_experiment_by_name("tiny")
    statuses = {
        run.data.tags.get("forge.step"): run.info.status
        for run in client.search_runs([experiment.experiment_id])
    }
    assert statuses["preprocess"] == "FINISHED"
    assert statuses["finetune"] in ("KILLED", "FAILED")
    if number != signal.SIGKILL:
        # A killed process cannot close its own run; its steps still close theirs.
        assert statuses["main"] in ("KILLED", "FAILED")
        assert process.returncode == 128 + number
