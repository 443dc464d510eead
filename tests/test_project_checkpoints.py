"""Checkpoints as the user of `mlflow run` gets them: when it is told to end, and at epoch ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from steps.checkpoints.format import CheckpointInfo, validate_checkpoint
from tests.support.processes import newest, step, wait_for
from tests.support.project import ROOT
from tests.support.stored_runs import stored_steps

pytestmark = pytest.mark.slow


@pytest.fixture
def prepared(store: str, tiny_config: Path, tmp_path: Path) -> Path:
    """A configuration whose dataset is in the store."""
    step("preprocess", tmp_path / "preprocess", "--config", str(tiny_config))
    return tiny_config


def start_project(folder: Path, config: Path, overrides: str, path: str) -> "subprocess.Popen[str]":
    """Start `mlflow run . -e finetune --env-manager local`, its output into a file."""
    overrides = f"training.mlflow.log_model=false training.output.output_dir={folder} {overrides}"
    command = [sys.executable, "-m", "mlflow", "run", ".", "-e", "finetune"]
    command += ["--env-manager", "local", "--experiment-name", "tiny"]
    command += ["-P", f"config={config}", "-P", f"overrides={overrides}"]
    with (folder / "said").open("w", encoding="utf-8") as said:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PATH": os.pathsep.join([path, os.environ["PATH"]])},
            start_new_session=True,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
        )


def noting_python(folder: Path) -> Path:
    """A folder with a `python` that is this one, and notes the exit codes of what it runs."""
    file = folder / "bin" / "python"
    file.parent.mkdir()
    lines = ["#!/bin/sh", f'"{sys.executable}" "$@"', "code=$?", f'echo $code >> "{folder}/codes"']
    file.write_text("\n".join([*lines, "exit $code"]), encoding="utf-8")
    file.chmod(0o755)
    return file.parent


def training(client: mlflow.MlflowClient) -> Any:
    """The finetune run, once it trains."""
    found: list[Any] = []

    def trains() -> bool:
        runs = client.search_runs(
            [client.get_experiment_by_name("tiny").experiment_id],
            "tags.`forge.step` = 'finetune'",
            max_results=1,
        )
        found[:] = [run for run in runs if "train/loss" in run.data.metrics]
        return bool(found)

    wait_for(trains)
    return found[0]


@pytest.mark.parametrize(
    ("told", "code"),
    [("the step", "143"), ("mlflow run", "143"), ("both, by Ctrl-C", "130")],
)
def test_a_signal_leaves_a_killed_run_with_a_whole_checkpoint_of_its_last_step(
    prepared: Path, tmp_path: Path, told: str, code: str
) -> None:
    client = mlflow.MlflowClient()
    # The kernel tells the step of the end of its parent, which is to be `mlflow run` itself.
    python = noting_python(tmp_path) if told == "the step" else Path(sys.executable).parent
    endless = "training.hyperparameters.max_steps=100000 training.logging.save_strategy=no"
    process = start_project(tmp_path, prepared, endless, str(python))
    run = training(client)
    pid = json.loads(run.data.tags["forge.heartbeat"])["pid"]
    if code == "130":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(pid if told == "the step" else process.pid, signal.SIGTERM)
    launcher_code = process.wait(60)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 60)

    said = (tmp_path / "said").read_text(encoding="utf-8")
    # `mlflow run` makes every run FAILED whose step ends with a code; that is put right.
    wait_for(lambda: client.get_run(run.info.run_id).info.status == "KILLED", 30)
    run = client.get_run(run.info.run_id)
    assert run.data.tags["forge.exit_code"] == code
    if told == "the step":
        assert (tmp_path / "codes").read_text(encoding="utf-8").split() == [code]
        assert launcher_code == 1
    last = int(said.partition("stopped after step ")[2].split()[0])
    assert f"stopped after step {last} and saved; to go on: resume={run.info.run_id}" in said
    assert stored_steps(client, run.info.run_id) == [last]
    folder = client.download_artifacts(
        run.info.run_id, f"checkpoints/checkpoint-{last}", str(tmp_path)
    )
    checked = validate_checkpoint(Path(folder))
    assert isinstance(checked, CheckpointInfo), checked
    assert checked.resumable


def test_the_strategy_epoch_saves_at_the_end_of_every_epoch(prepared: Path, tmp_path: Path) -> None:
    by_epoch = (
        "training.hyperparameters.max_steps=-1 training.hyperparameters.num_epochs=3 "
        "training.logging.save_strategy=epoch training.logging.eval_strategy=epoch"
    )
    process = start_project(tmp_path, prepared, by_epoch, str(Path(sys.executable).parent))
    assert process.wait(300) == 0, (tmp_path / "said").read_text(encoding="utf-8")
    client = mlflow.MlflowClient()
    run_id = newest(client, "finetune").info.run_id
    steps = stored_steps(client, run_id)
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    for epoch, saved in enumerate(steps, start=1):
        path = f"checkpoints/checkpoint-{saved}/trainer_state.json"
        file = Path(client.download_artifacts(run_id, path, str(tmp_path)))
        assert json.loads(file.read_text(encoding="utf-8"))["epoch"] == epoch
