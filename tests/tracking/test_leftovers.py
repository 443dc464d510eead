"""What killed steps leave behind is closed, sent and cleared by the next step, and no more."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import pytest

from steps.tracking.leftovers import LOCK, clear_scratch, scratch_folder, tidy
from steps.tracking.spool import Spool
from tests.support.processes import newest, step, wait_for
from tests.support.project import ROOT

WAITING = """
import sys, time
from pathlib import Path
from steps.config.file import load_config
from steps.tracking.runs import step_run
with step_run("evaluate", load_config(sys.argv[1]).training, verbose=False) as run:
    run.spool.folder.mkdir(parents=True, exist_ok=True)
    Path(sys.argv[2]).write_text(run.id)
    time.sleep(600)
"""


@pytest.fixture
def scratch_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for scratch folders, of this test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def waiting_step(config: Path, folder: Path) -> "subprocess.Popen[bytes]":
    note = folder / "run-id"
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(config), str(note)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for(lambda: note.is_file() and note.read_text() != "")
    return process


def test_the_next_step_of_any_kind_closes_a_killed_run_and_leaves_a_living_one(
    store: str, tiny_config: Path, tmp_path: Path, scratch_root: Path
) -> None:
    client = mlflow.MlflowClient()
    killed = waiting_step(tiny_config, tmp_path)
    dead = (tmp_path / "run-id").read_text()
    (tmp_path / "run-id").unlink()
    living = waiting_step(tiny_config, tmp_path)
    alive = (tmp_path / "run-id").read_text()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert client.get_run(dead).info.status == "RUNNING"
    assert len(list(scratch_root.glob("forge-evaluate-*"))) == 2

    said = step("prune_checkpoints", tmp_path, "--config", str(tiny_config))
    assert f"closed run {dead} (evaluate), whose process was killed" in said
    run = client.get_run(dead)
    assert run.info.status == "KILLED"
    assert run.data.tags["forge.exit_code"] == "137"
    assert client.get_run(alive).info.status == "RUNNING"
    assert len(list(scratch_root.glob("forge-evaluate-*"))) == 1

    living.send_signal(signal.SIGINT)
    living.wait()
    assert "closed" not in step("prune_checkpoints", tmp_path, "--config", str(tiny_config))


HERE = {"host": socket.gethostname(), "process_space": os.stat("/proc/self/ns/pid").st_ino}


def sign(**changes: object) -> str:
    values = {
        "time": time.time(),
        "host": "elsewhere",
        "pid": 1,
        "process_started": 1.0,
        "process_space": None,
    }
    return json.dumps({**values, **changes})


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "RUNNING"),
        ({"time": time.time() - 3600}, "RUNNING"),
        ({"time": time.time() - 2 * 24 * 3600}, "KILLED"),
        (
            HERE,
            "KILLED",
        ),
    ],
    ids=["fresh elsewhere", "an hour ago elsewhere", "two days ago elsewhere", "gone from here"],
)
def test_only_what_is_provably_dead_is_closed(
    store: str, changes: dict[str, object], status: str
) -> None:
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("leftovers")
    long_ago = int((time.time() - 3 * 24 * 3600) * 1000)
    run = client.create_run(experiment, start_time=long_ago)
    client.set_tag(run.info.run_id, "forge.heartbeat", sign(**changes))
    tidy(client, "another", experiment)
    assert client.get_run(run.info.run_id).info.status == status


def test_entries_of_a_dead_run_are_sent_and_those_of_another_store_kept(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("leftovers")
    run = client.create_run(experiment)
    client.set_tag(
        run.info.run_id,
        "forge.heartbeat",
        sign(**HERE),
    )
    folder = Path(os.environ["FORGE_CACHE"]) / "spool"
    for run_id in (run.info.run_id, "0" * 32):
        content = folder / run_id
        content.mkdir(parents=True)
        (content / "run.json").write_text(json.dumps({"run_id": run_id}))
        entry = {"metrics": {"train/loss": 1.5}, "step": 3, "time": 1}
        (content / "journal.jsonl").write_text(json.dumps(entry) + "\n")
    tidy(client, "another", experiment)
    assert client.get_run(run.info.run_id).data.metrics == {"train/loss": 1.5}
    assert client.get_run(run.info.run_id).info.status == "KILLED"
    assert not (folder / run.info.run_id).exists()
    assert (folder / ("0" * 32)).exists()
    assert f"sent what run {run.info.run_id} had left unsent" in capsys.readouterr().out
    assert Spool(folder / ("0" * 32), "0" * 32).pending


def test_a_scratch_folder_in_use_is_left_alone(scratch_root: Path) -> None:
    with scratch_folder("evaluate") as folder:
        (folder / "file").touch()
        abandoned = scratch_root / "forge-finetune-abc"
        abandoned.mkdir()
        (abandoned / LOCK).touch()
        foreign = scratch_root / "forge-without-lock"
        foreign.mkdir()
        clear_scratch()
        assert (folder / "file").exists()
        assert not abandoned.exists()
        assert foreign.exists()
    assert not folder.exists()


def test_stored_models_without_a_version_are_named(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    step("preprocess", tmp_path, "--config", str(tiny_config))
    run = newest(client, "preprocess")
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id
    )
    said = step("prune_checkpoints", tmp_path, "--config", str(tiny_config))
    assert f"model {model.model_id} of run {run.info.run_id}" in said
    assert "has no registered version" in said
